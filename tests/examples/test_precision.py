"""Tests of the copies of a trained classifier in other precisions."""

import precision
import torch
from torch import nn

from mmfusion import testing as kit


def test_the_copies_answer_in_their_precision_and_the_model_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(precision, "MINILM", 8)
    model = kit.tiny_classifier(image="cnn", text="bert").eval()
    kit.redraw_parameters(model, 0)
    batch = kit.tiny_batch(model)
    with torch.no_grad():
        before = model(**batch).logits
        copies = precision.in_precisions(model)
        found = {name: one(**batch).logits.float() for name, one in copies.items()}
    assert copies["float32"] is model and torch.equal(found["float32"], before)
    assert {one.dtype for one in copies.values()} == {torch.float32, torch.bfloat16}
    assert len({tuple(logits.flatten().tolist()) for logits in found.values()}) == 3
    for logits in found.values():
        torch.testing.assert_close(logits, before, atol=0.1 * float(before.abs().max()), rtol=0)
    layers = [one for one in copies["int8"].text_encoder.modules() if type(one) is nn.Linear]
    assert layers and all(type(layer.weight.data) is not torch.Tensor for layer in layers)
