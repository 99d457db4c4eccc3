"""FusionClassifier: composing, inputs and outputs, and what transformers and peft ask of it."""

import copy
import itertools
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import BertModel, PreTrainedConfig

# The first use of these public names registers the Auto classes.
from mmfusion import (
    EmbeddingMapper,
    FusionClassifier,
    FusionConfig,
    FusionOutput,
    ImageEncoder,
    Joint,
    TextEncoder,
)
from mmfusion import testing as kit

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


def bert() -> PreTrainedConfig:
    return kit.tiny_config("bert", **SMALL, **WORDS)


def swin() -> ImageEncoder:
    sizes = {"img_size": 32, "window_size": 2, "embed_dim": 8}
    depths = {"depths": (1, 2), "num_heads": (1, 2)}
    return ImageEncoder("swin_tiny_patch4_window7_224", pretrained=False, **sizes, **depths)


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


def test_a_composed_classifier_trains_as_a_whole(tmp_path: Path, bert: Any) -> None:
    BertModel(bert()).save_pretrained(tmp_path / "bert")
    # transformers loads in evaluation mode. A loop that never calls train() would have no dropout.
    text = TextEncoder(str(tmp_path / "bert"))
    assert all(module.training for module in text.modules())
    image = ImageEncoder("resnet10t", pretrained=False).eval()
    model = FusionClassifier(image_encoder=image, text_encoder=text)
    assert all(module.training for module in model.modules())
    frozen = FusionClassifier(image_encoder=image.freeze(), text_encoder=text)
    assert {m.training for m in frozen.image_encoder.backbone.modules()} == {False}
    model.save_pretrained(tmp_path / "model")
    loaded = FusionClassifier.from_pretrained(tmp_path / "model")
    assert not any(module.training for module in loaded.modules())


def test_parts_given_beside_a_config_take_the_place_of_its_own(classifier: Any) -> None:
    config = classifier(num_labels=4, fusion="late").config
    model = FusionClassifier(config, fusion=Joint(at=1), num_labels=3)
    assert (
        model.config.fusion["name"] == "joint"
        and model.config.num_labels == 3
        and model.fusion.at == 1
    )
    assert FusionClassifier(config, id2label={0: "a", 1: "b"}).config.label2id == {"a": 0, "b": 1}


def test_a_mapper_of_ones_own(classifier: Any) -> None:
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
def test_parts_that_do_not_exist_or_fit(
    options: dict[str, Any], message: str, classifier: Any
) -> None:
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


def test_the_same_seed_gives_the_same_weights(classifier: Any) -> None:
    first, second = classifier(fusion="mmtm").state_dict(), classifier(fusion="mmtm").state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_an_image_only_and_a_text_only_classifier(
    tmp_path: Path, classifier: Any, batch: Any
) -> None:
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


def test_embeddings_come_only_on_request(classifier: Any, batch: Any) -> None:
    model = classifier()
    assert list(model(**batch())) == ["logits"]
    outputs = model(**batch(), output_embeddings=True)
    assert isinstance(outputs, FusionOutput) and outputs.embedding.shape == (4, 32)
    assert outputs.image_embedding.shape == outputs.text_embedding.shape == (4, 16)
    values = model(**batch(), labels=torch.tensor([0, 1, 0, 1]), return_dict=False)
    assert isinstance(values, tuple) and len(values) == 2 and torch.equal(values[1], outputs.logits)


def test_frozen_towers_stay_in_eval_and_get_no_gradient(classifier: Any, batch: Any) -> None:
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


# peft reads a property of transformers that transformers 5.23 renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_wraps_the_whole_classifier(tmp_path: Path, classifier: Any, batch: Any) -> None:
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
def test_recomputed_activations_give_the_same_gradients(
    image: Any, fusion: Any, classifier: Any, batch: Any
) -> None:
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
