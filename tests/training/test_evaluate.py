"""Evaluation: it needs labels, and resamples by patient."""

import numpy as np
import pytest
import torch

from mmfusion.training.evaluate import evaluate, predict
from mmfusion.training.fit import fit


def test_evaluation_needs_labels(rows, compose):
    model, processor = compose(rows)
    with pytest.raises(ValueError, match="must have a column 'label'"):
        evaluate(model, processor, rows.remove_columns("label"))


def test_intervals_are_resampled_by_patient(rows, compose):
    model, processor = compose(rows)
    by_patient = evaluate(model, processor, rows, resamples=500)
    by_row = evaluate(model, processor, rows, group=None, resamples=500)
    assert by_patient.groups == rows["group"] and by_row.groups is None
    assert by_patient.metrics["accuracy"].estimate == by_row.metrics["accuracy"].estimate
    assert by_patient.metrics["accuracy"] != by_row.metrics["accuracy"]


@pytest.mark.parametrize("fusion", ["concat", "cross_attention", "late"])
def test_a_model_in_bfloat16(rows, compose_frozen, tmp_path, quiet, fusion):
    """It answers, with and without the cache, as in single precision up to its rounding."""
    model, processor = compose_frozen(rows, fusion, class_weights=[1.0, 2.0, 3.0, 4.0])
    expected = predict(model, processor, rows)
    assert np.ptp(expected) > 0.5
    half = model.to(torch.bfloat16)
    for cache in (None, tmp_path / "cache"):
        found = predict(half, processor, rows, cache=cache)
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.05)
        assert evaluate(half, processor, rows, cache=cache, resamples=5).logits.dtype == np.float32
    arguments = quiet(tmp_path / "out", save_strategy="no")
    result = fit(half, processor, rows, rows, arguments=arguments)
    assert np.isfinite(predict(half, processor, rows)).all()
    assert half.dtype == torch.bfloat16 and result.start is not None
