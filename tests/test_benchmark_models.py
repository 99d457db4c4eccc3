"""The timed peer runs what its name says."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.models import DualEncoder, classifier, pairs, preset


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_peer_runs_transformers_own_attention(
    attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = DualEncoder(classifier(preset("tiny"), "concat"), attention).eval()
    names = {
        module.config._attn_implementation
        for tower in (peer.towers.vision_model, peer.towers.text_model)
        for module in tower.modules()
        if hasattr(module, "config")
    }
    assert names == {attention}
    product, calls = torch.nn.functional.scaled_dot_product_attention, []
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **options: calls.append(1) or product(*args, **options),
    )
    peer(**pairs(preset("tiny"), 2, torch.float32))
    # Two towers of two layers.
    assert len(calls) == (4 if attention == "sdpa" else 0)
