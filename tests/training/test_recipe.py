"""The recipes: what trains, and the learning rates that follow."""

import pytest

from mmfusion import testing as kit
from mmfusion.training.arguments import training_arguments
from mmfusion.training.fit import fit
from mmfusion.training.recipe import (
    RECIPES,
    is_solved_by_probes,
    what_trains,
)


def test_the_encoder_that_trains_more_gives_the_recipe() -> None:
    model = kit.tiny_classifier("concat")
    assert what_trains(model) == "all"
    model.freeze("image")
    assert what_trains(model) == "all"
    model.freeze("text", keep_last=1)
    assert what_trains(model) == "last"
    model.freeze("text")
    assert what_trains(model) == "frozen"
    model.text_encoder.add_lora(r=2)
    assert what_trains(model) == "lora"


def test_the_defaults_are_those_of_the_recipe_and_the_callers_win(tmp_path) -> None:
    model = kit.tiny_classifier("concat").freeze("image").freeze("text")
    for given, name in ((model, "frozen"), (None, "all")):
        arguments, recipe = training_arguments(tmp_path, given), RECIPES[name]
        assert arguments.learning_rate == recipe.learning_rate
        assert arguments.pretrained_learning_rate == recipe.pretrained_learning_rate
        assert arguments.num_train_epochs == recipe.epochs
        assert arguments.patience == recipe.patience
        assert arguments.weight_decay == recipe.weight_decay
    own = training_arguments(tmp_path, learning_rate=1e-4, num_train_epochs=2, patience=9)
    # One rate that a user gives is that of all parameters.
    assert (own.learning_rate, own.pretrained_learning_rate) == (1e-4, None)
    assert (own.num_train_epochs, own.patience) == (2, 9)
    both = training_arguments(tmp_path, learning_rate=1e-3, pretrained_learning_rate=1e-5)
    assert (both.learning_rate, both.pretrained_learning_rate) == (1e-3, 1e-5)
    for options in ({"metric_for_best_model": None}, {"eval_strategy": "no"}):
        assert training_arguments(tmp_path, **options).patience is None


@pytest.mark.parametrize(
    ("strategy", "mapper", "solved"),
    [
        ("concat", "linear", True),
        ("concat", "mlp", False),
        ("late", "linear", True),
        ({"name": "late", "combine": "learned"}, "linear", False),
        ("guarded", "linear", True),
        ("cross_attention", "linear", False),
    ],
)
def test_what_the_probes_solve(strategy, mapper, solved: bool) -> None:
    model = kit.tiny_classifier(strategy, mapper)
    assert not is_solved_by_probes(model)
    model.freeze("image").freeze("text")
    assert is_solved_by_probes(model) is solved


@pytest.mark.parametrize("option", ["modality_dropout", "head_dropout", "auxiliary_loss_weight"])
def test_what_acts_in_epochs_only_is_not_solved(option: str) -> None:
    model = kit.tiny_classifier("concat").freeze("image").freeze("text")
    assert is_solved_by_probes(model)
    setattr(model.config, option, 0.1)
    assert not is_solved_by_probes(model)


def test_the_patience_of_the_arguments_ends_the_training(rows, tmp_path, compose, quiet) -> None:
    model, processor = compose(rows, fusion="cross_attention")
    arguments = quiet(tmp_path, num_train_epochs=8, learning_rate=3.0, patience=2)
    result = fit(model, processor, rows, rows.select(range(10)), arguments=arguments)
    # No epoch beats the start, so two are enough.
    assert result.start_was_best and result.epochs == 2
