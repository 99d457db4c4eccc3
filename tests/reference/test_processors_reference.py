"""Every image processor of transformers, with settings drawn at random, against itself."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, ViTConfig

from mmfusion import FusionProcessor
from mmfusion.model.load_input_spec import transformers_input_spec

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "_ext"))

import processor_table as TABLE

NAMES = [name for name in TABLE.default_processors() if name != "TimmWrapperImageProcessor"]
# Processors that were seen to be used as encoders' own: with settings of the same kinds, most draws
# must be read. A test that only ever sees refusals would show nothing.
READ = ("ViTImageProcessor", "CLIPImageProcessor", "ConvNextImageProcessor", "BitImageProcessor")


def drawn_settings(name: str, draw: np.random.Generator) -> dict[str, Any]:
    """Returns a preprocessor_config.json with random entries, of those that the class knows."""

    def side() -> int:
        return int(draw.integers(9, 65))

    def flag() -> bool:
        return bool(draw.integers(2))

    square = side()
    sizes: list[Any] = [
        {"height": side(), "width": side()},
        {"height": square, "width": square},
        {"shortest_edge": side()},
        {"longest_edge": side()},
        {"shortest_edge": 32, "longest_edge": 48},
        side(),
    ]
    settings = {
        "size": sizes[draw.integers(len(sizes))],
        "crop_size": [{"height": side(), "width": side()}, side()][draw.integers(2)],
        "pad_size": {"height": 80, "width": 96},
        "resample": int(draw.integers(4)),
        "image_mean": draw.uniform(0, 1, 3).round(3).tolist(),
        "image_std": draw.uniform(0.2, 1, 3).round(3).tolist(),
        "rescale_factor": [1 / 255, 1 / 127.5, 0.01][draw.integers(3)],
        "rescale_offset": flag(),
        "offset": flag(),
        "include_top": flag(),
        "crop_pct": float(draw.uniform(0.5, 1)),
        "do_reduce_labels": flag(),
        "size_divisor": 16,
        "ensure_multiple_of": 8,
        "keep_aspect_ratio": flag(),
    }
    settings |= {
        f"do_{step}": flag()
        for step in (
            *("resize", "rescale", "normalize", "center_crop", "convert_rgb"),
            *("flip_channel_order", "pad", "thumbnail", "align_long_axis", "crop_margin"),
        )
    }
    known = set(getattr(transformers, name).valid_kwargs.__annotations__)
    if name.startswith("Owlv2"):
        # It blurs before it scales down: a minute for a large picture and a small size.
        known -= {"size"}
    # Leave some out, as the files of checkpoints do.
    left_out = {key for key in settings if key != "size" and draw.random() < 0.3}
    kept = {key: value for key, value in settings.items() if key in known - left_out}
    return {"image_processor_type": name} | TABLE.settings_of(name) | kept


def drawn_pictures(draw: np.random.Generator) -> list[Image.Image]:
    """Returns pictures of odd shapes; one is grey, one is as large as a photograph."""
    shapes = [(61, 47), (33, 90), (200, 31), (1, 17), (40, 40), (640, 480), (1300, 1000)]
    pictures = [
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in shapes
    ]
    return [*pictures, pictures[0].convert("L")]


def own_pixels(processor: Any, image: Image.Image) -> Any:
    """Returns what the checkpoint's own processor gives, or None where it is not one picture."""
    options = {"apply_ocr": False} if hasattr(processor, "apply_ocr") else {}
    try:
        outputs = processor(images=image.convert("RGB"), return_tensors="pt", **options)
        pixels = torch.as_tensor(outputs["pixel_values"])
    except Exception:
        return None
    others = [key for key in outputs if "pixel" in key and key != "pixel_values"]
    lost = any(not torch.as_tensor(outputs[key]).eq(1).all() for key in others)
    return None if lost or pixels.ndim != 4 or pixels.shape[:2] != (1, 3) else pixels[0].float()


def follows_a_line(processor: Any) -> bool:
    """Returns whether twice as bright a picture has pixels twice as far from those of black."""
    black, half, full = (
        own_pixels(processor, Image.new("RGB", (640, 480), (value, value, value)))
        for value in (0, 100, 200)
    )
    return bool(torch.allclose(full - black, 2 * (half - black), atol=1e-3))


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_the_checkpoints_own_or_refused(name: str, tmp_path: Path) -> None:
    ViTConfig().save_pretrained(tmp_path)
    draw = np.random.default_rng(sum(map(ord, name)))
    read = 0
    for _ in range(8 if name in READ else 2):
        settings = drawn_settings(name, draw)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
        pictures = drawn_pictures(draw)
        try:
            own = AutoImageProcessor.from_pretrained(tmp_path)
        except Exception:
            own = None
        expected = [None if own is None else own_pixels(own, image) for image in pictures]
        try:
            spec = transformers_input_spec(ViTConfig(), str(tmp_path))
            ours = FusionProcessor(input_spec=json.loads(json.dumps(spec)))
        except ValueError as error:
            # A refusal is right where the processor fails, gives pixels of several sizes, or clips.
            assert own is None or name in str(error)
            shapes = {None if one is None else one.shape for one in expected}
            legitimate = None in shapes or len(shapes) > 1 or not follows_a_line(own)
            assert legitimate, f"{settings} refused: {error}"
            continue
        read += 1
        assert not any(one is None for one in expected[:3])
        for image, theirs in zip(pictures, expected, strict=True):
            if theirs is None:
                with pytest.raises(ValueError, match=name):
                    ours(images=image)
                continue
            pixels = ours(images=image)["pixel_values"][0]
            torch.testing.assert_close(pixels, theirs, atol=1e-3, rtol=0, msg=str(settings))
        # With a `fit` of the user's own, the colours are still those of the checkpoint.
        squashed = FusionProcessor(input_spec=spec, fit="squash")
        height, width = spec["size"]
        colour = Image.new("RGB", (width, height), tuple(draw.integers(0, 256, 3).tolist()))
        theirs = own_pixels(own, colour)
        # A place of the picture, and not of the padding.
        place = (theirs - own_pixels(own, Image.new("RGB", colour.size))).abs().sum(0).argmax()
        torch.testing.assert_close(
            squashed(images=colour)["pixel_values"][0].flatten(1)[:, place],
            theirs.flatten(1)[:, place],
            atol=1e-3,
            rtol=1e-5,
            msg=str(settings),
        )
    assert read or name not in READ
