"""Gradients of an answer, against captum, against loops, and on models where they are exact."""

import captum.attr
import pytest
import torch
from torch import nn

from mmfusion import FusionClassifier, ImageEncoder, image_attention, record_attention
from mmfusion.inference.explain_gradients import (
    Scorer,
    gradient_x_input,
    image_heat,
    last_layer,
    log_odds,
    steady,
)
from mmfusion.testing import tiny_batch, tiny_classifier

# captum says so each time it sets requires_grad on an input.
pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor .* did not already require gradients")


def one_sample(model, seed=0):
    batch = tiny_batch(model, 1, missing=False, seed=seed)
    batch.pop("labels")
    return batch


def answering(model, target, **others):
    """Returns log p - log(1 - p) as a function of pixels, by the probabilities themselves."""

    def forward(pixels):
        rows = {name: value.expand(len(pixels), *value.shape[1:]) for name, value in others.items()}
        chosen = model(pixel_values=pixels, **rows).logits.softmax(-1)[:, target]
        return torch.log(chosen) - torch.log1p(-chosen)

    return forward


def split(inputs):
    inputs = dict(inputs)
    return inputs.pop("pixel_values"), inputs


@pytest.mark.parametrize("fusion", ["concat", "joint", "cross_attention", "mmtm", "late"])
def test_grad_cam_is_the_one_of_captum(fusion):
    model = tiny_classifier(fusion, "linear", "cnn", "bert")
    pixels, others = split(one_sample(model))
    (heat,), used = image_heat(Scorer(model, 1), {"pixel_values": pixels} | others, "auto")
    theirs = captum.attr.LayerGradCam(
        answering(model, 1, **others), last_layer(model.image_encoder)
    ).attribute(pixels, relu_attributions=True)
    assert used == "grad_cam" and heat.shape == (2, 2) and heat.max() > 0
    torch.testing.assert_close(heat, theirs[0, 0].detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",
        "mobilenetv3_small_050",
        "convnext_atto",
        "regnetx_002",
        "densenet121",
        "vgg11",
    ],
)
def test_the_last_feature_map_of_each_family_of_cnns_is_found(name):
    torch.manual_seed(0)
    encoder = ImageEncoder(name, pretrained=False)
    model = FusionClassifier(image_encoder=encoder, num_labels=2).eval()
    pixels = torch.randn(1, 3, 64, 64)
    inputs = {"pixel_values": pixels, "image_present": torch.tensor([True])}
    (heat,), used = image_heat(Scorer(model, 0), inputs, "grad_cam")
    theirs = captum.attr.LayerGradCam(answering(model, 0), last_layer(encoder)).attribute(pixels)
    assert used == "grad_cam" and heat.shape == (2, 2)
    torch.testing.assert_close(heat, theirs[0, 0].detach().clamp(min=0), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("image", ["timm_vit", "transformers_vit", "cnn", "opaque", "custom"])
def test_gradient_x_input_is_the_one_of_captum(image):
    model = tiny_classifier("cross_attention", "linear", image, "bert")
    for encoder in (model.image_encoder, model.text_encoder):
        encoder.freeze()
    pixels, others = split(one_sample(model))
    ours = gradient_x_input(Scorer(model, 2), {"pixel_values": pixels} | others)
    forward = answering(model, 2, **others)
    theirs = captum.attr.InputXGradient(forward).attribute(pixels)
    torch.testing.assert_close(ours, theirs.sum(1).detach(), rtol=1e-3, atol=1e-6)
    whole = captum.attr.IntegratedGradients(forward).attribute(
        pixels, n_steps=16, method="riemann_middle"
    )
    ours = gradient_x_input(Scorer(model, 2), {"pixel_values": pixels} | others, steps=16)
    torch.testing.assert_close(ours, whole.sum(1).detach().float(), rtol=1e-3, atol=1e-6)
    # The other attributions of pixels run too.
    saliency = captum.attr.Saliency(forward).attribute(pixels)
    torch.testing.assert_close(saliency, (theirs / pixels).abs(), rtol=1e-3, atol=1e-5)


class Brightness(nn.Module):
    """A backbone whose pooled vector is linear in the pixels."""

    dim, input_spec = 4, ImageEncoder("test_vit", pretrained=False).input_spec

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3 * 16 * 16, 4)

    def forward(self, pixel_values):
        return self.mix(pixel_values.flatten(1))


def test_gradient_x_input_is_what_a_linear_model_loses():
    torch.manual_seed(0)
    backbone, weights = Brightness(), torch.randn(4)

    class Score:
        def __call__(self, inputs):
            return backbone(inputs["pixel_values"]) @ weights

    pixels = torch.randn(1, 3, 16, 16)
    inputs = {"pixel_values": pixels, "image_present": torch.tensor([True])}
    (found,) = gradient_x_input(Score(), inputs)
    whole = Score()(inputs)
    for row in (0, 4, 12):
        for column in (0, 8):
            covered = pixels.clone()
            covered[..., row : row + 4, column : column + 4] = 0
            lost = whole - Score()(inputs | {"pixel_values": covered})
            patch = found[row : row + 4, column : column + 4].sum()
            torch.testing.assert_close(patch, lost[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image", ["timm_vit", "transformers_vit"])
def test_attention_and_rollout_are_those_of_the_encoder(image):
    model = tiny_classifier("concat", "linear", image, "bert")
    inputs = one_sample(model)
    found = image_attention(model.image_encoder, inputs["pixel_values"])
    (attention,), _ = image_heat(Scorer(model, 0), inputs, "attention")
    (rollout,), _ = image_heat(Scorer(model, 0), inputs, "rollout")
    torch.testing.assert_close(attention, found.heads[0, -1].mean(0))
    torch.testing.assert_close(rollout, found.rollout[0])


@pytest.mark.parametrize("fusion", ["late", {"name": "joint", "at": 2}])
def test_attention_times_gradient_is_the_formula(fusion):
    model = tiny_classifier(fusion, "linear", "timm_vit", "bert")
    inputs = one_sample(model)
    (heat,), used = image_heat(Scorer(model, 1), inputs, "auto")
    followed = inputs | {"pixel_values": inputs["pixel_values"].clone().requires_grad_(True)}
    with record_attention(model.image_encoder) as maps:
        score = log_odds(model(**followed).logits, 1, multi_label=False)
    gradients = torch.autograd.grad(score, maps)
    maps = [matrix.detach() for matrix in maps]
    size = maps[-1].shape[-1]
    relevance = [[float(i == j) for j in range(size)] for i in range(size)]
    for matrix, gradient in zip(maps, gradients, strict=True):
        n, products = matrix.shape[-1], matrix[0] * gradient[0]
        step = [
            [
                sum(max(0.0, float(products[h, i, j])) for h in range(2)) / 2
                if i < n and j < n
                else 0.0
                for j in range(size)
            ]
            for i in range(size)
        ]
        relevance = [
            [
                relevance[i][j] + sum(step[i][k] * relevance[k][j] for k in range(size))
                for j in range(size)
            ]
            for i in range(size)
        ]
    expected = torch.tensor(relevance[0][1:17]).view(4, 4)
    # In the joint sequence the text's tokens stand behind the class token and the 16 patches.
    joined = 0 if fusion == "late" else int(inputs["attention_mask"].sum())
    assert used == "attention_gradient" and size == 17 + joined
    torch.testing.assert_close(heat, expected, rtol=1e-4, atol=1e-7)


def test_without_a_class_token_the_patches_are_asked():
    encoder = ImageEncoder(
        "vit_tiny_patch16_224", pretrained=False, img_size=(32, 64), depth=2, embed_dim=32,
        num_heads=2, class_token=False, global_pool="avg",
    )  # fmt: skip
    model = tiny_classifier("concat", "linear", encoder, "bert")
    pixels = torch.randn(1, 3, 32, 64)
    inputs = one_sample(model) | {"pixel_values": pixels}
    (attention,), _ = image_heat(Scorer(model, 0), inputs, "attention")
    assert attention.shape == (2, 4)
    torch.testing.assert_close(attention, image_attention(encoder, pixels).heads[0, -1].mean(0))


@pytest.mark.parametrize(
    ("image", "method"), [("timm_vit", "grad_cam"), ("cnn", "rollout"), ("opaque", "attention")]
)
def test_a_method_that_does_not_suit_is_refused(image, method):
    model = tiny_classifier("concat", "linear", image, "bert")
    with pytest.raises(ValueError, match=r"(method must be one that suits|encoder must)"):
        image_heat(Scorer(model, 0), one_sample(model), method)
    with pytest.raises(ValueError, match="Did you mean 'grad_cam'"):
        image_heat(Scorer(model, 0), one_sample(model), "gradcam")


def test_log_odds_are_those_of_the_probabilities():
    logits = torch.randn(5, 4)
    p, q = logits.softmax(-1)[:, 2], logits.sigmoid()[:, 2]
    torch.testing.assert_close(log_odds(logits, 2, multi_label=False), (p / (1 - p)).log())
    torch.testing.assert_close(log_odds(logits, 2, multi_label=True), (q / (1 - q)).log())


def test_checkpointing_is_off_inside_and_on_again():
    model = tiny_classifier("concat", "linear", "timm_vit", "bert").train()
    model.image_encoder.backbone.set_grad_checkpointing(True)
    with steady(model), torch.no_grad():
        assert not model.training and not model.image_encoder.backbone.grad_checkpointing
    assert model.training and model.image_encoder.backbone.grad_checkpointing
    inputs = one_sample(model)
    with steady(model):
        (heat,), _ = image_heat(Scorer(model, 0), inputs, "auto")
    model.image_encoder.backbone.set_grad_checkpointing(False)
    with steady(model):
        (plain,), _ = image_heat(Scorer(model, 0), inputs, "auto")
    torch.testing.assert_close(heat, plain)
