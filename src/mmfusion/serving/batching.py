"""The joining of many clients' samples into batches."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .preparing import joined

Logits = NDArray[np.float32]
Engine = Callable[[Mapping[str, Tensor]], Logits]
"""The function from a batch to its logits [B, C]."""


@final
class Batcher:
    """A queue whose samples are answered together, in the order in which they came.

    While the engine answers a batch, the following samples gather. So batches grow with the number
    of clients by themselves, and a lone client waits for nobody.

    Args:
        make_engine: makes the engine, which answers a batch. Both run in one thread of their own,
            because a CUDA graph belongs to the thread that recorded it.
        batch_size: the most samples of a batch.
        wait: how long a batch that is not full waits for further samples, in seconds.

    Example:
        >>> async def ask():
        ...     async with Batcher(lambda: lambda batch: batch["x"].numpy()) as batcher:
        ...         asked = [batcher.answer({"x": torch.tensor([[n]])}) for n in range(9)]
        ...         return [int(answer[0]) for answer in await asyncio.gather(*asked)]
        >>> import torch
        >>> asyncio.run(ask())
        [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """

    def __init__(
        self, make_engine: Callable[[], Engine], *, batch_size: int = 32, wait: float = 0.0
    ):
        if batch_size < 1 or not wait >= 0:
            raise ValueError(
                "batch_size must be at least 1 and wait at least 0 seconds, "
                f"got {batch_size!r} and {wait!r}."
            )
        self.make_engine, self.batch_size, self.wait = make_engine, batch_size, wait
        self.sizes: dict[int, int] = {}
        """Batch size -> how many batches had it."""
        self._queue: asyncio.Queue[tuple[Mapping[str, Tensor], asyncio.Future[Logits]]]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mmfusion-engine")

    async def __aenter__(self) -> "Batcher":
        """Returns the batcher, which answers from now on."""
        loop = asyncio.get_running_loop()
        self._engine = await loop.run_in_executor(self._thread, self.make_engine)
        self._queue = asyncio.Queue()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops the batcher. Samples that still wait are cancelled."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        while not self._queue.empty():
            self._queue.get_nowait()[1].cancel()
        self._thread.shutdown(wait=True)

    async def answer(self, inputs: Mapping[str, Tensor]) -> Logits:
        """Returns the logits [C] of one sample.

        Args:
            inputs: of the sample, with one row.
        """
        future: asyncio.Future[Logits] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((inputs, future))
        return await future

    async def _run(self) -> None:
        while True:
            waiting = await self._gathered()
            # A client that is gone needs no answer.
            waiting = [pair for pair in waiting if not pair[1].done()]
            if waiting:
                await self._answer(waiting)

    async def _gathered(self) -> list[Any]:
        """Returns the samples of the next batch."""
        found = [await self._queue.get()]
        clock = asyncio.get_running_loop().time
        end = clock() + self.wait
        while len(found) < self.batch_size:
            if not self._queue.empty():
                found.append(self._queue.get_nowait())
            elif (left := end - clock()) > 0:
                with suppress(TimeoutError):
                    found.append(await asyncio.wait_for(self._queue.get(), left))
            else:
                break
        return found

    async def _answer(self, waiting: Sequence[Any]) -> None:
        """Answers the samples of one batch."""
        loop = asyncio.get_running_loop()
        self.sizes[len(waiting)] = self.sizes.get(len(waiting), 0) + 1
        try:
            logits = await loop.run_in_executor(
                self._thread, self._logits, [inputs for inputs, _ in waiting]
            )
        # Whatever the engine raises goes to the client. The server goes on.
        except Exception as error:
            if len(waiting) > 1:
                # One sample must not cost the others their answers.
                for pair in waiting:
                    await self._answer([pair])
            elif not waiting[0][1].done():
                waiting[0][1].set_exception(error)
            return
        for (_, future), row in zip(waiting, logits, strict=True):
            if not future.done():
                future.set_result(row)

    def _logits(self, samples: Sequence[Mapping[str, Tensor]]) -> Logits:
        return self._engine(joined(samples))
