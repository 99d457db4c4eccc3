"""The weights of the best epoch, kept in memory."""

import pytest

from mmfusion.training.arguments import training_arguments
from mmfusion.training.evaluate import evaluate
from mmfusion.training.fit import fit


def test_the_best_epoch_is_the_one_that_stays(rows, tmp_path, compose, quiet):
    model, processor = compose(rows)
    result = fit(
        model,
        processor,
        rows,
        rows.select(range(8)),
        arguments=quiet(tmp_path, num_train_epochs=6, learning_rate=2e-2),
        calibrate=False,
    )
    losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
    assert result.best_metric == min(losses)
    evaluation = evaluate(model, processor, rows.select(range(8)), resamples=10)
    assert evaluation.metrics["cross_entropy"].estimate == pytest.approx(min(losses), abs=1e-5)


def test_without_a_metric_the_last_epoch_is_the_one_that_stays(rows, tmp_path, compose, quiet):
    # The validation labels are wrong, so the validation loss grows while the model learns.
    wrong = rows.map(lambda row: {"label": (row["label"] + 1) % 4})
    options = {
        "num_train_epochs": 4,
        "learning_rate": 5e-3,
        "metric_for_best_model": None,
        "save_strategy": "no",
    }
    model, processor = compose(rows)
    result = fit(
        model,
        processor,
        rows,
        wrong,
        arguments=quiet(tmp_path / "watched", **options),
        calibrate=False,
    )
    losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
    assert losses[-1] > min(losses)
    evaluation = evaluate(model, processor, wrong, resamples=10)
    assert evaluation.metrics["cross_entropy"].estimate == pytest.approx(losses[-1], abs=1e-5)
    assert not training_arguments(tmp_path, metric_for_best_model=None).load_best_model_at_end
    with pytest.raises(
        ValueError, match="patience must be None where metric_for_best_model is None"
    ):
        fit(model, processor, rows, rows, arguments=quiet(tmp_path, **options), patience=3)
