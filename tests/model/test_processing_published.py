"""The preprocessing that a checkpoint was published with, run by the library that published it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, ViTConfig, ViTImageProcessor

from mmfusion import ImageError
from mmfusion.model.load_input_spec import transformers_input_spec
from mmfusion.model.processing import FusionProcessor
from mmfusion.model.processing_published import Published, published_of

LOGGER = "mmfusion.model.processing_size"
SIDE = {"height": 24, "width": 20}


def spec_of(folder: Path, processor: Any) -> dict[str, Any]:
    """Returns the input spec of a checkpoint with this image processor."""
    ViTConfig().save_pretrained(folder)
    processor.save_pretrained(folder)
    return transformers_input_spec(ViTConfig(), str(folder))


def picture(width: int = 50, height: int = 37) -> Image.Image:
    array = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(array)


def test_the_library_says_when_borders_are_cut_off(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    whole = spec_of(tmp_path / "vit", ViTImageProcessor(size=SIDE))
    FusionProcessor(input_spec=whole)
    assert not published_of(whole).measured.crops and "borders" not in log.text
    options = {"size": {"shortest_edge": 21}, "crop_size": {"height": 21, "width": 21}}
    cut = spec_of(tmp_path / "clip", CLIPImageProcessor(**options))
    FusionProcessor(input_spec=cut, fit="pad")
    assert "borders" not in log.text
    FusionProcessor(input_spec=cut)
    assert published_of(cut).measured.crops
    assert "(CLIPImageProcessor) cuts off the borders of pictures. Pass fit='pad'" in log.text


def test_a_very_long_picture_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    options = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    cut = FusionProcessor(input_spec=spec_of(tmp_path / "a", CLIPImageProcessor(**options)))
    long = Image.new("RGB", (20_000, 1))
    with pytest.raises(ImageError, match=r"20000 x 1 .* CLIPImageProcessor can crop, got .*20000"):
        cut(images=long)
    assert cut(images=Image.new("RGB", (300, 1)))["pixel_values"].shape == (1, 3, 224, 224)
    squashed = FusionProcessor(input_spec=spec_of(tmp_path / "b", ViTImageProcessor(size=SIDE)))
    assert squashed(images=long)["pixel_values"].shape == (1, 3, 24, 20)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"source": "elsewhere"}, r"published must come from one of \['timm', 'transformers'\]"),
        ({"image_processor_type": "ViTImageProcesor"}, "got 'ViTImageProcesor'"),
        ({"image_processor_type": "ViTModel"}, "must be an image processor of the installed"),
        ({"image_processor_type": "AutoTokenizer"}, "must be an image processor of the installed"),
        ({"image_processor_type": None}, "must be an image processor of the installed"),
        ({"size": {"height": 100_000, "width": 9}}, "size.height of 100000 is more than 16384"),
        ({"crop_pct": 1e-7}, "crop_pct of 1e-07 is not from 0.05 to 2"),
        ({"class_info_file": "x.json"}, "it reads another file"),
        ({"size": {"depth": 3}}, "ViTImageProcessor, which does not"),
    ],
)
def test_settings_of_an_untrusted_file(
    entries: dict[str, Any], message: str, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, ViTImageProcessor(size=SIDE))
    spec["published"] |= entries
    with pytest.raises(ValueError, match=message):
        FusionProcessor(input_spec=spec)


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ([], "published must come from one of"),
        ({"source": "timm"}, "its entries are"),
        ({"source": "timm", "crop_pct": 1e-6, "crop_mode": "center"}, "crop_pct of 1e-06 is not"),
        ({"source": "timm", "crop_pct": "x", "crop_mode": "center"}, "its entries are .*'x'"),
    ],
)
def test_settings_of_timm_in_an_untrusted_file(published: Any, message: str) -> None:
    spec = {"size": [8, 8], "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    spec |= {"interpolation": "bilinear", "published": published}
    with pytest.raises(ValueError, match=message):
        FusionProcessor(input_spec=spec)


def test_a_spec_that_says_another_thing_than_its_preprocessing_is_refused(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, ViTImageProcessor(size=SIDE))
    changes: list[dict[str, Any]] = [
        {"size": [9, 9]},
        {"mean": [0.4] * 3},
        {"std": [0.4] * 3},
        {"channel_order": "BGR"},
    ]
    for change in changes:
        with pytest.raises(ValueError, match="input_spec must agree with its published"):
            FusionProcessor(input_spec=spec | change)
        # With a fit of the user's own, the numbers of the spec count.
        FusionProcessor(input_spec=spec | change, fit="squash")
    plain = {key: value for key, value in spec.items() if key != "published"}
    with pytest.raises(ValueError, match="without published preprocessing, got 'published'"):
        FusionProcessor(input_spec=plain, fit="published")
    assert FusionProcessor(input_spec=plain).fit == "squash"


def test_saved_and_read_in_a_new_process_without_network(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    processor = FusionProcessor(
        input_spec=spec_of(folder, ViTImageProcessor(size=SIDE, do_normalize=False))
    )
    assert processor.fit == "published"
    processor.save_pretrained(tmp_path / "saved")
    # The checkpoint is gone: all that is needed lies in the saved file.
    for file in folder.iterdir():
        file.unlink()
    picture().save(tmp_path / "picture.png")
    script = (
        "import sys, torch; from mmfusion import FusionProcessor\n"
        "processor = FusionProcessor.from_pretrained(sys.argv[1])\n"
        "torch.save(processor(images=sys.argv[2])['pixel_values'], sys.argv[3])\n"
    )
    paths = [str(tmp_path / name) for name in ("saved", "picture.png", "pixels.pt")]
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script, *paths], check=True, env=os.environ | environment)
    pixels = torch.load(tmp_path / "pixels.pt", weights_only=True)
    assert torch.equal(pixels, processor(images=picture())["pixel_values"])
    own = ViTImageProcessor(size=SIDE, do_normalize=False)
    assert torch.equal(pixels, own(images=picture(), return_tensors="pt")["pixel_values"])


def test_a_processor_saved_before_there_were_published_entries(tmp_path: Path) -> None:
    # Written by the format of version 0.1: five entries, and fit="squash".
    spec = {
        "size": [37, 50],
        "channels": 3,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
        "interpolation": "bilinear",
    }
    saved = {"input_spec": spec, "max_length": None, "fit": "squash", "template": None}
    (tmp_path / "processor_config.json").write_text(
        json.dumps(saved | {"processor_class": "FusionProcessor"})
    )
    pixels = FusionProcessor.from_pretrained(tmp_path)(images=picture())["pixel_values"][0]
    expected = (np.asarray(picture()) / 255 - spec["mean"]) / spec["std"]
    np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_what_was_measured(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, ViTImageProcessor(size=SIDE, image_mean=[0.1, 0.2, 0.3]))
    measured = Published(spec).measured
    assert measured.size == [24, 20] and measured.channel_order == "RGB"
    np.testing.assert_allclose(measured.mean, [0.1, 0.2, 0.3], atol=1e-6)
    np.testing.assert_allclose(measured.std, [0.5] * 3, atol=1e-6)
    # Built and measured once.
    assert published_of(spec) is published_of(dict(reversed(spec.items())))


def test_a_picture_that_the_processor_itself_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error of that picture, with the reason and what to do."""
    spec = spec_of(tmp_path, ViTImageProcessor(size=SIDE))
    processor = FusionProcessor(input_spec=spec)
    published = published_of(processor.input_spec)

    def refusing(image: Image.Image) -> torch.Tensor:
        raise KeyError("no such shape")

    monkeypatch.setattr(published, "_pixels", refusing)
    told = "what ViTImageProcessor takes, got KeyError: .*no such shape.*Pass fit='squash'"
    with pytest.raises(ImageError, match=told):
        processor(images=picture())
    monkeypatch.setattr(published, "_pixels", lambda image: torch.zeros(3, 4, 4))
    told = r"brought to \[\d+, \d+\] by ViTImageProcessor, got \[4, 4\]"
    with pytest.raises(ImageError, match=told):
        processor(images=picture())


def test_pixels_that_do_not_follow_the_colours_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path, ViTImageProcessor(size=SIDE))
    own = ViTImageProcessor.__call__

    def squared(self: Any, *args: Any, **options: Any) -> Any:
        outputs = own(self, *args, **options)
        return {"pixel_values": outputs["pixel_values"] ** 2}

    monkeypatch.setattr(ViTImageProcessor, "__call__", squared)
    settings = spec["published"] | {"rescale_factor": 1 / 250}
    with pytest.raises(ValueError, match=r"are not \(p / 255 - mean\) / std of the colours"):
        FusionProcessor(input_spec=spec | {"published": settings})
