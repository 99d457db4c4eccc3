"""Several pictures per sample and texts in windows, through every road that a sample can take."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from mmfusion import (
    ComparisonRow,
    FusionClassifier,
    FusionProcessor,
    compare,
    evaluate,
    export_model,
    fit,
    load_manifest,
    predict_stream,
    training_arguments,
)
from mmfusion import testing as kit
from mmfusion.cli import app
from mmfusion.data.collate import FusionCollator
from mmfusion.data.toy import word_tokenizer
from mmfusion.model.fusion import FUSIONS
from mmfusion.training.feature_cache import cache_features

CLASSES = ("dark", "light", "striped")
STRATEGIES = [
    ("concat", "linear"),
    ("joint", "cross_attention"),
    ("cross_attention", "cross_attention"),
    ("mmtm", "mlp"),
    ("bottleneck", "linear"),
    ("late", "linear"),
    ("guarded", "linear"),
]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a table of 36 studies. The lateral picture tells the class, as does a late word."""
    folder = tmp_path_factory.mktemp("studies")
    draw = np.random.default_rng(0)
    rows = []
    for number in range(36):
        label = number % 3
        lateral = np.full((32, 32), 60 + 60 * label, dtype=np.uint8)
        lateral[:: 2 + label] += draw.integers(0, 20, dtype=np.uint8)
        lateral[0, 0] = number
        frontal = draw.integers(0, 255, (32, 32)).astype(np.uint8)
        paths = []
        for view, pixels in (("f", frontal), ("l", lateral)):
            paths.append(f"{number}{view}.png")
            Image.fromarray(pixels).save(folder / paths[-1])
        filler = " ".join(f"w{draw.integers(0, 9)}" for _ in range(number % 5 * 6))
        rows.append(
            {
                "frontal": "" if number % 7 == 6 else paths[0],
                "lateral": "" if number % 11 == 10 else paths[1],
                "text": "" if number % 13 == 12 else f"{filler} {CLASSES[label]} end".strip(),
                "label": CLASSES[label],
                "group": f"p{number}",
            }
        )
    pd.DataFrame(rows).to_csv(folder / "studies.csv", index=False)
    return folder / "studies.csv"


@pytest.fixture(scope="module")
def rows(manifest: Path) -> datasets.Dataset:
    return load_manifest(manifest, image=["frontal", "lateral"])


@pytest.fixture(scope="module")
def tokenizer(rows: datasets.Dataset) -> PreTrainedTokenizerFast:
    return word_tokenizer([text or "" for text in rows["text"]])


def made(
    tokenizer: Any, fusion: Any = "concat", mapper: Any = "linear", image: str = "timm_vit"
) -> tuple[FusionClassifier, FusionProcessor]:
    """Returns a classifier of two pictures and its processor, whose windows have 8 tokens."""
    config = kit.tiny_classifier(fusion, mapper, image, "bert").config
    config.num_views = 2
    config.id2label = dict(enumerate(CLASSES))
    model = FusionClassifier(config).eval()
    kit.redraw_parameters(model, 0)
    processor = FusionProcessor.from_encoders(
        model.image_encoder,
        model.text_encoder,
        tokenizer=tokenizer,
        max_length=8,
        num_views=2,
        long_text="chunk",
    )
    return model, processor


def logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.mark.parametrize(("fusion", "mapper"), STRATEGIES)
def test_cached_is_uncached(
    fusion: str, mapper: str, tokenizer: Any, rows: datasets.Dataset, tmp_path: Path
) -> None:
    model, processor = made(tokenizer, fusion, mapper)
    model.freeze("image").freeze("text")
    stored, collate = cache_features(model, processor, rows, tmp_path)
    # Windows are joined behind the encoder. Strategies inside both towers act before that.
    inside = FUSIONS[fusion].acts_in_both_towers
    assert stored.modalities == (("image",) if inside else ("image", "text"))
    expected = logits(model, FusionCollator(processor)(list(rows)))
    answer = logits(model, collate([stored[i] for i in range(len(stored))]))
    # The cache holds half precision.
    torch.testing.assert_close(answer, expected, rtol=0, atol=0.02)
    # Each picture is stored once, whichever studies hold it.
    tables = stored.caches["image"]._tables
    assert sum(len(table) for table in tables) == len({p for r in rows["image"] for p in r if p})


@pytest.mark.parametrize(
    ("fusion", "mapper", "suffix"),
    [("joint", "cross_attention", ".pt2"), ("mmtm", "mlp", ".onnx")],
)
def test_exported_is_eager(
    fusion: str, mapper: str, suffix: str, tokenizer: Any, rows: datasets.Dataset, tmp_path: Path
) -> None:
    model, processor = made(tokenizer, fusion, mapper)
    collate = FusionCollator(processor)
    whole = [rows[i] for i in range(len(rows))]
    short = [row for row in whole if row["text"] and len(row["text"].split()) < 4]
    batches = [collate(whole), collate(whole[-3:]), collate(short[:1])]
    assert [batch["input_ids"].ndim for batch in batches] == [3, 3, 2]
    # The drawn batches have 1 to 3 windows, and lack pictures.
    given = batches if suffix == ".pt2" else None
    path = tmp_path / f"graph{suffix}"
    report = export_model(model, path, windows=True, tolerance=1e-4, batches=given)
    assert report.inputs[-2:] == ("image_present", "text_present")


def test_trained_saved_and_predicted(
    tokenizer: Any, rows: datasets.Dataset, tmp_path: Path
) -> None:
    config = kit.tiny_classifier("concat", "linear", "timm_vit", "bert").config
    config.num_views, config.id2label = 2, dict(enumerate(CLASSES))
    model = FusionClassifier(config)
    _, processor = made(tokenizer)
    arguments = training_arguments(
        tmp_path, model, num_train_epochs=2, per_device_train_batch_size=8, use_cpu=True
    )
    fit(model, processor, rows, rows, arguments=arguments)
    assert model.view_embedding.grad is None or model.view_embedding.abs().sum() > 0
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    again = FusionClassifier.from_pretrained(tmp_path / "model")
    read = FusionProcessor.from_pretrained(tmp_path / "model")
    assert (again.config.num_views, read.num_views, read.long_text) == (2, 2, "chunk")
    answers = list(predict_stream(again, read, list(rows), batch_size=5, progress=False))
    expected = logits(model.eval(), FusionCollator(processor)(list(rows)))
    found = torch.from_numpy(np.stack([one.logits for one in answers]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    lacking = [one.missing for one in answers]
    assert [("text" in one) for one in lacking] == [text is None for text in rows["text"]]
    score = evaluate(again, read, rows, arguments=arguments).metrics["accuracy"].estimate
    hits = [
        int(one.logits.argmax()) == label for one, label in zip(answers, rows["label"], strict=True)
    ]
    assert score == pytest.approx(np.mean(hits))


def test_a_comparison_says_what_the_second_view_is_worth(
    tokenizer: Any, rows: datasets.Dataset, tmp_path: Path
) -> None:
    image = kit.tiny_image_encoder("timm_vit").freeze()
    text = kit.tiny_text_encoder("bert").freeze()
    result = compare(
        rows,
        tmp_path,
        image_encoder=image,
        text_encoder=text,
        tokenizer=tokenizer,
        max_length=8,
        long_text="chunk",
        rows=[
            ComparisonRow("frontal", ("image",), views=1),
            ComparisonRow("frontal + lateral", ("image",)),
            "text",
            "concat",
        ],
        folds=2,
        seeds=1,
        resamples=20,
        progress=False,
    )
    found = {row["name"]: row["accuracy"]["estimate"] for row in result.results["rows"]}
    # Only the lateral picture tells the class.
    assert found["frontal + lateral"] > found["frontal"] + 0.2
    with pytest.raises(ValueError, match="views must be at least 1 or None, got 0"):
        ComparisonRow("x", ("image",), views=0)


def test_on_the_command_line(manifest: Path, tmp_path: Path) -> None:
    vit = kit.tiny_image_encoder("transformers_vit").backbone
    vit.save_pretrained(tmp_path / "vit")
    run = CliRunner().invoke
    columns = ["--image-column", "frontal", "--image-column", "lateral"]
    model = tmp_path / "model"
    trained = run(
        app,
        [
            *["train", str(manifest), "--output", str(model), "--image-encoder"],
            *[str(tmp_path / "vit"), "--train", "frozen", "--epochs", "1", *columns],
        ],
    )
    assert trained.exit_code == 0, trained.output
    assert json.loads((model / "config.json").read_text())["num_views"] == 2
    folder = manifest.parent
    one = run(
        app,
        [
            *["predict", str(model), "--json", "--image", str(folder / "0f.png")],
            *["--image", str(folder / "0l.png")],
        ],
    )
    many = run(
        app,
        [
            *["predict", str(model), "--manifest", str(manifest), *columns],
            *["--output", str(tmp_path / "answers.csv")],
        ],
    )
    assert one.exit_code == many.exit_code == 0, many.output
    answers = pd.read_csv(tmp_path / "answers.csv")
    own = json.loads(one.stdout)["probabilities"]
    for name in CLASSES:
        assert answers[f"p_{name}"][0] == pytest.approx(own[name], abs=1e-4)
    for command in ("evaluate", "audit"):
        given = [str(model)] if command == "evaluate" else []
        done = run(app, [command, *given, str(manifest), *columns])
        assert done.exit_code == 0, done.output
    wrong = run(
        app,
        [
            "train",
            str(manifest),
            "--output",
            str(tmp_path / "w"),
            "--image-encoder",
            "resnet18",
            "--image-column",
            "x",
        ],
    )
    assert wrong.exit_code == 1 and "image must be one of the columns" in wrong.stderr
    wrong = run(
        app,
        [
            *["train", str(manifest), "--output", str(tmp_path / "w"), "--text-encoder", "x/y"],
            *["--long-text", "cut"],
            *["--image-column", "frontal"],
        ],
    )
    assert wrong.exit_code == 1 and "--long-text must be" in wrong.stderr
