"""Towers of open_clip, against `encode_image` and `encode_text` of open_clip's own models."""

import sys
from pathlib import Path

import pytest
import torch

from mmfusion import FusionClassifier, ImageEncoder, TextEncoder
from mmfusion import testing as kit
from mmfusion.model.encoder_base import Encoder

sys.path.insert(0, str(Path(__file__).parent))

from open_clip_samples import KINDS, VIT, full_texts, hub_folder, model_cfg, texts


def pad_of(kind: str) -> int:
    """Returns the padding id of a small model's tokenizer; open_clip's own one has 0."""
    return 1 if kind in ("siglip", "clipa") else 0


@pytest.mark.parametrize("kind", KINDS)
def test_pooled_texts_are_open_clips_own_features(kind: str, tmp_path: Path) -> None:
    folder, model = hub_folder(kind, tmp_path)
    encoder = TextEncoder(str(folder), projection=True).eval()
    with torch.no_grad():
        theirs = model.encode_text(full_texts(pad_of(kind)))
        # Other tokens stand in our padding. The encoder must put the right ones there.
        ids, mask = texts(7)
        ours = encoder(ids, mask)
    torch.testing.assert_close(ours.pooled, theirs, rtol=1e-5, atol=1e-5)
    assert encoder.dim == theirs.shape[1] == ours.tokens.shape[2]


@pytest.mark.parametrize("kind", KINDS)
def test_pooled_pictures_are_open_clips_own_features(kind: str, tmp_path: Path) -> None:
    folder, model = hub_folder(kind, tmp_path)
    encoder = ImageEncoder(str(folder), projection=True).eval()
    size = encoder.input_spec["size"]
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs, ours = model.encode_image(pixels), encoder(pixels)
    torch.testing.assert_close(ours.pooled, theirs, rtol=1e-5, atol=1e-5)
    assert encoder.dim == theirs.shape[1] == ours.tokens.shape[2]


@pytest.mark.parametrize("kind", KINDS)
def test_without_projection_the_vectors_keep_the_towers_width(kind: str, tmp_path: Path) -> None:
    folder, model = hub_folder(kind, tmp_path)
    image, text = ImageEncoder(str(folder)).eval(), TextEncoder(str(folder)).eval()
    seen = {}
    if kind in ("clip", "clip pooled by mean", "eos", "clipa", "coca"):
        model.visual.proj = None
        seen["image"] = model.visual
    if "hf_model_name" in KINDS[kind][1]:
        model.text.proj = torch.nn.Identity()
    else:
        model.text.text_projection = None
    with torch.no_grad():
        ids, mask = texts(7)
        pooled = text(ids, mask).pooled
        torch.testing.assert_close(pooled, model.text(full_texts(pad_of(kind))), rtol=0, atol=1e-5)
        pixels = torch.randn(2, 3, *image.input_spec["size"])
        encoded = image(pixels)
        if seen:
            torch.testing.assert_close(encoded.pooled, model.visual(pixels), rtol=0, atol=1e-5)
    assert text.dim == 24 == pooled.shape[1]
    assert encoded.pooled.shape[1] == encoded.tokens.shape[2] == image.dim


def test_the_laws_hold(tmp_path: Path) -> None:
    wanted = {
        "text": [
            ("clip", True),
            ("siglip", False),
            ("coca", False),
            ("bert with its pooler", True),
        ],
        "image": [("coca", True), ("siglip", False), ("bert by mean", True)],
    }
    encoders: list[Encoder] = []
    for name, kinds in wanted.items():
        for kind, projection in kinds:
            options = {"source": "open_clip", "pretrained": False, "projection": projection}
            options["model_cfg"] = model_cfg(kind, tmp_path)
            if name == "text":
                encoders.append(TextEncoder(kind, pad_id=1, **options))
            else:
                encoders.append(ImageEncoder(kind, **options))
    kit.check_encoder(*encoders)


def test_both_towers_fuse_and_are_saved(tmp_path: Path) -> None:
    folder, _ = hub_folder("biomedclip", tmp_path)
    model = FusionClassifier(
        image_encoder=ImageEncoder(str(folder)).freeze(),
        text_encoder=TextEncoder(str(folder)),
        fusion="cross_attention",
        mapper="cross_attention",
        num_labels=3,
    ).eval()
    ids, mask = texts(0)
    pixels = torch.randn(3, 3, 160, 160)
    with torch.no_grad():
        before = model(pixel_values=pixels, input_ids=ids, attention_mask=mask).logits
        model.save_pretrained(tmp_path / "saved")
        # What the config names may be gone when the classifier is loaded.
        folder.rename(tmp_path / "moved")
        (tmp_path / "bert").rename(tmp_path / "moved" / "bert")
        again = FusionClassifier.from_pretrained(tmp_path / "saved").eval()
        after = again(pixel_values=pixels, input_ids=ids, attention_mask=mask).logits
    assert torch.equal(before, after)


def test_activations_are_recomputed_on_request() -> None:
    encoder = ImageEncoder(
        "x",
        source="open_clip",
        pretrained=False,
        model_cfg={"embed_dim": 20, "vision_cfg": VIT, "text_cfg": {}},
    )
    encoder.gradient_checkpointing = True
    assert encoder.backbone.tower.transformer.grad_checkpointing
    encoder(torch.randn(2, 3, 32, 32)).pooled.sum().backward()
    assert encoder.backbone.tower.conv1.weight.grad is not None
