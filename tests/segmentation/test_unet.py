"""The U-Net and its layers: shapes, options, saving, and training."""

import keras
import numpy as np
import pytest

from mmfusion import UNetSegmenter, dice
from mmfusion.segmentation.losses import segmentation_loss
from mmfusion.segmentation.unet import ConvBlock, DepthToSpace, SpaceToDepth


def tiny(**options):
    keras.utils.set_random_seed(0)
    return redrawn(UNetSegmenter(**({"width": 4, "depth": 2} | options)))


def redrawn(model):
    """Returns the model with all weights drawn at random.

    The statistics of the normalisations change, too, because their starting values hide faults.
    """
    generator = np.random.default_rng(1)
    for weight in model.weights:
        values = generator.normal(0, 0.3, weight.shape)
        weight.assign(
            np.abs(values) + 0.5 if weight.path.endswith(("variance", "gamma")) else values
        )
    return model


def pictures(*shape):
    return np.random.default_rng(2).random(shape, dtype=np.float32)


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize(
    "options", [{}, {"num_classes": 3}, {"input_channels": 3}, {"patch_size": 2}, {"max_width": 8}]
)
def test_a_probability_per_pixel_and_class(options):
    model = tiny(**options)
    answer = numpy(model(pictures(2, 16, 32, options.get("input_channels", 1))))
    assert answer.shape == (2, 16, 32, options.get("num_classes", 1)) and answer.dtype == np.float32
    assert answer.min() >= 0 and answer.max() <= 1 and answer.std() > 0
    if "num_classes" in options:
        np.testing.assert_allclose(answer.sum(-1), 1, atol=1e-6)


def test_width_depth_and_limit_decide_the_channels():
    names = {
        layer.name: layer.filters
        for layer in tiny(depth=3, max_width=16).layers
        if isinstance(layer, ConvBlock)
    }
    assert [names[f"down{level}_1"] for level in range(4)] == [4, 8, 16, 16]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 0}, "width must be an int of at least 1, got 0"),
        ({"depth": 1.5}, "depth must be an int"),
        ({"patch_size": True}, "patch_size must be an int"),
        ({"max_width": 2}, "max_width must be at least width, 4, got 2"),
        ({"normalization": "layer"}, "normalization must be one of"),
        ({"dropout": 1.0}, "dropout must be within"),
        ({"num_classes": -1}, "num_classes must be"),
    ],
)
def test_an_option_outside_its_range_is_named(options, said):
    with pytest.raises(ValueError, match=said):
        tiny(**options)


def test_a_misspelt_option_is_an_error():
    with pytest.raises(TypeError, match="widht"):
        UNetSegmenter(widht=4)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((1, 18, 16, 1), "H must be a multiple of 4"), ((1, 16, 18, 1), "W must be a multiple")],
)
def test_a_side_that_cannot_be_halved_is_named(shape, said):
    with pytest.raises(ValueError, match=said):
        tiny()(pictures(*shape))


@pytest.mark.parametrize("normalization", ["batch", "group", "none"])
def test_the_block_is_convolution_normalisation_relu(normalization):
    layout = "channels_first" if keras.backend.backend() == "torch" else "channels_last"
    block = ConvBlock(6, normalization, data_format=layout)
    inputs = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    if layout == "channels_first":
        inputs = inputs.transpose(0, 3, 1, 2)
    block.build(inputs.shape)
    redrawn(block)
    outputs = block.convolution(inputs)
    if block.norm is not None:
        outputs = block.norm(outputs, training=False)
    np.testing.assert_allclose(numpy(block(inputs)), np.maximum(numpy(outputs), 0), atol=2e-5)


def test_batch_statistics_count_in_training_alone():
    model, inputs = tiny(), pictures(4, 16, 16, 1)
    before = numpy(model(inputs, training=False))
    assert np.abs(numpy(model(inputs, training=True)) - before).max() > 1e-3
    after = numpy(model(inputs, training=False))
    assert np.abs(after - before).max() > 1e-4, "training moved the running statistics"
    np.testing.assert_array_equal(numpy(model(inputs, training=False)), after)


def test_a_picture_does_not_depend_on_the_others_of_its_batch():
    model, inputs = tiny(), pictures(3, 16, 16, 1)
    together = numpy(model(inputs))
    for number in range(3):
        np.testing.assert_allclose(
            numpy(model(inputs[number : number + 1]))[0], together[number], atol=1e-5
        )


@pytest.mark.parametrize("size", [1, 2, 3])
def test_squares_become_positions_and_come_back(size):
    inputs = np.arange(2 * 6 * 12 * 2, dtype="float32").reshape(2, 6, 12, 2)
    packed = numpy(SpaceToDepth(size)(inputs))
    for row, column in np.ndindex(6 // size, 12 // size):
        square = inputs[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
        np.testing.assert_array_equal(packed[:, row, column], square.reshape(2, -1))
    np.testing.assert_array_equal(numpy(DepthToSpace(size)(packed)), inputs)


OPTIONS = {
    "patch_size": 2,
    "normalization": "group",
    "dropout": 0.2,
    "num_classes": 2,
    "name": "lungs",
    "dtype": "mixed_bfloat16",
}


def test_its_configuration_builds_it_again():
    model = tiny(**OPTIONS)
    config = model.get_config()
    assert (
        config.items()
        >= {
            "width": 4,
            "depth": 2,
            "patch_size": 2,
            "normalization": "group",
            "name": "lungs",
        }.items()
    )
    again = UNetSegmenter.from_config(config)
    assert again.get_config() == config
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in model.weights]
    assert again.dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize("options", [{}, OPTIONS])
def test_saved_and_loaded_it_answers_the_same(options, tmp_path):
    model, inputs = tiny(**options), pictures(2, 16, 16, 1)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again, UNetSegmenter)
    np.testing.assert_array_equal(numpy(again(inputs)), numpy(model(inputs)))
    model.save_weights(tmp_path / "model.weights.h5")
    other = UNetSegmenter(**({"width": 4, "depth": 2} | options))
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numpy(other(inputs)), numpy(model(inputs)))


@pytest.mark.parametrize("loss", ["dice", "bce_dice", "focal"])
def test_it_learns_a_disc(loss):
    keras.utils.set_random_seed(0)
    rows, columns = np.mgrid[:16, :16]
    masks = np.stack([(rows - 8) ** 2 + (columns - 8) ** 2 < radius**2 for radius in (3, 4, 5, 6)])[
        ..., None
    ].astype("float32")
    inputs = masks + np.random.default_rng(0).normal(0, 0.2, masks.shape).astype("float32")
    model = UNetSegmenter(4, 2, dropout=0.1)
    model.compile(keras.optimizers.Adam(1e-2), loss=segmentation_loss(loss))
    model.fit(inputs, masks, epochs=60, verbose=0)
    assert dice(model.predict(inputs, verbose=0)[..., 0] > 0.5, masks[..., 0]) > 0.9


def test_bfloat16_agrees_with_float32():
    full = tiny()
    half = UNetSegmenter(4, 2, dtype="mixed_bfloat16")
    half.set_weights(full.get_weights())
    inputs = pictures(2, 32, 32, 1)
    answer = numpy(half(inputs))
    assert answer.dtype == np.float32
    # The mean is compared, because the largest of 2,048 differences depends on the order in which
    # a processor rounds.
    assert 0 < np.abs(answer - numpy(full(inputs))).mean() < 0.005
