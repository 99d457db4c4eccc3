"""The encoders and the processor, compared with the libraries that they wrap.

The encoders are compared with the forward pass of transformers and timm. The processor is compared
with the transforms of timm and torchvision.
"""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms import v2
from transformers import (
    AutoModel,
    PreTrainedConfig,
)

from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.encoder_text import TextEncoder
from mmfusion.model.processing import FusionProcessor
from mmfusion.testing import tiny_config

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
WORDS = {"vocab_size": 30, "max_position_embeddings": 24, "pad_token_id": 1}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
TEXT: list[PreTrainedConfig] = [
    tiny_config("bert", **SMALL, **WORDS),
    tiny_config("roberta", **SMALL, **WORDS),
    tiny_config("distilbert", **SMALL, **WORDS),
    tiny_config("mpnet", **SMALL, **WORDS),
    tiny_config(
        "modernbert", **SMALL, **WORDS, **SPECIAL, local_attention=4, global_attn_every_n_layers=2
    ),
]


@pytest.mark.parametrize("config", TEXT, ids=lambda config: config.model_type)
def test_texts_as_transformers_encodes_them_one_by_one(config: PreTrainedConfig) -> None:
    # The reference is each text alone and unpadded, in the model as transformers runs it. Ours gets
    # the texts in one batch, padded on either side.
    encoder = TextEncoder(config).eval()
    plain = AutoModel.from_config(config).eval()
    # All weights must fit but those of the pooler, which our model does not have.
    answer = plain.load_state_dict(encoder.backbone.state_dict(), strict=False)
    assert not answer.unexpected_keys and all(
        key.startswith("pooler.") for key in answer.missing_keys
    )
    torch.manual_seed(0)
    lengths, width = (9, 4, 1), 11
    ids, mask = torch.full((6, width), 1), torch.zeros(6, width, dtype=torch.long)
    texts = [torch.randint(4, 30, (1, length)) for length in lengths]
    for row, text in enumerate(texts):
        length = text.shape[1]
        ids[row, :length], mask[row, :length] = text, 1
        ids[3 + row, width - length :], mask[3 + row, width - length :] = text, 1
    with torch.no_grad():
        ours = encoder(ids, mask)
        for row, text in enumerate(texts):
            expected = plain(input_ids=text).last_hidden_state[0]
            for at in (row, 3 + row):
                torch.testing.assert_close(
                    ours.tokens[at, : len(expected)], expected, rtol=0, atol=1e-5
                )
                torch.testing.assert_close(ours.pooled[at], expected.mean(0), rtol=0, atol=1e-5)
                assert int(ours.mask[at].sum()) == len(expected)


TIMM: list[tuple[str, dict[str, Any], int]] = [
    ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2}, 32),
    (
        "vit_tiny_patch16_224",
        {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2, "global_pool": "avg"},
        32,
    ),
    (
        "deit_tiny_distilled_patch16_224",
        {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2},
        32,
    ),
    ("resnet10t", {}, 64),
    ("test_convnext", {}, 64),
    (
        "swin_tiny_patch4_window7_224",
        {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1)},
        64,
    ),
]


@pytest.mark.parametrize(("name", "options", "size"), TIMM)
def test_images_as_timm_pools_them(name: str, options: dict[str, Any], size: int) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(name, pretrained=False, **options).eval()
    plain = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
    plain.load_state_dict(encoder.backbone.state_dict())
    pixels = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels).pooled, plain(pixels), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            encoder(pixels).pooled,
            plain.forward_head(plain.forward_features(pixels), pre_logits=True),
            rtol=0,
            atol=1e-5,
        )


def test_images_as_transformers_encodes_them() -> None:
    config = tiny_config("vit", **SMALL, image_size=16, patch_size=8)
    encoder = ImageEncoder(config).eval()
    plain = AutoModel.from_config(config, add_pooling_layer=False).eval()
    plain.load_state_dict(encoder.backbone.state_dict())
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = plain(pixels).last_hidden_state
        torch.testing.assert_close(encoder(pixels).tokens, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(encoder(pixels).pooled, expected[:, 0], rtol=0, atol=1e-6)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


INTERPOLATION = {
    "nearest": v2.InterpolationMode.NEAREST,
    "bilinear": v2.InterpolationMode.BILINEAR,
    "bicubic": v2.InterpolationMode.BICUBIC,
    "lanczos": v2.InterpolationMode.LANCZOS,
}


@pytest.mark.parametrize("interpolation", INTERPOLATION)
@pytest.mark.parametrize("size", [(32, 32), (20, 48)])
def test_pixels_as_torchvision_prepares_them(interpolation: str, size: tuple[int, int]) -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    spec = {
        "size": list(size),
        "channels": 3,
        "mean": mean,
        "std": std,
        "interpolation": interpolation,
    }
    ours = FusionProcessor(input_spec=spec)(images=picture(61, 47))["pixel_values"][0]
    theirs = v2.Compose(
        [
            v2.Resize(size, INTERPOLATION[interpolation]),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )(picture(61, 47))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "test_efficientnet"])
def test_pixels_as_timms_own_transform_prepares_them(name: str) -> None:
    encoder = ImageEncoder(name, pretrained=False)
    processor = FusionProcessor.from_encoders(encoder, None)
    config = timm.data.resolve_model_data_config(encoder.backbone) | {
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    transform = timm.data.create_transform(**config, is_training=False)
    image = picture(300, 200)
    torch.testing.assert_close(
        processor(images=image)["pixel_values"][0], transform(image), rtol=0, atol=1e-5
    )
