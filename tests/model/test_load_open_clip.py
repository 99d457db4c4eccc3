"""Models of open_clip: found by name, read strictly, prepared as published, rebuilt offline."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file

from mmfusion import FusionClassifier, FusionProcessor, ImageEncoder, TextEncoder

sys.path.insert(0, str(Path(__file__).parent))

from open_clip_samples import EMBED, TEXT, VIT, full_texts, hub_folder, model_cfg, texts

CLIP = {"embed_dim": EMBED, "vision_cfg": VIT, "text_cfg": TEXT}
UNREAD: dict[str, Any] = {"source": "open_clip", "pretrained": False}


def test_a_folder_for_a_hub_is_recognised(tmp_path: Path) -> None:
    folder, _ = hub_folder("clip", tmp_path)
    for name in (str(folder), f"local-dir:{folder}"):
        assert ImageEncoder(name).config.source == TextEncoder(name).config.source == "open_clip"
    # The same folder with a model of timm is timm's, for its scheme stands for both.
    model = timm.create_model("test_vit", num_classes=3)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    assert ImageEncoder(f"local-dir:{folder}").config.source == "timm"
    assert TextEncoder(f"local-dir:{folder}").config.source == "open_clip"
    assert ImageEncoder(str(folder), source="open_clip").config.source == "open_clip"


def test_a_config_of_open_clip_by_name() -> None:
    encoder = TextEncoder("ViT-B-32", **UNREAD)
    assert (encoder.dim, encoder.max_length, encoder.vocab_size) == (512, 77, 49408)
    assert encoder.config.options is not None
    assert encoder.config.options["model_cfg"]["embed_dim"] == 512
    with pytest.raises(ValueError, match="a config of open_clip, got 'ViT-B-33'"):
        TextEncoder("ViT-B-33", **UNREAD)


def test_weights_of_the_whole_model_and_older_ones(tmp_path: Path) -> None:
    folder, model = hub_folder("clip", tmp_path)
    file = folder / "open_clip_model.safetensors"
    ids, mask = texts(0)
    with torch.no_grad():
        theirs = model.encode_text(full_texts(0))
    state = load_file(file)
    # Models from before open_clip 2 hold the parts of the text tower without a prefix.
    older = {key.removeprefix("text."): value for key, value in state.items()}
    tower = {f"tower.{k[5:]}": v for k, v in state.items() if k.startswith("text.")}
    for weights in (file, state, older, tower):
        encoder = TextEncoder("x", model_cfg=CLIP, projection=True, weights=weights, **UNREAD)
        with torch.no_grad():
            assert torch.allclose(encoder.eval()(ids, mask).pooled, theirs, atol=1e-5)


def test_weights_in_several_files(tmp_path: Path) -> None:
    folder, _ = hub_folder("clip", tmp_path)
    file = folder / "open_clip_model.safetensors"
    whole = TextEncoder(str(folder)).state_dict()
    state = load_file(file)
    names = sorted(state)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({key: state[key] for key in keys}, folder / shard)
    index = {key: shard for shard, keys in shards.items() for key in keys}
    (folder / f"{file.name}.index.json").write_text(json.dumps({"weight_map": index}))
    file.unlink()
    for key, value in TextEncoder(str(folder)).state_dict().items():
        assert torch.equal(value, whole[key])


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    folder, _ = hub_folder("clip", tmp_path)
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    del state["text.ln_final.weight"]
    state["visual.conv1.weight"] = torch.zeros(3)
    save_file(state, file)
    with pytest.raises(ValueError, match=r"tower\.ln_final\.weight"):
        TextEncoder(str(folder))
    with pytest.raises(ValueError, match=r"tower\.conv1\.weight \(3,\) for \(24, 3, 8, 8\)"):
        ImageEncoder(str(folder))
    file.unlink()
    with pytest.raises(ValueError, match=r"must hold weights \(open_clip_model.safetensors\)"):
        ImageEncoder(str(folder))
    assert ImageEncoder(str(folder), pretrained=False).dim == 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_cfg": VIT | {"layers": [1, 1, 1, 1]}}, "must keep the width of its tokens"),
        (
            {"vision_cfg": {"timm_model_name": "hf-hub:a/b", "timm_pool": "avg"}},
            "must be the plain name of a timm model, got 'hf-hub:a/b'",
        ),
        (
            {"vision_cfg": {"timm_model_name": "resnet18", "timm_pool": "rot_attn"}},
            "must keep the width of its tokens",
        ),
        (
            {"vision_cfg": {"timm_model_name": "lcnet_050", "timm_pool": "avg"}},
            "must pool to the width of its tokens, got 'lcnet_050'",
        ),
        ({"vision_cfg": VIT | {"layerz": 1}}, "must be one that open_clip can build"),
        ({"embed_dim": "wide"}, "must have 'embed_dim' as open_clip writes it, got 'wide'"),
        ({"vision_cfg": 3}, "must have 'vision_cfg'"),
    ],
)
def test_models_that_cannot_be_one_tower(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageEncoder("some", model_cfg=CLIP | change, **UNREAD)


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="projection must be True, False or 20 for this model"):
        ImageEncoder("x", model_cfg=CLIP, projection=7, **UNREAD)
    with pytest.raises(ValueError, match=r"no option 'img_size'"):
        ImageEncoder("x", model_cfg=CLIP, img_size=3, **UNREAD)
    with pytest.raises(ValueError, match="pooling must be left out for this encoder, got 'cls'"):
        TextEncoder("x", model_cfg=CLIP, pooling="cls", **UNREAD)
    with pytest.raises(ValueError, match=r"with open_clip_config.json, got 'local-dir:.*not found"):
        TextEncoder(f"local-dir:{tmp_path}")
    lost = CLIP | {"text_cfg": {"hf_model_name": str(tmp_path / "lost")}}
    with pytest.raises(ValueError, match="hf_model_name must be a transformers model whose config"):
        TextEncoder("x", model_cfg=lost, **UNREAD)
    (tmp_path / "open_clip_config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"must be an object, got \[1\]"):
        TextEncoder(f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"with an undamaged open_clip_config.json, got"):
        TextEncoder(f"local-dir:{tmp_path}")

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r'pip install "mmfusion\[open_clip\]"'):
        ImageEncoder("x", model_cfg=CLIP, **UNREAD)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("shape", [(50, 90), (90, 50), (32, 32)])
def test_pictures_are_prepared_as_open_clip_does(
    mode: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    settings = {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
        "interpolation": "bilinear",
        "resize_mode": mode,
    }
    folder, _ = hub_folder("clip", tmp_path, **settings)
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    theirs = image_transform_v2(PreprocessCfg(size=32, **settings), is_train=False)(picture)
    processor = FusionProcessor.from_encoders(ImageEncoder(str(folder)), None)
    ours = processor(images=[picture])["pixel_values"][0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_preprocessing_that_is_not_known_is_refused(tmp_path: Path) -> None:
    folder, _ = hub_folder("clip", tmp_path, resize_mode="longest")
    with pytest.raises(ValueError, match=r"resize_mode must be one of .*, got 'longest'"):
        ImageEncoder(str(folder))
    weights = folder / "open_clip_model.safetensors"
    assert ImageEncoder(str(folder), pretrained=False, weights=weights).dim == 24
    # Without the published weights nothing is known of the pixels but their size.
    spec = ImageEncoder("x", model_cfg=CLIP, **UNREAD).input_spec
    assert spec["size"] == [32, 32] and spec["mean"] == list(open_clip.OPENAI_DATASET_MEAN)
    assert "published" not in spec


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("model_cfg", None, "model_cfg in config.json must be the config of an open_clip model"),
        ("text_backbone", None, "text_backbone in config.json must be a config, got None"),
        ("pad_id", {"pretrained": "x"}, "pretrained in config.json must be left out"),
    ],
)
def test_a_saved_config_that_leads_elsewhere_is_refused(
    entry: str, value: Any, message: str, tmp_path: Path
) -> None:
    config = model_cfg("biomedclip", tmp_path)
    encoder = TextEncoder("x", model_cfg=config, **UNREAD)
    FusionClassifier(text_encoder=encoder).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["text_encoder"]["options"][entry] = value
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=message):
        FusionClassifier.from_pretrained(tmp_path)


def test_weights_are_of_the_type_asked_for(tmp_path: Path) -> None:
    folder, _ = hub_folder("clip", tmp_path)
    encoder = ImageEncoder(str(folder), dtype=torch.bfloat16)
    assert encoder.dtype == torch.bfloat16
    assert encoder(torch.zeros(1, 3, 32, 32)).pooled.dtype == torch.bfloat16
