"""The strategy `joint`: where it joins, and which places it computes."""

from typing import Any

import pytest

from mmfusion import testing as kit
from mmfusion.model.fusion_joint import Joint


@pytest.mark.parametrize(
    ("options", "shape", "at", "shared"),
    [
        ({}, {}, 6, 0),
        ({}, {"image_blocks": 3}, 2, 0),
        ({}, {"takes_tokens": False}, 8, 1),
        ({"at": 8}, {}, 8, 1),
        ({"at": 2, "shared_blocks": 2}, {}, 2, 2),
        ({"at": 8, "shared_blocks": 3}, {"takes_tokens": False}, 8, 3),
    ],
)
def test_where_joint_joins(
    options: dict[str, Any], shape: dict[str, Any], at: int, shared: int, shapes: Any
) -> None:
    built = Joint(**options).build(shapes(**shape))
    assert (built.at, len(built.blocks)) == (at, shared)


@pytest.mark.parametrize("training", [False, True])
def test_a_joint_sequence_passes_a_transformers_tower_without_its_padding(training: bool) -> None:
    model = kit.tiny_classifier("joint", "linear", "transformers_vit").train(training)
    inputs = kit.tiny_batch(model, 6, missing=False)
    inputs["attention_mask"][3:, 1:] = 0
    seen: list[tuple[int, ...]] = []
    for block in model.image_encoder.backbone.layers[model.fusion.at :]:
        block.mlp.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape[:2])))
    model(**inputs).loss.backward()
    places = model.image_encoder.embed(inputs["pixel_values"]).values.shape[1]
    real = 6 * places + int(inputs["attention_mask"].sum())
    assert seen and set(seen) == {(1, real)}
