"""Every strategy on a CUDA device that is not there.

torch's fake tensors have a shape, a type and a device, and no values. An operation on tensors of
different devices raises as on a card, and so does whoever looks at a value.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from mmfusion import TextEncoder
from mmfusion import testing as kit
from mmfusion.model import packed_attention
from mmfusion.model.facts import look
from mmfusion.model.fusion import BUILT_IN

NEW, OLD = (9, 0), (7, 5)
"""The compute capability of a card with and of one without the variable-length kernel."""


@pytest.mark.parametrize(
    ("dtype", "capability"),
    [(torch.float32, NEW), (torch.bfloat16, NEW), (torch.bfloat16, OLD), (torch.float16, NEW)],
)
@pytest.mark.parametrize("image", ["transformers_vit", "cnn"])
@pytest.mark.parametrize("fusion", BUILT_IN)
def test_no_tensor_is_left_on_the_host(fusion, image, dtype, capability, monkeypatch, fake_on_cuda):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    kernel, runs = packed_attention._by_kernel, []
    monkeypatch.setattr(
        packed_attention, "_by_kernel", lambda *args: runs.append(args[0].dtype) or kernel(*args)
    )
    # Heads of a width that the kernel takes.
    config = kit.tiny_config(
        "bert", hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=32
    )
    text = TextEncoder(config, padding="packed")
    model = kit.tiny_classifier(fusion, "cross_attention", image, text)
    batch = kit.tiny_batch(model)
    facts = look(batch)
    with FakeTensorMode():
        inputs = fake_on_cuda(batch)
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        fake_on_cuda(model, dtype)
        for training in (False, True):
            output = model.train(training)(**inputs, facts=facts, output_embeddings=True)
            for name in ("logits", "loss", "embedding", "image_embedding", "text_embedding"):
                assert output[name].device.type == "cuda", name
            # Probabilities are combined in float32.
            expected = torch.float32 if model.fusion.answers else dtype
            assert output.logits.shape == (4, 3) and output.logits.dtype == expected
    # The kernel for texts of different lengths has no dropout, so it does not run in training.
    # `joint` packs the last blocks of a ViT, too.
    takes = capability == NEW and dtype != torch.float32
    assert len(runs) >= model.text_encoder.num_blocks if takes else not runs


def test_a_tensor_on_the_host_is_found(fake_on_cuda):
    model = kit.tiny_classifier("gated", image="cnn")
    batch = kit.tiny_batch(model)
    facts = look(batch)
    with FakeTensorMode():
        inputs = fake_on_cuda(batch)
        fake_on_cuda(model)
        model.fusion.gate.weight = torch.nn.Parameter(torch.empty(model.fusion.gate.weight.shape))
        with pytest.raises(RuntimeError, match="device"):
            model(**inputs, facts=facts)
        with pytest.raises(DataDependentOutputException, match="_local_scalar_dense"):
            fake_on_cuda(model)(**inputs)
