"""FusionClassifier: saved and read again, by itself, by the Auto classes, and with its code."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

# The first use of these public names registers the Auto classes.
from mmfusion import FusionClassifier, FusionConfig, ImageEncoder
from mmfusion import testing as kit
from mmfusion.model.fusion import FUSIONS

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
WORDS = {"vocab_size": 30, "max_position_embeddings": 20}
TIMM_VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}


def vit() -> PreTrainedConfig:
    return kit.tiny_config("vit", **SMALL, image_size=16, patch_size=8)


def swin() -> ImageEncoder:
    sizes = {"img_size": 32, "window_size": 2, "embed_dim": 8}
    depths = {"depths": (1, 2), "num_heads": (1, 2)}
    return ImageEncoder("swin_tiny_patch4_window7_224", pretrained=False, **sizes, **depths)


@pytest.fixture
def assert_same_logits(batch: Any) -> Callable[[nn.Module, nn.Module], None]:
    """Returns a function that checks that two classifiers give the very same logits."""

    def check(one: nn.Module, other: nn.Module) -> None:
        with torch.no_grad():
            assert torch.equal(one(**batch()).logits, other(**batch()).logits)

    return check


def flags(model: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_saved_and_read_again_by_either_class(
    tmp_path: Path, fusion: str, classifier: Any, assert_same_logits: Any
) -> None:
    model = classifier(fusion=fusion, mapper="mlp", num_labels=3, class_weights=[1.0, 2.0, 3.0])
    model.save_pretrained(tmp_path)
    written = sorted(file.name for file in tmp_path.iterdir())
    assert written == ["README.md", "config.json", "model.safetensors"]
    for loader in (FusionClassifier, AutoModel):
        again = loader.from_pretrained(tmp_path)
        assert type(again) is FusionClassifier and not again.training
        assert_same_logits(again, model)
        assert again.class_weights.tolist() == [1, 2, 3] and flags(again) == flags(model)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), FusionConfig)


def test_the_options_of_the_loss_are_saved_and_read_again(
    tmp_path: Path, classifier: Any, batch: Any
) -> None:
    options = {"pos_weight": [1.0, 4.0], "class_weights": [2.0, 1.0], "focal_gamma": 1.5}
    model = classifier(problem_type="multi_label_classification", **options)
    model.save_pretrained(tmp_path / "numbers")
    assert set(load_file(tmp_path / "numbers" / "model.safetensors")) == set(
        classifier().state_dict()
    )
    again = FusionClassifier.from_pretrained(tmp_path / "numbers")
    assert again.pos_weight.tolist() == [1, 4] and again.config.focal_gamma == 1.5
    labels = torch.tensor([[1.0, 0], [0, 1], [0, 0], [1, 1]])
    assert torch.equal(again(**batch(), labels=labels).loss, model(**batch(), labels=labels).loss)
    classifier(class_weights="balanced").save_pretrained(tmp_path / "word")
    unsettled = FusionClassifier.from_pretrained(tmp_path / "word")
    assert unsettled.config.class_weights == "balanced" and unsettled.class_weights is None


def test_names_of_classes_are_saved(tmp_path: Path, classifier: Any) -> None:
    classifier(id2label={0: "clear", 1: "lung", 2: "other"}).save_pretrained(tmp_path)
    config = FusionClassifier.from_pretrained(tmp_path).config
    assert config.id2label == {0: "clear", 1: "lung", 2: "other"} and config.label2id["lung"] == 1


def changed(folder: Path, change: Any) -> None:
    """Changes the weights file of a folder."""
    file = folder / "model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("fusion.head.out.bias"), r"missing: fusion\.head\.out\.bias"),
        (lambda state: state.update({"extra.weight": torch.zeros(2)}), r"left over: extra\.weight"),
        (lambda state: state.update({"head.weight": torch.zeros(2)}), r"left over: head\.weight"),
        (
            lambda state: state.update({"fusion.head.out.bias": torch.zeros(5)}),
            r"mis-shaped: .*fusion\.head\.out\.bias",
        ),
        (
            lambda state: state.pop("image_encoder.backbone.layernorm.bias"),
            r"missing: image_encoder\.backbone\.layernorm\.bias",
        ),
    ],
)
def test_loading_is_strict_both_ways(
    tmp_path: Path, change: Any, message: str, classifier: Any
) -> None:
    classifier().save_pretrained(tmp_path)
    changed(tmp_path, change)
    for loader in (FusionClassifier, AutoModel):
        with pytest.raises(
            ValueError,
            match=rf"checkpoint '{tmp_path}' must fit the model key by key, got {message}",
        ):
            loader.from_pretrained(tmp_path)


def test_a_damaged_checkpoint_and_a_missing_one_are_named(tmp_path: Path, classifier: Any) -> None:
    classifier().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ValueError, match=rf"checkpoint '{tmp_path}' must hold undamaged weights"):
        FusionClassifier.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(OSError, match=str(tmp_path)):
        FusionClassifier.from_pretrained(tmp_path)
    torch.save(classifier().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=str(tmp_path)):
        FusionClassifier.from_pretrained(tmp_path)


@pytest.mark.parametrize("fusion", ["concat", "late"])
def test_another_number_of_classes_draws_the_head_anew_and_leaves_all_else(
    tmp_path: Path, fusion: str, classifier: Any, batch: Any
) -> None:
    model = classifier(num_labels=2, fusion=fusion)
    model.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="num_labels must be 2 .* Pass ignore_mismatched_sizes=True"
    ):
        FusionClassifier.from_pretrained(tmp_path, num_labels=7)
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        again = FusionClassifier.from_pretrained(
            tmp_path, num_labels=7, ignore_mismatched_sizes=True
        )
        assert again(**batch()).logits.shape == (4, 7)
        states.append(again.state_dict())
    fresh = [
        key for key, value in model.state_dict().items() if value.shape != states[0][key].shape
    ]
    counted = {key for key in fresh if key.startswith("fusion.log_")}
    assert bool(counted) == (fusion == "late")
    for key in counted:
        assert not states[0][key].any()
    fresh = [key for key in fresh if key not in counted]
    assert fresh and all(key.rsplit(".", 2)[-2] == "out" for key in fresh)
    for key, value in model.state_dict().items():
        if key in counted:
            continue
        if key not in fresh:
            assert torch.equal(value, states[0][key]), key
            continue
        drawn = states[0][key]
        # nn.Linear draws its initial weights uniformly within 1 / sqrt(inputs).
        bound = states[0][key.replace("bias", "weight")].shape[1] ** -0.5
        assert bool((drawn.abs() <= bound).all()) and drawn.std() > bound / 4
        assert torch.equal(drawn, states[1][key]) and not torch.equal(drawn, states[2][key])


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.bfloat16},
        {"dtype": "float32"},
        {"device_map": "cpu"},
        {"attn_implementation": "eager"},
    ],
)
def test_what_users_of_transformers_pass(
    tmp_path: Path, options: dict[str, Any], classifier: Any, batch: Any
) -> None:
    model = classifier(image_encoder=swin(), class_weights=[1.0, 2.0])
    model.save_pretrained(tmp_path)
    again = FusionClassifier.from_pretrained(tmp_path, **options)
    dtype = torch.bfloat16 if options.get("dtype") == torch.bfloat16 else torch.float32
    assert {parameter.dtype for parameter in again.parameters()} == {dtype} and again.dtype == dtype
    inputs = batch(size=32)
    expected = model(**inputs).logits
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    outputs = again(**inputs, labels=torch.tensor([0, 1, 1, 0]))
    tolerance = 1e-1 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(outputs.logits.float(), expected, rtol=0, atol=tolerance)
    assert outputs.loss.isfinite()
    if "attn_implementation" in options:
        assert again.text_encoder.backbone.config._attn_implementation == "eager"


def test_buffers_that_are_not_saved_are_right_after_loading(
    tmp_path: Path, classifier: Any
) -> None:
    model = classifier(image_encoder=swin())
    saved = set(model.state_dict())
    unsaved = {name: value for name, value in model.named_buffers() if name not in saved}
    assert any("relative_position_index" in name for name in unsaved) and any(
        "position_ids" in name for name in unsaved
    )
    model.save_pretrained(tmp_path)
    again = dict(FusionClassifier.from_pretrained(tmp_path).named_buffers())
    assert unsaved.keys() <= again.keys()
    assert all(
        torch.equal(again[name], value) and again[name].dtype == value.dtype
        for name, value in unsaved.items()
    )


def test_a_checkpoint_that_names_code_is_read_again_without_it(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(image_size=32, patch_size=16, **sizes)).save_pretrained(tmp_path / "vit")
    config = tmp_path / "vit" / "config.json"
    entries = json.loads(config.read_text()) | {"auto_map": {"AutoModel": "modeling.Own"}}
    config.write_text(json.dumps(entries))
    FusionClassifier(image_encoder=str(tmp_path / "vit")).save_pretrained(tmp_path / "saved")
    again = FusionClassifier.from_pretrained(tmp_path / "saved")
    assert "auto_map" not in again.image_encoder.config.to_dict()["backbone"]


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_an_encoder_with_published_preprocessing_is_read_again(
    library: str, tmp_path: Path
) -> None:
    name = str(tmp_path / "published")
    if library == "timm":
        model = timm.create_model("test_vit", num_classes=3)
        timm.models.save_for_hf(model, name, safe_serialization=True)
        name = f"local-dir:{name}"
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        ViTModel(ViTConfig(image_size=32, patch_size=16, **sizes)).save_pretrained(name)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(name)
    encoder = ImageEncoder(name)
    assert encoder.input_spec["published"]["source"] == library
    FusionClassifier(image_encoder=encoder).save_pretrained(tmp_path / "saved")
    again = FusionClassifier.from_pretrained(tmp_path / "saved")
    assert again.image_encoder is not None
    assert again.image_encoder.input_spec == encoder.input_spec


def test_a_text_tower_without_sdpa_is_read_again(
    tmp_path: Path, classifier: Any, assert_same_logits: Any
) -> None:
    model = classifier(text_encoder=kit.tiny_config("mpnet", **SMALL, **WORDS))
    model.save_pretrained(tmp_path)
    assert_same_logits(FusionClassifier.from_pretrained(tmp_path), model)


CHANGES: dict[str, Any] = {
    "frozen": lambda model: model.freeze("image").freeze("text"),
    "last blocks": lambda model: model.freeze("image", keep_last=1).freeze("text", keep_last=2),
    "lora": lambda model: (
        model.image_encoder.add_lora(r=2),
        model.text_encoder.add_lora(r=2, target_modules=["query"]),
    ),
    "unfrozen": lambda model: (model.freeze("image"), model.image_encoder.unfreeze()),
}


@pytest.mark.parametrize(
    "image", [vit, lambda: ImageEncoder("vit_tiny_patch16_224", pretrained=False, **TIMM_VIT)]
)
@pytest.mark.parametrize("change", CHANGES)
def test_what_trains_is_saved_with_the_model(
    tmp_path: Path, change: str, image: Any, classifier: Any, assert_same_logits: Any
) -> None:
    model = classifier(image_encoder=image(), fusion="joint", mapper="linear")
    CHANGES[change](model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert_same_logits(again, model)
    assert flags(again) == flags(model)
    # Only the place from which the config was read may differ.
    assert again.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict()
    in_training = [
        {name for name, part in one.train().named_modules() if part.training}
        for one in (again, model)
    ]
    assert in_training[0] == in_training[1]
    assert any("lora_" in name for name in flags(again)) == (change == "lora")


RELOAD = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mmfusion":
            raise ModuleNotFoundError("No module named 'mmfusion'", name="mmfusion")

sys.meta_path.insert(0, Blocked())
try:
    import mmfusion
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("mmfusion could be imported")

import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
inputs = torch.load(folder + "/inputs.pt", weights_only=True)
logits = torch.load(folder + "/logits.pt", weights_only=True)
assert torch.equal(model(**inputs).logits, logits), "other logits"
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
made = processor(images=[Image.new("RGB", (20, 30), "white"), None], text=["no lung", "lung"])
assert made["image_present"].tolist() == [True, False]
assert model(**made).logits.shape == (2, 2)
print("reloaded", *(type(part).__module__.partition(".")[0] for part in (model, processor)))
"""


def test_pushed_with_its_code_it_reloads_without_the_library(tmp_path: Path) -> None:
    # The model is pushed in a process of its own, because `register_for_auto_class` marks the
    # classes. It is loaded in another process, in which mmfusion cannot be imported.
    folder, cache = tmp_path / "model", tmp_path / "modules"
    push = f"""
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast
from mmfusion import FusionClassifier, FusionConfig, FusionProcessor
from mmfusion.testing import tiny_config

small = {SMALL!r}
words = {{"[PAD]": 0, "[UNK]": 1, "no": 2, "lung": 3}}
raw = Tokenizer(WordPiece(words, unk_token="[UNK]"))
raw.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]")
FusionConfig.register_for_auto_class()
FusionClassifier.register_for_auto_class("AutoModel")
FusionProcessor.register_for_auto_class("AutoProcessor")
torch.manual_seed(0)
image = tiny_config("vit", **small, image_size=16, patch_size=8)
text = tiny_config("bert", **small, **{WORDS!r})
model = FusionClassifier(image_encoder=image, text_encoder=text, fusion="joint").eval()
model.save_pretrained({str(folder)!r})
encoders = model.image_encoder, model.text_encoder
processor = FusionProcessor.from_encoders(*encoders, tokenizer=tokenizer)
processor.save_pretrained({str(folder)!r})
inputs = {{"pixel_values": torch.randn(2, 3, 16, 16), "input_ids": torch.tensor([[2, 3], [3, 1]])}}
torch.save(inputs, {str(folder / "inputs.pt")!r})
torch.save(model(**inputs).logits.detach(), {str(folder / "logits.pt")!r})
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(cache)}
    for code, arguments in ((push, []), (RELOAD, [str(folder)])):
        command = [sys.executable, "-c", code, *arguments]
        answer = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        assert answer.returncode == 0, answer.stderr[-3000:]
    expected = ["reloaded", "transformers_modules", "transformers_modules"]
    assert answer.stdout.split()[-3:] == expected
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration.FusionConfig",
        "AutoModel": "modeling.FusionClassifier",
    }
