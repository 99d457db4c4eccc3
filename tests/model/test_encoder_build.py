"""How an encoder is made: names, sources, options, and rebuilding from a config."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import BertModel

from mmfusion import FusionClassifier, FusionConfig
from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.encoder_text import TextEncoder
from mmfusion.model.registry import register_backbone
from mmfusion.testing.families import tiny_family_config


def pixels(size: int = 16) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


class Stem(nn.Module):
    dim = 6

    def __init__(self, width: int = 6):
        super().__init__()
        self.dim = width
        self.conv = nn.Conv2d(3, width, 8, stride=8)

    def get_config(self) -> dict[str, int]:
        return {"width": self.dim}

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.conv(pixel_values)


class Widthless(nn.Module):
    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values


register_backbone("test-stem", Stem)
register_backbone("test-widthless", Widthless)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet81",
            r"image encoder must be a timm model, .* got 'resnet81'\. Did you mean 'resnet",
        ),
        ("", "name must be a model name, a transformers config or an nn.Module, got ''"),
    ],
)
def test_unknown_image_names(name: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        ImageEncoder(name)


def test_a_name_of_another_type() -> None:
    # The run-time check of the annotations may raise its own error first.
    with pytest.raises(TypeError, match=r"name must be a model name, .* got 3|parameter 'name'"):
        ImageEncoder(3)  # type: ignore[arg-type]


def test_a_name_without_network_is_refused_in_words() -> None:
    with pytest.raises(
        ValueError,
        match="name must be a timm model whose weights can be read and fit, got 'resnet10t'",
    ):
        ImageEncoder("resnet10t")
    with pytest.raises(
        ValueError,
        match="name must be a transformers checkpoint .* got 'no-such-owner/no-such-model'",
    ):
        TextEncoder("no-such-owner/no-such-model")


def test_unknown_options_are_refused_and_the_right_one_named(bert: Any) -> None:
    with pytest.raises(
        ValueError, match=r"backbone_options must be what 'resnet10t' takes, got \['img_sise'\]"
    ):
        ImageEncoder("resnet10t", pretrained=False, img_sise=64)
    with pytest.raises(
        ValueError,
        match="BertConfig has no option 'hidden_dropout'. Did you mean 'hidden_dropout_prob'",
    ):
        TextEncoder(bert(), hidden_dropout=0.1)


def test_options_reach_the_backbone(bert: Any) -> None:
    assert TextEncoder(bert(), hidden_dropout_prob=0.3).backbone.config.hidden_dropout_prob == 0.3
    image = ImageEncoder("resnet10t", pretrained=False, in_chans=1)
    assert image.input_spec["channels"] == 1 and len(image.input_spec["mean"]) == 1
    assert image(torch.zeros(1, 1, 64, 64)).tokens.shape == (1, 4, 512)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"source": "tim"},
            r"source must be one of \['timm', 'transformers', 'open_clip', 'keras', 'custom'\], "
            r"got 'tim'\. Did you mean 'timm'",
        ),
        (
            {"pretrained": True, "weights": {}},
            "pretrained must be False or None when weights are given",
        ),
    ],
)
def test_contradicting_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageEncoder("resnet10t", **options)


def test_a_config_has_no_pretrained_weights(bert: Any) -> None:
    with pytest.raises(
        ValueError, match="pretrained must be False or None for BertConfig, got True"
    ):
        TextEncoder(bert(), pretrained=True)


@pytest.mark.parametrize("key", ["poling", "traineble"])
def test_a_misspelt_entry_of_an_encoders_config_is_refused(key: str) -> None:
    with pytest.raises(
        ValueError, match=f"an encoder's config has no option '{key}'. Did you mean"
    ):
        TextEncoder.from_config({"name": "bert", key: 1})


def test_a_module_of_ones_own_is_one_block_and_is_rebuilt_by_its_name() -> None:
    module = Stem(4)
    encoder = ImageEncoder(module)
    assert (encoder.dim, encoder.num_blocks, encoder.block_dims, encoder.takes_tokens) == (
        4,
        1,
        [],
        False,
    )
    assert encoder.config.source == "custom" and encoder.config.options == {"width": 4}
    assert encoder(pixels()).tokens.shape == (2, 4, 4)
    rebuilt = ImageEncoder.from_config(json.loads(json.dumps(encoder.config.to_dict())))
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt(pixels()).pooled, encoder(pixels()).pooled)
    assert ImageEncoder("test-stem", width=3).dim == 3


def test_modules_that_do_not_keep_the_contract() -> None:
    with pytest.raises(ValueError, match=r"Widthless\.dim must be its output's width, got None"):
        ImageEncoder(Widthless())
    with pytest.raises(
        ValueError, match=r"options must be given to the module's own constructor, got \['width'\]"
    ):
        ImageEncoder(Stem(), width=3)
    with pytest.raises(ValueError, match="registered class, got Flatten"):
        ImageEncoder(nn.Flatten())
    with pytest.raises(
        ValueError,
        match=r"source must be one of \['transformers', 'open_clip', 'custom'\], got 'timm'",
    ):
        TextEncoder("bert", source="timm")


class Forgetful(nn.Module):
    """A backbone that keeps some of its options to itself."""

    dim = 6

    def __init__(self, width: int = 4, stride: int = 8, depth: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 8, stride=stride)
        self.inner = nn.Linear(width, width)
        self.config = {"width": width, "stride": stride, "depth": depth}

    def get_config(self) -> dict[str, Any]:
        return self.config

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.conv(pixel_values)


register_backbone("test-forgetful", Forgetful)


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        (
            {"width": 5},
            {},
            r"got \{\}, which build other weights: \['inner.bias', ",
        ),
        ({"stride": 4}, {"width": 4}, r"got \{'width': 4\}, which build other parts"),
        ({}, {"wdith": 4}, "which fail: .*unexpected keyword argument 'wdith'"),
        ({}, {"width": torch.zeros(1)}, "which fail: .*not JSON serializable"),
    ],
)
def test_a_module_that_would_come_back_different_is_refused(
    options: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    module = Forgetful(**options)
    ImageEncoder(module)
    module.config = config
    with pytest.raises(ValueError, match=f"Forgetful.get_config must return .*{message}"):
        ImageEncoder(module)


def test_rebuilding_draws_nothing_from_torchs_generator() -> None:
    module = Forgetful()
    before = torch.get_rng_state()
    ImageEncoder(module)
    assert torch.equal(torch.get_rng_state(), before)


class Vectors(nn.Module):
    dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weights = attention_mask.unsqueeze(-1).float()
        return (self.table(input_ids) * weights).sum(1)


class Thumbnails(nn.Module):
    dim = 3

    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.mean((2, 3))


register_backbone("test-vectors", Vectors)
register_backbone("test-thumbnails", Thumbnails)


def test_one_vector_per_sample_is_the_only_token() -> None:
    image = ImageEncoder(Thumbnails())(pixels())
    torch.testing.assert_close(image.pooled, pixels().mean((2, 3)))
    assert torch.equal(image.tokens[:, 0], image.pooled) and image.mask.tolist() == [[True]] * 2
    module = Vectors()
    ids, mask = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    text = TextEncoder(module)(ids, mask)
    table = module.table.weight
    expected = torch.stack([table[1] + table[2] + table[3], table[4] + table[5]])
    torch.testing.assert_close(text.pooled, expected)
    assert torch.equal(text.tokens[:, 0], text.pooled) and text.mask.tolist() == [[True]] * 2


def test_numbers_of_numpy_are_options_like_any_other(bert: Any) -> None:
    image = ImageEncoder("resnet10t", pretrained=False, in_chans=np.int64(1))
    image.freeze(keep_last=np.int64(2))
    text = TextEncoder(bert(), hidden_dropout_prob=np.float32(0.5))
    model = FusionClassifier(
        image_encoder=image,
        text_encoder=text,
        num_labels=np.int64(3),
        class_weights=list(np.array([1.0, 2.0, 3.0])),
    )
    written = json.loads(json.dumps(model.config.to_dict()))
    assert written["image_encoder"]["options"] == {"in_chans": 1}
    assert written["image_encoder"]["trainable"] == 2 and model.config.num_labels == 3
    assert FusionConfig(num_labels=np.int64(4)).num_labels == 4


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_read_in_single(
    tmp_path: Path, bert: Any, stored: torch.dtype
) -> None:
    whole = BertModel(bert(), add_pooling_layer=False).to(stored)
    whole.save_pretrained(tmp_path)
    expected = {key: value.float() for key, value in whole.state_dict().items()}
    for given in (str(tmp_path), bert(dtype=stored)):
        encoder = TextEncoder(given)
        assert encoder.dtype == torch.float32
    encoder = TextEncoder(str(tmp_path))
    assert all(torch.equal(v, expected[k]) for k, v in encoder.backbone.state_dict().items())
    state = {k: v.to(stored) for k, v in timm.create_model("resnet10t").state_dict().items()}
    image = ImageEncoder("resnet10t", weights=state)
    assert image.dtype == torch.float32
    FusionClassifier(image_encoder=image, text_encoder=encoder)
    assert TextEncoder(str(tmp_path), dtype=torch.bfloat16).dtype == torch.bfloat16
    half = ImageEncoder("resnet10t", pretrained=False, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="the encoders must have one dtype, got"):
        FusionClassifier(image_encoder=half, text_encoder=encoder)
    with pytest.raises(TypeError, match=r"dtype must be a floating-point type|parameter 'dtype'"):
        ImageEncoder("resnet10t", pretrained=False, dtype=torch.int8)


class Values(nn.Module):
    """A backbone whose constructor reads values, which the meta device does not have."""

    dim = 6

    def __init__(self, width: int = 6):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 8, stride=8)
        self.scale = float(torch.linspace(1, 2, width).sum())

    def get_config(self) -> dict[str, Any]:
        return {"width": self.conv.out_channels}

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.conv(pixel_values) / self.scale


register_backbone("test-values", Values)


def test_a_constructor_that_reads_values_is_checked_too() -> None:
    before = torch.get_rng_state()
    module = Values()
    drawn = torch.get_rng_state()
    assert not torch.equal(before, drawn)
    assert ImageEncoder(module).dim == 6
    assert torch.equal(torch.get_rng_state(), drawn)


def test_an_option_of_another_type_is_named(bert: Any) -> None:
    with pytest.raises(
        TypeError, match="hidden_size must be of the type that BertConfig has, got 'x'"
    ):
        TextEncoder(bert(), hidden_size="x")


def test_a_field_with_one_lawful_value_cannot_have_another() -> None:
    config = tiny_family_config("vit_mae")
    with pytest.raises(
        ValueError, match="mask_ratio must be 0.0 for 'vit_mae', got 0.75. Leave it"
    ):
        ImageEncoder(config, mask_ratio=0.75)
    assert ImageEncoder(config, mask_ratio=0.0).backbone.config.mask_ratio == 0
