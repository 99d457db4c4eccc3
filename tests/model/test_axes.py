"""Inputs that are no tensors, or whose axes are not those of a batch, are refused by name."""

import re
from typing import Any

import pytest
import torch

from mmfusion import testing as kit
from mmfusion.model.axes import check_axes

PIXELS, IDS = torch.zeros(2, 3, 8, 8), torch.ones(2, 5, dtype=torch.long)


@pytest.mark.parametrize(
    "inputs",
    [
        {"pixel_values": PIXELS, "input_ids": IDS, "attention_mask": IDS},
        {"pixel_values": PIXELS[:, None], "input_ids": IDS[:, None]},
        {"pixel_values": None, "input_ids": IDS, "attention_mask": None},
        # A stored state of a CNN has four axes and one of a ViT three. The mask belongs to a state.
        {"image_state": PIXELS, "text_state": PIXELS[0], "attention_mask": IDS},
    ],
)
def test_batches_pass(inputs: dict[str, Any]) -> None:
    check_axes(inputs, parts=True)


@pytest.mark.parametrize(
    ("inputs", "parts", "message"),
    [
        (
            {"pixel_values": PIXELS[0]},
            True,
            "pixel_values must be [B, C, H, W] or [B, V, C, H, W], got the shape (3, 8, 8). One "
            "sample is a batch of one: pixel_values[None].",
        ),
        # Another axis in front would not help here, so it is not proposed.
        (
            {"pixel_values": PIXELS[None]},
            False,
            "pixel_values must be [B, C, H, W], got the shape (1, 2, 3, 8, 8).$",
        ),
        ({"pixel_values": PIXELS[None, None]}, True, "got the shape (1, 1, 2, 3, 8, 8).$"),
        ({"input_ids": IDS[0]}, False, "input_ids must be [B, L], got the shape (5,)"),
        ({"input_ids": IDS[None]}, False, "input_ids must be [B, L], got the shape (1, 2, 5)"),
        ({"input_ids": IDS[0]}, True, "input_ids must be [B, L] or [B, W, L], got the shape (5,)"),
        ({"input_ids": IDS, "attention_mask": IDS[0]}, True, "attention_mask must be [B, L] or"),
        (
            {"input_ids": IDS, "attention_mask": IDS[:, 1:]},
            False,
            "attention_mask must have the shape of input_ids, (2, 5), got (2, 4).",
        ),
    ],
)
def test_other_axes_are_refused(inputs: dict[str, Any], parts: bool, message: str) -> None:
    # A message that ends with "$" is the whole one.
    with pytest.raises(ValueError, match=re.escape(message).replace(r"\$", "$")):
        check_axes(inputs, parts=parts)


@pytest.mark.parametrize("value", [PIXELS.numpy(), [[1.0]]])
def test_what_is_no_tensor_is_refused(value: Any) -> None:
    name = type(value).__name__
    with pytest.raises(TypeError, match=f"pixel_values must be a tensor of torch, got {name}"):
        check_axes({"pixel_values": value}, parts=True)


def test_an_encoder_alone_refuses_them() -> None:
    model = kit.tiny_classifier("concat", "linear", "cnn", "bert")
    image, text = model.image_encoder, model.text_encoder
    batch = kit.tiny_batch(model)
    # `embed` has no run-time check of shapes, which would raise first in a test.
    with pytest.raises(ValueError, match=r"pixel_values must be \[B, C, H, W\], got"):
        image.embed(batch["pixel_values"][0])
    with pytest.raises(ValueError, match=r"input_ids must be \[B, L\], got"):
        text.embed(batch["input_ids"][0])
    with pytest.raises(ValueError, match="attention_mask must have the shape of input_ids"):
        text.embed(batch["input_ids"], batch["attention_mask"][:, 1:])
