"""`audit`: every planted fault is found, and a clean data set has none."""

import json
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from mmfusion.data.audit import Audit, Finding, audit
from mmfusion.data.manifest import load_manifest
from mmfusion.data.splits import split

Rows = dict[str, list[object]]


def parts(**splits: Rows) -> dict[str, datasets.Dataset]:
    return {name: datasets.Dataset.from_dict(rows) for name, rows in splits.items()}


def kinds(report: Audit, severity: str) -> list[str]:
    return [finding.kind for finding in report.findings if finding.severity == severity]


def found(report: Audit, kind: str) -> Finding:
    (finding,) = (finding for finding in report.findings if finding.kind == kind)
    return finding


def picture(path: Path, seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_clean(tmp_path: Path) -> None:
    images: list[object] = [picture(tmp_path / f"{number}.png", number) for number in range(4)]
    report = audit(
        parts(
            train={
                "image": images[:2],
                "text": ["one two", "three"],
                "label": ["a", "b"],
                "group": [1, 2],
            },
            test={
                "image": images[2:],
                "text": ["four", "five"],
                "label": ["a", "b"],
                "group": [3, 4],
            },
        )
    )
    assert report.ok
    assert {finding.kind for finding in report.findings} == {"class_balance", "longest_text"}
    assert report.findings[0].message == "train: a 1 (50%), b 1 (50%)."


def test_leaks_of_groups_and_texts() -> None:
    report = audit(
        parts(
            train={"text": ["Clear lungs.", "clear LUNGS", "x"], "group": ["p", "p", None]},
            test={"text": ["clear lungs", "...", "y"], "group": ["p", "q", None]},
        )
    )
    assert kinds(report, "error") == ["group_across_splits", "text_across_splits"]
    assert found(report, "group_across_splits").examples == ("'p' in train[0], test[0], train[1]",)
    assert found(report, "text_across_splits").count == 1
    assert found(report, "text_within_split").count == 1
    assert not kinds(audit(parts(a={"text": ["x"]}, b={"text": ["x"]}), text=None), "error")


def test_pictures_are_compared_by_their_pixels(tmp_path: Path) -> None:
    original = picture(tmp_path / "a.png", 0)
    with Image.open(original) as image:
        image.convert("RGB").save(tmp_path / "renamed.bmp")
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png")
        Image.frombytes("L", (16, 4), image.tobytes()).save(tmp_path / "reshaped.png")
    train: list[object] = [original, str(tmp_path / "turned.png"), original, None]
    test: list[object] = [str(tmp_path / "renamed.bmp"), str(tmp_path / "reshaped.png")]
    report = audit(parts(train={"image": train}, test={"image": test}))
    leak = found(report, "image_across_splits")
    assert leak.severity == "error"
    assert leak.count == 1
    assert "renamed.bmp" in leak.examples[0]
    assert "reshaped.png" not in leak.examples[0]
    assert found(report, "image_within_split").examples[0].startswith("train[0]")
    assert found(report, "missing_image").message == "1 of 4 rows of train have no image."


def test_unreadable_pictures(tmp_path: Path) -> None:
    good = Path(picture(tmp_path / "good.png", 0))
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    names: list[object] = [
        str(tmp_path / name) for name in ("good.png", "cut.png", "empty.png", "cut.png")
    ]
    report = audit(datasets.Dataset.from_dict({"image": names}))
    finding = found(report, "unreadable_image")
    assert not report.ok
    assert finding.count == 3
    assert finding.examples[0].startswith("all[1], all[3]: ")
    assert "cut.png" in finding.examples[0]
    assert "empty.png" in finding.examples[1]


def test_pictures_already_in_memory() -> None:
    rows = datasets.Dataset.from_dict({"image": [Image.new("L", (3, 3), 7)] * 2})
    assert found(audit(rows), "image_within_split").count == 1


def test_rows_with_nothing() -> None:
    report = audit(datasets.Dataset.from_dict({"image": [None, None], "text": ["a", " "]}))
    assert found(report, "nothing_to_classify").examples == ("all[1]",)
    assert found(report, "empty_text").count == 1


def test_labels() -> None:
    features = datasets.Features(label=datasets.ClassLabel(names=["no", "yes"]))
    train = datasets.Dataset.from_dict({"label": [0, 1, 1, 1]}, features=features)
    report = audit({"train": train, "test": train.select([0])})
    assert [finding.message for finding in report.findings if finding.kind == "class_balance"] == [
        "train: no 1 (25%), yes 3 (75%).",
        "test: no 1 (100%), yes 0 (0%).",
    ]
    assert found(report, "absent_class").examples == ("'yes' in test",)
    several = datasets.Dataset.from_dict({"label": [[1.0, 0.0], [float("nan"), 1.0], [1.0, 0.0]]})
    assert (
        found(audit(several), "class_balance").message == "all: label 0 2 (67%), label 1 1 (33%)."
    )


class Letters:
    """The tokenizer that makes each letter a token."""

    model_max_length = 4

    def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def test_lengths() -> None:
    rows = datasets.Dataset.from_dict({"text": [None, "two words", "one"] + ["x"] * 300})
    words = found(audit(rows), "longest_text")
    assert (words.count, words.examples[0]) == (2, "all[1]: 2 words")
    report = audit(rows, tokenizer=Letters())
    assert found(report, "longest_text").count == 9
    assert found(report, "text_too_long").examples == ("all[1]: 9 tokens",)
    # The limit of a processor may be another one.
    shorter = found(audit(rows, tokenizer=Letters(), max_length=2), "text_too_long")
    assert shorter.count == 2 and "longer than 2 tokens" in shorter.message


def test_result_is_json_and_readable() -> None:
    report = audit(parts(train={"text": ["x"]}, test={"text": ["x"]}))
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert report.to_dict()["ok"] is False
    assert str(report).splitlines()[0].startswith("error    text_across_splits")
    assert str(Audit(())) == "nothing found"


@pytest.mark.parametrize("splits", [[], {"train": ["a"]}, "train"])
def test_wrong_type(splits: object) -> None:
    with pytest.raises(TypeError, match=r"splits must be a datasets\.Dataset or a mapping"):
        audit(splits)  # type: ignore[arg-type]


@pytest.mark.parametrize("splits", [{}, parts(train={"text": []})])
def test_nothing_to_audit(splits: dict[str, datasets.Dataset]) -> None:
    with pytest.raises(ValueError, match="got 0 rows"):
        audit(splits)


def test_misspelt_column() -> None:
    with pytest.raises(ValueError, match=r"got 'txt'. Did you mean 'text'\?"):
        audit(parts(train={"text": ["x"]}), text="txt")


def test_real_splits() -> None:
    data = os.environ.get("MMFUSION_DATA")
    if not data:
        pytest.skip("MMFUSION_DATA names no folder of real X-rays")
    rows = load_manifest(
        Path(data, "covid_cxr/labels.csv"), text="notes", label=None, group="patient"
    )
    assert audit(split(rows)).ok
    torn = audit({"train": rows.select(range(0, 300, 2)), "test": rows.select(range(1, 300, 2))})
    assert kinds(torn, "error") == ["group_across_splits", "text_across_splits"]


def test_a_group_is_the_same_in_every_type() -> None:
    columns = [[7, 8], [7.0, None], ["7.0", "NA"], ["9", "NA"]]
    parts = [
        datasets.Dataset.from_dict({"group": column, "text": [None, None]}) for column in columns
    ]
    for other, count in zip(parts[1:], (1, 1, 0), strict=True):
        found = audit({"train": parts[0], "test": other}).findings
        shared = [finding.count for finding in found if finding.kind == "group_across_splits"]
        assert sum(shared) == count


def test_the_table_for_people_holds_no_control_characters() -> None:
    """Groups, classes and names of splits come from files, and a terminal obeys such characters."""
    rows = datasets.Dataset.from_dict(
        {"group": ["a\x1b[31m"] * 2, "text": [None] * 2, "label": ["b\x1b[2J\nok", "\x9b1m"]}
    )
    report = audit({"train\x07": rows, "test": rows})
    shown = str(report)
    assert "\\x1b[2J\\nok" in shown
    assert "train\\x07" in shown
    assert all(line.isprintable() for line in shown.split("\n"))
