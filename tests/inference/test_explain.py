"""Explanations of one sample, for every strategy and kind of encoder, and at known places."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmfusion import FusionClassifier, ImageEncoder, explain, predict_stream, register_backbone
from mmfusion.model.fusion import FUSIONS
from mmfusion.testing import tiny_classifier

PAIRS = {
    "timm_vit": ("bert", "attention_gradient"),
    "transformers_vit": ("modernbert", "attention_gradient"),
    "cnn": ("mpnet", "grad_cam"),
    "opaque": ("roberta", "integrated_gradients"),
    "custom": ("custom", "grad_cam"),
}


@pytest.mark.parametrize("image", PAIRS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_strategy_is_explained(fusion, image, processor_of, sample):
    text, method = PAIRS[image]
    if FUSIONS[fusion].acts_in_both_towers and image in ("opaque", "custom"):
        image, text, method = "cnn", "distilbert", "grad_cam"
    model = tiny_classifier(fusion, "linear", image, text)
    for name in model.modalities:
        model.freeze(name)
    if fusion == "guarded":
        # A weight below 0 counts as 0, and an answer without weight has no words.
        model.fusion.weights.data.fill_(0.5)
    processor, (picture, words) = processor_of(model, fit="pad"), sample
    found = explain(model, processor, picture, words)
    (answer,) = predict_stream(
        model, processor, [{"image": picture, "text": words}], progress=False
    )
    assert list(found.probabilities.values()) == pytest.approx(answer.probabilities, abs=1e-5)
    assert found.target == f"LABEL_{answer.probabilities.argmax()}"
    assert sum(found.shares.values()) == pytest.approx(1)
    p = found.probabilities[found.target]
    assert found.log_odds == pytest.approx(np.log(p / (1 - p)), abs=1e-4)
    (heat,) = found.heat
    assert heat.method == method and heat.values.shape == (30, 40)
    assert heat.values.max() in (0.0, 1.0) and heat.values.min() >= 0
    assert [word.text for word in found.words] == words.split()
    assert found.word_method == "integrated_gradients"
    assert any(abs(word.weight) > 0 for word in found.words)
    (alone,) = predict_stream(model, processor, [{"image": picture}], progress=False)
    without = found.without["text"].values()
    assert list(without) == pytest.approx(alone.probabilities, abs=1e-5)


def state_of(model):
    """Returns all that an explanation might change."""
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "flags": {name: one.requires_grad for name, one in model.named_parameters()},
        "grads": {name: one.grad for name, one in model.named_parameters()},
        "modes": {name: one.training for name, one in model.named_modules()},
        "hooks": {
            name: (len(one._forward_hooks), len(one._forward_pre_hooks))
            for name, one in model.named_modules()
        },
        "fused": [getattr(one, "fused_attn", None) for one in model.modules()],
        "config": model.config.to_dict(),
        "random": torch.get_rng_state(),
        "numpy": np.random.get_state()[1],
    }


@pytest.mark.parametrize("image", ["timm_vit", "transformers_vit", "cnn"])
def test_the_model_is_left_as_it_was(image, processor_of, sample):
    model = tiny_classifier("joint", "cross_attention", image, "bert")
    model.freeze("text").train()
    model.mapper.eval()
    next(model.fusion.parameters()).requires_grad_(False)
    before = copy.deepcopy(state_of(model))
    for method in ("auto", "gradient_x_input"):
        with torch.inference_mode():
            explain(model, processor_of(model), *sample, method=method, words="occlusion")
        explain(model, processor_of(model), *sample, method=method)
    after = state_of(model)
    for name, value in before["weights"].items():
        assert torch.equal(value, after["weights"][name]), name
    assert torch.equal(before["random"], after["random"])
    assert (before["numpy"] == after["numpy"]).all()
    for name in ("flags", "grads", "modes", "hooks", "fused", "config"):
        assert before[name] == after[name], name


@pytest.mark.parametrize("fusion", ["concat", "joint", "late", "mmtm"])
def test_a_missing_modality_has_no_map_and_no_share(fusion, processor_of, sample):
    model = tiny_classifier(fusion, "linear", "timm_vit", "bert")
    picture, text = sample
    found = explain(model, processor_of(model), picture, "  ")
    assert found.missing == ("text",) and found.words == () and found.text is None
    assert found.shares == {"image": 1.0, "text": 0.0} and found.contributions["text"] == 0
    assert found.heat[0].words is None and "The text is missing." in found.notes
    assert found.without["image"] == {} and found.without["text"] == found.probabilities
    found = explain(model, processor_of(model), None, text)
    assert found.missing == ("image",) and found.heat == ()
    assert found.shares == {"image": 0.0, "text": 1.0} and len(found.words) == 9


@pytest.mark.parametrize(("image", "text"), [("cnn", None), (None, "bert")])
def test_a_classifier_of_one_modality_is_explained(image, text, processor_of, sample):
    model = tiny_classifier("concat", "linear", image, text)
    picture, words = sample
    given = {"image": picture} if image else {"text": words}
    found = explain(model, processor_of(model), **given)
    (name,) = given
    assert found.shares == {name: 1.0} and found.without == {name: {}}
    assert (len(found.heat), len(found.words)) == ((1, 0) if image else (0, 9))
    with pytest.raises(ValueError, match="must be left out for a classifier of"):
        explain(model, processor_of(model), picture, words)


def test_each_label_of_many_is_explained_by_itself(processor_of, sample):
    kind = "multi_label_classification"
    model = tiny_classifier("guarded", "linear", "cnn", "bert", problem_type=kind)
    processor = processor_of(model)
    weights = []
    for target in ("LABEL_0", "LABEL_1"):
        found = explain(model, processor, *sample, target=target)
        logits = model(**processor(images=[sample[0]], text=[sample[1]])).logits[0]
        assert found.log_odds == pytest.approx(logits[int(target[-1])].item(), abs=1e-4)
        assert found.base == 0 and found.target == target
        weights.append([word.weight for word in found.words])
    assert weights[0] != pytest.approx(weights[1])


def test_the_temperature_is_applied(processor_of, sample):
    model = tiny_classifier("late", "linear", "cnn", "bert")
    cold = explain(model, processor_of(model), *sample, target=0)
    model.config.temperature = 2.0
    warm = explain(model, processor_of(model), *sample, target=0)
    cold_p, warm_p = (np.array(list(one.probabilities.values())) for one in (cold, warm))
    expected = np.sqrt(cold_p) / np.sqrt(cold_p).sum()
    assert warm_p == pytest.approx(expected, abs=1e-5)


class Brightness(nn.Module):
    """A backbone whose feature map is the brightness of 8 x 8 pixels."""

    dim = 4
    input_spec = {  # noqa: RUF012
        "size": [64, 64], "channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3,
        "interpolation": "bilinear",
    }  # fmt: skip

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.0, 1.0, 2.0, 3.0]))

    def forward(self, pixel_values):
        bright = nn.functional.avg_pool2d(pixel_values.mean(1, keepdim=True), 8)
        return bright * self.scale[:, None, None]


register_backbone("mmfusion-test-brightness", Brightness)


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize("size", [(200, 120), (90, 240)])
def test_a_lesion_at_a_known_place_is_hot_in_the_original_picture(fit, size, processor_of):
    model = FusionClassifier(
        image_encoder=ImageEncoder("mmfusion-test-brightness", pretrained=False), num_labels=2
    ).eval()
    with torch.no_grad():
        # Class 1 is brightness: the LayerNorm of the probe keeps the sign of this sum.
        model.head.out.weight.copy_(torch.tensor([[0.0] * 5, [-1.0, -0.3, 0.3, 1.0, 0.0]]))
    model.config.normalize_embeddings = False
    values = np.full((size[1], size[0]), 20, np.uint8)
    top, left = int(0.55 * size[1]), int(0.35 * size[0])
    values[top : top + 20, left : left + 20] = 240
    found = explain(
        model, processor_of(model, fit=fit), Image.fromarray(values), target=1, method="grad_cam"
    )
    heat = found.heat[0].values
    assert heat.shape == values.shape
    down, across = np.unravel_index(heat.argmax(), heat.shape)
    # A cell of the features is an eighth of the frame.
    slack = max(size) / 8
    assert top - slack / 2 <= down <= top + 20 + slack / 2
    assert left - slack / 2 <= across <= left + 20 + slack / 2


@pytest.mark.parametrize(("fusion", "image"), [("cross_attention", "opaque"), ("joint", "custom")])
def test_the_spot_and_the_word_that_decide_are_found(fusion, image, trained, shapes):
    model, processor = trained(fusion, image)
    draw = np.random.default_rng(5)
    hits = np.zeros(2)
    for _ in range(8):
        place = tuple(draw.integers(0, 4, 2))
        picture, text = shapes.spotted(draw, place), shapes.written(draw, True)
        found = explain(model, processor, picture, text)
        assert found.target == "spot fever"
        heat = found.heat[0].values
        hottest = np.unravel_index(heat.argmax(), heat.shape)
        hits[0] += tuple(one // 8 for one in hottest) == place
        hits[1] += max(found.words, key=lambda word: word.weight).text == "fever"
        assert all(one["spot fever"] < 0.5 for one in found.without.values()), found.without
    assert (hits >= 7).all(), hits


def test_wrong_options_are_refused_before_anything_runs(processor_of, sample):
    model = tiny_classifier()
    processor = processor_of(model)
    with pytest.raises(ValueError, match="method must be one of"):
        explain(model, processor, *sample, method="gradcam")
    with pytest.raises(ValueError, match="words must be one of"):
        explain(model, processor, *sample, words="lime")
    with pytest.raises(ValueError, match="image or text must be given, got neither"):
        explain(model, processor, None, " ")
    with pytest.raises(ValueError, match="target must be one of"):
        explain(model, processor, *sample, target="LABEL_9")


def test_a_cut_text_is_said(processor_of, sample):
    model = tiny_classifier("concat", "linear", "cnn", "bert")
    found = explain(model, processor_of(model, max_length=6), *sample)
    assert len(found.words) == 4 and any("cut" in note for note in found.notes)
    assert found.text == sample[1]


def test_the_explanation_as_a_dict_is_plain(processor_of, sample):
    import json

    model = tiny_classifier("cross_attention", "linear", "cnn", "bert")
    found = explain(model, processor_of(model), *sample)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["target"] == found.target and plain["heat"][0]["size"] == [40, 30]
    assert np.shape(plain["heat"][0]["grid"]) == (2, 2)
    assert np.shape(plain["heat"][0]["words"]) == (9, 2, 2)
    assert plain["words"][1]["text"] == "pleural" and plain["missing"] == []
