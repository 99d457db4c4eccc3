"""The conformance kit: tiny models, and every law of the library as a check of a plug-in.

`check_encoder`, `check_mapper`, `check_fusion` and `check_classifier` draw every parameter anew (a
gate at zero would hide a fault) and run the laws, as scikit-learn's `check_estimator` does for
estimators; each law is a function of its own besides:

| law | what it says |
| --- | --- |
| batch | a sample's logits depend neither on the other samples of its batch nor on its place |
| padding | nor on how far or on which side its text is padded, nor on which tokens stand in the padding |
| missing | nor on what stands in the slot of a modality that is missing, for which no compute is spent |
| gradient | every trainable parameter gets a non-zero gradient, a frozen one none |
| frozen | what is frozen is pinned to eval: no dropout, no batch statistics |
| round trip | saved and loaded in a new process without network: the same logits to the bit, and no pickle |
| packing | texts computed without padding give what padded ones give |
| static, compiled | the graph's path gives what the eager path gives |
| walk | walking a backbone block by block equals its own forward |
| composing | a tower keeps its weights to the bit when it becomes part of a classifier |
| repeatable | the same seed gives the same weights |

A check returns nothing, or raises an AssertionError that names the law and the measured figure.
"""

import copy
from typing import Any

import torch
from torch import nn

from ..model.configuration import FusionConfig
from ..model.encoder_base import Encoder
from ..model.encoder_image import ImageEncoder
from ..model.fusion_base import Fusion
from ..model.modeling import FusionClassifier
from ..model.types import Encoded, masked_mean
from .laws import (
    KEY_BIAS,
    TOLERANCE,
    agree,
    check_batch_law,
    check_composing_law,
    check_frozen_law,
    check_gradient_law,
    check_missing_law,
    check_packing_law,
    check_padding_law,
    check_repeatable_law,
    check_round_trip_law,
    check_static_law,
    check_walk_law,
    mode,
)
from .tiny import (
    redraw_parameters,
    tiny_batch,
    tiny_classifier,
)


def check_encoder(encoder: Encoder, *, setup: str = "") -> None:
    """Hold an image or text encoder against every law that it can keep or break.

    Args:
        encoder: it is copied, and stays as it is.
        setup: as for `check_round_trip_law`.
    """
    encoder = copy.deepcopy(encoder)
    role = "image_encoder" if isinstance(encoder, ImageEncoder) else "text_encoder"
    model = FusionClassifier(**{role: encoder})  # type: ignore[arg-type]
    redraw_parameters(model, 0)
    batch = tiny_batch(model)
    names = ("pixel_values",) if role == "image_encoder" else ("input_ids", "attention_mask")
    inputs = [batch[name] for name in names]
    with mode(encoder, False), torch.no_grad():
        _check_encoded(encoder(*inputs), len(batch["labels"]), encoder.dim)
    check_walk_law(encoder, *inputs)
    check_classifier(model, setup=setup)


def check_mapper(
    mapper: nn.Module, *, in_dim: int, out_dim: int, tolerance: float = TOLERANCE
) -> None:
    """Hold a mapper against shape, batch, padding and gradient law.

    Args:
        mapper: called with the text's `Encoded` and the image's; it is copied, and stays as it is.
        in_dim: width of the text.
        out_dim: width of the image.
        tolerance: the largest difference.

    Example:
        >>> from mmfusion import EmbeddingMapper
        >>> check_mapper(EmbeddingMapper("mlp", 6, 8), in_dim=6, out_dim=8)
    """
    mapper = copy.deepcopy(mapper).eval()
    redraw_parameters(mapper, 0)
    text, image = _random_encoded(4, 6, in_dim, seed=0), _random_encoded(4, 5, out_dim, seed=1)
    mapped = mapper(text, image)
    _check_encoded(mapped, 4, out_dim)
    for row in range(4):
        alone = mapper(
            *(Encoded(*(value[row : row + 1] for value in part)) for part in (text, image))
        )
        agree("batch law (mapper)", mapped.pooled[row], alone.pooled[0], tolerance)
    garbage = torch.where(text.mask[:, :, None], text.tokens, float("nan"))
    longer = torch.cat([garbage, torch.full_like(garbage[:, :2], float("inf"))], dim=1)
    mask = torch.cat([text.mask, torch.zeros_like(text.mask[:, :2])], dim=1)
    agree(
        "padding law (mapper)",
        mapped.pooled,
        mapper(Encoded(longer, mask, text.pooled), image).pooled,
        tolerance,
    )
    mapped = mapper.train()(text, image)
    (mapped.pooled.sin().sum() + mapped.tokens[mapped.mask].sin().sum()).backward()
    without = [
        name
        for name, p in mapper.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    without = [name for name in without if not KEY_BIAS.search(name)]
    assert not without, f"gradient law (mapper): no gradient for {', '.join(without)}"


def check_fusion(
    fusion: Fusion,
    *,
    mapper: Any = "linear",
    image: str = "timm_vit",
    text: str = "bert",
    setup: str = "",
) -> None:
    """Hold a fusion strategy, between two tiny towers, against every law.

    Args:
        fusion: a strategy of a registered class, not yet built; it is copied, and stays as it is.
        mapper: as for `tiny_classifier`.
        image: a kind of `tiny_image_encoder`.
        text: a kind of `tiny_text_encoder`.
        setup: as for `check_round_trip_law`; it registers the strategy's class in the new process.
    """
    check_classifier(tiny_classifier(copy.deepcopy(fusion), mapper, image, text), setup=setup)


def check_classifier(model: FusionClassifier, *, setup: str = "") -> None:
    """Hold a classifier against every law but compiled = eager (`check_compiled_law`).

    Args:
        model: it is copied, and stays as it is.
        setup: as for `check_round_trip_law`.
    """
    model = copy.deepcopy(model).eval()
    redraw_parameters(model, 0)
    batch = tiny_batch(model)
    # Large and unlike enough in length for a strategy that takes its batches in groups; a graph
    # takes them whole.
    large = tiny_batch(model, 12)
    if "attention_mask" in large:
        large["attention_mask"][6:, 1:] = 0
    check_batch_law(model, large)
    check_static_law(model, large)
    if model.text_encoder is not None:
        check_padding_law(model, batch)
        check_packing_law(model, batch)
    check_missing_law(model, batch)
    check_gradient_law(model, batch)
    check_frozen_law(model, batch)
    check_composing_law(model)
    check_repeatable_law(lambda: FusionClassifier(FusionConfig.from_dict(model.config.to_dict())))
    check_round_trip_law((model, batch), setup=setup)


def _random_encoded(rows: int, places: int, dim: int, *, seed: int) -> Encoded:
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows, places, dim, generator=draw)
    mask = torch.arange(places) < torch.randint(1, places + 1, (rows,), generator=draw)[:, None]
    return Encoded(tokens, mask, masked_mean(tokens, mask))


def _check_encoded(encoded: Encoded, rows: int, dim: int) -> None:
    places = encoded.tokens.shape[1]
    shapes = [tuple(value.shape) for value in encoded]
    expected = [(rows, places, dim), (rows, places), (rows, dim)]
    assert shapes == expected, (
        f"shape law: tokens, mask and pooled are {shapes} where {expected} are due"
    )
    assert encoded.mask.dtype == torch.bool, (
        f"shape law: mask is {encoded.mask.dtype} where bool is due"
    )
