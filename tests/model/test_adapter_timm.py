"""The adapters for timm: transformers walked by block, CNNs by stage, and any other as one block.

The smallest model of every timm module encodes a picture, or it is refused with a message that
tells the user what to do. The table `tests/golden/timm_smallest.json` names the models and the fate
of each; `python tests/golden/make_timm_smallest.py` rewrites it. `pytest -rA
tests/model/test_adapter_timm.py` prints the refusals.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from mmfusion.model.adapter_base import OneBlock
from mmfusion.model.adapter_timm import TimmStages, TimmViT, timm_adapter
from mmfusion.model.encoder_image import ImageEncoder

VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2}


# One model for each kind of prefix, norm and pooling that timm's VisionTransformer supports.
TIMM_VITS: dict[str, tuple[str, dict[str, Any], int]] = {
    "class token": ("vit_tiny_patch16_224", VIT, 1),
    "mean of patches": ("vit_tiny_patch16_224", {**VIT, "global_pool": "avg"}, 1),
    "pre-norm": ("vit_base_patch32_clip_224", {**VIT, "patch_size": 16}, 1),
    "registers": ("vit_small_patch14_reg4_dinov2", {**VIT, "patch_size": 16}, 5),
    "attention pooling": ("vit_base_patch16_siglip_224", VIT, 0),
    "two prefix tokens": ("deit_tiny_distilled_patch16_224", VIT, 2),
}
# The number of blocks into which timm groups each model.
TIMM_STAGES = {
    "resnet10t": 4,
    "lcnet_050": 6,
    "test_efficientnet": 5,
    "test_convnext": 4,
    "regnety_002": 4,
    "densenet121": 4,
    "vgg11": 5,
}


def pixels(size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


TABLE: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "timm_smallest.json").read_text()
)
MODULES: dict[str, dict[str, Any]] = TABLE["modules"]
ENCODE = [module for module, row in MODULES.items() if row["fate"] in ("walked", "one block")]
REFUSED = {module: row for module, row in MODULES.items() if module not in ENCODE}
LARGE = 27_300_000
"""The parameters above which only the shapes are computed, on the meta device.

For such models the random weights alone would take minutes.
"""


def known(module: str) -> str:
    if MODULES[module]["model"] not in timm.list_models():
        pytest.skip(
            f"timm {timm.__version__} has no model {MODULES[module]['model']} "
            f"(the table was made with {TABLE['timm']})"
        )
    return str(MODULES[module]["model"])


@pytest.mark.parametrize("kind", TIMM_VITS)
def test_timm_vits_are_walked(kind: str, check_walk: Any) -> None:
    name, options, prefix = TIMM_VITS[kind]
    encoder = ImageEncoder(name, pretrained=False, **options)
    assert isinstance(encoder.adapter, TimmViT) and encoder.num_blocks == 3 and encoder.takes_tokens
    own = check_walk(encoder, pixels())
    assert encoder.num_prefix == prefix and own.tokens.shape[1] == 4 + prefix


@pytest.mark.parametrize("name", TIMM_STAGES)
def test_timm_cnns_are_walked_by_stage(name: str, check_walk: Any) -> None:
    encoder = ImageEncoder(name, pretrained=False)
    assert isinstance(encoder.adapter, TimmStages) and not encoder.takes_tokens
    check_walk(encoder, pixels(64))
    assert encoder.num_blocks == TIMM_STAGES[name] == len(encoder.block_dims)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_recomputed_activations_change_nothing(name: str, walked: Any) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(name, pretrained=False, **(VIT if "vit" in name else {}))
    gradients = []
    for recompute in (False, True):
        encoder.gradient_checkpointing = recompute
        assert encoder.gradient_checkpointing == recompute
        encoder.zero_grad()
        # Eval mode: a second dropout mask would change the gradients.
        walked(encoder.eval(), pixels()).pooled.square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_nhwc_features_become_tokens_in_reading_order(check_walk: Any) -> None:
    encoder = ImageEncoder(
        "swin_tiny_patch4_window7_224",
        pretrained=False,
        img_size=64,
        window_size=2,
        depths=(1, 1, 1, 1),
    ).eval()
    assert isinstance(encoder.adapter, OneBlock)
    with torch.no_grad():
        own = check_walk(encoder, pixels(64))
        features = encoder.backbone.forward_features(pixels(64))
    torch.testing.assert_close(own.tokens.reshape(features.shape), features)


def test_a_widening_head_leaves_the_mean() -> None:
    encoder = ImageEncoder("lcnet_050", pretrained=False).eval()
    own = encoder(pixels(64))
    torch.testing.assert_close(own.pooled, own.tokens.mean(1))


def test_block_dims_leaves_the_mode_as_it_was() -> None:
    encoder = ImageEncoder("resnet10t", pretrained=False).train()
    encoder.backbone.layer1.eval()
    before = {name: module.training for name, module in encoder.named_modules()}
    assert encoder.block_dims == [64, 64, 128, 256]
    assert {name: module.training for name, module in encoder.named_modules()} == before


def test_lists_of_features_are_refused_by_name() -> None:
    class Pyramid(nn.Module):
        num_features = 4

        def forward_features(self, x: Tensor) -> list[Tensor]:
            return [x]

    with pytest.raises(
        ValueError, match=r"Pyramid must be a backbone whose features are .* got list\. Wrap it"
    ):
        timm_adapter(Pyramid()).forward(pixels())


def test_the_families_are_told_from_the_forward_not_the_class_name() -> None:
    class Mine(timm.models.resnet.ResNet):
        def forward_features(self, x: Tensor) -> Tensor:
            return super().forward_features(x)

    assert isinstance(timm_adapter(Mine(timm.models.resnet.BasicBlock, (1, 1, 1, 1))), OneBlock)


@pytest.mark.parametrize("module", ENCODE)
def test_it_encodes(module: str) -> None:
    name, row = known(module), MODULES[module]
    device = "meta" if row["parameters"] > LARGE else "cpu"
    torch.manual_seed(0)
    with torch.device(device), torch.no_grad():
        encoder = ImageEncoder(name, pretrained=False).eval()
        spec = encoder.input_spec
        pixels = torch.randn(1, spec["channels"], *spec["size"])
        encoded = encoder(pixels)
    tokens = encoded.tokens.shape[1]
    assert tokens > encoder.num_prefix and encoded.tokens.shape == (1, tokens, encoder.dim)
    assert encoded.mask.shape == (1, tokens) and encoded.mask.dtype == torch.bool
    assert encoded.pooled.shape == (1, encoder.dim)
    if device == "cpu":
        assert (
            bool(encoded.mask.all())
            and bool(encoded.tokens.isfinite().all())
            and bool(encoded.pooled.isfinite().all())
        )
    assert row["fate"] == ("one block" if isinstance(encoder.adapter, OneBlock) else "walked")
    if row["fate"] == "walked":
        with torch.device(device), torch.no_grad():
            hidden = encoder.embed(pixels)
            for block in range(encoder.num_blocks):
                hidden = encoder.block(block, hidden)
            walk = encoder.pool(hidden)
        assert walk.tokens.shape == encoded.tokens.shape and encoder.num_blocks > 1
        if device == "cpu":
            torch.testing.assert_close(walk.tokens, encoded.tokens, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(walk.pooled, encoded.pooled, rtol=1e-4, atol=1e-5)


def test_the_table_of_refusals() -> None:
    """Prints the refused models with the reasons, and compares them with the table."""
    refusals = {}
    for module, row in REFUSED.items():
        if row["model"] not in timm.list_models():
            continue
        encoder = ImageEncoder(row["model"], pretrained=False).eval()
        with (
            pytest.raises(ValueError, match="Wrap it in a module of your own") as error,
            torch.no_grad(),
        ):
            encoder(torch.zeros(1, encoder.input_spec["channels"], *encoder.input_spec["size"]))
        refusals[module] = str(error.value)
        assert row["fate"] in refusals[module]
    large = [module for module in ENCODE if MODULES[module]["parameters"] > LARGE]
    print(f"timm {timm.__version__}: {len(ENCODE)} modules encode, {len(refusals)} are refused:")
    for module, reason in refusals.items():
        print(f"  {module} ({MODULES[module]['model']}): {reason}")
    print(f"Only the shapes were computed, for their size, of: {', '.join(large)}.")
    assert len(refusals) < 5


def test_the_table_knows_every_module() -> None:
    if timm.__version__ != TABLE["timm"]:
        pytest.skip(f"the table was made with timm {TABLE['timm']}, here is {timm.__version__}")
    assert sorted(MODULES) == sorted(
        module for module in timm.list_modules() if timm.list_models(module=module)
    )
