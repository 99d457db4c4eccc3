"""What is timed: our classifiers, and peers with the same backbones and weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, VisionTextDualEncoderModel, ViTConfig, ViTModel

from benchmarks.lengths import report_lengths
from mmfusion import FusionClassifier, ImageEncoder, TextEncoder

WIDTHS = {"to 512": 512, "to 128": 128, "to the longest": None}
"""How far a peer's texts are padded."""

FUSIONS = ("concat", "joint", "cross_attention", "mmtm", "late")


@dataclass(frozen=True)
class Preset:
    """A pair of backbones, by their configs: random weights, which take as long as published ones.

    Attributes:
        name: base, small or tiny.
        image: a ViT's config, or the name of a timm model.
        text: a BERT's config.
        pixels: height and width of the pictures.
    """

    name: str
    image: ViTConfig | str
    text: BertConfig
    pixels: int = 224


def preset(name: str) -> Preset:
    """The backbones called `name`: base, small or tiny."""
    if name == "base":
        return Preset(name, ViTConfig(), BertConfig())
    if name == "small":
        mini = BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
        return Preset(name, "tf_efficientnet_lite0", mini)
    if name == "tiny":
        widths = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        }
        return Preset(name, ViTConfig(**widths, image_size=32), BertConfig(**widths), 32)
    raise ValueError(f"preset must be base, small or tiny, got {name!r}.")


def classifier(chosen: Preset, fusion: str, *, seed: int = 0) -> FusionClassifier:
    """A fused classifier of two classes; the same seed gives the same towers whatever the strategy."""
    torch.manual_seed(seed)
    image = ImageEncoder(chosen.image, pretrained=False)
    text = TextEncoder(chosen.text)
    return FusionClassifier(
        image_encoder=image, text_encoder=text, fusion=fusion, mapper="linear"
    ).eval()


class DualEncoder(nn.Module):
    """transformers' VisionTextDualEncoderModel with a linear head on the two embeddings: what one would write without a library.

    Args:
        model: whose ViT and BERT it copies.
    """

    def __init__(self, model: FusionClassifier):
        super().__init__()
        assert model.image_encoder is not None and model.text_encoder is not None
        ours = model.image_encoder.backbone, model.text_encoder.backbone
        vision, words = ViTModel(ours[0].config), BertModel(ours[1].config)
        for copy, original in zip((vision, words), ours, strict=True):
            # The peer has poolers, which ours has not: they keep their random weights.
            missing, unexpected = copy.load_state_dict(original.state_dict(), strict=False)
            if unexpected or not all("pooler" in name for name in missing):
                raise RuntimeError(
                    f"the peer must have the same backbone, got {missing} missing and {unexpected} too much."
                )
        self.towers = VisionTextDualEncoderModel(vision_model=vision, text_model=words)
        # Our towers may carry the name of our attention; the peer runs transformers' own.
        self.towers.set_attn_implementation("sdpa")
        self.head = nn.Linear(2 * self.towers.config.projection_dim, 2)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, 2]."""
        images = self.towers.get_image_features(pixel_values=pixel_values)
        texts = self.towers.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return self.head(torch.cat([_tensor(images), _tensor(texts)], dim=-1))


def _tensor(features: Any) -> Tensor:
    """The projected features, which some versions of transformers give bare and some as an output's pooler_output."""
    return features if isinstance(features, Tensor) else features.pooler_output


def texts(
    batch: int, *, width: int | None = None, seed: int = 0, device: str = "cpu"
) -> dict[str, Tensor]:
    """Random tokens in texts of real lengths, padded to the longest or to `width`, to which longer ones are cut."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.from_numpy(report_lengths())[
        torch.randint(0, len(report_lengths()), (batch,), generator=draw)
    ]
    lengths = lengths.clamp(max=width) if width else lengths
    places = width or int(lengths.max())
    mask = torch.arange(places) < lengths[:, None]
    # Drawn at one width, so that a text is the same however far it is padded.
    ids = torch.randint(1000, 30000, (batch, 512), generator=draw)[:, :places]
    return {
        "input_ids": torch.where(mask, ids, 0).to(device),
        "attention_mask": mask.long().to(device),
    }


def pairs(
    chosen: Preset, batch: int, dtype: torch.dtype, *, width: int | None = None, device: str = "cpu"
) -> dict[str, Tensor]:
    """Noise for pictures, and `texts`."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(batch, 3, chosen.pixels, chosen.pixels, generator=draw)
    return {"pixel_values": pixels.to(device, dtype), **texts(batch, width=width, device=device)}


def transformer_operations(config: Any, lengths: list[int]) -> float:
    """Floating-point operations of a transformer's layers on sequences of these lengths, two per multiplication.

    Per token 8 D^2 for the four projections and 4 D I for the two layers of width I; per sequence 4
    L^2 D for scores and sums.
    """
    dim, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    return float(
        layers
        * sum(length * (8 * dim**2 + 4 * dim * inner) + 4 * length**2 * dim for length in lengths)
    )


def needed_operations(chosen: Preset, batch: int, lengths: list[int]) -> float | None:
    """What a pass over real tokens and patches costs at least; None where the image tower is no transformer."""
    if not isinstance(chosen.image, ViTConfig):
        return None
    config = chosen.image
    patches = (chosen.pixels // config.patch_size) ** 2
    embedding = (
        2.0 * batch * patches * config.num_channels * config.patch_size**2 * config.hidden_size
    )
    image = transformer_operations(config, [patches + 1] * batch)
    return image + embedding + transformer_operations(chosen.text, lengths)
