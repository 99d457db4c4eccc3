"""The input spec of a backbone, read from the files of a checkpoint or from timm."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from transformers import (
    AutoModel,
    ConvNextConfig,
    EfficientNetConfig,
    MobileViTConfig,
    PreTrainedConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from mmfusion import testing as kit
from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.load_input_spec import timm_input_spec, transformers_input_spec
from mmfusion.model.processing import FusionProcessor

LOGGER = "mmfusion.model.load_input_spec"
SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
MOBILE = {"hidden_sizes": [16] * 3, "neck_hidden_sizes": [8, 8, 8, 8, 16, 16, 32]}
# config, preprocessor_config.json, side of the pixels, channel means of the colour (200, 100, 50)
PUBLISHED: dict[str, tuple[PreTrainedConfig, dict[str, Any], int, list[float]]] = {
    "mobilevit: BGR, not normalised": (
        MobileViTConfig(**MOBILE, num_attention_heads=2, image_size=64),
        {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}},
        64,
        [50 / 255, 100 / 255, 200 / 255],
    ),
    "efficientnet: normalised twice, 64 pixels": (
        EfficientNetConfig(
            width_coefficient=0.25, depth_coefficient=0.2, image_size=64, hidden_dim=64
        ),
        {"size": {"height": 64, "width": 64}},
        64,
        [(colour / 255 - 0.5) / 0.5 / 0.5 for colour in (200, 100, 50)],
    ),
    "vit: do_normalize is false": (
        ViTConfig(hidden_size=16, **SMALL, image_size=64),
        {"do_normalize": False, "size": {"height": 64, "width": 64}},
        64,
        [200 / 255, 100 / 255, 50 / 255],
    ),
    "convnext: shortest_edge 384": (
        ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4),
        {"size": {"shortest_edge": 384}},
        384,
        [(colour / 255 - 0.5) / 0.5 for colour in (200, 100, 50)],
    ),
}


def write(folder: Path, config: PreTrainedConfig, settings: dict[str, Any]) -> str:
    """Writes config.json and preprocessor_config.json, and returns the folder."""
    config.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.mark.parametrize("case", PUBLISHED)
def test_a_checkpoints_settings_are_all_honoured(case: str, tmp_path: Path) -> None:
    config, settings, side, expected = PUBLISHED[case]
    AutoModel.from_config(config).save_pretrained(tmp_path)
    kind = type(config).__name__.replace("Config", "ImageProcessor")
    write(tmp_path, config, {"image_processor_type": kind} | settings)
    encoder = ImageEncoder(str(tmp_path))
    picture = Image.new("RGB", (90, 70), (200, 100, 50))
    # The same whatever the way in which a picture is brought to its size.
    for fit in (None, "squash", "crop"):
        processor = FusionProcessor.from_encoders(encoder, None, fit=fit)
        pixels = processor(images=picture)["pixel_values"]
        assert pixels.shape == (1, 3, side, side), fit
        means = pixels.mean((0, 2, 3)).tolist()
        np.testing.assert_allclose(means, expected, atol=1e-4)


def test_an_image_classifiers_checkpoint_and_its_preprocessing(tmp_path: Path, vit: Any) -> None:
    whole = ViTForImageClassification(vit())
    whole.save_pretrained(tmp_path)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    own = ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=mean, image_std=std, resample=3
    )
    own.save_pretrained(tmp_path)
    encoder = ImageEncoder(str(tmp_path))
    state = encoder.backbone.state_dict()
    assert all(torch.equal(value, whole.vit.state_dict()[key]) for key, value in state.items())
    spec = encoder.input_spec
    published = spec.pop("published")
    assert published.pop("source") == "transformers"
    assert published == json.loads(own.to_json_string())
    assert spec == {
        "size": [16, 16],
        "channels": 3,
        "mean": mean,
        "std": std,
        "interpolation": "bicubic",
    }


def test_an_image_checkpoint_without_preprocessing_says_what_it_assumes(
    tmp_path: Path, log: pytest.LogCaptureFixture, vit: Any
) -> None:
    ViTForImageClassification(vit()).save_pretrained(tmp_path)
    encoder = ImageEncoder(str(tmp_path))
    assert encoder.input_spec["size"] == [16, 16] and encoder.input_spec["mean"] == [0.5] * 3
    assert "has no preprocessor_config.json" in log.text and str(tmp_path) in log.text
    assert FusionProcessor.from_encoders(encoder, None).fit == "squash"


def test_a_damaged_preprocessor_config_is_no_missing_one(tmp_path: Path, vit: Any) -> None:
    folder = write(tmp_path, vit(), {})
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match=rf"name must be a checkpoint whose .* '{folder}'"):
        transformers_input_spec(vit(), folder)


def test_the_code_of_a_checkpoint_is_never_run(
    tmp_path: Path, vit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers asks on standard input, and a piped "y" would be its answer.
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    sign = tmp_path / "sign"
    (tmp_path / "evil.py").write_text(f"open({str(sign)!r}, 'w')\nclass Evil: pass\n")
    code = {"auto_map": {"AutoImageProcessor": "evil.Evil"}}
    folder = write(tmp_path, vit(), code)
    with pytest.raises(ValueError, match="Code of a checkpoint is never run"):
        transformers_input_spec(vit(), folder)
    write(tmp_path, vit(), code | {"image_processor_type": "Evil"})
    with pytest.raises(ValueError, match="Code of a checkpoint is never run"):
        transformers_input_spec(vit(), folder)
    # Code beside a class that transformers has itself is not needed.
    write(tmp_path, vit(), code | {"image_processor_type": "ViTImageProcessor"})
    published = transformers_input_spec(vit(), folder)["published"]
    assert published["image_processor_type"] == "ViTImageProcessor" and "auto_map" not in published
    assert not sign.exists()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"image_processor_type": "VideoMAEImageProcessor"}, "an array [1, 1, 3, 224, 224]"),
        ({"image_processor_type": "Qwen2VLImageProcessor"}, "size.longest_edge"),
        ({"image_processor_type": "ImageGPTImageProcessor", "clusters": [[0, 0, 0]]}, "input_ids"),
        ({"image_processor_type": "AriaImageProcessor"}, "pixel_mask"),
    ],
)
def test_what_gives_no_single_picture_is_refused_by_name(
    settings: dict[str, Any], reason: str, tmp_path: Path, vit: Any
) -> None:
    folder = write(tmp_path, vit(), settings)
    with pytest.raises(ValueError, match="image processor must give one picture") as caught:
        transformers_input_spec(vit(), folder)
    assert settings["image_processor_type"] in str(caught.value)
    assert reason in str(caught.value) and folder in str(caught.value)


def test_pixels_of_changing_size_need_a_fit_of_the_users_own(tmp_path: Path, vit: Any) -> None:
    settings = {"image_processor_type": "ViltImageProcessor", "image_mean": [0.1, 0.2, 0.3]}
    spec = transformers_input_spec(vit(), write(tmp_path, vit(), settings))
    with pytest.raises(ValueError, match=r"fit must be one of \['squash', 'pad', 'crop'\].*Vilt"):
        FusionProcessor(input_spec=spec)
    pixels = FusionProcessor(input_spec=spec, fit="pad")(images=Image.new("RGB", (9, 9)))
    expected = [-mean / 0.5 for mean in (0.1, 0.2, 0.3)]
    torch.testing.assert_close(pixels["pixel_values"][0, :, 8, 8], torch.tensor(expected))


def test_a_size_of_the_users_own_goes_before_the_published_one(tmp_path: Path, vit: Any) -> None:
    settings = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1, 0.2, 0.3]}
    folder = write(tmp_path, vit(), settings)
    spec = transformers_input_spec(vit(image_size=32), folder, {"image_size": 32})
    assert spec["size"] == [32, 32] and spec["mean"] == [0.1, 0.2, 0.3] and "published" not in spec


def test_a_grey_checkpoint(tmp_path: Path, vit: Any) -> None:
    settings = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1]}
    settings |= {"image_std": [0.2], "size": {"height": 16, "width": 16}}
    spec = transformers_input_spec(
        vit(num_channels=1), write(tmp_path, vit(num_channels=1), settings)
    )
    pixels = FusionProcessor(input_spec=spec)(images=Image.new("RGB", (40, 30), (90, 90, 90)))
    expected = torch.full((1, 1, 16, 16), (90 / 255 - 0.1) / 0.2)
    torch.testing.assert_close(pixels["pixel_values"], expected)


def test_other_channels_get_the_average_of_the_published_statistics() -> None:
    model = timm.create_model("resnet10t", in_chans=2)
    spec = timm_input_spec(model, {"in_chans": 2})
    published = timm.get_pretrained_cfg("resnet10t")
    assert len(set(published.mean)) == len(set(published.std)) == 3
    assert spec["channels"] == 2 and spec["size"] == list(published.input_size[1:])
    assert spec["mean"] == [pytest.approx(sum(published.mean) / 3)] * 2
    assert spec["std"] == [pytest.approx(sum(published.std) / 3)] * 2
    assert spec["interpolation"] == published.interpolation


@pytest.mark.parametrize(("size", "expected"), [(32, [32, 32]), ((32, 48), [32, 48])])
def test_the_size_among_the_options_is_the_size_of_the_input(size: Any, expected: Any) -> None:
    options = {"img_size": size, "patch_size": 16, "depth": 1}
    model = timm.create_model("vit_tiny_patch16_224", **options)
    assert timm_input_spec(model, options)["size"] == expected


def timm_settings() -> list[dict[str, Any]]:
    """Returns each combination of settings in timm's list of published weights, once."""
    seen = {}
    for name in timm.list_models(pretrained=True):
        published = timm.get_pretrained_cfg(name)
        keys = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
        settings = {key: getattr(published, key) for key in keys}
        # Large sizes take long, and say nothing that small ones do not say.
        if max(settings["input_size"]) <= 256:
            seen[str(settings)] = settings
    return list(seen.values())


def test_published_weights_of_timm_get_timms_own_transform() -> None:
    """With every combination of settings that timm's published weights have."""
    draw = np.random.default_rng(0)
    pictures = [
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in ((90, 61), (31, 200))
    ]
    combinations = timm_settings()
    assert len(combinations) > 50
    for settings in combinations:
        model = nn.Identity()
        model.pretrained_cfg = settings  # type: ignore[assignment]
        transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)
        ours = FusionProcessor(input_spec=timm_input_spec(model, {}, published=True))
        for picture in pictures:
            pixels = ours(images=picture)["pixel_values"][0]
            assert torch.equal(pixels, transform(picture)), settings


def test_a_timm_folder_is_read_with_its_crop(tmp_path: Path) -> None:
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **options)
    model.pretrained_cfg |= {"input_size": (3, 32, 32), "crop_pct": 0.5, "mean": (0.1, 0.2, 0.3)}
    timm.models.save_for_hf(model, tmp_path, model_args=options, safe_serialization=True)
    encoder = ImageEncoder(f"local-dir:{tmp_path}")
    processor = FusionProcessor.from_encoders(encoder, None)
    assert processor.fit == "published"
    # The middle half of each side is left: a white frame of an eighth is not seen.
    framed = Image.new("RGB", (64, 64), "white")
    framed.paste((0, 0, 0), (8, 8, 56, 56))
    transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)
    pixels = processor(images=framed)["pixel_values"][0]
    torch.testing.assert_close(pixels, transform(framed))
    black = torch.tensor([0.1, 0.2, 0.3]) / torch.tensor(encoder.input_spec["std"])
    torch.testing.assert_close(pixels, -black[:, None, None].expand(3, 32, 32))
    # Random weights were not published with any preprocessing.
    assert "published" not in kit.tiny_image_encoder("timm_vit").input_spec
    assert "published" not in ImageEncoder.from_config({"name": "resnet10t"}).input_spec


def test_a_timm_checkpoint_in_the_format_of_transformers(tmp_path: Path) -> None:
    published = {"input_size": (3, 32, 32), "crop_pct": 0.5, "crop_mode": "squash"}
    config = {"architecture": "resnet10t", "pretrained_cfg": published, "num_classes": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = transformers_input_spec(ViTConfig(), str(tmp_path))
    assert spec["size"] == [32, 32]
    expected = {"source": "timm", "crop_pct": 0.5, "crop_mode": "squash"}
    assert spec["published"] == expected
