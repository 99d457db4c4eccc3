"""The case "parts": the time of each tower alone, and of mapper and fusion behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import Setting, of_model, timed
from benchmarks.models import FUSIONS, classifier, pairs
from benchmarks.timing import Side
from mmfusion import FusionClassifier


def parts(setting: Setting) -> dict[str, Any]:
    """Returns the times of each tower alone, and of mapper and fusion on stored tower states.

    A strategy that acts inside the towers starts from the hidden states that enter the first block
    in which it acts, as it would with a feature cache. Its cost is its time minus the time of the
    same blocks without it.
    """
    inputs = pairs(setting.chosen, setting.batch, setting.dtype, device=setting.device)
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    model = setting.place(classifier(setting.chosen, "concat"))
    towers = {
        "image tower": lambda: model.image_encoder(inputs["pixel_values"]),
        "text tower": lambda: model.text_encoder(**words),
    }
    sides: dict[str, Side] = dict(towers)
    for fusion in FUSIONS:
        strategy = setting.place(classifier(setting.chosen, fusion))
        stored, rest = _behind(strategy, inputs)
        sides[f"mapper + {fusion}"] = of_model(strategy, stored)
        if rest is not None:
            sides[f"the same blocks without {fusion}"] = rest
    # These sides return parts of a forward pass, which have no common answer to compare.
    seconds = timed(setting, sides)
    medians = {name: side["median"] for name, side in seconds.items()}
    alone = medians["image tower"] + medians["text tower"]
    added = {
        fusion: medians[f"mapper + {fusion}"]
        - medians.get(f"the same blocks without {fusion}", 0.0)
        for fusion in FUSIONS
    }
    return {
        "seconds": seconds,
        "share_of_forward_time": {fusion: cost / (alone + cost) for fusion, cost in added.items()},
    }


def _behind(
    model: FusionClassifier, inputs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Side | None]:
    """Returns the strategy's stored inputs, and a side that runs the same blocks without it.

    The stored inputs are the hidden states that enter the first blocks in which the strategy acts.
    The side is None where the strategy acts behind both towers.
    """
    image, text = model.image_encoder, model.text_encoder
    assert image is not None and text is not None
    # Only frozen towers can start from stored states.
    model.freeze("image").freeze("text")
    point, text_point = model.cache_point("image"), model.cache_point("text")
    at, at_text = point.block, text_point.block
    with torch.inference_mode():
        image_hidden, text_hidden = (
            image.embed(inputs["pixel_values"]),
            text.embed(inputs["input_ids"], inputs["attention_mask"]),
        )
        image_hidden = image.walk(0, at, image_hidden)
        text_hidden = text.walk(0, at_text, text_hidden)
        stored = {
            "image_state": image_hidden.values,
            "text_state": text_hidden.values,
            "attention_mask": text_hidden.mask,
        }
        # A strategy behind the last block takes the pooled vectors as well.
        if point.pooled:
            encoded = image.pool(image_hidden)
            stored |= {"image_state": encoded.tokens, "image_pooled": encoded.pooled}
        if text_point.pooled:
            encoded = text.pool(text_hidden)
            stored |= {"text_state": encoded.tokens, "text_pooled": encoded.pooled}

    def rest() -> None:
        if at < image.num_blocks:
            image.pool(image.walk(at, image.num_blocks, image_hidden))
        if at_text < text.num_blocks:
            text.pool(text.walk(at_text, text.num_blocks, text_hidden))

    return stored, rest if at < image.num_blocks or at_text < text.num_blocks else None
