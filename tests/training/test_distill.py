"""Distillation: the distance by its formula, its effect on an encoder, and mistakes."""

import pytest
import torch
import torch.nn.functional as F

from mmfusion import FusionClassifier, FusionCollator, FusionProcessor, ImageEncoder, TextEncoder
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_config
from mmfusion.training.distill import Distillation, watching
from mmfusion.training.fit import fit

WIDTHS = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def parts(few_rows):
    """A function that makes models of the same tokenizer, and the processor."""
    tokenizer = word_tokenizer(text for text in few_rows["text"] if text)

    def made(seed: int, modalities: str, **options):
        torch.manual_seed(seed)
        image = text = None
        if "image" in modalities:
            image = ImageEncoder(tiny_config("vit", **WIDTHS, image_size=32, patch_size=8))
        if "text" in modalities:
            text = TextEncoder(tiny_config("bert", **WIDTHS, vocab_size=len(tokenizer)))
        model = FusionClassifier(image_encoder=image, text_encoder=text, num_labels=4, **options)
        return model, FusionProcessor.from_encoders(image, text, tokenizer=tokenizer)

    return made


@pytest.mark.parametrize("fusion", ["concat", "late", "guarded", "joint"])
def test_the_distance_is_that_of_the_normalised_pooled_vectors(fusion, parts, few_rows):
    """Over the samples that have the modality; the encoders are called by themselves here."""
    model, processor = parts(0, "image text", fusion=fusion)
    teachers = {name: parts(1, name)[0] for name in ("image", "text")}
    batch = FusionCollator(processor)([few_rows[i] for i in range(24)])
    model.eval()
    with torch.no_grad(), watching(model) as seen:
        model(**batch)
    got = Distillation(model, teachers, 3.0).loss(seen, batch)
    expected = 0.0
    names = {"image": ("pixel_values",), "text": ("input_ids", "attention_mask")}
    for name, teacher in teachers.items():
        present = batch[f"{name}_present"]
        assert 0 < int(present.sum()) < 24
        inputs = [batch[key][present] for key in names[name]]
        with torch.no_grad():
            taught = getattr(teacher, f"{name}_encoder").eval()(*inputs).pooled
            own = getattr(model, f"{name}_encoder")(*inputs).pooled
        if fusion == "joint" and name == "image":
            # The tower was walked on with the text's tokens.
            own = seen["image"][0][present]
        own, taught = (F.layer_norm(v, v.shape[-1:]) for v in (own, taught))
        expected += float((own - taught).square().mean())
    assert float(got) == pytest.approx(3 * expected, rel=1e-4)


def distance(model, teacher, processor, rows) -> float:
    batch = FusionCollator(processor)([rows[i] for i in range(len(rows))])
    model.eval()
    with torch.no_grad(), watching(model) as seen:
        model(**batch)
    return float(Distillation(model, {"text": teacher}, 1.0).loss(seen, batch))


def test_a_taught_encoder_ends_closer_to_its_teacher(parts, few_rows, tmp_path, quiet):
    teacher, _ = parts(1, "text")
    ends = {}
    for name, given in (("alone", None), ("taught", {"text": teacher})):
        model, processor = parts(0, "image text")
        before = distance(model, teacher, processor, few_rows)
        arguments = quiet(
            tmp_path / name, num_train_epochs=6, learning_rate=5e-3, save_strategy="no"
        )
        fit(model, processor, few_rows, arguments=arguments, teachers=given, distillation=10.0)
        ends[name] = distance(model, teacher, processor, few_rows)
    assert ends["taught"] < 0.5 * before and ends["taught"] < 0.5 * ends["alone"]
    # The teacher itself learned nothing.
    again, _ = parts(1, "text")
    assert all(
        torch.equal(value, again.state_dict()[key]) for key, value in teacher.state_dict().items()
    )


def test_mistakes_are_answered(parts):
    model, _ = parts(0, "image text")
    teacher, _ = parts(1, "text")
    with pytest.raises(ValueError, match="got one of .*'text'.* under 'image'"):
        Distillation(model, {"image": teacher}, 1.0)
    with pytest.raises(ValueError, match="distillation must be above 0"):
        Distillation(model, {"text": teacher}, 0.0)
    with pytest.raises(ValueError, match="left out for a classifier of text alone"):
        Distillation(teacher, {"text": teacher}, 1.0)
    wide = TextEncoder(tiny_config("bert"))
    with pytest.raises(ValueError, match="must have an encoder of width 16"):
        Distillation(model, {"text": FusionClassifier(text_encoder=wide)}, 1.0)
    model.freeze("text")
    with pytest.raises(ValueError, match="must train if it has a teacher"):
        Distillation(model, {"text": teacher}, 1.0)
