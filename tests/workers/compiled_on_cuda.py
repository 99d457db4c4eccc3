"""The tests of compiled classifiers on a CUDA device, run by test_on_cuda.py without shape checks.

A compiled classifier answers as the eager one does, from CUDA graphs that hold real tokens alone.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from mmfusion import CompiledClassifier, FusionClassifier, TextEncoder
from mmfusion import testing as kit
from mmfusion.inference.compiled_graphs import PatchProduct
from mmfusion.model.facts import look
from mmfusion.model.fusion import BUILT_IN

pytestmark = pytest.mark.cuda

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""The largest difference of logits, which are about 1, from those of the eager classifier."""


@pytest.fixture(autouse=True)
def _exact_and_not_compiled_before() -> None:
    torch.compiler.reset()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def classifier(fusion: str, image: str = "transformers_vit") -> FusionClassifier:
    config = kit.tiny_config(
        "bert", hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=32
    )
    return kit.tiny_classifier(fusion, "linear", image, TextEncoder(config)).eval()


def inputs_of(model: Any, rows: int, lengths: Tensor) -> dict[str, Tensor]:
    """Returns a batch whose texts have these lengths; its first samples lack one modality."""
    batch = kit.tiny_batch(model, rows)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    batch["input_ids"] = torch.randint(2, 20, mask.shape) * mask
    batch["attention_mask"] = mask
    return {name: value.cuda() for name, value in batch.items() if name != "labels"}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("fusion", BUILT_IN)
def test_it_answers_as_eager_does(fusion: str, dtype: torch.dtype) -> None:
    model = classifier(fusion, "cnn" if fusion == "film" else "transformers_vit")
    model = model.to("cuda", dtype)
    fast = CompiledClassifier(model, batch_sizes=(16,), lengths=(32,))
    assert fast._has_rows
    products = [module for module in fast.model.modules() if isinstance(module, PatchProduct)]
    # The patch embedding of the ViT.
    assert len(products) == (0 if fusion == "film" else 1)
    torch.manual_seed(0)
    few, many = torch.randint(1, 5, (16,)), torch.randint(20, 32, (16,))
    answers = []
    # Each number of tokens is computed, recorded as a graph, and replayed.
    for lengths in [few, many] * 4:
        inputs = inputs_of(model, 16, lengths)
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        with torch.no_grad():
            expected = model(**inputs).logits
        found = fast(**inputs).logits
        size = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found, expected, atol=size * TOLERANCE[dtype], rtol=0)
        answers.append((found, found.clone()))
    # A replay must not overwrite the answers that were given before.
    for given, copied in answers:
        assert torch.equal(given, copied)


def test_the_host_never_waits_inside() -> None:
    model = classifier("concat").to("cuda", torch.bfloat16)
    fast = CompiledClassifier(model, batch_sizes=(16,), lengths=(32,))
    inputs = inputs_of(model, 16, torch.randint(1, 32, (16,)))
    facts = look(inputs)
    for _ in range(3):
        fast(**inputs, facts=facts)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        fast(**inputs, facts=facts)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_windows_and_part_batches() -> None:
    model = classifier("late").cuda()
    fast = CompiledClassifier(model, batch_sizes=(4, 8), lengths=(16,))
    for rows in (1, 3, 8, 11):
        batch = kit.tiny_batch(model, rows, missing=rows > 1, windows=3)
        inputs = {name: value.cuda() for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            expected = model(**inputs).logits
        for _ in range(3):
            torch.testing.assert_close(fast(**inputs).logits, expected, atol=1e-4, rtol=0)
