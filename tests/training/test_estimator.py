"""`FusionEstimator` works wherever scikit-learn takes a classifier."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn import exceptions
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.utils import estimator_checks

from mmfusion import FusionClassifier, ImageEncoder, TextEncoder, predict_proba
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_config
from mmfusion.training.estimator import FusionEstimator

WORDS = ("dark", "bright")


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Any]]:
    """Returns pictures of one grey each, and texts with one of two words: four classes."""
    rng = np.random.default_rng(0)
    return [
        {
            "image": Image.new("L", (16, 16), int(40 + 160 * (number % 2) + rng.integers(0, 20))),
            "text": f"{WORDS[number // 2 % 2]} number {number}",
            "group": f"p{number // 2}",
        }
        for number in range(48)
    ]


@pytest.fixture(scope="module")
def classes(samples: list[dict[str, Any]]) -> list[str]:
    return [f"{row['text'].split()[0]} {number % 2}" for number, row in enumerate(samples)]


@pytest.fixture
def estimator() -> FusionEstimator:
    torch.manual_seed(0)
    words = word_tokenizer([f"{' '.join(WORDS)} number"])
    image = ImageEncoder(tiny_config("vit", image_size=16, patch_size=8)).freeze()
    text = TextEncoder(tiny_config("bert", vocab_size=len(words))).freeze()
    return FusionEstimator(image, text, tokenizer=words, epochs=2)


def test_it_learns_what_both_modalities_tell(
    estimator: FusionEstimator, samples: list[dict[str, Any]], classes: list[str]
) -> None:
    before = {name: value.clone() for name, value in estimator.image_encoder.state_dict().items()}
    fitted = estimator.fit(samples, classes)
    assert fitted is estimator
    assert estimator.classes_.tolist() == sorted(set(classes))
    assert estimator.score(samples, classes) > 0.9
    found = estimator.predict_proba(samples)
    assert found.shape == (48, 4) and np.allclose(found.sum(1), 1, atol=1e-5)
    direct = predict_proba(estimator.model_, estimator.processor_, samples)
    np.testing.assert_allclose(found, direct, atol=1e-6)
    assert isinstance(estimator.model_, FusionClassifier)
    assert estimator.model_.config.id2label == dict(enumerate(estimator.classes_))
    after = estimator.image_encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_encoders_that_train_stay_as_they_were(
    estimator: FusionEstimator, samples: list[dict[str, Any]], classes: list[str]
) -> None:
    encoder = estimator.text_encoder.unfreeze()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    options = {"metric_for_best_model": None}
    estimator.set_params(epochs=1, learning_rate=1e-2, training_options=options)
    estimator.fit(samples, classes)
    after, trained = encoder.state_dict(), estimator.model_.text_encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not all(torch.equal(value, trained[name]) for name, value in before.items())


def test_a_data_frame_gives_the_same_and_two_fits_are_equal(
    estimator: FusionEstimator, samples: list[dict[str, Any]], classes: list[str]
) -> None:
    first = estimator.fit(samples, classes).predict_proba(samples)
    frame = pd.DataFrame(samples)
    second = clone(estimator).fit(frame, np.array(classes)).predict_proba(frame)
    np.testing.assert_array_equal(first, second)


def test_numbers_are_classes_too(estimator: FusionEstimator, samples: list[dict[str, Any]]) -> None:
    y = [10 * (number % 2) - 5 for number in range(48)]
    estimator.set_params(text_encoder=None)
    assert estimator.fit(samples, y).predict(samples[:2]).tolist() == [-5, 5]


def test_several_labels_of_one_sample(
    estimator: FusionEstimator, samples: list[dict[str, Any]]
) -> None:
    y = np.array([[number % 2, number // 2 % 2, 1 - number % 2] for number in range(48)])
    found = estimator.fit(samples, y).predict(samples)
    assert found.shape == (48, 3) and (found == y).mean() > 0.9
    assert estimator.classes_.tolist() == [0, 1, 2]


def test_grid_search_finds_the_text_that_a_late_model_needs(
    estimator: FusionEstimator, samples: list[dict[str, Any]], classes: list[str]
) -> None:
    grid = {"fusion": ["concat", "late"], "mapper": ["linear", "identity"]}
    search = GridSearchCV(estimator, grid, cv=GroupKFold(2), error_score="raise")
    search.fit(samples, classes, groups=[row["group"] for row in samples])
    assert search.best_score_ > 0.8 and len(search.cv_results_["params"]) == 4
    assert search.best_estimator_.model_.config.fusion["name"] == search.best_params_["fusion"]


def test_it_can_be_calibrated_and_cross_validated(
    estimator: FusionEstimator, samples: list[dict[str, Any]], classes: list[str]
) -> None:
    calibrated = CalibratedClassifierCV(estimator, cv=2).fit(samples, classes)
    assert calibrated.predict_proba(samples).shape == (48, 4)
    assert (calibrated.predict(samples) == classes).mean() > 0.8
    assert cross_val_score(estimator, samples, classes, cv=2).min() > 0.7


def test_no_patient_is_on_both_sides_of_the_held_out_rows(
    estimator: FusionEstimator, samples: list[dict[str, Any]], classes: list[str], monkeypatch: Any
) -> None:
    seen: dict[str, set[str]] = {}
    import mmfusion.training.estimator as module

    whole = module.fit

    def watched(model: Any, processor: Any, train: Any, validation: Any, **options: Any) -> Any:
        seen["train"], seen["validation"] = set(train["group"]), set(validation["group"])
        return whole(model, processor, train, validation, **options)

    monkeypatch.setattr(module, "fit", watched)
    estimator.fit(samples, classes)
    assert seen["train"] and seen["validation"] and not seen["train"] & seen["validation"]


@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_get_params_invariance",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_valid_tag_types",
        "check_mixin_order",
    ],
)
def test_the_checks_of_scikit_learn_that_apply(check: str) -> None:
    """The others train on matrices of numbers, which are no samples."""
    getattr(estimator_checks, check)("FusionEstimator", FusionEstimator())


def test_what_is_wrong_is_told(
    estimator: FusionEstimator, samples: list[dict[str, Any]], classes: list[str]
) -> None:
    with pytest.raises(exceptions.NotFittedError):
        estimator.predict(samples)
    with pytest.raises(ValueError, match="one entry per sample, got 47 for 48"):
        estimator.fit(samples, classes[1:])
    with pytest.raises(ValueError, match="two classes or more"):
        estimator.fit(samples, ["a"] * 48)
    with pytest.raises(ValueError, match="Unknown label type"):
        estimator.fit(samples, np.linspace(0.1, 1, 48))
    with pytest.raises(ValueError, match="image_encoder or text_encoder must be given"):
        FusionEstimator().fit(samples, classes)
    with pytest.raises(ValueError, match="validation_fraction must be above 0"):
        clone(estimator).set_params(validation_fraction=1.0).fit(samples, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="Did you mean 'num_train_epochs'"):
            clone(estimator).set_params(training_options={"num_epochs": 1}).fit(samples, classes)
