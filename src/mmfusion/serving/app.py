"""The HTTP application: `POST /predict` and `GET /health`."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, final

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from .. import __version__
from ..inference.explain_sample import class_names
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from ..training.evaluate import as_probabilities
from .batching import Batcher, Engine
from .limits import Limits
from .preparing import Preparer
from .requests import RequestError, read_sample

Share = Annotated[float, Field(ge=0, le=1)]


@final
class Answer(BaseModel):
    """What the model says of one sample."""

    probabilities: dict[str, Share]
    missing: list[str]
    notes: list[str]


@final
class Health(BaseModel):
    """What the server is, and how much it has done."""

    status: str
    version: str
    classes: list[str]
    modalities: list[str]
    waiting: int
    answered: int


@final
class Failure(BaseModel):
    """Why there is no answer."""

    error: str


_FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "The body cannot be read."},
    413: {"model": Failure, "description": "The body, or its text, is too large."},
    415: {"model": Failure, "description": "The body is of another type."},
    422: {"model": Failure, "description": "The sample cannot be read, or has no modality."},
    503: {"model": Failure, "description": "Too many requests at the same time."},
    504: {"model": Failure, "description": "The answer took too long."},
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "text": {"type": ["string", "object", "null"]},
                        "image": {"type": ["string", "null"], "contentEncoding": "base64"},
                        "images": {"type": "array", "items": {"type": ["string", "null"]}},
                    },
                }
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "text": {"type": "string"},
                    },
                }
            },
        },
    }
}


def make_app(
    model: FusionClassifier,
    processor: FusionProcessor,
    make_engine: Callable[[], Engine],
    *,
    limits: Limits | None = None,
    batch_size: int = 32,
    wait: float = 0.0,
    threads: int | None = None,
) -> FastAPI:
    """Returns the HTTP application of a model.

    `POST /predict` takes one sample: a JSON object {"text": ..., "image": the file in base64}, or a
    form with the file `image` and the field `text`. It answers {"probabilities": {class: p},
    "missing": [...], "notes": [...]}, or {"error": ...} with a status of HTTP. `GET /health`
    answers while the server can be asked. `GET /openapi.json` describes both.

    Args:
        model: the classifier, for its classes and modalities.
        processor: of the classifier.
        make_engine: makes what answers a batch. It is called when the server starts, in the thread
            that runs the engine.
        limits: what one client may ask for.
        batch_size: the most samples of a batch.
        wait: how long a batch that is not full waits for further samples, in seconds.
        threads: how many pictures are decoded at the same time; None: one per core.
    """
    limits = limits or Limits()
    server = _Server(model, Preparer(processor, model.modalities, limits), limits)
    batcher = Batcher(make_engine, batch_size=batch_size, wait=wait)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        count = threads or os.cpu_count() or 1
        with ThreadPoolExecutor(count, thread_name_prefix="mmfusion-decode") as pool:
            async with batcher:
                server.batcher, server.pool = batcher, pool
                yield

    # The pages that FastAPI offers load scripts from the network.
    app = FastAPI(
        title="mmfusion", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    for kind in (RequestError, HTTPException, Exception):
        app.add_exception_handler(kind, _refused)
    app.post("/predict", response_model=Answer, responses=_FAILURES, openapi_extra=_BODY)(
        server.predict
    )
    app.get("/health", response_model=Health)(server.health)
    return app


@final
class _Server:
    """The state of a server, and what it does with a request."""

    batcher: Batcher
    pool: ThreadPoolExecutor

    def __init__(self, model: FusionClassifier, prepare: Preparer, limits: Limits):
        self.prepare, self.limits = prepare, limits
        self.classes = class_names(model)
        self.is_multi_label = model.multi_label
        self.modalities = list(model.modalities)
        self.waiting = self.answered = 0

    async def predict(self, request: Request) -> Answer:
        """Returns the probabilities of one sample."""
        # The body is not read yet: a full server must not hold it in memory.
        if self.waiting >= self.limits.most_waiting:
            raise RequestError(
                503, "server must have room, got too many requests. Ask again in a second."
            )
        self.waiting += 1
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await self._predict(request)
        except TimeoutError:
            raise RequestError(
                504, f"answer must take at most {self.limits.seconds:g} seconds, got a longer one."
            ) from None
        finally:
            self.waiting -= 1

    async def _predict(self, request: Request) -> Answer:
        sample = await read_sample(request, self.limits)
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self.pool, self.prepare, sample)
        logits = await self.batcher.answer(prepared.inputs)
        if not np.isfinite(logits).all():
            raise RequestError(422, "logits must be finite, got NaN or infinity for this sample.")
        found = as_probabilities(logits[None], multi_label=self.is_multi_label)[0].tolist()
        self.answered += 1
        return Answer(
            probabilities=dict(zip(self.classes, found, strict=True)),
            missing=list(prepared.missing),
            notes=list(prepared.notes),
        )

    async def health(self) -> Health:
        """Returns what the server is, and how much it has done."""
        return Health(
            status="ok",
            version=__version__,
            classes=self.classes,
            modalities=self.modalities,
            waiting=self.waiting,
            answered=self.answered,
        )


async def _refused(_: Request, error: Exception) -> Response:
    """Returns the answer to a request that has none. A fault of the server is told in its log."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    if not isinstance(error, RequestError):
        return JSONResponse({"error": "the server has a fault. Its log says which."}, 500)
    headers = {503: {"Retry-After": "1"}}.get(error.status)
    return JSONResponse({"error": str(error)}, error.status, headers)
