"""The example of skin lesions: both layouts of the data, and one small run."""

import json

import numpy as np
import pytest
import skin_lesions
import typer
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from mmfusion import ImageEncoder, TextEncoder, load_manifest
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_config


@pytest.fixture
def folder(tmp_path):
    """A small copy: 48 pictures of 24 lesions, whose brightness tells the class."""
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    lines = ["image,lesion,label,sex,age,localization"]
    for number in range(48):
        label = ("mel", "nv")[number // 2 % 2]
        pixels = generator.integers(0, 150, (32, 32, 3)) + 80 * (label == "mel")
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"images/ISIC_{number}.jpg")
        age = "" if number == 3 else 20 + number
        lines.append(f"images/ISIC_{number}.jpg,HAM_{number // 2},{label},male,{age},back")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path


def test_both_layouts_give_the_same_manifest(folder, tmp_path):
    path = skin_lesions.manifest_of(folder, tmp_path / "a" / "manifest.csv")
    rows = load_manifest(path, text=None, root=folder, template=skin_lesions.TEMPLATE)
    assert rows["text"][3:5] == ["male, back", "male, 24 years, back"]
    assert rows.features["label"].names == ["melanoma", "nevus"]
    assert rows["group"][:3] == ["HAM_0", "HAM_0", "HAM_1"]
    lines = (folder / "labels.csv").read_text().splitlines()[1:]
    published = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for line in lines:
        image, lesion, label, sex, age, place = line.split(",")
        name = image.removeprefix("images/").removesuffix(".jpg")
        published.append(f"{lesion},{name},{label},histo,{age},{sex},{place}")
    (folder / "HAM10000_metadata.csv").write_text("\n".join(published))
    other = skin_lesions.manifest_of(folder, tmp_path / "b" / "manifest.csv")
    assert other.read_text() == path.read_text()


def test_mistakes_are_answered(folder, tmp_path):
    with pytest.raises(ValueError, match="must hold labels.csv"):
        skin_lesions.manifest_of(tmp_path / "images", tmp_path / "manifest.csv")
    (folder / "images" / "ISIC_7.jpg").unlink()
    with pytest.raises(ValueError, match="ISIC_7.jpg"):
        skin_lesions.manifest_of(folder, tmp_path / "manifest.csv")


@pytest.mark.xdist_group("processes")
def test_it_writes_a_report(folder, tmp_path):
    words = ["male years back"] + [str(n) for n in range(20, 70)]
    tokenizer = word_tokenizer(words)
    text = TextEncoder(
        tiny_config("bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                    vocab_size=len(tokenizer))
    )  # fmt: skip
    text.backbone.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    image = ImageEncoder("test_resnet", pretrained=False)
    weights = {key.removeprefix("backbone."): value for key, value in image.state_dict().items()}
    save_file(weights, str(tmp_path / "weights.safetensors"))
    app = typer.Typer()
    app.command()(skin_lesions.main)
    words = [folder, "--folds", 2, "--seeds", 1, "--output", tmp_path / "out"]
    words += ["--image-encoder", "test_resnet"]
    words += ["--image-weights", tmp_path / "weights.safetensors"]
    words += ["--text-encoder", tmp_path / "text", "--class-weights", "balanced"]
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    table = {row["name"]: row for row in written["rows"]}
    assert table["image only"]["auroc"]["estimate"] > 0.9
    assert "Divided by lesion." in written["notes"]
    assert written["settings"]["loss"] == {"class_weights": "balanced"}
    assert (tmp_path / "out" / "report.html").is_file()
