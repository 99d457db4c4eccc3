"""Every kind of bad input, from end to end.

The error message must name the faulty value. It must come from this library and not from a
dependency.
"""

import json
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmfusion import FusionClassifier, FusionConfig, FusionProcessor, ImageEncoder, load_manifest
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_batch, tiny_classifier

SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture(scope="module")
def model():
    return tiny_classifier("concat", "linear", "cnn", "bert").eval()


@pytest.fixture(scope="module")
def processor(model):
    tokenizer = word_tokenizer(["clear lungs"])
    return FusionProcessor.from_encoders(
        model.image_encoder, model.text_encoder, tokenizer=tokenizer
    )


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "xray.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    return path


def refused(call, *, names: str) -> None:
    """Checks that the call raises an error of this library whose message holds `names`."""
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        call()
    assert names in str(caught.value), str(caught.value)
    innermost = traceback.extract_tb(caught.value.__traceback__)[-1].filename
    assert innermost.startswith(SOURCE), f"the error comes from {innermost}: {caught.value!r}"


PICTURES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "empty": lambda path: path.write_bytes(b""),
    "not an image": lambda path: path.write_text("a text"),
    "zero bytes of png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
    "directory": lambda path: (path.unlink(), path.mkdir()),
    "absent": lambda path: path.unlink(),
    "animated": lambda path: Image.new("L", (4, 4)).save(
        path, "GIF", save_all=True, append_images=[Image.new("L", (4, 4), 255)]
    ),
    "dicom without a picture": lambda path: path.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 20),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_bad_file_is_named(kind, picture, processor):
    PICTURES[kind](picture)
    refused(lambda: processor(images=[picture]), names="xray.png")


@pytest.mark.parametrize(
    ("array", "names"),
    [
        (np.full((4, 4), np.nan, dtype=np.float32), "16"),
        (np.zeros((0, 0), dtype=np.uint8), "(0, 0)"),
        (np.zeros((2, 3, 4, 5), dtype=np.uint8), "(2, 3, 4, 5)"),
        (np.zeros((4, 4), dtype=complex), "complex"),
        (b"bytes", "bytes"),
        (3.5, "float"),
    ],
)
def test_a_bad_array_is_described(array, names, processor):
    refused(lambda: processor(images=[array]), names=names)


def test_a_decompression_bomb_is_refused(picture, processor, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    refused(lambda: processor(images=[picture]), names="xray.png")


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "1", "P", "RGBA", "LA", "F", "I"])
def test_an_odd_picture_is_not_a_black_one(mode, processor):
    grey = Image.fromarray(np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8))
    odd = (
        Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 60)
        if mode == "I;16"
        else grey.convert(mode)
    )
    pixels = processor(images=[odd])["pixel_values"]
    assert bool(pixels.isfinite().all()) and float(pixels.max() - pixels.min()) > 1


def test_texts(processor, picture):
    refused(lambda: processor(images=[None], text=[""]), names="rows [0]")
    refused(lambda: processor(images=[None], text=[None]), names="rows [0]")
    refused(lambda: processor(text=["clear", 7]), names="7 in row 1")
    refused(lambda: processor(images=[picture], text=["a", "b"]), names="1 and 2")
    refused(lambda: processor(images=[], text=None), names="images must be at least one")
    assert not processor(images=[picture], text=[" \n\t "])["text_present"][0]
    long = processor(text=["clear lungs " * 90_000])
    assert long["input_ids"].shape[1] <= processor.max_length
    assert processor(text=["clear\x00\x07 lungs"])["text_present"][0]


def test_tensors(model):
    batch = tiny_batch(model, missing=False)
    refused(lambda: model(**batch | {"labels": torch.tensor([0, 1, 2, 9])}), names="9")
    refused(lambda: model(**batch | {"labels": torch.tensor([0, 1, 2, -1])}), names="-1")
    refused(lambda: model(**batch | {"labels": torch.tensor([0.0, 1, 2, 1])}), names="float32")
    refused(
        lambda: model(
            **batch
            | {"image_present": torch.zeros(4).bool(), "text_present": torch.zeros(4).bool()}
        ),
        names="rows [0, 1, 2, 3]",
    )
    refused(lambda: model(**batch | {"input_ids": batch["input_ids"] + 10_000}), names="vocabulary")
    refused(lambda: model(), names="neither")


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: FusionConfig(fussion="late"), "fusion"),
        (lambda: FusionClassifier(image_encoder="resnet18x"), "resnet18"),
        (
            lambda: FusionClassifier(
                image_encoder=ImageEncoder("resnet10t", pretrained=False),
                fusion="latte",
                num_labels=0,
            ),
            "0",
        ),
        (lambda: tiny_classifier("latte"), "late"),
        (lambda: tiny_classifier("concat", "liner"), "linear"),
        (lambda: tiny_classifier({"name": "late", "combin": "mean"}), "combin"),
        (lambda: tiny_classifier({"name": "joint", "at": 99}), "99"),
        (lambda: ImageEncoder("resnet10t", pretrained=False, in_chanz=1), "in_chanz"),
    ],
)
def test_a_misspelt_option_is_answered_with_the_right_one(call, names):
    refused(call, names=names)


@pytest.mark.parametrize("damage", ["missing", "extra", "misshaped", "cut", "pickle", "config"])
def test_a_damaged_checkpoint_is_named(damage, model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    names = "fusion.head.out.weight"
    if damage == "missing":
        del state[names]
    elif damage == "extra":
        names = "fusion.head.more"
        state[names] = torch.zeros(2)
    elif damage == "misshaped":
        state[names] = torch.zeros(2, 2)
    if damage in ("missing", "extra", "misshaped"):
        save_file(state, weights, metadata={"format": "pt"})
    elif damage == "cut":
        names = tmp_path.name
        weights.write_bytes(weights.read_bytes()[:500])
    elif damage == "pickle":
        names = tmp_path.name
        weights.unlink()
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        names = "fuson"
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"fuson": "late"}))
    with pytest.raises((ValueError, OSError), match=names):
        FusionClassifier.from_pretrained(tmp_path)


def test_weights_that_are_a_pickle(tmp_path):
    torch.save({"layer": Path("code")}, tmp_path / "weights.pt")
    refused(lambda: ImageEncoder("resnet10t", weights=tmp_path / "weights.pt"), names="weights.pt")


@pytest.mark.parametrize(
    ("lines", "options", "names"),
    [
        ("image,label\nxray.png,a", {}, "text"),
        ("image,text,label\nxray.png,t,", {}, "label"),
        ("image,text,label\n../xray.png,t,a\n", {}, "../xray.png"),
        ("image,text,label\nnone.png,t,a\n", {}, "none.png"),
        ("image,text,label\nxray.png,t,covd\n", {"label_names": ["covid", "other"]}, "covid"),
        ("image,text,label\n", {}, "manifest.csv"),
        ("image,text,label\n,,a\n", {}, "row"),
    ],
)
def test_a_bad_manifest_is_named(lines, options, names, picture, tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    picture.rename(folder / "xray.png") if ".." not in lines else None
    (folder / "manifest.csv").write_text(lines)
    refused(lambda: load_manifest(folder / "manifest.csv", **options), names=names)
