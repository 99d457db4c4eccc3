"""The sample in the body of a request: JSON, or a form with files.

A client gives the content of a picture, never a path: no string of a request is opened as a file.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from ..model.validation import did_you_mean
from .limits import Limits

FIELDS = ("image", "images", "text")
_MOST_VIEWS = 64
_SHOWN = 60


class RequestError(Exception):
    """The error of a client: a status of HTTP, and a sentence that says what to do.

    Attributes:
        status: 400 for a body that cannot be read, 413 for one that is too large, 415 for another
            type, 422 for a sample that cannot be answered, 503 for a full server, 504 for an answer
            that took too long.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@final
@dataclass(frozen=True)
class Sample:
    """What a client asks about.

    Attributes:
        images: the content of the files of its pictures; None stands for one that is missing.
        text: its text; a mapping of columns to values for a model with a template; or None.
    """

    images: Sequence[bytes | None]
    text: str | Mapping[str, Any] | None


async def read_sample(request: Request, limits: Limits) -> Sample:
    """Returns the sample in the body of a request.

    Args:
        request: of the client.
        limits: what it may ask for.

    Raises:
        RequestError: if the body is too large, of another type, or no sample.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        raise RequestError(
            415,
            f"content-type must be application/json or multipart/form-data, got {kind[:_SHOWN]!r}.",
        )
    body = await _body(request, limits.most_bytes)
    # A large body takes long to decode, and other clients must not wait for that.
    if kind == "application/json":
        return await asyncio.to_thread(_of_json, body, limits)
    return await _of_form(request, body, limits)


async def _body(request: Request, most: int) -> bytes:
    """Returns the body, and stops reading as soon as it is too large."""
    found = bytearray()
    try:
        async for part in request.stream():
            found += part
            if len(found) > most:
                raise RequestError(413, f"body must have at most {most} bytes, got more.")
    except ClientDisconnect:
        raise RequestError(400, "body must be sent to its end, got a part of it.") from None
    return bytes(found)


def _of_json(body: bytes, limits: Limits) -> Sample:
    """Returns the sample of a JSON object {"text": ..., "image": base64}."""
    try:
        given = json.loads(body)
    # Python refuses JSON that is nested too deeply with a RecursionError.
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"body must be JSON, got something else ({error}).") from None
    if not isinstance(given, dict):
        raise RequestError(400, f"body must be a JSON object, got {type(given).__name__}.")
    for name in given:
        if name not in FIELDS:
            advice = did_you_mean(name[:_SHOWN], FIELDS)
            raise RequestError(
                400, f"keys must be {', '.join(FIELDS)}, got {name[:_SHOWN]!r}.{advice}"
            )
    if "image" in given and "images" in given:
        raise RequestError(400, "image and images must not be given together. Give one of them.")
    images = given.get("images", given.get("image"))
    if not isinstance(images, list):
        images = [] if images is None else [images]
    return Sample([_decoded(one) for one in images[: _MOST_VIEWS + 1]], _text(given, limits))


def _text(given: Mapping[str, Any], limits: Limits) -> str | Mapping[str, Any] | None:
    """Returns the text of a JSON object, or the values of a template."""
    text = given.get("text")
    if text is None or isinstance(text, str):
        return _checked(text, limits)
    plain = str | int | float | bool | None
    if not isinstance(text, dict) or not all(isinstance(one, plain) for one in text.values()):
        raise RequestError(
            400,
            "text must be a string, null, or an object of plain values for a model with a "
            f"template, got {type(text).__name__}.",
        )
    for value in text.values():
        _checked(str(value), limits)
    return text


def _checked(text: str | None, limits: Limits) -> str | None:
    if text is not None and len(text) > limits.most_characters:
        raise RequestError(
            413, f"text must have at most {limits.most_characters} characters, got {len(text)}."
        )
    return text


def _decoded(image: object) -> bytes | None:
    """Returns the bytes of base64, which may be a data URL."""
    if image is None:
        return None
    if not isinstance(image, str):
        raise RequestError(
            400, f"image must be the file's content in base64, got {type(image).__name__}."
        )
    head, comma, rest = image.partition(",")
    content = rest if comma and head.startswith("data:") else image
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(
            400,
            f"image must be the file's content in base64, got {image[:_SHOWN]!r}. A path or a URL "
            "is not read.",
        ) from None


async def _of_form(request: Request, body: bytes, limits: Limits) -> Sample:
    """Returns the sample of a form with the files `image` and the field `text`."""
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> dict[str, Any]:
        return sent.pop() if sent else {"type": "http.disconnect"}

    # The form is read from the body, whose size is known now.
    copy = Request(request.scope, receive=again)
    options: dict[str, Any] = {"max_files": _MOST_VIEWS, "max_fields": 8}
    try:
        async with copy.form(**options, max_part_size=4 * limits.most_characters + 1) as form:
            images: list[bytes | None] = []
            text = None
            for name, value in form.multi_items():
                is_file = isinstance(value, UploadFile)
                if name in ("image", "images") and isinstance(value, UploadFile):
                    images.append(await value.read() or None)
                elif name == "text" and text is None and not is_file:
                    text = _checked(str(value), limits)
                else:
                    raise RequestError(
                        400,
                        "form must have files named image and one field named text, "
                        f"got {name[:_SHOWN]!r} as {'a file' if is_file else 'a field'}.",
                    )
            return Sample(images, text)
    # Starlette answers a form that cannot be read with this error. A part that is too large is one.
    except HTTPException as error:
        raise RequestError(
            400, f"body must be a form, got something else ({error.detail})."
        ) from None
