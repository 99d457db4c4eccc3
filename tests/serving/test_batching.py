"""Samples of many clients become batches, and each client gets its own answer."""

import asyncio
import threading
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from mmfusion.serving.batching import Batcher, Engine, Logits


def rows(*numbers: int) -> list[dict[str, Tensor]]:
    return [{"x": torch.tensor([[number]])} for number in numbers]


def doubles(batch: Mapping[str, Tensor]) -> Logits:
    return 2 * batch["x"].float().numpy()


def answers(
    make: Callable[[], Engine], count: int, **options: float
) -> tuple[list[float], Batcher]:
    async def ask() -> tuple[list[float], Batcher]:
        batcher = Batcher(make, **options)  # type: ignore[arg-type]
        async with batcher:
            asked = [batcher.answer(one) for one in rows(*range(count))]
            return [float(found[0]) for found in await asyncio.gather(*asked)], batcher

    return asyncio.run(ask())


def test_everyone_gets_their_own_answer_in_few_batches() -> None:
    found, batcher = answers(lambda: doubles, 100, batch_size=16)
    assert found == [2.0 * number for number in range(100)]
    assert batcher.sizes == {16: 6, 4: 1}


def test_a_batch_waits_for_samples_that_come_later() -> None:
    async def ask(wait: float) -> dict[int, int]:
        async with Batcher(lambda: doubles, batch_size=2, wait=wait) as batcher:
            first = asyncio.create_task(batcher.answer(rows(0)[0]))
            await asyncio.sleep(0.02)
            await batcher.answer(rows(1)[0])
            await first
            return batcher.sizes

    assert asyncio.run(ask(5.0)) == {2: 1}
    assert asyncio.run(ask(0.0)) == {1: 2}


def test_one_sample_that_fails_costs_the_others_nothing() -> None:
    def picky(batch: Mapping[str, Tensor]) -> Logits:
        if (batch["x"] == 3).any():
            raise RuntimeError("no threes")
        return doubles(batch)

    async def ask() -> list[object]:
        async with Batcher(lambda: picky) as batcher:
            asked = [batcher.answer(one) for one in rows(*range(6))]
            return list(await asyncio.gather(*asked, return_exceptions=True))

    found = asyncio.run(ask())
    assert isinstance(found.pop(3), RuntimeError)
    assert [float(one[0]) for one in found] == [0, 2, 4, 8, 10]  # type: ignore[index]


def test_a_client_that_is_gone_is_not_computed() -> None:
    seen: list[int] = []
    started, release = threading.Event(), threading.Event()

    def slow(batch: Mapping[str, Tensor]) -> Logits:
        seen.extend(batch["x"].flatten().tolist())
        started.set()
        release.wait(10)
        return doubles(batch)

    async def ask() -> None:
        async with Batcher(lambda: slow, batch_size=1) as batcher:
            tasks = [asyncio.create_task(batcher.answer(one)) for one in rows(0, 1, 2)]
            await asyncio.to_thread(started.wait, 10)
            tasks[1].cancel()
            release.set()
            await asyncio.gather(tasks[0], tasks[2])

    asyncio.run(ask())
    assert seen == [0, 2]


def test_the_engine_is_made_and_run_in_one_thread_that_is_not_the_loops() -> None:
    threads = []

    def make() -> Engine:
        threads.append(threading.get_ident())

        def engine(batch: Mapping[str, Tensor]) -> Logits:
            threads.append(threading.get_ident())
            return doubles(batch)

        return engine

    answers(make, 5, batch_size=1)
    assert len(threads) == 6 and len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_who_still_waits_at_the_end_is_cancelled() -> None:
    release = threading.Event()

    def slow(batch: Mapping[str, Tensor]) -> Logits:
        release.wait(10)
        return np.zeros((1, 1), np.float32)

    async def ask() -> list[bool]:
        async with Batcher(lambda: slow, batch_size=1) as batcher:
            tasks = [asyncio.create_task(batcher.answer(one)) for one in rows(0, 1)]
            await asyncio.sleep(0.05)
            release.set()
        await asyncio.wait(tasks, timeout=5)
        return [task.cancelled() for task in tasks]

    assert asyncio.run(ask())[1]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"wait": -1.0}, {"wait": float("nan")}])
def test_a_wrong_option_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1 and wait at least 0"):
        Batcher(lambda: doubles, **options)  # type: ignore[arg-type]
