"""ImageEncoder and TextEncoder: sources of backbones, trainable parameters, refused input."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
    ConvNextConfig,
    ElectraConfig,
    RobertaConfig,
    T5Config,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.encoder_text import TextEncoder
from mmfusion.model.registry import register_backbone
from mmfusion.model.types import Encoded

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
WORDS = {"vocab_size": 30, "max_position_embeddings": 24}
VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2}


def bert(**options: Any) -> BertConfig:
    return BertConfig(**{**SMALL, **WORDS, **options})


def vit(**options: Any) -> ViTConfig:
    return ViTConfig(**{**SMALL, "image_size": 16, "patch_size": 8, **options})


def ids() -> Tensor:
    return torch.randint(4, 30, (2, 7), generator=torch.Generator().manual_seed(0))


def pixels(size: int = 16) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Yields the log records of the library, from INFO on."""
    names = ("mmfusion.model.load_weights", "mmfusion.model.encoder_image", "transformers")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(caplog.handler)
        logger.setLevel(logging.INFO)
    yield caplog
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(caplog.handler)
        logger.setLevel(level)


def same(module: nn.Module, expected: dict[str, Tensor]) -> bool:
    own = module.state_dict()
    return bool(own) and all(torch.equal(value, expected[key]) for key, value in own.items())


# Where backbones come from


def test_a_text_classifiers_checkpoint_is_read_without_its_head(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    whole = BertForSequenceClassification(bert())
    whole.save_pretrained(tmp_path)
    encoder = TextEncoder(str(tmp_path))
    assert (
        same(encoder.backbone, whole.bert.state_dict()) and encoder.config.source == "transformers"
    )
    assert "Left out of checkpoint" in log.text and "classifier.weight" in log.text
    rebuilt = TextEncoder.from_config(json.loads(json.dumps(encoder.config.to_dict())))
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt.eval()(ids()).pooled, encoder.eval()(ids()).pooled)


def test_an_image_classifiers_checkpoint_and_its_preprocessing(tmp_path: Path) -> None:
    whole = ViTForImageClassification(vit())
    whole.save_pretrained(tmp_path)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=mean, image_std=std, resample=3
    ).save_pretrained(tmp_path)
    encoder = ImageEncoder(str(tmp_path))
    assert same(encoder.backbone, whole.vit.state_dict())
    expected = {
        "size": [16, 16],
        "channels": 3,
        "mean": mean,
        "std": std,
        "interpolation": "bicubic",
    }
    assert encoder.input_spec == expected


def test_an_image_checkpoint_without_preprocessing_says_what_it_assumes(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    ViTForImageClassification(vit()).save_pretrained(tmp_path)
    encoder = ImageEncoder(str(tmp_path))
    assert encoder.input_spec["size"] == [16, 16] and encoder.input_spec["mean"] == [0.5] * 3
    assert "has no preprocessor_config.json" in log.text and str(tmp_path) in log.text


def test_of_a_dual_encoder_each_side_takes_its_tower(tmp_path: Path) -> None:
    text = {**SMALL, **WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CLIPConfig(
        text_config=text,
        vision_config={**SMALL, "image_size": 16, "patch_size": 8},
        projection_dim=16,
    )
    whole = CLIPModel(config)
    whole.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    image = ImageEncoder(str(tmp_path))
    words = TextEncoder(str(tmp_path))
    for encoder, tower in ((image, whole.vision_model), (words, whole.text_model)):
        expected = tower.state_dict()
        own = {
            key.split("model.", 1)[-1]: value
            for key, value in encoder.backbone.state_dict().items()
        }
        assert own.keys() == expected.keys() and all(
            torch.equal(own[key], value) for key, value in expected.items()
        )
    assert image(pixels()).pooled.shape == (2, 16) and words(ids()).pooled.shape == (2, 16)


def test_a_checkpoint_that_does_not_fit_is_listed(tmp_path: Path) -> None:
    BertModel(bert(num_hidden_layers=2)).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(
        ValueError,
        match=r"checkpoint '.*' must fit the model key by key, got missing: encoder\.layer\.2\.",
    ):
        TextEncoder(str(tmp_path))


def test_a_checkpoint_of_other_shapes_is_listed(tmp_path: Path) -> None:
    BertModel(bert()).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": 31}))
    with pytest.raises(
        ValueError, match=r"must fit the model key by key, .*embeddings\.word_embeddings\.weight"
    ):
        TextEncoder(str(tmp_path))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    BertModel(bert()).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"'{tmp_path}'"):
        TextEncoder(str(tmp_path))


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=rf"name must be a transformers checkpoint .* got '{tmp_path}', "
        "which could not be read",
    ):
        TextEncoder(str(tmp_path))


def test_a_timm_folder(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **VIT)
    timm.models.save_for_hf(model, tmp_path, model_args=VIT, safe_serialization=True)
    encoder = ImageEncoder(f"local-dir:{tmp_path}")
    # The config names the architecture and not the folder, so it stays valid without the folder.
    assert encoder.config.architecture == "vit_tiny_patch16_224" and same(
        encoder.backbone, model.state_dict()
    )
    rebuilt = ImageEncoder.from_config(encoder.config)
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt.eval()(pixels(32)).pooled, encoder.eval()(pixels(32)).pooled)


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


def test_a_timm_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"got 'local-dir:{tmp_path}', whose config.json could not be read"
    ):
        ImageEncoder(f"local-dir:{tmp_path}")
    timm.models.save_for_hf(
        timm.create_model("test_vit", num_classes=3), tmp_path, safe_serialization=True
    )
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=rf"whose weights can be read and fit, got 'local-dir:{tmp_path}'"
    ):
        ImageEncoder(f"local-dir:{tmp_path}")


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


def test_unknown_options_are_refused_and_the_right_one_named() -> None:
    with pytest.raises(
        ValueError, match=r"backbone_options must be what 'resnet10t' takes, got \['img_sise'\]"
    ):
        ImageEncoder("resnet10t", pretrained=False, img_sise=64)
    with pytest.raises(
        ValueError,
        match="BertConfig has no option 'hidden_dropout'. Did you mean 'hidden_dropout_prob'",
    ):
        TextEncoder(bert(), hidden_dropout=0.1)


def test_options_reach_the_backbone() -> None:
    assert TextEncoder(bert(), hidden_dropout_prob=0.3).backbone.config.hidden_dropout_prob == 0.3
    image = ImageEncoder("resnet10t", pretrained=False, in_chans=1)
    assert image.input_spec["channels"] == 1 and len(image.input_spec["mean"]) == 1
    assert image(torch.zeros(1, 1, 64, 64)).tokens.shape == (1, 4, 512)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"source": "tim"},
            r"source must be one of \['timm', 'transformers', 'custom'\], got 'tim'\. "
            "Did you mean 'timm'",
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


def test_a_config_has_no_pretrained_weights() -> None:
    with pytest.raises(
        ValueError, match="pretrained must be False or None for BertConfig, got True"
    ):
        TextEncoder(bert(), pretrained=True)


def test_encoder_decoders_are_refused() -> None:
    with pytest.raises(ValueError, match="name must be an encoder, got 't5', an encoder-decoder"):
        TextEncoder(T5Config(d_model=8, num_layers=1, d_ff=8, num_heads=1, vocab_size=9))


def test_poolers_are_not_built() -> None:
    for encoder in (TextEncoder(bert()), ImageEncoder(vit())):
        assert not any("pooler" in name for name, _ in encoder.named_parameters())


def test_weights_for_a_text_encoder_with_a_prefix_and_a_head() -> None:
    whole = BertForSequenceClassification(bert())
    assert same(TextEncoder(bert(), weights=whole.state_dict()).backbone, whole.bert.state_dict())


@pytest.mark.parametrize("key", ["poling", "traineble"])
def test_a_misspelt_entry_of_an_encoders_config_is_refused(key: str) -> None:
    with pytest.raises(
        ValueError, match=f"an encoder's config has no option '{key}'. Did you mean"
    ):
        TextEncoder.from_config({"name": "bert", key: 1})


# Modules of the user's own


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


class Bag(nn.Module):
    dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.table(input_ids)


class Whole(Stem):
    input_spec = {
        "size": [16, 16],
        "channels": 3,
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
        "interpolation": "nearest",
    }

    def forward(self, pixel_values: Tensor) -> Any:
        tokens = self.conv(pixel_values).flatten(2).transpose(1, 2)
        return Encoded(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), tokens[:, 0])


class Widthless(nn.Module):
    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values


for _name, _class in (
    ("test-stem", Stem),
    ("test-bag", Bag),
    ("test-whole", Whole),
    ("test-widthless", Widthless),
):
    register_backbone(_name, _class)


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


def test_a_module_may_return_the_contract_itself_and_declare_its_input() -> None:
    encoder = ImageEncoder(Whole())
    encoded = encoder(pixels())
    assert torch.equal(encoded.pooled, encoded.tokens[:, 0])
    assert encoder.input_spec["interpolation"] == "nearest"


def test_a_text_module_of_ones_own() -> None:
    encoder = TextEncoder(Bag())
    assert (encoder.dim, encoder.max_length, encoder.vocab_size) == (5, None, None)
    mask = torch.tensor([[1] * 7, [0, 0, 1, 1, 0, 0, 0]])
    encoded = encoder(ids(), mask)
    torch.testing.assert_close(encoded.pooled[1], encoder.backbone.table(ids()[1, 2:4]).mean(0))


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
        ValueError, match=r"source must be one of \['transformers', 'custom'\], got 'timm'"
    ):
        TextEncoder("bert", source="timm")


# Texts


def test_real_tokens_come_first_and_padding_is_neutral() -> None:
    encoder = TextEncoder(bert(pad_token_id=3))
    given = torch.tensor([[9, 8, 7, 6], [9, 8, 7, 6]])
    mask = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0]])
    first, real = encoder.real_tokens_first(given, mask)
    assert first.tolist() == [[8, 6], [7, 3]] and real.tolist() == [[True, True], [True, False]]
    whole, real = encoder.real_tokens_first(given)
    assert torch.equal(whole, given) and bool(real.all())


def test_texts_beyond_the_backbones_limits_are_refused() -> None:
    encoder = TextEncoder(bert())
    assert encoder.max_length == 24 and encoder.vocab_size == 30
    with pytest.raises(ValueError, match="input_ids must be at most 24 tokens per text, got 25"):
        encoder(torch.ones(1, 25, dtype=torch.long))
    padded = torch.zeros(1, 30, dtype=torch.long)
    padded[:, :24] = 1
    assert encoder(torch.ones(1, 30, dtype=torch.long), padded).tokens.shape[1] == 24
    with pytest.raises(
        ValueError, match=r"input_ids must be in 0 \.\. 29 \(the vocabulary\), got 30"
    ):
        encoder(torch.tensor([[30]]))
    # A RoBERTa uses two positions before its first token.
    assert TextEncoder(RobertaConfig(**SMALL, **WORDS, pad_token_id=1)).max_length == 22


def test_negative_token_ids_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input_ids must be .*, got -1"):
        TextEncoder(bert())(torch.tensor([[1, -1]]))


def test_padding_may_be_reassigned() -> None:
    encoder = TextEncoder(bert(), padding="padded")
    encoder.padding = "auto"
    assert encoder.config.padding == "auto"
    with pytest.raises(ValueError, match="padding must be .*got 'pad'. Did you mean 'padded'"):
        encoder.padding = "pad"
    with pytest.raises(ValueError, match="pooling must be 'mean' or 'cls', got 'max'"):
        TextEncoder(bert(), pooling="max")


# What trains

ENCODERS = {
    "timm vit": lambda: ImageEncoder("vit_tiny_patch16_224", pretrained=False, **VIT),
    "cnn": lambda: ImageEncoder("resnet10t", pretrained=False),
    "transformers vit": lambda: ImageEncoder(vit()),
    "opaque": lambda: ImageEncoder(ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1])),
    "bert": lambda: TextEncoder(bert()),
    "opaque text": lambda: TextEncoder(ElectraConfig(**SMALL, **WORDS, embedding_size=16)),
}


def trainable(encoder: nn.Module) -> set[str]:
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", ENCODERS)
def test_frozen_means_no_gradient_and_eval(kind: str) -> None:
    encoder = ENCODERS[kind]().train().freeze()
    assert not trainable(encoder) and not any(
        module.training for module in encoder.backbone.modules()
    )
    assert encoder.training and encoder.is_frozen and encoder.config.trainable == "frozen"
    encoder.train()
    assert not any(module.training for module in encoder.backbone.modules())
    assert encoder.num_frozen_blocks == encoder.num_blocks
    encoder.unfreeze().train()
    assert len(trainable(encoder)) == len(list(encoder.parameters())) and all(
        m.training for m in encoder.modules()
    )
    assert (
        encoder.config.trainable == "all"
        and encoder.num_frozen_blocks == 0
        and not encoder.is_frozen
    )


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_last_blocks_may_train(kind: str) -> None:
    encoder = ENCODERS[kind]().freeze(keep_last=1)
    blocks, tail = encoder.adapter.parts()
    kept = {id(p) for module in [*blocks[-1], *tail] for p in module.parameters()}
    assert kept and {id(p) for p in encoder.parameters() if p.requires_grad} == kept
    assert encoder.num_frozen_blocks == encoder.num_blocks - 1 and encoder.config.trainable == 1
    encoder.train()
    inside = {id(m) for module in [*blocks[-1], *tail] for m in module.modules()}
    for module in encoder.backbone.modules():
        if id(module) in inside:
            assert module.training
        elif not list(module.children()):
            assert not module.training
    encoder.eval()
    assert not any(module.training for module in encoder.modules())


def test_there_must_be_that_many_blocks() -> None:
    with pytest.raises(ValueError, match=r"keep_last must be in 0 \.\. 3 \(the blocks\), got 4"):
        TextEncoder(bert()).freeze(keep_last=4)
    with pytest.raises(ValueError, match=r"keep_last must be in 0 \.\. 3 \(the blocks\), got -1"):
        TextEncoder(bert()).freeze(keep_last=-1)


def test_batch_statistics_of_a_frozen_cnn_stay() -> None:
    encoder = ImageEncoder("resnet10t", pretrained=False).freeze(keep_last=1).train()
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    encoder(torch.randn(4, 3, 64, 64))
    changed = {
        name for name, buffer in encoder.named_buffers() if not torch.equal(buffer, before[name])
    }
    assert changed and all("layer4" in name for name in changed)


@pytest.mark.parametrize("kind", ENCODERS)
def test_lora_starts_at_the_frozen_encoder_and_trains_the_adapters_alone(kind: str) -> None:
    torch.manual_seed(0)
    encoder = ENCODERS[kind]().eval()
    inputs = (
        (ids(),)
        if "text" in kind or kind == "bert"
        else (pixels(16 if kind == "transformers vit" else 32),)
    )
    with torch.no_grad():
        before = encoder(*inputs).pooled
    encoder.add_lora(r=2, alpha=4, dropout=0.5)
    with torch.no_grad():
        torch.testing.assert_close(encoder(*inputs).pooled, before, rtol=0, atol=1e-6)
    assert trainable(encoder) and all("lora_" in name for name in trainable(encoder))
    assert encoder.config.lora == {"r": 2, "alpha": 4, "dropout": 0.5, "target_modules": None}
    assert not encoder.is_frozen and encoder.num_frozen_blocks == 0
    training = {
        name for name, module in encoder.train().backbone.named_modules() if module.training
    }
    assert training and all("lora_dropout" in name for name in training)
    encoder.eval()
    assert not any(module.training for module in encoder.modules())
    with pytest.raises(ValueError, match="add_lora must be called once"):
        encoder.add_lora()


def test_lora_computes_what_the_paper_says() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(bert()).eval().add_lora(r=2, alpha=6, target_modules=["query"])
    layers = [
        m for name, m in encoder.backbone.named_modules() if name.endswith("attention.self.query")
    ]
    assert len(layers) == 3 and sum(p.requires_grad for p in encoder.parameters()) == 6
    layer = layers[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(3, 16)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(layer(x), layer.base_layer(x) + 6 / 2 * x @ down.T @ up.T)


@pytest.mark.parametrize("change", ["freeze", "keep", "lora", "none"])
@pytest.mark.parametrize("kind", ["timm vit", "bert"])
def test_what_trains_is_rebuilt_from_the_config(kind: str, change: str) -> None:
    encoder = ENCODERS[kind]()
    changes: dict[str, Any] = {
        "freeze": encoder.freeze,
        "keep": lambda: encoder.freeze(keep_last=2),
        "lora": lambda: encoder.add_lora(r=2),
        "none": lambda: encoder,
    }
    changes[change]()
    rebuilt = type(encoder).from_config(json.loads(json.dumps(encoder.config.to_dict())))
    assert trainable(rebuilt) == trainable(encoder)
    assert {n for n, m in rebuilt.train().named_modules() if m.training} == {
        n for n, m in encoder.train().named_modules() if m.training
    }
    for parameter in rebuilt.parameters():
        parameter.requires_grad_(True)
    rebuilt.restore_gradient_flags()
    assert trainable(rebuilt) == trainable(encoder)
    assert rebuilt.config == encoder.config


def test_buffers_that_are_not_saved_are_restored() -> None:
    encoder = ImageEncoder(
        "swin_tiny_patch4_window7_224",
        pretrained=False,
        img_size=64,
        window_size=2,
        depths=(1, 1, 1, 1),
    )
    saved = set(encoder.backbone.state_dict())
    unsaved = {
        name: buffer.clone()
        for name, buffer in encoder.backbone.named_buffers()
        if name not in saved
    }
    assert unsaved
    for name, buffer in encoder.backbone.named_buffers():
        if name in unsaved:
            buffer.fill_(7)
    encoder.restore_unsaved_buffers()
    restored = dict(encoder.backbone.named_buffers())
    assert all(torch.equal(restored[name], value) for name, value in unsaved.items())


def test_gradient_checkpointing_is_told_to_timm_and_read_from_transformers() -> None:
    encoder = ENCODERS["timm vit"]()
    encoder.gradient_checkpointing = True
    assert encoder.backbone.grad_checkpointing and encoder.gradient_checkpointing
    other = ENCODERS["transformers vit"]()
    other.gradient_checkpointing = True
    assert not other.gradient_checkpointing
