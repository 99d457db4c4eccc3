"""The command line, from end to end on made-up samples."""

import csv
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmfusion import FusionProcessor, TextEncoder
from mmfusion.cli import app
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.testing import tiny_config


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Returns a folder with samples and a small text encoder, saved as a checkpoint."""
    folder = tmp_path_factory.mktemp("cli")
    manifest = draw_shapes(folder / "data", 60, size=32, missing=0.1)
    texts = [line.split(",", 2)[1] for line in manifest.read_text().splitlines()[1:]]
    tokenizer = word_tokenizer(texts)
    text = TextEncoder(
        tiny_config(
            "bert",
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            vocab_size=len(tokenizer),
        )
    )
    text.backbone.save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    return folder


@pytest.fixture(scope="module")
def model(call, workspace):
    output = call(
        "train", workspace / "data" / "manifest.csv", "--output", workspace / "model",
        "--image-encoder", "test_vit", "--text-encoder", workspace / "text", "--no-pretrained",
        "--epochs", 1, "--batch-size", 16,
    )  # fmt: skip
    assert "image+text" in output and "test part" in output
    proposed = f"mmfusion evaluate {workspace / 'model'} {workspace / 'data' / 'manifest.csv'}"
    assert proposed in output
    return workspace / "model"


def test_training_reports_each_modality_alone(model):
    results = json.loads((model / "results.json").read_text())
    assert set(results) == {"image+text", "image", "text"}
    for name in ("image", "text"):
        difference = results[name]["fused_minus_this"]
        assert difference["low"] <= difference["difference"] <= difference["high"]
    assert results["image+text"]["accuracy"]["low"] <= results["image+text"]["accuracy"]["estimate"]


def test_predict_prints_probabilities_and_what_was_missing(call, model, workspace, tmp_path):
    text = tmp_path / "report.txt"
    text.write_text("the colour is red")
    image = workspace / "data" / "00000.png"
    both = json.loads(call("predict", model, "--image", image, "--text", text, "--json"))
    assert (
        sum(both["probabilities"].values()) == pytest.approx(1, abs=1e-5) and both["missing"] == []
    )
    assert set(both["probabilities"]) == {"red circle", "blue circle", "red square", "blue square"}
    alone = call("predict", model, "--image", image)
    assert alone.splitlines()[-1] == "missing: text"
    text.write_text("  \n")
    assert json.loads(call("predict", model, "--image", image, "--text", text, "--json"))[
        "missing"
    ] == ["text"]


def test_evaluate_prints_intervals_and_leaves_no_folder_behind(
    call, model, workspace, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    manifest = workspace / "data" / "manifest.csv"
    measured = json.loads(call("evaluate", model, manifest, "--json", "--part", "all"))
    assert measured["samples"] == 60 and measured["accuracy"]["low"] <= measured["accuracy"]["high"]
    assert re.search(
        r"auroc.*\d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)", call("evaluate", model, manifest)
    )
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_evaluate_leaves_out_what_the_model_was_trained_on(model, workspace, capfd):
    """The figures of the default are those that the training reported for its test part."""
    manifest = workspace / "data" / "manifest.csv"
    rows = json.loads((model / "split.json").read_text())["rows"]
    assert sum(rows.values()) == 60
    measured = {}
    for part in (None, "train", "validation", "test"):
        words = [] if part is None else ["--part", part]
        result = CliRunner().invoke(app, ["evaluate", str(model), str(manifest), "--json", *words])
        measured[part] = json.loads(result.stdout)
        assert result.exit_code == 0
        told = {None: "rows are left out", "test": ""}.get(part, "these figures are too good")
        assert told in result.stderr and bool(result.stderr) is bool(told)
    counts = {part: found["samples"] for part, found in measured.items()}
    assert counts == {None: rows["test"], **rows}
    # The models of each modality alone were trained on the same rows.
    for name in ("image-only", "text-only"):
        assert (model / name / "split.json").read_bytes() == (model / "split.json").read_bytes()
    reported = json.loads((model / "results.json").read_text())["image+text"]
    for part in (None, "test"):
        # Other batches give other last digits.
        assert measured[part]["cross_entropy"]["estimate"] == pytest.approx(
            reported["cross_entropy"]["estimate"], rel=1e-4
        )


def test_the_test_answers_are_stored(model, workspace):
    from mmfusion import load_manifest, split

    with (model / "test_predictions.csv").open() as file:
        stored = list(csv.DictReader(file))
    rows = load_manifest(workspace / "data" / "manifest.csv")
    test = split(rows, seed=0, text="text")["test"]
    names = rows.features["label"].names
    assert [row["label"] for row in stored] == [names[number] for number in test["label"]]
    assert [row["image"] or None for row in stored] == list(test["image"])
    for row in stored:
        assert sum(float(row[f"probability: {name}"]) for name in names) == pytest.approx(1, 1e-4)
    record = json.loads((model / "split.json").read_text())
    assert record["command"] == shlex.join(["mmfusion", *sys.argv[1:]])
    assert record["versions"]["torch"] and record["seed"] == 0


def test_audit_tells_of_leaks_between_splits(call, workspace, tmp_path):
    manifest = workspace / "data" / "manifest.csv"
    assert "60" in call("audit", manifest)
    shutil.copytree(workspace / "data", tmp_path / "data")
    lines = manifest.read_text().splitlines()
    (tmp_path / "data" / "train.csv").write_text("\n".join(lines[:40]))
    (tmp_path / "data" / "test.csv").write_text("\n".join([lines[0], *lines[30:]]))
    found = json.loads(
        call(
            "audit",
            tmp_path / "data" / "train.csv",
            tmp_path / "data" / "test.csv",
            "--json",
            code=1,
        )
    )
    assert not found["ok"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "MODEL", "--image", "nowhere.png"], "nowhere.png"),
        (["predict", "MODEL", "--text", "nowhere.txt"], "nowhere.txt"),
        (["predict", "MODEL"], "--image or --text must be given"),
        (["predict", "nowhere", "--image", "x.png"], "nowhere"),
        (["evaluate", "MODEL", "nowhere.csv"], "nowhere.csv"),
        (
            [
                "train",
                "MANIFEST",
                "--output",
                "out",
                "--image-encoder",
                "resnet19",
                "--no-pretrained",
            ],
            "resnet1",
        ),
        (
            ["train", "MANIFEST", "--output", "out"],
            "--image-encoder or --text-encoder must be given",
        ),
        (
            [
                "train",
                "MANIFEST",
                "--output",
                "out",
                "--image-encoder",
                "test_vit",
                "--no-pretrained",
                "--label",
                "colour",
            ],
            "colour",
        ),
    ],
)
def test_a_mistake_is_answered_in_one_line(words, message, model, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": model, "MANIFEST": workspace / "data" / "manifest.csv"}
    result = CliRunner().invoke(app, [str(names.get(word, word)) for word in words])
    assert result.exit_code == 1
    assert (
        message in result.output and "error:" in result.output and "Traceback" not in result.output
    )


def test_the_traceback_is_there_for_those_who_ask(monkeypatch, tmp_path):
    monkeypatch.setenv("MMFUSION_DEBUG", "1")
    result = CliRunner().invoke(app, ["audit", str(tmp_path / "none.csv")])
    assert isinstance(result.exception, (ValueError, OSError))


def test_a_trained_folder_holds_a_processor(model):
    assert isinstance(FusionProcessor.from_pretrained(model), FusionProcessor)
    assert not [path for path in Path(model).glob("*") if path.suffix in (".bin", ".pkl", ".pt")]


@pytest.mark.parametrize("checked", ["drawn", "manifest"])
def test_export_writes_a_graph_and_says_how_far_it_is(call, model, workspace, tmp_path, checked):
    manifest = workspace / "data" / "manifest.csv"
    options = ["--manifest", manifest, "--samples", 10] if checked == "manifest" else []
    output = call("export", model, tmp_path / "model.pt2", *options)
    assert (tmp_path / "model.pt2").is_file()
    assert (
        ("on 10 samples of" in output)
        if checked == "manifest"
        else ("on 8 drawn samples" in output)
    )
    assert float(re.search(r"by at most (\S+)\.\n", output)[1]) < 1e-4
    assert "must end in .pt2" in call("export", model, tmp_path / "model.bin", code=1)


def test_predict_writes_many_as_it_answers_one(call, model, workspace, tmp_path):
    manifest = workspace / "data" / "manifest.csv"
    said = call(
        "predict",
        model,
        "--manifest",
        manifest,
        "--output",
        tmp_path / "out.csv",
        "--batch-size",
        7,
    )
    assert "60 samples, 0 of them with an error" in said
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    source = list(csv.DictReader(manifest.read_text().splitlines()))
    assert [row["row"] for row in rows] == [str(i) for i in range(1, 61)]
    assert [Path(row["image"]).name for row in rows] == [row["image"] for row in source]
    for index in (0, 31):
        text = tmp_path / "text.txt"
        text.write_text(source[index]["text"])
        options = (
            ["--image", manifest.parent / source[index]["image"]] if source[index]["image"] else []
        )
        alone = json.loads(
            call(
                "predict",
                model,
                *options,
                *(["--text", text] if source[index]["text"] else []),
                "--json",
            )
        )
        for name, probability in alone["probabilities"].items():
            assert float(rows[index][f"p_{name}"]) == pytest.approx(probability, abs=2e-6)
        assert rows[index]["predicted"] == max(
            alone["probabilities"], key=alone["probabilities"].get
        )
        assert rows[index]["missing"].split() == alone["missing"]
    (workspace / "data" / "broken.png").write_bytes(b"no picture")
    other = workspace / "data" / "other.csv"
    other.write_text("image,text\nbroken.png,the colour is red\n,the colour is blue\n")
    said = call("predict", model, "--manifest", other, "--output", tmp_path / "other.csv", code=1)
    assert "2 samples, 1 of them with an error" in said
    rows = list(csv.DictReader((tmp_path / "other.csv").read_text().splitlines()))
    assert (
        "broken.png" in rows[0]["error"] and rows[0]["predicted"] == "" and rows[1]["error"] == ""
    )
    assert "group" not in rows[0]
    assert "must be given together" in call("predict", model, "--manifest", other, code=1)
    assert "must be another file" in call(
        "predict", model, "--manifest", other, "--output", other, code=1
    )


def test_compare_needs_one_command(call, workspace, tmp_path):
    output = call(
        "compare", workspace / "data" / "manifest.csv", "--output", tmp_path / "out",
        "--image-encoder", "test_vit", "--text-encoder", workspace / "text", "--no-pretrained",
        "--folds", 2, "--seeds", 1, "--rows", "text", "--rows", "image", "--rows", "late",
    )  # fmt: skip
    assert "using helps" in output.replace("\n", " ") or "Fusing" in output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == ["text only", "image only", "late"]
    assert results["title"] == "manifest"
    assert (tmp_path / "out" / "report.html").is_file()


def test_compare_reads_weights_from_a_file_and_text_from_columns(call, workspace, tmp_path):
    import timm
    import torch

    lines = ["image,sex,age,label,group"]
    for number in range(40):
        picture = workspace / "data" / f"{number:05d}.png"
        lines.append(f"{picture},{('male', 'female')[number % 2]},{number},{number % 2},{number}")
    manifest = workspace / "data" / "columns.csv"
    manifest.write_text("\n".join(lines))
    weights = timm.create_model("test_vit", pretrained=False).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    call(
        "compare", manifest, "--output", tmp_path / "out", "--template", "{sex}, {age} years",
        "--image-encoder", "test_vit", "--image-weights", tmp_path / "weights.pth",
        "--text-encoder", workspace / "text", "--no-pretrained",
        "--folds", 2, "--seeds", 1, "--rows", "tfidf", "--rows", "image",
    )  # fmt: skip
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["settings"]["template"] == "{sex}, {age} years"
    table = {row["name"]: row for row in results["rows"]}
    # The sex tells the label.
    assert table["TF-IDF + regression"]["auroc"]["estimate"] > 0.95
    wrong = call("compare", manifest, "--template", "{sx}", "--text-encoder", "x", code=1)
    assert "Did you mean 'sex'?" in wrong.replace("\n", " ")


def test_a_template_goes_on_with_the_model(call, workspace, tmp_path):
    lines = ["sex,age,label,group"]
    lines += [f"{('male', 'female')[n % 2]},{n},{n % 2},{n}" for n in range(40)]
    manifest = tmp_path / "columns.csv"
    manifest.write_text("\n".join(lines))
    call(
        "train", manifest, "--output", tmp_path / "model", "--text-encoder", workspace / "text",
        "--no-pretrained", "--train", "frozen", "--template", "{sex}, {age} years",
    )  # fmt: skip
    assert FusionProcessor.from_pretrained(tmp_path / "model").template == "{sex}, {age} years"
    call("predict", tmp_path / "model", "--manifest", manifest, "--output", tmp_path / "p.csv")
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 41
    shown = call("evaluate", tmp_path / "model", manifest, "--json", "--part", "all")
    assert json.loads(shown)["samples"] == 40


def test_several_labels_are_matched_by_their_columns(call, workspace, tmp_path):
    """The evaluation finds the columns by the names of the model, in whatever order they stand."""
    cells = [(f"finding {n}", n % 2, n // 2 % 2, n) for n in range(40)]
    manifest, turned = tmp_path / "columns.csv", tmp_path / "turned.csv"
    rows = "".join(f"{text},{mass},{fluid},{group}\n" for text, mass, fluid, group in cells)
    manifest.write_text(f"text,mass,fluid,group\n{rows}")
    rows = "".join(f"{text},{fluid},{mass},{group}\n" for text, mass, fluid, group in cells)
    turned.write_text(f"text,fluid,mass,group\n{rows}")
    words = [
        "train", manifest, "--output", tmp_path / "model", "--text-encoder", workspace / "text",
        "--no-pretrained", "--label", "mass", "--label", "fluid", "--epochs",
    ]  # fmt: skip
    call(*words, 1)
    shown = [call("evaluate", tmp_path / "model", one, "--json") for one in (manifest, turned)]
    assert json.loads(shown[0]) == json.loads(shown[1])
    # Another training in the same folder needs the user's word.
    assert "arguments.num_train_epochs was 1 and is 2" in call(*words, 2, code=1).replace("\n", " ")
    call(*words, 2, "--overwrite")


def test_the_fit_of_the_pictures_goes_on_with_the_model(call, workspace, tmp_path):
    call(
        "train", workspace / "data" / "manifest.csv", "--output", tmp_path, "--fit", "pad",
        "--image-encoder", "test_vit", "--no-pretrained", "--train", "frozen",
    )  # fmt: skip
    assert FusionProcessor.from_pretrained(tmp_path).fit == "pad"
