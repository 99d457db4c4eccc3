"""The example of imbalance: both losses on the same folds, and the paired differences."""

import json

import imbalance
import numpy as np
import pytest
import typer
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from mmfusion import ImageEncoder, TextEncoder
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_config


@pytest.mark.xdist_group("processes")
def test_it_writes_both_rows_and_their_difference(tmp_path):
    generator = np.random.default_rng(0)
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lines = ["image,lesion,label,sex,age,localization"]
    for number in range(60):
        label = "mel" if number % 5 == 0 else "nv"
        pixels = generator.integers(0, 150, (32, 32, 3)) + 20 * (label == "mel")
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"images/ISIC_{number}.jpg")
        lines.append(f"images/ISIC_{number}.jpg,HAM_{number},{label},male,{20 + number},back")
    (folder / "labels.csv").write_text("\n".join(lines))
    tokenizer = word_tokenizer(["male years back", *(str(n) for n in range(20, 80))])
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = TextEncoder(tiny_config("bert", **sizes, vocab_size=len(tokenizer)))
    text.backbone.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    image = ImageEncoder("test_resnet", pretrained=False)
    weights = {key.removeprefix("backbone."): value for key, value in image.state_dict().items()}
    save_file(weights, str(tmp_path / "weights.safetensors"))
    app = typer.Typer()
    app.command()(imbalance.main)
    words = [folder, "--folds", 2, "--seeds", 1, "--output", tmp_path / "out", "--resamples", 20]
    words += ["--image-encoder", "test_resnet", "--text-encoder", tmp_path / "text"]
    words += ["--image-weights", tmp_path / "weights.safetensors"]
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(written["rows"]) == ["image only", "text only", "concat", "guarded"]
    for name, rows in written["rows"].items():
        for metric in ("balanced_accuracy", "auroc", "ece"):
            difference = rows["balanced"][metric]["estimate"] - rows["plain"][metric]["estimate"]
            found = written["balanced_minus_plain"][name][metric]["difference"]
            assert found == pytest.approx(difference, abs=1e-9)
    image_rows = written["rows"]["image only"]
    assert image_rows["balanced"]["cross_entropy"] != image_rows["plain"]["cross_entropy"]


def test_a_folder_without_data_is_answered(tmp_path, monkeypatch):
    class Frozen:
        def __init__(self, name, **options):
            pass

        def freeze(self):
            return self

    monkeypatch.setattr(imbalance, "ImageEncoder", Frozen)
    monkeypatch.setattr(imbalance, "TextEncoder", Frozen)
    app = typer.Typer()
    app.command()(imbalance.main)
    result = CliRunner().invoke(app, [str(tmp_path), "--output", str(tmp_path / "out")])
    assert result.exit_code == 2 and "must hold labels.csv" in result.output
