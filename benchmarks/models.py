"""The timed models: classifiers of the library, and a peer with the same backbones and weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, VisionTextDualEncoderModel, ViTConfig, ViTModel

from benchmarks.lengths import report_lengths
from mmfusion import FusionClassifier, ImageEncoder, TextEncoder
from mmfusion.model.fusion import BUILT_IN

WIDTHS = {"to 512": 512, "to 128": 128, "to the longest": None}
"""The widths that a peer's texts are padded to, by name; None is the longest text's length."""

FUSIONS = BUILT_IN
"""The strategies that are timed."""


@final
@dataclass(frozen=True)
class Preset:
    """A pair of backbones, given by their configs.

    The weights are random, because random weights take as long as published ones.

    Attributes:
        name: base, small or tiny.
        image: the config of a ViT, or the name of a timm model.
        text: the config of a BERT.
        pixels: the height and width of the pictures.
    """

    name: str
    image: ViTConfig | str
    text: BertConfig
    pixels: int = 224


def preset(name: str) -> Preset:
    """Returns the backbones called `name`: base, small or tiny."""
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
        # Too small for a meaningful time: tests and the case "growth" use it.
        return Preset(name, ViTConfig(**widths, image_size=32), BertConfig(**widths), 32)
    raise ValueError(f"preset must be base, small or tiny, got {name!r}.")


def classifier(chosen: Preset, fusion: str, *, seed: int = 0) -> FusionClassifier:
    """Returns a fused classifier of two classes.

    Classifiers of the same seed have the same tower weights, whatever their strategy.
    """
    # The towers are built before the strategy, so it cannot change their random weights.
    torch.manual_seed(seed)
    image = ImageEncoder(chosen.image, pretrained=False)
    text = TextEncoder(chosen.text)
    return FusionClassifier(
        image_encoder=image, text_encoder=text, fusion=fusion, mapper="linear"
    ).eval()


@final
class DualEncoder(nn.Module):
    """The peer: transformers' VisionTextDualEncoderModel with a linear head on the two embeddings.

    It is the model that one would write without this library.

    Args:
        model: the classifier whose ViT and BERT are copied.
        attention: "sdpa" or "eager", as transformers names its attention functions.
    """

    def __init__(self, model: FusionClassifier, attention: str = "sdpa"):
        super().__init__()
        assert model.image_encoder is not None and model.text_encoder is not None
        ours = model.image_encoder.backbone, model.text_encoder.backbone
        # Copies, because the configs name the attention of this library. The layers read them.
        configs = [copy.deepcopy(backbone.config) for backbone in ours]
        for config in configs:
            config._attn_implementation = attention
        vision, words = ViTModel(configs[0]), BertModel(configs[1])
        for tower, original in zip((vision, words), ours, strict=True):
            # The peer has poolers and our towers have none, so the poolers stay random.
            missing, unexpected = tower.load_state_dict(original.state_dict(), strict=False)
            if unexpected or not all("pooler" in name for name in missing):
                raise RuntimeError(
                    f"the peer must have the same backbone, "
                    f"got {missing} missing and {unexpected} too much."
                )
        self.towers = VisionTextDualEncoderModel(vision_model=vision, text_model=words)
        self.head = nn.Linear(2 * self.towers.config.projection_dim, 2)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the logits [B, 2]."""
        images = self.towers.get_image_features(pixel_values=pixel_values)
        texts = self.towers.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return self.head(torch.cat([_tensor(images), _tensor(texts)], dim=-1))


def _tensor(features: Any) -> Tensor:
    """Returns the projected features as a tensor.

    Some versions of transformers return a tensor, others an output object with `pooler_output`.
    """
    return features if isinstance(features, Tensor) else features.pooler_output


def texts(
    batch: int, *, width: int | None = None, seed: int = 0, device: str = "cpu"
) -> dict[str, Tensor]:
    """Returns the inputs of random texts that are as long as real reports.

    They are padded to the longest text, or to `width`; texts longer than `width` are cut.
    """
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.from_numpy(report_lengths())[
        torch.randint(0, len(report_lengths()), (batch,), generator=draw)
    ]
    lengths = lengths.clamp(max=width) if width else lengths
    places = width or int(lengths.max())
    mask = torch.arange(places) < lengths[:, None]
    # The tokens are drawn at one width, so that a text is the same for every padding width.
    ids = torch.randint(1000, 30000, (batch, 512), generator=draw)[:, :places]
    return {
        "input_ids": torch.where(mask, ids, 0).to(device),
        "attention_mask": mask.long().to(device),
    }


def pairs(
    chosen: Preset, batch: int, dtype: torch.dtype, *, width: int | None = None, device: str = "cpu"
) -> dict[str, Tensor]:
    """Returns the inputs of `batch` pairs: noise as pictures, and the texts of `texts`."""
    # Another seed than that of the texts, so that pictures and texts are independent.
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(batch, 3, chosen.pixels, chosen.pixels, generator=draw)
    return {"pixel_values": pixels.to(device, dtype), **texts(batch, width=width, device=device)}


def transformer_operations(config: Any, lengths: list[int]) -> float:
    """Returns the floating-point operations of a transformer's layers on these sequences.

    A multiplication with its addition counts as two operations. In each layer, a token needs
    8 D^2 operations for the four projections and 4 D I for the two linear layers of width I. A
    sequence of L tokens needs 4 L^2 D more for the attention scores and the weighted sums.

    Args:
        config: a transformers config with the width D, the inner width I and the number of layers.
        lengths: the tokens of each sequence.
    """
    dim, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    return float(
        layers
        * sum(length * (8 * dim**2 + 4 * dim * inner) + 4 * length**2 * dim for length in lengths)
    )


def needed_operations(chosen: Preset, batch: int, lengths: list[int]) -> float | None:
    """Returns the floating-point operations of a forward pass without padding.

    The result is None where the image tower is no transformer.
    """
    if not isinstance(chosen.image, ViTConfig):
        return None
    config = chosen.image
    patches = (chosen.pixels // config.patch_size) ** 2
    # The patch embedding multiplies each patch's pixels with a matrix.
    embedding = (
        2.0 * batch * patches * config.num_channels * config.patch_size**2 * config.hidden_size
    )
    # One more than the patches: the class token.
    image = transformer_operations(config, [patches + 1] * batch)
    return image + embedding + transformer_operations(chosen.text, lengths)
