"""Graphs whose texts are packed into rows of a few lengths, run by test_compiled.py.

They are the graphs of a CUDA device. Here they run on the CPU, or on fake tensors.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mmfusion import CompiledClassifier, TextEncoder
from mmfusion import testing as kit
from mmfusion.inference import compiled


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("fusion", ["concat", "joint", "bottleneck"])
def test_one_graph_packs_any_number_of_tokens_into_rows_of_fixed_lengths(
    fusion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA, whose graphs have shapes that depend on no values."""
    monkeypatch.setattr(compiled, "ROW_DEVICES", ("cpu",))
    model = kit.tiny_classifier(fusion, "linear", "transformers_vit", "bert")
    seen: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            seen.append([int(value) for value in args if isinstance(value, int)])
            return graph.forward(*args)

        return run

    fast = CompiledClassifier(model, batch_sizes=(8,), lengths=(32,), backend=backend)
    fast._for_cpu = False
    for longest in (3, 12, 22, 32):
        batch = kit.tiny_batch(model, 7)
        lengths = torch.tensor([1, *[longest] * 6])
        batch["attention_mask"] = (torch.arange(32) < lengths[:, None]).long()
        batch["input_ids"] = torch.randint(2, 20, (7, 32)) * batch["attention_mask"]
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            expected = model(**inputs).logits
        torch.testing.assert_close(fast(**inputs).logits, expected, atol=1e-5, rtol=0)
    # The second sample lacks its text, which has one token in a graph. The first one is repeated.
    assert seen == [[64], [64], [128], [192]]
    assert not fast.model.text_encoder._packs_in_graphs


@pytest.mark.parametrize(
    ("fusion", "image"),
    [
        ("concat", "cnn"),
        ("joint", "transformers_vit"),
        ("cross_attention", "transformers_vit"),
        ("mmtm", "cnn"),
        ("bottleneck", "transformers_vit"),
        ("film", "cnn"),
        ("tokens", "transformers_vit"),
        ("guarded", "transformers_vit"),
    ],
)
def test_a_graph_for_cuda_holds_the_kernel_and_no_wait(
    fusion: str, image: str, monkeypatch: pytest.MonkeyPatch, fake_on_cuda: Callable[..., Any]
) -> None:
    """On fake tensors, which have a device and no values; whoever looks at a value raises."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    kernels: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        kernels.append(sum("varlen_attn" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
    text = TextEncoder(kit.tiny_config("bert", **sizes, intermediate_size=32))
    model = kit.tiny_classifier(fusion, "linear", image, text).eval()
    fast = CompiledClassifier(model, batch_sizes=(4,), backend=backend)
    batch = {name: value for name, value in kit.tiny_batch(model).items() if name != "labels"}
    with FakeTensorMode(), torch.no_grad():
        fake_on_cuda(fast.model, torch.bfloat16)
        inputs = fake_on_cuda(batch)
        inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
        row = torch.empty(20, device="cuda")
        torch._dynamo.mark_dynamic(row, 0)
        logits = fast._run(inputs, row)
    assert logits.shape == (4, 3) and logits.device.type == "cuda"
    # The text tower packs. `joint` leaves the joined sequence padded.
    assert kernels == [2]
