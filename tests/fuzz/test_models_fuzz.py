"""Damaged model folders: each is loaded and answers with numbers, or is refused with a sentence."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmfusion import FusionProcessor
from mmfusion import testing as kit
from mmfusion.data.toy import word_tokenizer

sys.path.insert(0, str(Path(__file__).parent))

import runner

ODD: list[Any] = [
    None, True, -1, 0, 0.5, 1e300, 10**9, 10**30, "", "x", "../x", [], {}, [None], {"a": 1},
    "hf-hub:timm/resnet18", [1, 2, 3], float("nan"),
]  # fmt: skip
# The libraries are part of the address space; the rest is the limit of what a file may take.
MEMORY = 24 * 2**30


def write_whole(folder: Path) -> None:
    """Writes a small classifier with its processor, and a picture."""
    torch.manual_seed(0)
    model = kit.tiny_classifier("concat", "linear", "timm_vit", "bert")
    tokenizer = word_tokenizer(["clear lungs", "effusion"])
    model.save_pretrained(folder / "whole")
    FusionProcessor(tokenizer, model.image_encoder.input_spec).save_pretrained(folder / "whole")
    Image.fromarray(np.full((40, 40), 99, np.uint8)).save(folder / "picture.png")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Returns each place of a nested JSON value as its container and key."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, one in inner:
        found.append((value, key))
        if isinstance(one, dict | list):
            found += places(one)
    return found


def write_odd_values(folder: Path, count: int) -> list[Path]:
    """Writes configs in which values are of another kind, missing, new or far too large."""
    names = [path.name for path in sorted((folder / "whole").glob("*.json"))]
    paths = []
    for number in range(count):
        draw = random.Random(number)
        name = draw.choice(names)
        content = json.loads((folder / "whole" / name).read_text())
        for _ in range(draw.choice((1, 1, 2))):
            container, key = draw.choice(places(content))
            if draw.random() < 0.15:
                container.pop(key)
            elif draw.random() < 0.1 and isinstance(container, dict):
                container[draw.choice(("auto_map", "checkpoint_path", "weights", "x"))] = "x"
            else:
                container[key] = draw.choice(ODD)
            if not content:
                break
        paths.append(folder / f"{number}-odd@{name}")
        paths[-1].write_text(json.dumps(content))
    return paths


def test_damaged_model_folders(tmp_path: Path) -> None:
    write_whole(tmp_path)
    count = max(runner.how_many() // 4, 1)
    wholes = {f"@{path.name}": path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    paths = runner.write_damaged(tmp_path, wholes, count) + write_odd_values(tmp_path, count)
    outcomes = runner.run_all(
        "models_worker:answer",
        paths,
        errors=("ValueError", "TypeError", "OSError", "FileNotFoundError"),
        seconds=30,
        memory=MEMORY,
    )
    counts = runner.assert_only(outcomes, {"read", "refused"})
    assert counts["read"] and counts["refused"]
