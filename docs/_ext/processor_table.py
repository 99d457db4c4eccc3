"""The table of transformers' image processors, written into the documentation.

    python docs/_ext/processor_table.py

Each image processor that transformers chooses by default is made with its own settings, saved
beside a config and read as a checkpoint's. The pixels of some pictures are then compared with those
that the image processor itself gives.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from part_tables import inserted

PAGE = Path(__file__).resolve().parents[1] / "preprocessing.md"
START, END = "<!-- processors:start -->", "<!-- processors:end -->"
TOLERANCE = 1e-3
SIZES = ((61, 47), (47, 61), (200, 31), (31, 200), (500, 400))


def default_processors() -> list[str]:
    """Returns the names of the image processors that transformers chooses by default, sorted."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    # Where there are two backends, AutoImageProcessor takes the one of torchvision.
    kinds = [
        kind.get("torchvision") or kind["pil"] for kind in IMAGE_PROCESSOR_MAPPING_NAMES.values()
    ]
    return sorted(set(kinds))


def settings_of(name: str) -> dict[str, Any]:
    """Returns settings beyond the defaults, for image processors that have no complete ones.

    Args:
        name: the class.
    """
    if name == "TimmWrapperImageProcessor":
        return {"pretrained_cfg": {"input_size": (3, 96, 96), "crop_pct": 0.9}}
    if name.startswith("ImageGPT"):
        return {"clusters": [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]}
    return {}


def write_checkpoint(folder: Path, processor: Any) -> None:
    """Writes the two files of a checkpoint that say what its pixels must be.

    Args:
        folder: where to.
        processor: an image processor.
    """
    from transformers import ViTConfig

    ViTConfig().save_pretrained(folder)
    settings = json.loads(processor.to_json_string())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def verdict(name: str) -> tuple[str, str]:
    """Returns what becomes of an image processor with its default settings, and the reason.

    Args:
        name: the class.

    Raises:
        AssertionError: if its pixels are read, and differ from its own.
    """
    import numpy as np
    import torch
    import transformers
    from PIL import Image

    from mmfusion import FusionProcessor
    from mmfusion.model.load_input_spec import transformers_input_spec

    own = getattr(transformers, name)(**settings_of(name))
    if name == "TimmWrapperImageProcessor":
        return "equal", "read as a model of timm"
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), own)
        try:
            spec = transformers_input_spec(transformers.ViTConfig(), folder)
        except ValueError as error:
            (reason,) = re.findall(r"which does not: (.*?)\. It belongs", str(error))
            return "refused", reason.replace("|", " ")
        try:
            ours = FusionProcessor(input_spec=spec)
        except ValueError as error:
            assert "changes with the picture" in str(error), error
            return "refused without a `fit` of your own", "their size changes with the picture"
    draw = np.random.default_rng(0)
    options = {"apply_ocr": False} if hasattr(own, "apply_ocr") else {}
    for width, height in SIZES:
        image = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        theirs = own(images=image, return_tensors="pt", **options)["pixel_values"].float()
        gap = float((ours(images=image)["pixel_values"] - theirs).abs().max())
        assert gap <= TOLERANCE, f"{name} differs by {gap} on {width} x {height}"
    assert torch.isfinite(theirs).all()
    return "equal", " x ".join(map(str, spec["size"]))


def table() -> str:
    """Returns the table in Markdown."""
    lines = ["| image processor | verdict | pixels, or the reason |", "| --- | --- | --- |"]
    for name in default_processors():
        said, reason = verdict(name)
        lines.append(f"| `{name}` | {said} | {reason} |")
    return "\n".join(lines)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(inserted(text, table(), START, END), encoding="utf-8")
