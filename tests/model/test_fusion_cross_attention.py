"""The strategies that use tokens, `cross_attention` and `joint`, on large batches."""

from typing import Any

import pytest
import torch

from mmfusion import testing as kit
from mmfusion.model import fusion_cross_attention, fusion_joint
from mmfusion.model.packing import ungrouped


@pytest.mark.parametrize("mapper", ["linear", "mlp"])
@pytest.mark.parametrize(
    ("fusion", "image", "one_by_one", "groups"),
    [
        ("joint", "timm_vit", True, 3),
        ({"name": "joint", "at": 0, "shared_blocks": 1}, "transformers_vit", True, 3),
        ("joint", "transformers_vit", True, 1),
        ("joint", "cnn", True, 3),
        ("cross_attention", "transformers_vit", True, 1),
        ("cross_attention", "transformers_vit", False, 3),
        ("cross_attention", "cnn", True, 1),
        ("cross_attention", "cnn", False, 3),
    ],
)
def test_a_large_batch_of_unlike_texts_is_each_sample_alone(
    fusion: Any,
    image: str,
    one_by_one: bool,
    groups: int,
    mapper: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A batch of eight or more samples passes the strategy in groups of similar length, packed, or
    # one by one. A sample alone does not, and must still get the same answer.
    # False takes the way of other devices than a CPU.
    monkeypatch.setattr(
        "mmfusion.model.fusion_cross_attention.attends_one_by_one", lambda device: one_by_one
    )
    monkeypatch.setattr("mmfusion.model.attention.attends_one_by_one", lambda device: one_by_one)
    model = kit.tiny_classifier(fusion, mapper, image).double()
    inputs = kit.tiny_batch(model, 14)
    inputs["image_present"][[0, 5]] = False
    inputs["text_present"][[1, 6]] = False
    inputs["attention_mask"][8:, 1:] = 0
    inputs["pixel_values"] = inputs["pixel_values"].double()
    del inputs["labels"]
    together: list[int] = []
    for module in (fusion_cross_attention, fusion_joint):
        monkeypatch.setattr(
            module,
            "ungrouped",
            lambda groups, values: together.append(len(groups)) or ungrouped(groups, values),
        )
    found = model(**inputs).logits
    found.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    alone = torch.cat(
        [
            model(**{name: value[row : row + 1] for name, value in inputs.items()}).logits
            for row in range(14)
        ]
    )
    alone.square().sum().backward()
    assert together == [groups] + [1] * 14
    torch.testing.assert_close(found, alone, atol=1e-10, rtol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-8, rtol=1e-8)
