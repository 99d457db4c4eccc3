"""The comparison from end to end: files, verdict, resumption, templates, errors."""

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress

import mmfusion.training.compare as compare_module
from mmfusion import Augmentation, ComparisonRow, ImageEncoder, TextEncoder, compare, load_manifest
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_config
from mmfusion.training.compare_folds import Trainings

WORKERS = Path(__file__).parents[1] / "workers"
WIDTHS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """120 samples: the picture tells whether it is bright, the text which colour it has.

    Encoders with random weights see both, and the label is both.
    """
    folder = tmp_path_factory.mktemp("samples")
    generator = np.random.default_rng(0)
    lines = ["image,text,label,group"]
    for number in range(120):
        bright, colour = number % 2, ("red", "blue")[number // 2 % 2]
        # Some pictures deceive, so that no model is right about all samples.
        shown = bright if generator.random() < 0.9 else 1 - bright
        pixels = generator.integers(0, 90, (32, 32)) + 110 * shown
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,it is {colour} {number},{colour} {bright},{number // 2}")
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines))
    return path


def encoders_of(texts) -> dict:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(text for text in texts if text)
    image = ImageEncoder(tiny_config("vit", **WIDTHS, image_size=32, patch_size=8))
    text = TextEncoder(tiny_config("bert", **WIDTHS, vocab_size=len(tokenizer)))
    return {
        "image_encoder": image.freeze(), "text_encoder": text.freeze(), "tokenizer": tokenizer,
    }  # fmt: skip


SMALL = {"folds": 2, "seeds": 2, "resamples": 200, "progress": False}


@pytest.fixture(scope="module")
def compared(manifest, tmp_path_factory):
    """A comparison of four rows, with its folder and arguments."""
    rows = load_manifest(manifest)
    arguments = encoders_of(rows["text"]) | SMALL | {"rows": ["tfidf", "image", "text", "concat"]}
    folder = tmp_path_factory.mktemp("compared")
    return compare(manifest, folder, notes=["A <note>."], **arguments), folder, arguments


def test_it_finds_that_fusing_helps_where_each_modality_tells_half(compared):
    """The text tells the colour, the picture the shape, and the label is both."""
    comparison, _, _ = compared
    table = {row["name"]: row for row in comparison.results["rows"]}
    assert table["concat"]["accuracy"]["estimate"] > 0.8
    assert table["text only"]["accuracy"]["estimate"] < 0.7
    assert comparison.verdict.startswith("Fusing helped: ")
    # Both modalities have a share, and together they explain the AUROC above .5.
    shares = table["concat"]["shares"]
    assert min(shares["image"], shares["text"]) > 0.1
    assert shares["image"] + shares["text"] == pytest.approx(
        table["concat"]["auroc"]["estimate"] - 0.5
    )


def test_it_writes_a_report_that_needs_no_other_file(compared):
    comparison, folder, _ = compared
    written = json.loads((folder / "results.json").read_text())
    assert written == comparison.results
    page = (folder / "report.html").read_text()
    assert "&lt;note&gt;" in page and comparison.verdict in page
    # Every picture is inside, and nothing else is asked for.
    assert set(re.findall(r'src="([^,"]*)', page)) == {"data:image/svg+xml;base64"}
    assert page.count("<figure>") == 4 and "http" not in page.replace("http-equiv", "")
    report = (folder / "report.md").read_text()
    for name in re.findall(r"\]\((\w+\.svg)\)", report):
        assert (folder / name).read_text().lstrip().startswith("<?xml")
    for row in written["rows"]:
        assert f"| {row['name']} | {row['accuracy']['estimate']:.3f}" in report


def test_the_printed_table_fits_eighty_columns(compared):
    comparison, _, _ = compared
    shown = io.StringIO()
    comparison.print(Console(file=shown, width=80))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for row in comparison.results["rows"]:
        (line,) = (one for one in lines if one.startswith(row["name"]))
        assert f"{row['auroc']['estimate']:.3f}" in line
        assert f"{row['auroc']['low']:.3f} to {row['auroc']['high']:.3f}" in line


def test_a_second_call_trains_nothing(compared, manifest, monkeypatch):
    comparison, folder, arguments = compared
    monkeypatch.setattr(Trainings, "_train", lambda *_: pytest.fail("trained again"))
    again = compare(manifest, folder, notes=["A <note>."], **arguments)
    assert again.results | {"seconds": 0} == comparison.results | {"seconds": 0}
    # One more row is trained, and nothing else.
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        compare(manifest, folder, **arguments | {"rows": ["tfidf", "late"]})


def test_a_template_writes_the_text(tmp_path):
    generator = np.random.default_rng(0)
    lines = ["sex,age,label,group"]
    for number in range(80):
        age = generator.integers(20, 90)
        label = "old" if age + generator.normal(0, 5) > 55 else "young"
        cell = "" if number % 9 == 0 else age
        lines.append(f"{('male', 'female')[number % 2]},{cell},{label},{number}")
    manifest = tmp_path / "rows.csv"
    manifest.write_text("\n".join(lines))
    template = "{sex}, {age} years"
    rows = load_manifest(manifest, image=None, template=template)
    arguments = encoders_of(rows["text"]) | SMALL
    arguments |= {"image_encoder": None, "rows": ["majority", "text"], "template": template}
    comparison = compare(manifest, tmp_path / "out", **arguments)
    assert "nothing is said about fusing" in comparison.verdict
    assert comparison.results["settings"]["template"] == template
    # Rows that were read give the same, as long as the columns are there.
    again = compare(rows.remove_columns("text"), tmp_path / "again", **arguments)
    assert again.results["rows"][1]["auroc"] == comparison.results["rows"][1]["auroc"]
    with pytest.raises(ValueError, match="template must name columns"):
        compare(rows, tmp_path / "x", **arguments | {"template": "{ag}"})


def test_texts_that_tie_many_rows_together_are_told(manifest, tmp_path):
    rows = load_manifest(manifest)
    same = rows.remove_columns("text").add_column("text", ["male", "female", None] * 40)
    arguments = encoders_of(["male female"]) | SMALL | {"rows": ["text"]}
    told = compare(same, tmp_path / "a", **arguments)
    assert "Equal texts may be in two folds" in told.results["notes"][-1]
    assert told.results["settings"]["equal_texts_in_one_fold"] is False
    with pytest.raises(ValueError, match="the parts must be reachable"):
        compare(same, tmp_path / "b", keep_texts=True, **arguments)


def test_rows_with_options_and_a_published_figure(manifest, tmp_path):
    rows = load_manifest(manifest)
    mine = [
        "image",
        ComparisonRow("mapped", fusion="late", mapper="mlp", published=0.79),
    ]
    arguments = encoders_of(rows["text"]) | SMALL | {"rows": mine, "seeds": 1}
    arguments["options"] = {"num_train_epochs": 2, "per_device_train_batch_size": 32}
    comparison = compare(rows, tmp_path, **arguments)
    assert comparison.results["rows"][1]["mapper"] == {"name": "mlp"}
    assert "| 0.79 |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "curves.svg").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds must be at least 2"),
        ({"seeds": 0}, "seeds and resamples at least 1"),
        ({"rows": ["imgae"]}, "Did you mean 'image'"),
        ({"image_encoder": None, "augment": Augmentation("xray")}, "no row sees pictures"),
        ({"image_encoder": None, "text_encoder": None}, "must be given, got neither"),
    ],
)
def test_mistakes_are_answered(options, message, manifest, tmp_path):
    rows = load_manifest(manifest)
    with pytest.raises(ValueError, match=message):
        compare(rows, tmp_path, **encoders_of(rows["text"]) | SMALL | options)


@pytest.mark.parametrize("absent", ["matplotlib", "statsmodels"])
def test_without_a_package_of_the_report_nothing_is_trained(
    absent, manifest, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "mmfusion.training.compare_plots.find_spec", lambda name: None if name == absent else name
    )
    monkeypatch.setattr(Trainings, "_train", lambda *_: pytest.fail("trained in vain"))
    rows = load_manifest(manifest)
    with pytest.raises(ImportError, match=rf"{absent} must be .*mmfusion\[report\]"):
        compare(rows, tmp_path, **encoders_of(rows["text"]) | SMALL)


def test_a_comparison_says_nothing_by_itself(manifest, tmp_path, caplog):
    rows = load_manifest(manifest)
    arguments = encoders_of(rows["text"]) | SMALL | {"rows": ["image"], "seeds": 1}
    compare(rows, tmp_path, **arguments)
    assert [record.message for record in caplog.records] == []


def test_it_says_which_fold_is_done(tmp_path, capsys, monkeypatch):
    """A file gets one line for each fold. A terminal gets a bar with the row that is trained."""
    rows = {"text": ["cough", "none"] * 20, "label": ["ill", "well"] * 20}
    rows["group"] = [str(number) for number in range(40)]
    arguments = {"text_encoder": encoders_of(rows["text"])["text_encoder"], "rows": ["majority"]}
    arguments |= SMALL | {"progress": True, "title": "try", "keep_texts": False}
    compare(rows, tmp_path / "file", **arguments)
    assert capsys.readouterr().err.splitlines() == [
        f"try: seed {seed} of 2, fold {fold} of 2 is done" for seed in (1, 2) for fold in (1, 2)
    ]
    shown = []
    terminal = Console(stderr=True, force_terminal=True)
    monkeypatch.setattr(compare_module, "error_console", lambda: terminal)
    monkeypatch.setattr(
        Progress, "update", lambda _, task, **told: shown.append(told["description"])
    )
    compare(rows, tmp_path / "terminal", **arguments)
    assert "try: seed 2 of 2, fold 1 of 2, majority class" in shown
    assert " is done" not in capsys.readouterr().err


def test_samples_must_have_labels_and_the_modality(manifest, tmp_path):
    rows = load_manifest(manifest)
    arguments = encoders_of(rows["text"]) | SMALL
    with pytest.raises(ValueError, match="samples must have a column 'label'"):
        compare(rows.remove_columns("label"), tmp_path, **arguments)
    with pytest.raises(ValueError, match="Leave text_encoder out"):
        compare(rows.remove_columns("text"), tmp_path, **arguments)


@pytest.mark.xdist_group("processes")
def test_killed_ten_times_it_ends_with_the_same_results(tmp_path, run):
    last = run(
        sys.executable, str(WORKERS / "kill_and_compare.py"), str(tmp_path), "10"
    ).splitlines()[-1]
    result = json.loads(last)
    assert result["different"] == [] and result["killed"] == 10
    assert result["rows"] == 5
