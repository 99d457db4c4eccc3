"""The laws, for random lengths, paddings, batch orders and patterns of missing modalities."""

from functools import cache

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from mmfusion import FusionClassifier
from mmfusion import testing as kit

MODELS = {
    "concat": ("concat", "linear", "custom", "roberta"),
    "joint": ({"name": "joint", "at": 2}, "mlp", "timm_vit", "bert"),
    "cross_attention": (
        "cross_attention",
        {"name": "cross_attention", "queries": "image"},
        "cnn",
        "modernbert",
    ),
    "mmtm": ("mmtm", "cross_attention", "transformers_vit", "mpnet"),
    "late": ({"name": "late", "combine": "learned"}, "linear", "opaque", "distilbert"),
}
TOLERANCE = 1e-5


@cache
def _model(name: str) -> FusionClassifier:
    return kit.tiny_classifier(*MODELS[name])


@st.composite
def _batches(draw: st.DrawFn) -> kit.Batch:
    """Draws a batch with texts of 1 to 12 tokens. Every sample has at least one modality."""
    rows = draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(1, 12), min_size=rows, max_size=rows))
    presence = draw(
        st.lists(
            st.sampled_from([(True, True), (True, False), (False, True)]),
            min_size=rows,
            max_size=rows,
        )
    )
    noise = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    image, text = torch.tensor(presence).T
    return {
        "pixel_values": torch.randn(rows, 3, 64, 64, generator=noise),
        "input_ids": torch.randint(2, 40, mask.shape, generator=noise) * mask,
        "attention_mask": mask,
        "image_present": image,
        "text_present": text,
    }


def _logits(name: str, batch: kit.Batch) -> torch.Tensor:
    model = _model(name)
    side = model.image_encoder.input_spec["size"][0]
    with torch.no_grad():
        return model(**batch | {"pixel_values": batch["pixel_values"][:, :, :side, :side]}).logits


def _close(expected: torch.Tensor, got: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(MODELS)), _batches(), st.data())
def test_any_choice_and_order_of_samples_gives_the_same_answers(
    name: str, batch: kit.Batch, data: st.DataObject
) -> None:
    rows = len(batch["input_ids"])
    order = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=6))
    _close(
        _logits(name, batch)[order],
        _logits(name, {key: value[order] for key, value in batch.items()}),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(MODELS)),
    _batches(),
    st.sampled_from(["left", "right"]),
    st.integers(0, 9),
    st.integers(0, 99),
)
def test_any_padding_gives_the_same_answers(
    name: str, batch: kit.Batch, side: str, extra: int, seed: int
) -> None:
    _close(
        _logits(name, batch), _logits(name, kit.repadded(batch, side=side, extra=extra, seed=seed))
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(MODELS)), _batches(), st.integers(0, 99))
def test_any_content_of_an_absent_slot_gives_the_same_answers(
    name: str, batch: kit.Batch, seed: int
) -> None:
    _close(_logits(name, batch), _logits(name, kit.corrupted(batch, seed)))
