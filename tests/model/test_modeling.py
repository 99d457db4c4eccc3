"""FusionClassifier: composing, losses, missing modalities, saving and loading.

Also the interfaces that transformers and peft ask of a model.
"""

import copy
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, MPNetConfig, ViTConfig

# The first use of these public names registers the Auto classes.
from mmfusion import (
    EmbeddingMapper,
    FusionClassifier,
    FusionConfig,
    FusionOutput,
    ImageEncoder,
    Joint,
    Late,
    TextEncoder,
)
from mmfusion import testing as kit
from mmfusion.model.fusion import FUSIONS
from mmfusion.model.loss import classification_loss
from mmfusion.model.missing import BatchInputs
from mmfusion.model.tower import CachePoint

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
WORDS = {"vocab_size": 30, "max_position_embeddings": 20}
TIMM_VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}


def vit() -> ViTConfig:
    return ViTConfig(**SMALL, image_size=16, patch_size=8)


def bert() -> BertConfig:
    return BertConfig(**SMALL, **WORDS)


def swin() -> ImageEncoder:
    options = {
        "img_size": 32,
        "window_size": 2,
        "embed_dim": 8,
        "depths": (1, 2),
        "num_heads": (1, 2),
    }
    return ImageEncoder("swin_tiny_patch4_window7_224", pretrained=False, **options)


def classifier(**options: Any) -> FusionClassifier:
    torch.manual_seed(0)
    parts = {"image_encoder": vit(), "text_encoder": bert()}
    return FusionClassifier(**(parts | options)).eval()


def batch(rows: int = 4, size: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(rows, 5, dtype=torch.long)
    mask[1, 3:] = 0
    return {
        "pixel_values": torch.randn(rows, 3, size, size, generator=generator),
        "input_ids": torch.randint(1, 30, (rows, 5), generator=generator),
        "attention_mask": mask,
    }


def flags(model: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def assert_same_logits(one: nn.Module, other: nn.Module, size: int = 16) -> None:
    with torch.no_grad():
        assert torch.equal(one(**batch(size=size)).logits, other(**batch(size=size)).logits)


# Composing


def test_parts_may_be_encoders_configs_or_names() -> None:
    encoder = ImageEncoder("test_vit", pretrained=False)
    model = FusionClassifier(
        image_encoder=encoder, text_encoder=bert(), mapper="mlp", fusion="late"
    )
    assert model.config.image_encoder.name == "test_vit" and model.config.mapper == {"name": "mlp"}
    assert model.modalities == ("image", "text") and model.mapper.out_dim == model.image_encoder.dim
    rebuilt = FusionClassifier(
        FusionConfig(image_encoder="test_vit", text_encoder=model.config.text_encoder)
    )
    assert rebuilt.image_encoder.dim == model.image_encoder.dim


@pytest.mark.parametrize(
    "image", [lambda: ImageEncoder("vit_tiny_patch16_224", pretrained=False, **TIMM_VIT), swin]
)
def test_composing_leaves_pretrained_towers_bit_equal(image: Any) -> None:
    encoders = {"image_encoder": image(), "text_encoder": TextEncoder(bert())}
    before = {
        name: {
            key: value.clone() for key, value in [*part.named_parameters(), *part.named_buffers()]
        }
        for name, part in encoders.items()
    }
    model = FusionClassifier(**encoders)
    for name, part in encoders.items():
        assert getattr(model, name) is part
        after = dict([*part.named_parameters(), *part.named_buffers()])
        assert after.keys() == before[name].keys() and all(
            torch.equal(after[k], v) for k, v in before[name].items()
        )


def test_parts_given_beside_a_config_take_the_place_of_its_own() -> None:
    config = classifier(num_labels=4, fusion="late").config
    model = FusionClassifier(config, fusion=Joint(at=1), num_labels=3)
    assert (
        model.config.fusion["name"] == "joint"
        and model.config.num_labels == 3
        and model.fusion.at == 1
    )
    assert FusionClassifier(config, id2label={0: "a", 1: "b"}).config.label2id == {"a": 0, "b": 1}


def test_a_mapper_of_ones_own() -> None:
    mapper = EmbeddingMapper("mlp", 16, 16, hidden_dim=5)
    model = classifier(mapper=mapper)
    assert model.mapper is mapper and model.config.mapper["hidden_dim"] == 5
    with pytest.raises(
        ValueError, match=r"mapper must map width 16 \(text\) to 16 \(image\), got 8 to 16"
    ):
        classifier(mapper=EmbeddingMapper("linear", 8, 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_encoder": None, "text_encoder": None},
            "image_encoder or text_encoder must be given, got neither",
        ),
        (
            {"fusion": "conct"},
            "fusion must be a known strategy, got 'conct'. Did you mean 'concat'",
        ),
        ({"mapper": "liner"}, "got 'liner'. Did you mean 'linear'"),
        (
            {"mapper": {"name": "mlp", "hiden_dim": 3}},
            r"options of mapper 'mlp' must be what EmbeddingMapper takes, .*hiden_dim",
        ),
        (
            {"fusion": {"name": "late", "combin": "mean"}},
            r"options of fusion 'late' must be what Late takes",
        ),
        ({"class_weights": [1.0]}, "class_weights must be 2 positive numbers"),
    ],
)
def test_parts_that_do_not_exist_or_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier(**options)


def test_another_kind_of_config_is_refused() -> None:
    with pytest.raises(
        TypeError, match="config must be a FusionConfig, got BertConfig|parameter 'config'"
    ):
        FusionClassifier(bert())  # type: ignore[arg-type]


def test_a_misspelt_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="num_label"):
        FusionClassifier(image_encoder=vit(), num_label=3)  # type: ignore[call-arg]


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = classifier(fusion="mmtm").state_dict(), classifier(fusion="mmtm").state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


# One modality


def test_an_image_only_and_a_text_only_classifier(tmp_path: Path) -> None:
    inputs = batch()
    image, text = classifier(text_encoder=None), classifier(image_encoder=None)
    assert (image.modalities, text.modalities) == (("image",), ("text",))
    pixels, words = {"pixel_values": inputs.pop("pixel_values")}, inputs
    for model, given in ((image, pixels), (text, words)):
        outputs = model(**given, labels=torch.tensor([0, 1, 1, 0]))
        assert outputs.logits.shape == (4, 2) and outputs.loss.isfinite()
        model.save_pretrained(tmp_path / model.modalities[0])
        again = FusionClassifier.from_pretrained(tmp_path / model.modalities[0]).eval()
        assert torch.equal(again(**given).logits, outputs.logits) and not hasattr(again, "fusion")
    embedded = image(**pixels, output_embeddings=True)
    assert embedded.image_embedding.shape == (4, 16) and embedded.text_embedding is None
    with pytest.raises(
        ValueError, match="input_ids must be left out of a classifier of image alone"
    ):
        image(**pixels, **words)
    with pytest.raises(
        ValueError, match="pixel_values must be left out of a classifier of text alone"
    ):
        text(**pixels)
    with pytest.raises(
        ValueError, match=r"every sample must have an image, got none in rows \[2\]"
    ):
        image(**pixels, image_present=torch.tensor([True, True, False, True]))
    with pytest.raises(ValueError, match=r"every sample must have a text, got none in rows \[0\]"):
        text(input_ids=words["input_ids"], text_present=torch.tensor([False, True, True, True]))


# Inputs


def test_neither_modality_is_an_error() -> None:
    model, inputs = classifier(), batch()
    with pytest.raises(ValueError, match="pixel_values or input_ids must be given, got neither"):
        model()
    present = {
        "image_present": torch.tensor([True, False, True, True]),
        "text_present": torch.tensor([True, False, True, True]),
    }
    with pytest.raises(
        ValueError, match=r"every sample must have an image or a text, got none in rows \[1\]"
    ):
        model(**inputs, **present)


def test_a_mask_without_a_one_is_a_missing_text() -> None:
    model, inputs = classifier(), batch()
    inputs["attention_mask"][2] = 0
    said = model(**inputs, text_present=torch.tensor([True, True, False, True])).logits
    assert torch.equal(model(**inputs).logits, said)
    assert torch.equal(model(**inputs, text_present=torch.ones(4, dtype=torch.bool)).logits, said)


def test_a_whole_batch_may_lack_a_modality() -> None:
    model, inputs = classifier(), batch()
    absent = torch.zeros(4, dtype=torch.bool)
    without = model(pixel_values=inputs["pixel_values"]).logits
    assert torch.equal(model(**inputs, text_present=absent).logits, without)
    words = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    assert torch.equal(model(**inputs, image_present=absent).logits, model(**words).logits)


def test_no_mask_means_that_every_token_is_real() -> None:
    model, inputs = classifier(), batch()
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    with_mask = model(**inputs).logits
    del inputs["attention_mask"]
    assert torch.equal(model(**inputs).logits, with_mask)


@pytest.mark.parametrize(
    ("image", "text", "fusion", "mapper"),
    [
        ("timm_vit", "bert", "concat", "linear"),
        ("transformers_vit", "modernbert", "joint", "mlp"),
        ("cnn", "roberta", "mmtm", "linear"),
        ("custom", "custom", "late", "linear"),
    ],
)
def test_a_replica_of_data_parallel_runs_on_its_own_weights(
    image: str, text: str, fusion: str, mapper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On several GPUs the Trainer uses DataParallel. Only its copying needs GPUs, so here the copies
    # are made on the CPU.
    model = kit.tiny_classifier(fusion, mapper, image, text).eval()
    other = copy.deepcopy(model)
    for tensor in itertools.chain(other.parameters(), other.buffers()):
        if tensor.is_floating_point():
            tensor.data *= 1.25
    copies = [list(model.parameters()), list(other.parameters())]
    buffers = [list(model.buffers()), list(other.buffers())]
    replicate = sys.modules["torch.nn.parallel.replicate"]
    monkeypatch.setattr(replicate, "_get_device_index", lambda device, _: device)
    monkeypatch.setattr(
        replicate,
        "_broadcast_coalesced_reshape",
        lambda given, *_, detach=False: buffers if detach else copies,
    )
    _, replica = replicate.replicate(model, [0, 1])
    whole = kit.tiny_batch(model, 4)
    pictures = {"pixel_values": whole["pixel_values"]}
    texts = {name: whole[name] for name in ("input_ids", "attention_mask")}
    for batch in (whole, pictures, texts):
        torch.testing.assert_close(replica(**batch).logits, other(**batch).logits, rtol=0, atol=0)
        assert not torch.allclose(replica(**batch).logits, model(**batch).logits, atol=1e-4)


def test_presence_of_another_length_is_refused() -> None:
    # The run-time check of the shapes may raise its own error first.
    with pytest.raises(
        (ValueError, TypeError), match="presence must be one flag per sample|image_present"
    ):
        classifier()(**batch(), image_present=torch.ones(3, dtype=torch.bool))


def test_embeddings_come_only_on_request() -> None:
    model = classifier()
    assert list(model(**batch())) == ["logits"]
    outputs = model(**batch(), output_embeddings=True)
    assert isinstance(outputs, FusionOutput) and outputs.embedding.shape == (4, 32)
    assert outputs.image_embedding.shape == outputs.text_embedding.shape == (4, 16)
    values = model(**batch(), labels=torch.tensor([0, 1, 0, 1]), return_dict=False)
    assert isinstance(values, tuple) and len(values) == 2 and torch.equal(values[1], outputs.logits)


# Losses


def test_single_label_loss_equals_torchs() -> None:
    model, labels = classifier(num_labels=3), torch.tensor([0, 2, 1, 2])
    outputs = model(**batch(), labels=labels)
    torch.testing.assert_close(outputs.loss, nn.functional.cross_entropy(outputs.logits, labels))


def test_class_weights_scale_each_samples_loss() -> None:
    weights = [0.5, 1.0, 4.0]
    model, labels = classifier(num_labels=3, class_weights=weights), torch.tensor([0, 2, 1, 2])
    outputs = model(**batch(), labels=labels)
    each = [
        -weights[int(y)] * z.log_softmax(-1)[y] for z, y in zip(outputs.logits, labels, strict=True)
    ]
    torch.testing.assert_close(outputs.loss, torch.stack(each).mean())
    assert model.class_weights.tolist() == weights and "class_weights" not in model.state_dict()


@pytest.mark.parametrize("weights", [None, [2.0, 0.5, 1.0]])
def test_multi_label_loss_leaves_unknown_labels_out(weights: list[float] | None) -> None:
    model = classifier(
        num_labels=3, problem_type="multi_label_classification", class_weights=weights
    )
    nan = float("nan")
    labels = torch.tensor([[1.0, 0, nan], [nan, nan, nan], [0, 0, 1], [nan, 1, 0]])
    outputs = model(**batch(), labels=labels)
    losses = []
    for row in range(4):
        for column in range(3):
            if not labels[row, column].isnan():
                p = torch.sigmoid(outputs.logits[row, column])
                weight = 1.0 if weights is None else weights[column]
                losses.append(-weight * torch.log(p if labels[row, column] == 1 else 1 - p))
    torch.testing.assert_close(outputs.loss, torch.stack(losses).mean())


def test_a_batch_without_a_known_label_has_a_loss_of_zero_and_gradients() -> None:
    model = classifier(problem_type="multi_label_classification")
    loss = model(**batch(), labels=torch.full((4, 2), float("nan"))).loss
    assert loss.item() == 0
    loss.backward()
    grads = [p.grad for p in model.fusion.parameters() if p.grad is not None]
    assert grads and all(bool((grad == 0).all()) for grad in grads)


@pytest.mark.parametrize(
    ("problem", "labels", "message"),
    [
        ("single", torch.tensor([0, 1, 2, 1]), r"labels must be in 0 \.\. 1, got 2"),
        ("single", torch.tensor([0, 1, -100, 1]), r"labels must be in 0 \.\. 1, got -100"),
        (
            "single",
            torch.tensor([0, 1]),
            r"labels must be class indices \[4\], got torch.int64 \(2,\)",
        ),
        ("single", torch.zeros(4), r"labels must be class indices \[4\], got torch.float32"),
        (
            "multi",
            torch.zeros(4, dtype=torch.long),
            r"labels must be floats \[4, 2\] \(1, 0 or NaN\), got torch.int64 \(4,\)",
        ),
        ("multi", torch.zeros(4, 3), r"labels must be floats \[4, 2\]"),
        ("multi", torch.full((4, 2), 0.5), "labels must be 1, 0 or NaN, got 0.5"),
    ],
)
def test_labels_out_of_range_or_shape(problem: str, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier(problem_type=f"{problem}_label_classification")(**batch(), labels=labels)


def test_rows_that_do_not_count() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    present = torch.tensor([True, False, True, False])
    expected = nn.functional.cross_entropy(logits[present], labels[present])
    torch.testing.assert_close(classification_loss(logits, labels, present=present), expected)
    assert classification_loss(logits, labels, present=torch.zeros(4, dtype=torch.bool)).item() == 0
    many = torch.tensor([[1.0, 0, 1]] * 4)
    expected = nn.functional.binary_cross_entropy_with_logits(logits[present], many[present])
    torch.testing.assert_close(classification_loss(logits, many, present=present), expected)


def test_the_auxiliary_loss_is_added_in_training_alone() -> None:
    model = classifier(auxiliary_loss_weight=0.5)
    inputs, labels = batch(), torch.tensor([0, 1, 1, 0])
    present = {
        "image_present": torch.tensor([True, True, False, True]),
        "text_present": torch.tensor([True, False, True, True]),
    }
    outputs = model(**inputs, **present, labels=labels, output_embeddings=True)
    plain = nn.functional.cross_entropy(outputs.logits, labels)
    torch.testing.assert_close(outputs.loss, plain)
    # Only the classifier itself is set to training mode, because the dropout of the towers would
    # change the embeddings.
    model.training = True
    expected = plain
    for name, head in (("image", model.image_head), ("text", model.text_head)):
        here = present[f"{name}_present"]
        alone = head(outputs[f"{name}_embedding"])[here]
        expected = expected + 0.5 * nn.functional.cross_entropy(alone, labels[here])
    torch.testing.assert_close(model(**inputs, **present, labels=labels).loss, expected)


def test_modality_dropout_takes_one_modality_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier(modality_dropout=0.4, fusion="late")
    seen: list[Tensor] = []
    tower = model._tower

    def spy(name: str, batch: BatchInputs) -> Any:
        seen.append(batch.present[name])
        return tower(name, batch)

    monkeypatch.setattr(model, "_tower", spy)
    rows = 2000
    present = torch.ones(rows, dtype=torch.bool)
    image_only, text_only = present.clone(), present.clone()
    image_only[:100], text_only[100:200] = False, False
    inputs = {
        "pixel_values": torch.zeros(rows, 3, 16, 16),
        "input_ids": torch.ones(rows, 1, dtype=torch.long),
    }
    with torch.no_grad():
        model(**inputs, image_present=image_only, text_present=text_only)
        assert torch.equal(seen[0], image_only) and torch.equal(seen[1], text_only)
        seen.clear()
        model.training = True
        model(**inputs, image_present=image_only, text_present=text_only)
    image, text = seen
    assert bool((image | text).all())
    assert torch.equal(image[:200], image_only[:200]) and torch.equal(text[:200], text_only[:200])
    for lost in (~image[200:], ~text[200:]):
        # The bound is five standard deviations of a rate of 0.2 over 1,800 samples.
        assert abs(lost.float().mean().item() - 0.2) < 0.047
    assert bool((~image[200:] & ~text[200:]).sum() == 0)


# Saving and loading


@pytest.mark.parametrize("fusion", FUSIONS)
def test_saved_and_read_again_by_either_class(tmp_path: Path, fusion: str) -> None:
    model = classifier(fusion=fusion, mapper="mlp", num_labels=3, class_weights=[1.0, 2.0, 3.0])
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    for loader in (FusionClassifier, AutoModel):
        again = loader.from_pretrained(tmp_path)
        assert type(again) is FusionClassifier and not again.training
        assert_same_logits(again, model)
        assert again.class_weights.tolist() == [1, 2, 3] and flags(again) == flags(model)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), FusionConfig)


def test_names_of_classes_are_saved(tmp_path: Path) -> None:
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
def test_loading_is_strict_both_ways(tmp_path: Path, change: Any, message: str) -> None:
    classifier().save_pretrained(tmp_path)
    changed(tmp_path, change)
    for loader in (FusionClassifier, AutoModel):
        with pytest.raises(
            ValueError,
            match=rf"checkpoint '{tmp_path}' must fit the model key by key, got {message}",
        ):
            loader.from_pretrained(tmp_path)


def test_a_damaged_checkpoint_and_a_missing_one_are_named(tmp_path: Path) -> None:
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
    tmp_path: Path, fusion: str
) -> None:
    model = classifier(num_labels=2, fusion=fusion)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="mis-shaped"):
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
    assert fresh and all(key.rsplit(".", 2)[-2] == "out" for key in fresh)
    for key, value in model.state_dict().items():
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
def test_what_users_of_transformers_pass(tmp_path: Path, options: dict[str, Any]) -> None:
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


def test_buffers_that_are_not_saved_are_right_after_loading(tmp_path: Path) -> None:
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


def test_a_text_tower_without_sdpa_is_read_again(tmp_path: Path) -> None:
    model = classifier(text_encoder=MPNetConfig(**SMALL, **WORDS))
    model.save_pretrained(tmp_path)
    assert_same_logits(FusionClassifier.from_pretrained(tmp_path), model)


# What trains

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
def test_what_trains_is_saved_with_the_model(tmp_path: Path, change: str, image: Any) -> None:
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


def test_frozen_towers_stay_in_eval_and_get_no_gradient() -> None:
    model = classifier().freeze("text").train()
    assert (
        not any(module.training for module in model.text_encoder.backbone.modules())
        and model.image_encoder.backbone.training
    )
    model(**batch(), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    assert all(p.grad is None for p in model.text_encoder.parameters())
    assert all(p.grad is not None for p in model.image_encoder.parameters())
    with pytest.raises(
        ValueError, match="modality must be one of .* got 'txt'. Did you mean 'text'"
    ):
        model.freeze("txt")


def test_how_far_a_tower_may_be_cached() -> None:
    assert classifier().cache_point("image") == CachePoint(0)
    assert classifier().freeze("image").cache_point("image") == CachePoint(3, pooled=True)
    assert classifier(fusion=Joint(at=1)).freeze("image").cache_point("image") == CachePoint(1)
    assert classifier().freeze("image", keep_last=1).cache_point("image") == CachePoint(2)
    assert classifier(text_encoder=None).freeze("image").cache_point("image") == CachePoint(
        3, pooled=True
    )


# peft reads a property of transformers that transformers 5.23 renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_wraps_the_whole_classifier(tmp_path: Path) -> None:
    model = classifier(fusion="late")
    expected = model(**batch()).logits
    config = peft.LoraConfig(r=2, target_modules=["query", "q_proj"], modules_to_save=["fusion"])
    wrapped = peft.get_peft_model(model, config)
    assert torch.allclose(wrapped.eval()(**batch()).logits, expected, atol=1e-6)
    trained = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name or "modules_to_save" in name for name in trained)
    wrapped.train()(**batch(), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    assert all(p.grad is not None for p in wrapped.parameters() if p.requires_grad)
    wrapped.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(classifier(fusion="late"), tmp_path).eval()
    assert torch.equal(again(**batch()).logits, wrapped.eval()(**batch()).logits)


# This uses the name that transformers 5.17 has as well; transformers 5.23 renamed it.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_:FutureWarning")
@pytest.mark.parametrize("fusion", ["concat", {"name": "joint", "at": 1}, "mmtm"])
@pytest.mark.parametrize(
    "image", [vit, lambda: ImageEncoder("vit_tiny_patch16_224", pretrained=False, **TIMM_VIT)]
)
def test_recomputed_activations_give_the_same_gradients(image: Any, fusion: Any) -> None:
    model = classifier(image_encoder=image(), fusion=fusion)
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable()
        assert (
            any(
                getattr(part, "gradient_checkpointing", False)
                for part in model.text_encoder.modules()
            )
            == recompute
        )
        model.zero_grad()
        for part in model.modules():
            # transformers recomputes only in training mode. `set_dropout` below removes the
            # randomness.
            part.training = True
        set_dropout(model, 0.0)
        model(**batch(), labels=torch.tensor([0, 1, 1, 0])).loss.backward()
        gradients.append(
            {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 50
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7, msg=name)
    if model.image_encoder.config.source == "timm":
        assert model.image_encoder.gradient_checkpointing
        model.gradient_checkpointing_disable()
        assert not model.image_encoder.gradient_checkpointing


def set_dropout(model: nn.Module, p: float) -> None:
    """Sets the probability of every dropout, also of those that are numbers in an attention."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = p
        for name in ("dropout", "attention_dropout", "dropout_prob"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, p)


# Pushing a model with its code

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
from transformers import BertConfig, PreTrainedTokenizerFast, ViTConfig
from mmfusion import FusionClassifier, FusionConfig, FusionProcessor

small = {SMALL!r}
words = {{"[PAD]": 0, "[UNK]": 1, "no": 2, "lung": 3}}
raw = Tokenizer(WordPiece(words, unk_token="[UNK]"))
raw.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]")
FusionConfig.register_for_auto_class()
FusionClassifier.register_for_auto_class("AutoModel")
FusionProcessor.register_for_auto_class("AutoProcessor")
torch.manual_seed(0)
image, text = ViTConfig(**small, image_size=16, patch_size=8), BertConfig(**small, **{WORDS!r})
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
    assert answer.stdout.split()[-3:] == [
        "reloaded",
        "transformers_modules",
        "transformers_modules",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration.FusionConfig",
        "AutoModel": "modeling.FusionClassifier",
    }


def test_the_late_strategy_is_told_of_multi_label() -> None:
    model = classifier(fusion=Late("product"), problem_type="multi_label_classification")
    assert model.fusion.multi_label and model.config.fusion == {
        "name": "late",
        "combine": "product",
    }
