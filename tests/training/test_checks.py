"""Arguments of the Trainer that touch the loss or the choice: honoured, or refused by name."""

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from mmfusion import fit


def weights(model):
    return torch.cat([value.detach().flatten() for value in model.parameters()])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prediction_loss_only": True}, "prediction_loss_only must be False, got True"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics must be False"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches must be True"),
        ({"bf16_full_eval": True}, "bf16_full_eval must be False.*Use bf16=True"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha must be None"),
        ({"resume_from_checkpoint": "somewhere"}, "resume_from_checkpoint must be None"),
        ({"label_names": ["other"]}, "label_names must be None"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy must be"),
        ({"metric_for_best_model": "acuracy"}, "Did you mean 'accuracy'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(rows, compose, quiet, tmp_path, options, told):
    model, processor = compose(rows)
    with pytest.raises(ValueError, match=told):
        fit(model, processor, rows, rows, arguments=quiet(tmp_path, **options))


@pytest.mark.parametrize("metric", ["loss", "eval_loss", "accuracy", "auroc"])
def test_each_metric_may_choose(rows, compose, quiet, tmp_path, metric):
    model, processor = compose(rows)
    arguments = quiet(tmp_path, metric_for_best_model=metric)
    result = fit(model, processor, rows, rows, arguments=arguments)
    key = f"eval_{metric.removeprefix('eval_')}"
    values = [entry[key] for entry in result.history if key in entry]
    assert result.best_metric == (min if metric.endswith("loss") else max)(values)


class LastStep(TrainerCallback):
    """Keeps the weights after the last step."""

    def on_step_end(self, args, state, control, model=None, **_):
        self.weights = weights(model).clone()


@pytest.mark.parametrize(
    "options",
    [
        # Validations at other steps than the checkpoints are allowed where none is loaded.
        {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": False},
        {"save_strategy": "no", "metric_for_best_model": None},
        {"save_strategy": "no", "eval_strategy": "no"},
        # The first validation lies behind the end.
        {"save_strategy": "no", "eval_delay": 1000},
    ],
)
def test_the_last_weights_are_kept_where_nothing_is_chosen(
    rows, compose, quiet, tmp_path, options, caplog
):
    """The learning rate is so high that the start has the better validation."""
    model, processor = compose(rows)
    last = LastStep()
    arguments = quiet(tmp_path, learning_rate=1.0, num_train_epochs=2, **options)
    result = fit(model, processor, rows, rows, arguments=arguments, callbacks=[last])
    assert not result.start_was_best
    assert torch.equal(weights(model), last.weights)
    assert ("No validation took place" in caplog.text) == ("eval_delay" in options)


def test_arguments_of_transformers_itself(rows, compose, tmp_path):
    """Their defaults would drop the columns of pictures and texts; they choose nothing."""
    model, processor = compose(rows)
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=1, report_to="none", use_cpu=True, disable_tqdm=True
    )
    result = fit(model, processor, rows, rows, arguments=arguments)
    assert result.epochs == 1
    assert arguments.remove_unused_columns
    assert not result.start_was_best
