"""The command `explain`, on a small model with awkward class names."""

import json

import pytest
from typer.testing import CliRunner

from mmfusion.cli import app


@pytest.fixture
def files(small, tmp_path):
    text = tmp_path / "report.txt"
    text.write_text("clear lungs\n<script>alert(1)</script>")
    return ("--image", small / "3.png", "--text", text)


def test_the_page_is_written_and_the_answer_is_that_of_predict(call, small, files, tmp_path):
    page = tmp_path / "new" / "page.html"
    said = call("explain", small / "model", *files, "--output", page)
    content = page.read_text(encoding="utf-8")
    assert "<script" not in content and "&lt;script&gt;" in content
    assert str(page) in said.replace("\n", "")
    predicted = json.loads(call("predict", small / "model", *files, "--json"))["probabilities"]
    found = json.loads(call("explain", small / "model", *files, "--json"))
    assert found["probabilities"] == pytest.approx(predicted, abs=1e-5)
    assert found["target"] == max(predicted, key=predicted.get)
    assert [word["text"] for word in found["words"]][:2] == ["clear", "lungs"]
    # A class name that a terminal would obey is written as an escape.
    chosen = call("explain", small / "model", *files, "--output", page, "--target", "\x1b[31mred")
    assert chosen.startswith(r"\x1b[31mred")


def test_options_reach_the_library(call, small, files, tmp_path):
    found = json.loads(
        call(
            "explain", small / "model", *files, "--json", "--target", "well",
            "--method", "rollout", "--words", "occlusion", "--output", tmp_path / "page.html",
        )
    )  # fmt: skip
    assert (found["target"], found["word_method"]) == ("well", "occlusion")
    assert found["heat"][0]["method"] == "rollout" and (tmp_path / "page.html").is_file()


def test_standard_input_is_read(small):
    result = CliRunner().invoke(
        app, ["explain", str(small / "model"), "--text", "-", "--json"], input="no effusion"
    )
    found = json.loads(result.output)
    assert found["missing"] == ["image"] and found["text"] == "no effusion"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "IMAGE"], "--output or --json must be given"),
        (["--json"], "--image or --text must be given"),
        (["--image", "nowhere.png", "--json"], "--image must be a file"),
        (["--image", "IMAGE", "--json", "--method", "gradcam"], "Did you mean 'grad_cam'"),
        (["--image", "IMAGE", "--json", "--target", "ill"], "target must be one of"),
        (["--image", "IMAGE", "--output", "FOLDER"], "--output must be a file to write"),
    ],
)
def test_mistakes_are_one_line(call, small, options, message):
    places = {"IMAGE": small / "3.png", "FOLDER": small}
    words = [places.get(word, word) for word in options]
    said = call("explain", small / "model", *words, code=1)
    assert message in " ".join(said.split()) and "Traceback" not in said
