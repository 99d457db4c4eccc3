"""Evaluation: it needs labels, and resamples by patient."""

import pytest

from mmfusion.training.evaluate import evaluate


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
