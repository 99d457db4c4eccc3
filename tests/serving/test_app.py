"""The HTTP application answers as `predict_stream` does, and names what is wrong with a request."""

import asyncio
import base64
import io
import json
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from torch import Tensor

from mmfusion import FusionClassifier, FusionProcessor, predict_stream
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_classifier

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))

from images_samples import dicom, written

Parts = tuple[FusionClassifier, FusionProcessor]
Picture = Callable[..., bytes]
Ask = Callable[..., TestClient]


def base(content: bytes) -> str:
    return base64.b64encode(content).decode()


def expected(parts: Parts, image: bytes | None, text: str | None) -> dict[str, float]:
    opened = None if image is None else Image.open(io.BytesIO(image))
    (answer,) = predict_stream(*parts, [{"image": opened, "text": text}], progress=False)
    names = (parts[0].config.id2label or {}).values()
    return dict(zip(names, answer.probabilities.tolist(), strict=True))


@pytest.mark.parametrize("has_image", [True, False])
@pytest.mark.parametrize("text", ["no effusion", None, "  "])
def test_json_and_form_give_what_predict_gives(
    parts: Parts, client: TestClient, picture: Picture, has_image: bool, text: str | None
) -> None:
    image = picture(3) if has_image else None
    if image is None and not (text or "").strip():
        return
    wanted = expected(parts, image, text)
    missing = [] if image else ["image"]
    missing += [] if (text or "").strip() else ["text"]
    body = {"text": text, "image": None if image is None else base(image)}
    form: dict[str, Any] = {"files": {"image": image} if image else {"nothing": b""}}
    if text is not None:
        form["data"] = {"text": text}
    if image is None:
        form = {"files": [("text", (None, text))]}
    for answer in (client.post("/predict", json=body), client.post("/predict", **form)):
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["probabilities"] == pytest.approx(wanted, abs=1e-6)
        assert found["missing"] == missing and found["notes"] == []


def test_a_cut_text_is_told(client: TestClient) -> None:
    answer = client.post("/predict", json={"text": "clear lungs " * 9}).json()
    assert answer["notes"] == ["The text is longer than the model reads: a part of it was cut."]


def test_dicom_is_read(client: TestClient, parts: Parts, tmp_path: Path) -> None:
    pixels = np.arange(600, dtype=np.uint16).reshape(20, 30)
    content = written(dicom(pixels, PhotometricInterpretation="MONOCHROME1"))
    (tmp_path / "x.dcm").write_bytes(content)
    (wanted,) = predict_stream(
        *parts, [{"image": str(tmp_path / "x.dcm"), "text": None}], progress=False
    )
    for answer in (
        client.post("/predict", json={"image": base(content)}),
        client.post("/predict", files={"image": content}),
    ):
        assert answer.status_code == 200, answer.text
        assert [*answer.json()["probabilities"].values()] == pytest.approx(
            wanted.probabilities.tolist(), abs=1e-6
        )


BAD: list[tuple[Any, int, str]] = [
    (b"", 400, "body must be JSON"),
    (b"{", 400, "body must be JSON"),
    (b"\xff\xfe", 400, "body must be JSON"),
    (b"[" * 100_000, 400, "body must be JSON"),
    (b"[]", 400, "body must be a JSON object, got list"),
    (b"1" * 5000, 400, "body must be JSON"),
    ({"txt": "x"}, 400, "keys must be image, images, text, got 'txt'. Did you mean 'text'?"),
    ({"text": 3}, 400, "text must be a string, null, or an object"),
    ({"text": {"a": [1]}}, 400, "text must be a string, null, or an object"),
    ({"text": {"age": 3}}, 422, "text must be a string: this model has no template"),
    ({"image": 3}, 400, "image must be the file's content in base64, got int"),
    ({"image": "/etc/passwd"}, 400, "A path or a URL is not read"),
    ({"image": "http://127.0.0.1/x.png"}, 400, "A path or a URL is not read"),
    ({"image": "data:image/png;base64,%%"}, 400, "in base64"),
    ({"image": "AAAA"}, 422, "<image 1> must be one of PNG"),
    ({"image": ""}, 422, "must have image or text, got nothing"),
    ({}, 422, "must have image or text, got nothing"),
    ({"text": " "}, 422, "must have image or text, got nothing"),
    ({"text": "a", "image": "", "images": []}, 400, "must not be given together"),
    ({"images": ["AAAA", "AAAA"]}, 422, "<image 1> must be one of PNG"),
]


@pytest.mark.parametrize(("body", "status", "says"), BAD)
def test_a_bad_body_is_explained(client: TestClient, body: Any, status: int, says: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(
        "/predict", content=content, headers={"content-type": "application/json; charset=utf-8"}
    )
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text
    assert client.get("/health").json()["waiting"] == 0


def test_a_damaged_picture_is_explained_without_a_path(
    client: TestClient, picture: Picture
) -> None:
    content = picture(0)[:-20]
    for answer in (
        client.post("/predict", json={"image": base(content)}),
        client.post("/predict", files={"image": ("/etc/passwd", content)}),
    ):
        error = answer.json()["error"]
        assert answer.status_code == 422 and "undamaged" in error and "passwd" not in error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"files": {"file": b"x"}}, "got 'file' as a file"),
        ({"files": {"text": b"x"}}, "got 'text' as a file"),
        ({"files": [("image", (None, "/etc/passwd"))]}, "got 'image' as a field"),
        ({"files": [("text", (None, "a")), ("text", (None, "b"))]}, "one field named text"),
        (
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
            "body must be a form",
        ),
        (
            {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=a"}},
            "body must be a form",
        ),
    ],
)
def test_a_bad_form_is_explained(client: TestClient, options: Any, says: str) -> None:
    answer = client.post("/predict", **options)
    assert answer.status_code == 400 and says in answer.json()["error"], answer.text


def test_too_many_files_are_refused(client: TestClient, picture: Picture) -> None:
    two = [("image", picture(n)) for n in range(2)]
    answer = client.post("/predict", files=two)
    assert answer.status_code == 422 and "one picture, got 2" in answer.json()["error"]
    many = client.post("/predict", files=[("image", b"x")] * 70)
    assert many.status_code == 400 and "Too many files" in many.json()["error"]


def test_another_type_is_refused(client: TestClient) -> None:
    answer = client.post("/predict", data={"text": "clear"})
    assert answer.status_code == 415 and "x-www-form-urlencoded" in answer.json()["error"]
    assert client.get("/predict").json() == {"error": "Method Not Allowed"}
    assert client.get("/../../etc/passwd").status_code == 404
    assert client.get("/docs").status_code == 404


def test_the_limits_hold(ask: Ask, parts: Parts, picture: Picture) -> None:
    strict = ask(parts, most_bytes=2000, most_pixels=100, most_characters=10)
    long = strict.post("/predict", json={"text": "a" * 11})
    assert long.status_code == 413 and "at most 10 characters, got 11" in long.json()["error"]
    form = strict.post("/predict", files=[("text", (None, "a" * 11))])
    assert form.status_code == 413
    huge = strict.post("/predict", json={"text": "a" * 3000})
    assert huge.status_code == 413 and "at most 2000 bytes" in huge.json()["error"]
    pixels = strict.post("/predict", files={"image": picture(size=(20, 20))})
    assert pixels.status_code == 422 and "100 pixels" in pixels.json()["error"]


def test_a_body_without_a_declared_size_is_cut_off(ask: Ask, parts: Parts) -> None:
    strict = ask(parts, most_bytes=1000)
    sent = 0

    def endless() -> Any:
        nonlocal sent
        for _ in range(100_000):
            sent += 500
            yield b" " * 500

    answer = strict.post(
        "/predict", content=endless(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


def test_a_slow_answer_and_a_full_server_are_told(ask: Ask, parts: Parts) -> None:
    release = threading.Event()

    def slow(batch: Mapping[str, Tensor]) -> Any:
        release.wait(20)
        return np.zeros((len(batch["input_ids"]), 3), np.float32)

    hasty = ask(parts, slow, seconds=0.3)
    answer = hasty.post("/predict", json={"text": "clear"})
    assert answer.status_code == 504 and "at most 0.3 seconds" in answer.json()["error"]
    assert hasty.get("/health").json()["waiting"] == 0
    full = ask(parts, slow, seconds=15, most_waiting=1)
    first: list[Any] = []
    thread = threading.Thread(
        target=lambda: first.append(full.post("/predict", json={"text": "clear"}))
    )
    thread.start()
    while full.get("/health").json()["waiting"] == 0:
        pass
    refused = full.post("/predict", json={"text": "clear"})
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    release.set()
    thread.join()
    assert first[0].status_code == 200


def test_a_fault_of_the_server_tells_the_client_nothing(ask: Ask, parts: Parts) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("/secret/path")

    answer = ask(parts, broken).post("/predict", json={"text": "clear"})
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.json() == {"error": "the server has a fault. Its log says which."}


def test_an_answer_that_is_not_finite_is_no_answer(ask: Ask, parts: Parts) -> None:
    answer = ask(parts, lambda _: np.full((1, 3), np.nan)).post("/predict", json={"text": "clear"})
    assert answer.status_code == 422 and "finite" in answer.json()["error"]


def test_a_model_of_one_modality_refuses_the_other(ask: Ask, picture: Picture) -> None:
    model = tiny_classifier(image=None, text="bert").eval()
    alone = ask((model, FusionProcessor(word_tokenizer(["clear"]))))
    assert alone.get("/health").json()["modalities"] == ["text"]
    answer = alone.post("/predict", files={"image": picture()})
    assert answer.status_code == 422
    assert "image must be left out: the model reads text alone" in answer.json()["error"]
    assert alone.post("/predict", json={"text": "clear"}).status_code == 200


def test_many_at_once_get_their_own_answers(
    parts: Parts, client: TestClient, picture: Picture
) -> None:
    """Threads tokenize at the same time, where one tokenizer of all would raise."""
    texts = ["clear " * (1 + n % 9) for n in range(60)]
    wanted = [expected(parts, picture(n % 5), text) for n, text in enumerate(texts)]

    async def all_of_them() -> list[Any]:
        async def one(number: int) -> Any:
            body = {"text": texts[number], "image": base(picture(number % 5))}
            return await asyncio.to_thread(client.post, "/predict", json=body)

        return await asyncio.gather(*map(one, range(60)))

    for answer, probabilities in zip(asyncio.run(all_of_them()), wanted, strict=True):
        assert answer.json()["probabilities"] == pytest.approx(probabilities, abs=1e-5)


def test_the_description_lists_what_may_come_back(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert set(described["responses"]) >= {"200", "400", "413", "415", "422", "503", "504"}
    assert set(described["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
