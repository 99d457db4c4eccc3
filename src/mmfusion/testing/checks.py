"""The checks of whole plug-ins. Each runs the laws that its docstring names.

`check_encoder`, `check_mapper`, `check_fusion` and `check_classifier` work as scikit-learn's
`check_estimator` does for estimators. They draw every parameter anew, because a gate at zero would
hide a fault, and then run the laws. Each law is also a function of its own:

| law | what it says |
| --- | --- |
| batch | a sample's logits do not depend on the other samples of its batch or on its place |
| padding | the length, the side and the tokens of the padding of a text do not change the logits |
| missing | the input of a missing modality changes no logits, and nothing is computed for it |
| gradient | every trainable parameter gets a non-zero gradient, a frozen one gets none |
| frozen | frozen parts stay in eval mode: no dropout, no batch statistics |
| round trip | saved and loaded in a new process without network: equal to the bit, no pickle |
| packing | texts computed without padding give the logits of padded texts |
| static, compiled | the code path of compiled graphs gives the logits of the eager path |
| walk | running a backbone block by block gives the result of its own forward |
| composing | a tower keeps its weights to the bit when it becomes part of a classifier |
| repeatable | the same seed gives the same weights |

A check returns nothing, or raises an AssertionError that names the law and the measured value. No
check of a plug-in runs the compiled law. Call `check_compiled_law` for it.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..model.configuration import FusionConfig
from ..model.encoder_base import Encoder
from ..model.encoder_image import ImageEncoder
from ..model.fusion_base import Fusion
from ..model.masking import masked_mean
from ..model.modeling import FusionClassifier
from ..model.types import Encoded
from .batches import tiny_batch
from .compare import TOLERANCE, agree, mode
from .laws import (
    KEY_BIAS,
    check_batch_law,
    check_composing_law,
    check_frozen_law,
    check_gradient_law,
    check_missing_law,
    check_packing_law,
    check_padding_law,
    check_repeatable_law,
    check_static_law,
    check_walk_law,
)
from .round_trip import check_round_trip_law
from .tiny import redraw_parameters, tiny_classifier


def check_encoder(*encoders: Encoder, setup: str = "") -> None:
    """Checks image or text encoders against the walk law and the laws of `check_classifier`.

    Several encoders share the new process of the round trip law, which takes longer than the rest.

    Args:
        *encoders: at least one; the check works on copies.
        setup: as for `check_round_trip_law`.
    """
    cases = []
    for encoder in map(copy.deepcopy, encoders):
        role = "image_encoder" if isinstance(encoder, ImageEncoder) else "text_encoder"
        model = FusionClassifier(**{role: encoder})  # type: ignore[arg-type]
        nn.Module.to(model, _device_of(encoder))
        redraw_parameters(model, 0)
        batch = tiny_batch(model)
        # The encoder is also called on its own, because the classifier hides the shapes of its
        # outputs.
        is_image = role == "image_encoder"
        names = ("pixel_values",) if is_image else ("input_ids", "attention_mask")
        inputs = [batch[name] for name in names]
        with mode(encoder, False), torch.no_grad():
            _check_encoded(encoder(*inputs), len(batch["labels"]), encoder.dim)
        check_walk_law(encoder, *inputs)
        cases.append(_check_in_this_process(model))
    check_round_trip_law(*cases, setup=setup)


def check_mapper(
    mapper: nn.Module, *, in_dim: int, out_dim: int, tolerance: float = TOLERANCE
) -> None:
    """Checks a mapper against the shape, batch, padding and gradient laws.

    Args:
        mapper: the mapper, called with the `Encoded` of the text and that of the image; the check
            works on a copy.
        in_dim: the width of the text tokens.
        out_dim: the width of the image tokens.
        tolerance: the largest allowed difference.

    Example:
        >>> from mmfusion import EmbeddingMapper
        >>> check_mapper(EmbeddingMapper("mlp", 6, 8), in_dim=6, out_dim=8)
    """
    # The law runs without dropout, which would make two runs differ.
    mapper = copy.deepcopy(mapper).eval()
    redraw_parameters(mapper, 0)
    device = _device_of(mapper)
    text, image = (
        Encoded(*(value.to(device) for value in _random_encoded(4, places, dim, seed=seed)))
        for seed, (places, dim) in enumerate([(6, in_dim), (5, out_dim)])
    )
    mapped = mapper(text, image)
    _check_encoded(mapped, 4, out_dim)
    for row in range(4):
        alone = mapper(
            *(Encoded(*(value[row : row + 1] for value in part)) for part in (text, image))
        )
        agree("batch law (mapper)", mapped.pooled[row], alone.pooled[0], tolerance)
    # NaN and infinity spread through every sum, so the mapper must not read the padding at all.
    garbage = torch.where(text.mask[:, :, None], text.tokens, float("nan"))
    # Two more places of padding change the length too.
    longer = torch.cat([garbage, torch.full_like(garbage[:, :2], float("inf"))], dim=1)
    mask = torch.cat([text.mask, torch.zeros_like(text.mask[:, :2])], dim=1)
    agree(
        "padding law (mapper)",
        mapped.pooled,
        mapper(Encoded(longer, mask, text.pooled), image).pooled,
        tolerance,
    )
    # The sine gives every output another gradient. The gradient of a plain sum can vanish, for
    # example behind a layer norm.
    mapped = mapper.train()(text, image)
    (mapped.pooled.sin().sum() + mapped.tokens[mapped.mask].sin().sum()).backward()
    without_gradient = [
        name
        for name, parameter in mapper.named_parameters()
        if parameter.requires_grad
        and (parameter.grad is None or not parameter.grad.any())
        and not KEY_BIAS.search(name)
    ]
    assert not without_gradient, (
        f"gradient law (mapper): no gradient for {', '.join(without_gradient)}"
    )


def check_fusion(
    fusion: Fusion,
    *,
    mapper: Any = "linear",
    image: str = "timm_vit",
    text: str = "bert",
    setup: str = "",
) -> None:
    """Checks a fusion strategy between two tiny towers against the laws of `check_classifier`.

    Args:
        fusion: a strategy of a registered class that is not yet built; the check works on a copy.
        mapper: as for `tiny_classifier`.
        image: a kind of `tiny_image_encoder`.
        text: a kind of `tiny_text_encoder`.
        setup: as for `check_round_trip_law`; it must register the class of the strategy in the new
            process.
    """
    check_classifier(tiny_classifier(copy.deepcopy(fusion), mapper, image, text), setup=setup)


def check_classifier(*models: FusionClassifier, windows: int = 1, setup: str = "") -> None:
    """Checks classifiers against every law except the walk and the compiled one.

    Several classifiers share the new process of the round trip law.

    Args:
        *models: at least one; the check works on copies.
        windows: the most windows of a text in the batches, as for `tiny_batch`.
        setup: as for `check_round_trip_law`.
    """
    cases = [_check_in_this_process(model, windows) for model in models]
    check_round_trip_law(*cases, setup=setup)


def _check_in_this_process(
    model: FusionClassifier, windows: int = 1
) -> tuple[FusionClassifier, dict[str, Tensor]]:
    """Checks a classifier against all laws but the round trip; returns its copy and a batch."""
    model = copy.deepcopy(model).eval()
    redraw_parameters(model, 0)
    batch = tiny_batch(model, windows=windows)
    # Some strategies cut large batches into groups of texts of like length, and compiled graphs do
    # not. This batch is large enough, and its lengths differ enough, to be cut.
    large = tiny_batch(model, 12, windows=windows)
    if "attention_mask" in large:
        large["attention_mask"][6:, ..., 1:] = 0
    check_batch_law(model, large)
    check_static_law(model, large)
    if model.text_encoder is not None:
        check_padding_law(model, batch)
        check_packing_law(model, batch)
    check_missing_law(model, batch)
    check_gradient_law(model, batch)
    check_frozen_law(model, batch)
    check_composing_law(model)
    # The config alone tells how the model was built, so a new build needs no weights.
    check_repeatable_law(lambda: FusionClassifier(FusionConfig.from_dict(model.config.to_dict())))
    return model, batch


def _device_of(module: nn.Module) -> torch.device:
    """Returns where the parameters of a module are; the CPU if it has none."""
    return next((one.device for one in module.parameters()), torch.device("cpu"))


def _random_encoded(rows: int, places: int, dim: int, *, seed: int) -> Encoded:
    """Returns random tokens [rows, places, dim] with masks of random lengths and their means."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows, places, dim, generator=draw)
    mask = torch.arange(places) < torch.randint(1, places + 1, (rows,), generator=draw)[:, None]
    return Encoded(tokens, mask, masked_mean(tokens, mask))


def _check_encoded(encoded: Encoded, rows: int, dim: int) -> None:
    """Checks the shapes of tokens, mask and pooled vector, and that the mask is boolean."""
    places = encoded.tokens.shape[1]
    shapes = [tuple(value.shape) for value in encoded]
    expected = [(rows, places, dim), (rows, places), (rows, dim)]
    assert shapes == expected, (
        f"shape law: tokens, mask and pooled are {shapes} where {expected} are due"
    )
    assert encoded.mask.dtype == torch.bool, (
        f"shape law: mask is {encoded.mask.dtype} where bool is due"
    )
