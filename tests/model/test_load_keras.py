"""Image models of keras.applications: the answers of Keras itself, as a module of torch."""

import copy
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mmfusion import FusionClassifier, FusionProcessor, ImageEncoder
from mmfusion import export_model as exported
from mmfusion import testing as kit
from mmfusion.model import load_keras
from mmfusion.model.load_keras import KerasBackbone, build_keras, keras_input_spec, keras_weights


def small(seed: int = 0, **options: Any) -> ImageEncoder:
    torch.manual_seed(seed)
    return ImageEncoder("MobileNet", source="keras", pretrained=False, alpha=0.25, **options)


def keras_model(backbone: KerasBackbone, size: int) -> Any:
    """Returns Keras's own model with the weights of a backbone."""
    model = getattr(keras.applications, backbone.name)(
        include_top=False, weights=None, input_shape=(size, size, 3), **backbone.options
    )
    for keys, variables in (
        (backbone._trained, model.trainable_variables),
        (backbone._kept, model.non_trainable_variables),
    ):
        for key, variable in zip(keys, variables, strict=True):
            variable.assign(getattr(backbone, key).detach())
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.finalize_state()
    return model


def pixels(size: int = 64, rows: int = 2) -> Tensor:
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "size"),
    # EfficientNet and NASNet pad by the size of the picture: 75 is odd in some levels.
    [
        ("DenseNet121", 64),
        ("EfficientNetB0", 75),
        ("EfficientNetV2B0", 64),
        ("NASNetLarge", 75),
        ("MobileNetV3Small", 64),
    ],
)
def test_the_features_are_those_of_keras(name: str, size: int) -> None:
    backbone = ImageEncoder(name, source="keras", pretrained=False).backbone.train()
    with torch.no_grad():
        for key, value in [*backbone.named_parameters(), *backbone.named_buffers()]:
            if value.is_floating_point() and "kernel" not in key:
                value.add_(torch.rand_like(value))
    # Some of these models divide by 255 themselves.
    x = 100 * pixels(size, 4)
    model = keras_model(backbone, size)
    before = copy.deepcopy(backbone.state_dict())
    with torch.no_grad():
        # In training mode, because the features of random weights hardly depend on the picture
        # without the statistics of the batch.
        ours = backbone(x)
        expected = model(x.permute(0, 2, 3, 1), training=True).permute(0, 3, 1, 2)
        backbone.load_state_dict(before)
        other = backbone(x.flip(0))
    largest = expected.abs().max()
    assert (ours - other).abs().max() > 0.01 * largest
    torch.testing.assert_close(ours / largest, expected / largest, atol=1e-4, rtol=0)


def test_training_moves_the_statistics_as_keras_does_and_evaluation_does_not() -> None:
    backbone = small().train().backbone
    model, x = keras_model(backbone, 64), pixels()
    before = copy.deepcopy(backbone.state_dict())
    with torch.no_grad():
        ours = backbone(x)
        expected = model(x.permute(0, 2, 3, 1), training=True)
    torch.testing.assert_close(ours.permute(0, 2, 3, 1), expected, atol=1e-5, rtol=1e-5)
    for key, variable in zip(backbone._kept, model.non_trainable_variables, strict=True):
        torch.testing.assert_close(getattr(backbone, key), variable.value, atol=1e-6, rtol=1e-5)
        assert not torch.equal(getattr(backbone, key), before[key])
    after = copy.deepcopy(backbone.state_dict())
    with torch.no_grad():
        # Statistics that suit the pictures, so that the features depend on them.
        for key, variable in zip(backbone._kept, model.non_trainable_variables, strict=True):
            of_batch = (after[key] - 0.99 * before[key]) / 0.01
            getattr(backbone, key).copy_(of_batch.clamp(min=0) if "variance" in key else of_batch)
            variable.assign(getattr(backbone, key))
        after = copy.deepcopy(backbone.state_dict())
        ours, other = (backbone.eval()(one) for one in (x, x.flip(0)))
        expected = model(x.permute(0, 2, 3, 1), training=False).permute(0, 3, 1, 2)
    assert (ours - other).abs().max() > 0.01 * ours.abs().max()
    torch.testing.assert_close(ours, expected, atol=1e-4 * float(ours.abs().max()), rtol=0)
    assert all(torch.equal(after[key], value) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("module", load_keras._MODES)
def test_the_input_spec_is_the_models_own_preprocessing(module: str) -> None:
    part = importlib.import_module(f"keras.applications.{module}")
    functions = [key for key in dir(part) if key[0].isupper()]
    # Keras shows the functions of this module elsewhere.
    name = functions[0] if functions else {"mobilenet_v3": "MobileNetV3Small"}[module]
    spec = keras_input_spec(name, {})
    raw = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype(np.float32)
    expected = part.preprocess_input(raw.copy())
    ordered = raw[..., ::-1] if spec.get("channel_order") == "BGR" else raw
    np.testing.assert_allclose((ordered / 255 - spec["mean"]) / spec["std"], expected, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["ConvNeXtTiny", "EfficientNetV2B0", "EfficientNetV2S", "MobileNetV3Small"]
)
def test_without_its_own_preprocessing_a_model_gets_the_same_pixels_from_the_spec(
    name: str,
) -> None:
    """The first layers of the model with preprocessing, against the spec of the one without."""
    raw = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    model = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    first = next(layer for layer in model.layers if layer.weights)
    seen = keras.Model(model.input, first.input)(raw).detach().numpy()
    spec = keras_input_spec(name, {"include_preprocessing": False})
    expected = (raw / 255 - spec["mean"]) / spec["std"]
    pads = [(0, 0), (0, seen.shape[1] - 32), (0, seen.shape[2] - 32), (0, 0)]
    np.testing.assert_allclose(seen, np.pad(expected, pads), atol=1e-2)


def test_every_model_of_keras_has_a_preprocessing_and_its_own_size() -> None:
    names = [
        key
        for key in dir(keras.applications)
        if key[0].isupper() and callable(getattr(keras.applications, key))
    ]
    assert len(names) > 35 and set(load_keras._SIZES) < set(names)
    with keras.device("meta"):
        for name in names:
            size = keras_input_spec(name, {})["size"]
            # The small ones alone, because building all takes minutes.
            if name in (*list(load_keras._SIZES)[:8], "VGG16", "MobileNet", "DenseNet121"):
                made = getattr(keras.applications, name)(weights=None)
                assert [*made.input_shape[1:3]] == size, name


def test_the_processor_prepares_pixels_as_keras_does() -> None:
    encoder = ImageEncoder("VGG16", source="keras", pretrained=False)
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    processor = FusionProcessor.from_encoders(encoder, None)
    ours = processor(images=[Image.fromarray(picture)])["pixel_values"][0]
    expected = keras.applications.vgg16.preprocess_input(picture.astype(np.float32))
    np.testing.assert_allclose(ours.permute(1, 2, 0).numpy(), expected, atol=1e-3)


def test_every_law_holds() -> None:
    kit.check_encoder(small())
    text = kit.tiny_text_encoder("bert")
    kit.check_classifier(FusionClassifier(image_encoder=small(), text_encoder=text, num_labels=3))


def test_dropout_draws_anew_in_each_step_and_again_from_a_saved_state() -> None:
    backbone, x = build_keras("EfficientNetB0", False, {})[0].train(), pixels()
    before = copy.deepcopy(backbone.state_dict())
    assert [key for key in before if "seed_generator" in key]
    with torch.no_grad():
        first, second = backbone(x), backbone(x)
        backbone.load_state_dict(before)
        again = backbone(x)
    assert not torch.equal(first, second) and torch.equal(first, again)


def test_torchs_seed_decides_the_weights() -> None:
    first, second, other = small(5), small(5), small(6)
    pairs = [
        (value, second.state_dict()[key], other.state_dict()[key])
        for key, value in first.state_dict().items()
        if "kernel" in key
    ]
    assert pairs and all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in pairs)


def test_keys_do_not_depend_on_how_many_models_were_built() -> None:
    first, _ = build_keras("EfficientNetB0", False, {})
    second, _ = build_keras("EfficientNetB0", False, {})
    assert list(first.state_dict()) == list(second.state_dict())
    assert "normalization_0/mean" in first.state_dict()


def test_settings_of_the_users_keras_are_put_back() -> None:
    before = keras.config.dtype_policy(), keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        assert small()(pixels()).tokens.shape == (2, 4, 256)
        assert keras.config.image_data_format() == "channels_first"
    finally:
        keras.config.set_image_data_format(before[1])
    assert keras.config.dtype_policy() == before[0]


def test_a_copy_has_weights_of_its_own_and_half_precision_runs() -> None:
    encoder = small().eval()
    twin = copy.deepcopy(encoder)
    with torch.no_grad():
        expected = encoder(pixels()).pooled
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(encoder(pixels()).pooled, expected)
        half = copy.deepcopy(encoder).to(torch.bfloat16)(pixels()).pooled
        with torch.autocast("cpu", torch.bfloat16):
            mixed = encoder(pixels()).pooled
    assert half.dtype == torch.bfloat16
    for answer in (half, mixed):
        torch.testing.assert_close(answer.float(), expected, atol=0.05, rtol=0.1)


def test_weights_that_keras_saved_are_read(tmp_path: Path) -> None:
    source = small(1)
    model = keras_model(source.backbone, 64)
    model.save_weights(tmp_path / "small.weights.h5")
    again = small(2, weights=tmp_path / "small.weights.h5")
    for key, value in source.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    other = keras.applications.MobileNetV2(include_top=False, weights=None, alpha=0.35)
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"weights must be those of MobileNet without .*other"):
        small(weights=tmp_path / "other.weights.h5")
    with pytest.raises(FileNotFoundError, match=r"weights must be a file of Keras, got .*gone"):
        small(weights=tmp_path / "gone.h5")
    # Other backbones and files are not its business.
    assert keras_weights(torch.nn.Linear(1, 1), "a.h5") == "a.h5"
    assert keras_weights(source.backbone, "a.safetensors") == "a.safetensors"


def test_a_model_that_cannot_be_built_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"got 'DenseNet122'\. Did you mean 'DenseNet121'"):
        ImageEncoder("DenseNet122", source="keras", pretrained=False)
    with pytest.raises(ValueError, match=r"MobileNet has no option 'alhpa'\. Did you mean 'alpha'"):
        ImageEncoder("MobileNet", source="keras", pretrained=False, alhpa=1.0)
    with pytest.raises(ValueError, match=r"MobileNet has no option 'weights'"):
        build_keras("MobileNet", False, {"weights": "imagenet"})
    with pytest.raises(ValueError, match="that can be built, got 'MobileNet' with {'alpha': -1}"):
        build_keras("MobileNet", False, {"alpha": -1})
    # Text has no models there.
    with pytest.raises(ValueError, match="source must be one of"):
        from mmfusion import TextEncoder

        TextEncoder("DenseNet121", source="keras")
    monkeypatch.setattr(keras.utils, "get_file", _unreachable)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", _unreachable)
    with pytest.raises(ValueError, match=r"whose weights can be fetched and fit, got 'MobileNet'"):
        ImageEncoder("MobileNet", source="keras")


def _unreachable(*_: Any, **__: Any) -> None:
    raise OSError("no network")


def test_another_backend_and_a_missing_keras_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ValueError, match=r"got the backend 'tensorflow'\. Set .*KERAS_BACKEND"):
        small()
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r'pip install "mmfusion\[keras\]"'):
        small()


def test_where_nothing_was_said_keras_runs_on_torch_and_draws_no_number_of_the_user() -> None:
    # In a process of its own, because the check of shapes draws from Python's generator, too.
    code = (
        "import os, random, sys; os.environ.pop('KERAS_BACKEND', None);"
        "from mmfusion import ImageEncoder; assert 'keras' not in sys.modules;"
        "ImageEncoder('MobileNet', source='keras', pretrained=False);"
        "import keras; print(keras.backend.backend(), 'tensorflow' in sys.modules);"
        "state = random.getstate(); ImageEncoder('MobileNet', source='keras', pretrained=False);"
        "print(random.getstate() == state)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch", "False", "True"]


def test_it_is_exported_and_not_compiled_as_one_graph(tmp_path: Path) -> None:
    model = FusionClassifier(image_encoder=small(), num_labels=2).eval()
    x = pixels(224)
    with torch.no_grad():
        expected = model(pixel_values=x).logits
    exported(model, tmp_path / "model.pt2")
    answer = torch.export.load(tmp_path / "model.pt2").module()(x)
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=0)
    with pytest.raises(Exception, match="Keras's code cannot be compiled"):
        torch.compile(model.image_encoder.backbone, backend="eager", fullgraph=True)(pixels())


def test_a_damaged_name_is_refused_where_a_classifier_is_loaded(tmp_path: Path) -> None:
    FusionClassifier(image_encoder=small(), num_labels=2).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"MobileNet"', '"../MobileNet"'))
    with pytest.raises(ValueError, match=r"must be a model of keras\.applications, got '\.\./Mob"):
        FusionClassifier.from_pretrained(tmp_path)
