"""The rows of a comparison: names, what the encoders allow, errors."""

import pytest

from mmfusion.model.fusion import FUSIONS
from mmfusion.training.compare_rows import DEFAULT_ROWS, TFIDF, ComparisonRow, rows_of


def test_the_default_has_baselines_single_modalities_and_three_strategies():
    rows = rows_of(DEFAULT_ROWS, ["image", "text"])
    assert [row.name for row in rows] == [
        "majority class", TFIDF, "image only", "text only", "concat", "late", "guarded",
    ]  # fmt: skip
    assert [row.is_single for row in rows] == [False, False, True, True, False, False, False]
    assert [row.has_encoder for row in rows] == [False, False, True, True, True, True, True]


def test_all_has_every_strategy():
    rows = rows_of("all", ["image", "text"])
    assert {row.name for row in rows if row.is_fused} == set(FUSIONS)


def test_rows_without_their_encoder_are_left_out():
    assert [row.name for row in rows_of("all", ["text"])] == ["majority class", TFIDF, "text only"]
    assert [row.name for row in rows_of("image", ["image"])] == ["image only"]
    with pytest.raises(ValueError, match="needs no more than"):
        rows_of(["late"], ["image"])


def test_a_row_of_your_own_keeps_its_options():
    row = ComparisonRow("mine", fusion={"name": "joint", "num_heads": 2}, mapper="mlp")
    (kept,) = rows_of([row], ["image", "text"])
    assert kept.options() == {
        "fusion": {"name": "joint", "num_heads": 2},
        "mapper": {"name": "mlp"},
    }
    assert ComparisonRow("other").options()["fusion"] == {"name": "concat"}


def test_errors():
    with pytest.raises(ValueError, match="got 'lat'. Did you mean 'late'"):
        rows_of(["lat"], ["image", "text"])
    with pytest.raises(ValueError, match="different names"):
        rows_of(["late", ComparisonRow("late")], ["image", "text"])
    with pytest.raises(ValueError, match="Leave fusion out"):
        ComparisonRow("x", ("image",), fusion="late")
