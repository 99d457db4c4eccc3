"""The load test of `mmfusion serve`: many clients at once, every answer compared with `predict`.

The server is a process of its own. The clients and the server share the machine's cores, so the
figures are lower than those of a server that has a machine for itself.

    python -m benchmarks.serving                  # a tiny model: the cost of the server itself
    python -m benchmarks.serving --model runs/first --engine eager --engine compiled
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from PIL import Image

TOLERANCE = 1e-4
"""How far two probabilities may be apart that count as equal. A batch changes the last digits."""


@contextmanager
def server(*arguments: str, log: Path) -> Iterator[tuple[str, int]]:
    """Yields the address and the process of a server that can be asked.

    Args:
        *arguments: of `mmfusion serve`, without the port.
        log: the file for what the server prints.
    """
    command = [sys.executable, "-m", "mmfusion", "serve", *arguments, "--port", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        found = None
        while found is None:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended:\n{log.read_text()}")
            time.sleep(0.05)
            found = re.search(r"running on (http://\S+)", log.read_text(errors="replace"))
        yield found[1], process.pid
    finally:
        process.terminate()
        process.wait(60)


def resident(process: int) -> float:
    """Returns the memory of a process in MiB, without what was swapped out.

    Args:
        process: its number.
    """
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


async def load(
    address: str, samples: list[dict[str, Any]], expected: list[Any], clients: int, requests: int
) -> dict[str, Any]:
    """Returns how many answers were lost or wrong, and how long each took.

    Args:
        address: of the server.
        samples: "image" -> the content of a file, "text" -> words.
        expected: class -> probability, for each sample.
        clients: how many ask at the same time, each on a connection of its own.
        requests: of all clients together.
    """
    numbers = iter(range(requests))
    seconds: list[float] = []
    lost = wrong = 0

    async def client() -> None:
        nonlocal lost, wrong
        async with httpx.AsyncClient(base_url=address, timeout=120) as http:
            for number in numbers:
                sample = samples[number % len(samples)]
                start = time.perf_counter()
                try:
                    answer = await http.post(
                        "/predict", files={"image": sample["image"]}, data={"text": sample["text"]}
                    )
                    found = answer.raise_for_status().json()["probabilities"]
                except (httpx.HTTPError, KeyError):
                    lost += 1
                    continue
                seconds.append(time.perf_counter() - start)
                wanted = expected[number % len(samples)]
                apart = max(abs(found[name] - value) for name, value in wanted.items())
                wrong += not apart <= TOLERANCE

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - start
    return {
        "requests": requests,
        "clients": clients,
        "lost": lost,
        "wrong": wrong,
        "requests_per_second": round(len(seconds) / took, 1),
        "p50_ms": round(1000 * float(np.percentile(seconds, 50)), 1),
        "p99_ms": round(1000 * float(np.percentile(seconds, 99)), 1),
    }


def measure(folder: Path, clients: int, requests: int, *arguments: str) -> dict[str, Any]:
    """Returns the figures of a server under load.

    Args:
        folder: of the model.
        clients: as for `load`.
        requests: as for `load`. A tenth of them come before the memory is measured first.
        *arguments: of `mmfusion serve`.
    """
    from mmfusion import FusionClassifier, FusionProcessor, predict_stream

    model = FusionClassifier.from_pretrained(folder)
    processor = FusionProcessor.from_pretrained(folder)
    samples = draw_samples()
    names = list((model.config.id2label or {}).values())
    opened = [sample | {"image": Image.open(io.BytesIO(sample["image"]))} for sample in samples]
    expected = [
        dict(zip(names, map(float, answer.probabilities), strict=True))
        for answer in predict_stream(model, processor, opened, progress=False)
    ]
    with (
        tempfile.TemporaryDirectory() as logs,
        server(str(folder), *arguments, log=Path(logs) / "log.txt") as (address, process),
    ):
        asyncio.run(load(address, samples, expected, clients, max(1, requests // 10)))
        before = resident(process)
        found = asyncio.run(load(address, samples, expected, clients, requests))
        after = resident(process)
    return found | {"memory_before_mib": round(before), "memory_after_mib": round(after)}


def draw_samples(n: int = 97, seed: int = 0) -> list[dict[str, Any]]:
    """Returns pictures of noise as the content of PNG files, and texts of several lengths.

    Args:
        n: how many.
        seed: of the generator.
    """
    draw = np.random.default_rng(seed)
    words = ["clear", "lungs", "no", "effusion", "cough"]
    samples = []
    for _ in range(n):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (48, 40), dtype=np.uint8)).save(file, "PNG")
        text = " ".join(draw.choice(words, draw.integers(1, 12)))
        samples.append({"image": file.getvalue(), "text": text})
    return samples


def write_tiny_model(folder: Path) -> Path:
    """Returns the folder of a tiny model with random weights, written there.

    Args:
        folder: where.
    """
    from mmfusion import FusionProcessor
    from mmfusion.data.toy import word_tokenizer
    from mmfusion.testing import tiny_classifier

    model = tiny_classifier("concat", "linear", "timm_vit", "bert")
    assert model.image_encoder is not None and model.text_encoder is not None
    tokenizer = word_tokenizer(["clear lungs no effusion cough"])
    limit = model.text_encoder.max_length
    processor = FusionProcessor(tokenizer, model.image_encoder.input_spec, limit)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def main(
    model: Annotated[Path | None, typer.Option(help="Folder of a model; None: a tiny one.")] = None,
    clients: int = 64,
    requests: int = 10_000,
    engine: Annotated[list[str] | None, typer.Option(help="May be repeated; None: eager.")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Prints the figures of `mmfusion serve` under load, one engine after the other."""
    with tempfile.TemporaryDirectory() as folder:
        where = model or write_tiny_model(Path(folder))
        found = [
            {"engine": one} | measure(where, clients, requests, "--engine", one)
            for one in engine or ["eager"]
        ]
    content = json.dumps(found, indent=2)
    print(content)
    if output is not None:
        output.write_text(content + "\n")
    if any(one["lost"] or one["wrong"] for one in found):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
