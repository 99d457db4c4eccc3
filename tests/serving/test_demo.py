"""The page shows what `explain` says, and a visitor can use it in a browser."""

import functools
import io
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmfusion import FusionClassifier, FusionProcessor, ImageError, explain
from mmfusion.data.toy import word_tokenizer
from mmfusion.serving.demo import show
from mmfusion.serving.limits import Limits
from mmfusion.serving.phantom import phantom_examples, phantom_parts
from mmfusion.testing import tiny_classifier

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))

from images_samples import dicom, written

Parts = tuple[FusionClassifier, FusionProcessor]
Picture = Callable[..., bytes]


class Found:
    """A mask of the upper half, which is doubted."""

    reasons = ("it is upside down",)

    def __init__(self, picture: Image.Image) -> None:
        self.mask = np.zeros((picture.height, picture.width), bool)
        self.mask[: picture.height // 2] = True


def texts(notes: Any, warning: bool) -> list[str]:
    return [text for text, is_warning in notes if is_warning == warning]


def test_it_shows_what_explain_says(parts: Parts, picture: Picture) -> None:
    content = picture(4)
    shown = show(parts, [content], "no effusion", target="LABEL_1", segmenter=Found)
    found = explain(*parts, Image.open(io.BytesIO(content)), "no effusion", target="LABEL_1")
    assert shown.probabilities == pytest.approx(dict(found.probabilities))
    assert "<h1>LABEL_1" in shown.page and "no" in shown.page
    assert texts(shown.notes, True) == ["This may be no frontal chest X-ray: it is upside down"]
    assert len(texts(shown.notes, False)) == 3
    assert shown.lungs is not None
    marked, plain = np.asarray(shown.lungs), np.asarray(Image.open(io.BytesIO(content)))
    half = len(plain) // 2
    assert (marked[half:] == plain[half:, :, None]).all()
    assert (marked[:half] != plain[:half, :, None]).any(-1).all()


def test_what_is_missing_or_cut_is_a_warning(parts: Parts) -> None:
    shown = show(parts, [], "clear lungs " * 9, segmenter=Found)
    assert texts(shown.notes, True) == [
        "The image is missing.",
        "The text is longer than the model reads: a part of it was cut.",
    ]
    assert shown.lungs is None


def test_a_calibrated_model_says_so(parts: Parts) -> None:
    model, processor = parts
    model.config.temperature = 2.5
    try:
        shown = show((model, processor), [], "clear")
    finally:
        model.config.temperature = 1.0
    assert any("divided by 2.50" in text for text in texts(shown.notes, False))


@pytest.mark.parametrize(
    ("files", "text", "says"),
    [
        ([], "  ", "Give a picture, a text, or both"),
        ([], "a" * 11, "at most 10 characters, got 11"),
        ([b"x", b"y"], None, "at most 1 for this model, got 2"),
        ([b"x"], None, "picture 1 must be one of PNG"),
    ],
)
def test_what_cannot_be_shown_is_explained(
    parts: Parts, files: list[bytes], text: str | None, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        show(parts, files, text, limits=Limits(most_characters=10))


def test_a_model_of_one_modality_and_a_template(picture: Picture) -> None:
    model = tiny_classifier(image=None, text="bert").eval()
    words = word_tokenizer(["lungs clear"])
    processor = FusionProcessor(words, template="lungs {state}")
    shown = show((model, processor), [], '{"state": "clear"}')
    assert "lungs" in shown.page and "clear" in shown.page
    for text in ("clear", "[1]"):
        with pytest.raises(ValueError, match="Write one JSON object with the columns"):
            show((model, processor), [], text)
    with pytest.raises(ValueError, match="image must be left out: this model reads text"):
        show((model, processor), [picture()], None)


def test_too_many_pixels_are_refused(parts: Parts, picture: Picture) -> None:
    with pytest.raises(ImageError, match="99 pixels"):
        show(parts, [picture()], None, limits=Limits(most_pixels=99))


def test_the_shipped_model_knows_its_examples() -> None:
    parts = phantom_parts()
    answers = []
    for path, text in phantom_examples():
        found = show(parts, [path.read_bytes()], text).probabilities
        answers.append(max(found, key=lambda name: found[name]))
    assert answers == ["no finding", "opacity", "effusion", "large heart"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yields a tab of a browser that shows the page of `mmfusion demo`."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    log = tmp_path_factory.mktemp("demo") / "log.txt"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "mmfusion", "demo", "--port", "0"]
        # A shell that runs the tests in the background ignores Ctrl-C for all of them.
        heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, stdout=file, stderr=file, preexec_fn=heeds)
    try:
        address = None
        while address is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
            address = re.search(r"http://[\d.]+:\d+", log.read_text())
        with sync_playwright() as playwright:
            opened = playwright.chromium.launch(
                executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            tab = opened.new_page(viewport={"width": 1280, "height": 1400})
            tab.set_default_timeout(60_000)
            asked: list[str] = []
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(address[0])
            tab.get_by_role("button", name="Classify").wait_for()
            yield tab
            own = ("data:", "blob:", address[0])
            assert not [url for url in asked if not url.startswith(own)]
            opened.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    first, *rest = log.read_text().splitlines()
    assert first == f"a synthetic model: {address[0]}/ (Ctrl-C stops it)"
    assert rest in ([], ["Keyboard interruption in main thread... closing server."]), rest


def test_a_visitor_classifies_an_example_in_a_browser(page: Any) -> None:
    assert page.get_by_text("synthetic pictures and made-up notes").is_visible()
    page.get_by_role("button", name="Synthetic example 2").click()
    page.get_by_text("example-1").wait_for()
    page.get_by_role("button", name="Classify").click()
    why = page.frame_locator("iframe.mm-page")
    assert why.locator("h1").inner_text().startswith("opacity:")
    assert why.locator(".word").count() > 5 and why.locator("img").count() == 3
    assert not page.get_by_text("This may be no frontal chest X-ray").is_visible()
    page.get_by_role("tab", name="Lungs").click()
    page.locator("img[src*='/file=']").first.wait_for()


def test_a_visitor_drops_a_dicom_file_in_a_browser(page: Any, tmp_path: Path) -> None:
    with Image.open(phantom_examples()[2][0]) as opened:
        pixels = 16 * np.asarray(opened.convert("L"), dtype=np.uint16)
    (tmp_path / "x.dcm").write_bytes(written(dicom(pixels, BitsStored=12)))
    page.reload()
    page.get_by_role("button", name="Classify").wait_for()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "x.dcm")
    page.get_by_label("x.dcm").or_(page.get_by_text(".dcm", exact=True)).first.wait_for()
    page.locator("textarea").first.fill("<b>bold</b> <script>alert(1)</script>")
    page.get_by_role("button", name="Classify").click()
    why = page.frame_locator("iframe.mm-page")
    why.locator("h1").wait_for()
    assert "<b>bold</b>" in why.locator(".text").inner_text()
    assert why.locator("b, script").count() == 0


def test_a_damaged_picture_is_told_in_a_browser(page: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(phantom_examples()[0][0].read_bytes()[:4000])
    page.reload()
    page.get_by_role("button", name="Classify").wait_for()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "broken.png")
    page.get_by_text("broken").wait_for()
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("a complete, undamaged picture").first.wait_for()


def test_a_picture_that_is_no_x_ray_is_told_in_a_browser(
    page: Any, tmp_path: Path, picture: Picture
) -> None:
    (tmp_path / "noise.png").write_bytes(picture(size=(90, 90)))
    page.reload()
    page.get_by_role("button", name="Classify").wait_for()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "noise.png")
    page.get_by_text("noise").wait_for()
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("This may be no frontal chest X-ray").first.wait_for()
    assert page.get_by_text("The text is missing.").is_visible()
