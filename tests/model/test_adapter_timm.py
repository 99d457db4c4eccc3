"""The smallest model of every timm module.

Each encodes a picture, or it is refused with a message that tells the user what to do.

The table `tests/golden/timm_smallest.json` names the models and the fate of each; `python
tests/golden/make_timm_smallest.py` rewrites it. `pytest -rA tests/model/test_adapter_timm.py`
prints the refusals.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from mmfusion.model.adapter_base import OneBlock
from mmfusion.model.encoder_image import ImageEncoder

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
