"""A comparison that is killed and called again, compared with one that runs through.

It is killed with SIGKILL at random moments.

Usage: python kill_and_compare.py FOLDER KILLS. Prints one JSON line.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

# This must come before the first fork, because threads do not survive a fork.
torch.set_num_threads(1)

sys.path.insert(0, str(Path(__file__).parent))
import killing
from killing import attempt

from mmfusion import ComparisonRow, ImageEncoder, TextEncoder, compare, load_manifest
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.testing import tiny_config

WIDTHS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def run(folder: Path, data: Path) -> None:
    """Runs the whole comparison, or what is left of it."""
    rows = load_manifest(data)
    torch.manual_seed(0)
    tokenizer = word_tokenizer(text for text in rows["text"] if text)
    compare(
        rows,
        folder,
        image_encoder=ImageEncoder(
            tiny_config("vit", **WIDTHS, image_size=32, patch_size=8)
        ).freeze(),
        text_encoder=TextEncoder(tiny_config("bert", **WIDTHS, vocab_size=len(tokenizer))).freeze(),
        tokenizer=tokenizer,
        rows=["tfidf", "image", "text", "late", ComparisonRow("mlp", mapper="mlp")],
        folds=2,
        seeds=2,
        options={"num_train_epochs": 2, "learning_rate": 0.01},
        resamples=50,
        progress=False,
    )


def run_through(folder: Path, data: Path) -> dict:
    """Returns the results of a comparison that is not killed, begun anew or continued."""
    killing.run_through(run, folder, data)
    return json.loads((folder / "results.json").read_text())


def without_times(value: object) -> object:
    """Returns the results without what tells how long something took."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key != "seconds"}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    """Runs both comparisons and prints how their results differ."""
    base, kills = Path(sys.argv[1]), int(sys.argv[2])
    data = draw_shapes(base / "data", 48, size=32, missing=0.1)
    random.seed(1)
    straight = base / "straight"
    straight.mkdir()
    started = time.perf_counter()
    expected = without_times(run_through(straight, data))
    whole = time.perf_counter() - started
    killed, different, attempts = 0, [], 0
    # One that ends before its last kill is compared. The kills that are left go to another one.
    while killed < kills:
        folder = base / f"broken-{attempts}"
        folder.mkdir()
        attempts += 1
        if attempts > kills:
            raise SystemExit(f"{attempts} comparisons ended, but only {killed} kills came in time.")
        while killed < kills:
            child = attempt(run, folder, data)
            time.sleep(random.uniform(0.02, 0.4) * whole)
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
        got = without_times(run_through(folder, data))
        different += [key for key in expected if got[key] != expected[key]]
    print(json.dumps({"killed": killed, "different": different, "rows": len(expected["rows"])}))


if __name__ == "__main__":
    main()
