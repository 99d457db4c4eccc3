"""Models of timm: read from folders, with their preprocessing and without unused heads."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.load_timm import build_timm

VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2}


def pixels(size: int = 16) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def same(module: nn.Module, expected: dict[str, Tensor]) -> bool:
    own = module.state_dict()
    return bool(own) and all(torch.equal(value, expected[key]) for key, value in own.items())


def test_a_timm_folder(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **VIT)
    timm.models.save_for_hf(model, tmp_path, model_args=VIT, safe_serialization=True)
    encoder = ImageEncoder(f"local-dir:{tmp_path}")
    # The config names the architecture and not the folder, so it stays valid without the folder.
    assert encoder.config.architecture == "vit_tiny_patch16_224" and same(
        encoder.backbone, model.state_dict()
    )
    rebuilt = ImageEncoder.from_config(encoder.config)
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt.eval()(pixels(32)).pooled, encoder.eval()(pixels(32)).pooled)


def test_a_timm_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"got 'local-dir:{tmp_path}', whose config.json could not be read"
    ):
        ImageEncoder(f"local-dir:{tmp_path}")
    timm.models.save_for_hf(
        timm.create_model("test_vit", num_classes=3), tmp_path, safe_serialization=True
    )
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=rf"whose weights can be read and fit, got 'local-dir:{tmp_path}'"
    ):
        ImageEncoder(f"local-dir:{tmp_path}")


def test_a_head_that_would_not_train_is_not_built() -> None:
    model, architecture, options = build_timm("lcnet_050", False, {})
    whole = timm.create_model("lcnet_050", num_classes=0)
    left_out = dict(whole.named_parameters()).keys() - dict(model.named_parameters()).keys()
    assert left_out == {"conv_head.weight", "conv_head.bias"}
    assert (architecture, options) == ("lcnet_050", {})


MODULES = json.loads((Path(__file__).parents[1] / "golden" / "timm_smallest.json").read_text())[
    "modules"
]


@pytest.mark.parametrize(
    "name",
    [
        row["model"]
        for module, row in MODULES.items()
        if row["fate"] in ("walked", "one block") and module != "csatv2"
    ],
)
def test_every_family_takes_grey_pictures(name: str) -> None:
    with torch.device("meta"), torch.no_grad():
        encoder = ImageEncoder(name, pretrained=False, in_chans=1).eval()
        spec = encoder.input_spec
        assert spec["channels"] == len(spec["mean"]) == len(spec["std"]) == 1
        encoded = encoder(torch.zeros(2, 1, *spec["size"]))
        assert encoded.pooled.shape == (2, encoder.dim)


def test_a_model_that_cannot_run_with_its_channels_is_refused() -> None:
    with (
        pytest.warns(UserWarning, match="designed for 3-channel"),
        pytest.raises(ValueError, match="in_chans must be what 'csatv2' can run with, got 1"),
    ):
        ImageEncoder("csatv2", pretrained=False, in_chans=1)
