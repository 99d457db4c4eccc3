"""Gradients of one sample's answer: with respect to pixels, features, attention and embeddings."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

from ..model.adapter_timm import TimmStages
from ..model.encoder_image import ImageEncoder
from ..model.graph import evaluating
from ..model.modeling import FusionClassifier
from ..model.validation import check_choice
from .attention_maps import grid_of, record_attention
from .explain_occlusion import occlusion_heat

Inputs = dict[str, Tensor]

IMAGE_METHODS = (
    "auto", "grad_cam", "attention_gradient", "attention", "rollout", "integrated_gradients",
    "gradient_x_input", "occlusion",
)  # fmt: skip
"""The ways in which a heat map is made."""

STEPS = 16
"""The points on the way of integrated gradients."""

_CELLS, _LEAST_CELL = 14, 4
"""The most cells of a side over which gradient x input is averaged, and their least size."""


@contextmanager
def steady(model: FusionClassifier) -> Iterator[None]:
    """Puts a model into the state in which gradients are taken, and back into its own afterwards.

    Args:
        model: it runs in evaluation mode, and records what autograd needs, inside the block.
    """
    # A checkpointed block runs twice, and so would every hook in it.
    checkpointed = [module for module in model.modules() if getattr(module, _CHECKPOINTS, False)]
    for module in checkpointed:
        setattr(module, _CHECKPOINTS, False)
    try:
        with evaluating(model), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module in checkpointed:
            setattr(module, _CHECKPOINTS, True)


_CHECKPOINTS = "grad_checkpointing"
"""The name of timm's flag. transformers checkpoints only in training mode."""


def log_odds(logits: Float[Tensor, "B C"], target: int, *, multi_label: bool) -> Tensor:
    """Returns the log-odds of a class, log p - log(1 - p), of each sample.

    Args:
        logits: of the classifier.
        target: the number of the class.
        multi_label: whether each class is decided by itself.

    Example:
        >>> log_odds(torch.tensor([[1.0, 2.0, 3.0]]), 2, multi_label=True)
        tensor([3.])
    """
    logits = logits.float()
    if multi_label or logits.shape[1] == 1:
        return logits[:, target]
    others = [other for other in range(logits.shape[1]) if other != target]
    return logits[:, target] - logits[:, others].logsumexp(1)


@final
class Scorer:
    """The log-odds of one class, as a function of the inputs of a classifier.

    Args:
        model: the classifier.
        target: the number of the class.
    """

    def __init__(self, model: FusionClassifier, target: int):
        self.model, self.target = model, target

    def __call__(self, inputs: Inputs) -> Float[Tensor, " B"]:
        """Returns the log-odds of each sample."""
        logits = self.model(**inputs).logits
        return log_odds(logits, self.target, multi_label=self.model.multi_label)


def with_gradient(inputs: Inputs) -> Inputs:
    """Returns the inputs with pixels that autograd follows; the model's parameters may be frozen.

    Args:
        inputs: of the classifier.
    """
    if "pixel_values" not in inputs:
        return dict(inputs)
    return inputs | {"pixel_values": inputs["pixel_values"].detach().clone().requires_grad_(True)}


def image_heat(
    scorer: Scorer, inputs: Inputs, method: str
) -> tuple[list[Float[Tensor, "h w"]], str]:
    """Returns a map of what speaks for a class for each picture of one sample, and the method.

    A map has values of at least 0 and lies over the pixels that the model is given.

    Args:
        scorer: gives the log-odds of the class.
        inputs: of one sample, which has a picture.
        method: one of `IMAGE_METHODS`.

    Raises:
        ValueError: for another method, or one that does not suit the image encoder.
    """
    check_choice("method", method, IMAGE_METHODS)
    encoder = scorer.model.image_encoder
    assert encoder is not None
    if method == "occlusion":
        return occlusion_heat(scorer, inputs), method
    if method in ("auto", "grad_cam"):
        found = _grad_cam(scorer, inputs, encoder)
        if found is not None:
            return found, "grad_cam"
        if method == "grad_cam":
            raise ValueError(
                "method must be one that suits the image encoder, got 'grad_cam' for "
                f"{type(encoder.backbone).__name__}, whose features are no map [B, C, H, W]. "
                "Use 'auto'."
            )
    if method in ("auto", "attention_gradient", "attention", "rollout"):
        kind = "attention_gradient" if method == "auto" else method
        try:
            return _attention_heat(scorer, inputs, encoder, kind), kind
        except ValueError:
            # A Swin and a backbone of the user have no attention over all of their tokens.
            if method != "auto":
                raise
    kind = "integrated_gradients" if method == "auto" else method
    return _input_heat(scorer, inputs, 1 if kind == "gradient_x_input" else STEPS), kind


def _grad_cam(scorer: Scorer, inputs: Inputs, encoder: ImageEncoder) -> list[Tensor] | None:
    """Returns Grad-CAM's map: relu(sum_c mean_hw(d score / d A_c) A_c), A the last feature map.

    Source: Selvaraju et al. 2017, Grad-CAM (arXiv 1610.02391), eq. 1 and 2.
    """
    with watched_features(encoder) as kept:
        score = scorer(with_gradient(inputs)).sum()
    if not kept:
        return None
    features = kept[-1]
    (gradient,) = torch.autograd.grad(score, [features])
    weights = reduce(gradient, "b c h w -> b c 1 1", "mean")
    return list((weights * features).sum(1).clamp(min=0).detach())


@contextmanager
def watched_features(encoder: ImageEncoder) -> Iterator[list[Tensor]]:
    """Yields a list to which each forward pass appends the last feature map [B, C, h, w].

    Nothing is appended where the encoder's features are no map.

    Args:
        encoder: an image encoder.
    """
    kept: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        features = getattr(output, "last_hidden_state", output)
        if isinstance(features, Tensor) and features.ndim == 4 and min(features.shape[-2:]) > 0:
            kept.append(features)

    hook = last_layer(encoder).register_forward_hook(keep)
    try:
        yield kept
    finally:
        hook.remove()


def last_layer(encoder: ImageEncoder) -> nn.Module:
    """Returns the layer whose output is the last feature map before the pooling.

    For a CNN of timm this is the last module of the last stage. For other backbones it is the
    backbone itself, which may return a feature map.

    Args:
        encoder: an image encoder.
    """
    layer: nn.Module = encoder.backbone
    if isinstance(encoder.adapter, TimmStages):
        blocks, tail = encoder.adapter.parts()
        layer = tail[-1] if tail else blocks[-1][-1]
        # A walk and the backbone's own forward may group the modules in different ways.
        while isinstance(layer, nn.Sequential) and len(layer):
            layer = layer[-1]
    return layer


def _attention_heat(
    scorer: Scorer, inputs: Inputs, encoder: ImageEncoder, kind: str
) -> list[Tensor]:
    """Returns maps of the attention of the class token (or of the mean patch) to the patches.

    | kind | map |
    | --- | --- |
    | `attention` | the weights of the last layer, mean over the heads |
    | `rollout` | the product of (I + A) / 2 over the layers (Abnar and Zuidema 2020) |
    | `attention_gradient` | R <- R + mean_heads(relu(A dS/dA)) R over the layers, from R = I |

    Only the last one depends on the class (Chefer et al. 2021, arXiv 2103.15679, eq. 5 and 6).
    """
    pixels = inputs["pixel_values"]
    with record_attention(encoder) as maps:
        score = scorer(with_gradient(inputs)).sum()
    rows = int(inputs["image_present"].sum())
    if {len(matrix) for matrix in maps} != {rows}:
        # A Swin attends inside windows: its batch axis counts windows, not images.
        raise ValueError(
            "encoder must attend over all its tokens in every layer, "
            f"got matrices {[tuple(matrix.shape) for matrix in maps]}. Choose a plain ViT."
        )
    prefix, own = encoder.num_prefix, maps[0].shape[-1]
    gradients: Sequence[Tensor | None] = [None] * len(maps)
    if kind == "attention_gradient":
        gradients = torch.autograd.grad(score, maps, allow_unused=True)
    size = max(matrix.shape[-1] for matrix in maps)
    mixed = torch.eye(size, device=pixels.device).expand(rows, -1, -1)
    for matrix, gradient in zip(maps, gradients, strict=True):
        weights = matrix.detach().float()
        if kind == "attention":
            mixed = _over_all(weights.mean(1), size)
        elif kind == "rollout":
            step = (weights.mean(1) + torch.eye(weights.shape[-1], device=pixels.device)) / 2
            mixed = _over_all(step, size) @ mixed
        elif gradient is not None:
            relevant = (gradient.float() * weights).clamp(min=0).mean(1)
            mixed = mixed + _over_all(relevant, size, kept=0.0) @ mixed
    # In a joint sequence the image's own tokens come first.
    row = mixed[:, 0] if encoder.adapter.has_class_token else mixed[:, prefix:own].mean(1)
    height, width = grid_of(own - prefix, pixels)
    return list(row[:, prefix:own].reshape(rows, height, width))


def _over_all(matrix: Tensor, size: int, *, kept: float = 1.0) -> Tensor:
    """Returns a matrix over `size` tokens; those that joined later have `kept` on the diagonal."""
    missing = size - matrix.shape[-1]
    later = torch.arange(size, device=matrix.device) >= matrix.shape[-1]
    diagonal = torch.diag(kept * later.to(matrix.dtype))
    return F.pad(matrix, (0, missing, 0, missing)) + diagonal


def _input_heat(scorer: Scorer, inputs: Inputs, steps: int) -> list[Tensor]:
    """Returns gradient x input, averaged over cells, where it speaks for the class."""
    maps = gradient_x_input(scorer, inputs, steps=steps)
    height, width = (max(1, min(_CELLS, side // _LEAST_CELL)) for side in maps.shape[-2:])
    return list(F.adaptive_avg_pool2d(maps[:, None], (height, width))[:, 0].clamp(min=0))


def gradient_x_input(scorer: Scorer, inputs: Inputs, *, steps: int = 1) -> Float[Tensor, "V H W"]:
    """Returns sum_c x_c d score / d x_c of each pixel, for each picture of a sample.

    With several steps the gradient is its mean on the way from pixels of zero to the own ones
    (integrated gradients). If the score is linear in the pixels, the sum over a part of a picture
    is what the score loses where that part is set to 0. That is the mean colour of the pictures
    that the encoder was trained with.

    Args:
        scorer: gives the score.
        inputs: of one sample, which has a picture.
        steps: points on the way, at least 1.

    Source: Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks (arXiv 1703.01365),
    eq. 1 and 3.
    """
    pixels = inputs["pixel_values"]
    total = torch.zeros_like(pixels, dtype=torch.float32)
    for share in shares_of_way(steps):
        followed = with_gradient(inputs | {"pixel_values": pixels * share})
        (gradient,) = torch.autograd.grad(scorer(followed).sum(), [followed["pixel_values"]])
        total += gradient.float() / steps
    return (pixels.float() * total).sum(-3)[inputs["image_present"].bool()]


def shares_of_way(steps: int) -> list[float]:
    """Returns the middle of each part of the way from 0 to 1; a single step stands at its end.

    Args:
        steps: the number of parts, at least 1.

    Example:
        >>> shares_of_way(1), shares_of_way(2)
        ([1.0], [0.25, 0.75])
    """
    return [1.0] if steps == 1 else [(step + 0.5) / steps for step in range(steps)]
