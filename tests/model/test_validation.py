"""The checks of what a user passes, and the sentences with which they refuse."""

import pytest

from mmfusion.model.validation import (
    check_choice,
    check_probability,
    closest,
    described_errors,
    did_you_mean,
)


def test_closest_lists_all_where_nothing_is_near() -> None:
    assert closest("zzz", ["late", "concat"]) == "Choose one of ['concat', 'late']."
    assert closest(None, ["late"]) == "Choose one of ['late']."


def test_the_closest_name_is_proposed_or_none() -> None:
    assert did_you_mean("concta", ["late", "concat"]) == " Did you mean 'concat'?"
    assert did_you_mean("zzz", ["late", "concat"]) == did_you_mean("late", []) == ""
    assert closest("concta", iter(["late", "concat"])) == "Did you mean 'concat'?"


def test_only_allowed_names_pass() -> None:
    check_choice("fit", "pad", ["squash", "pad"])
    with pytest.raises(ValueError) as error:
        check_choice("fit", "pda", iter(["squash", "pad"]))
    assert str(error.value) == (
        "fit must be one of ['squash', 'pad'], got 'pda'. Did you mean 'pad'?"
    )
    with pytest.raises(ValueError, match=r"got None\. Choose one of \['pad', 'squash'\]\."):
        check_choice("fit", None, ["squash", "pad"])
    with pytest.raises(ValueError, match="layers must be one of .*, got 3"):
        check_choice("layers", 3, ["3", "4"])


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 0.999])
def test_probabilities_below_one_pass(value: float) -> None:
    check_probability("dropout", value)


@pytest.mark.parametrize("value", [1, 1.0, -0.1, 2, float("nan"), float("inf")])
def test_other_probabilities_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=rf"dropout must be in \[0, 1\), got {value!r}\."):
        check_probability("dropout", value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ZeroDivisionError("by zero"), "the file must be whole, got ZeroDivisionError: by zero. F"),
        (AssertionError(), "the file must be whole, got AssertionError: no reason. Fetch it."),
        (RuntimeError("first\nlast."), "the file must be whole, got RuntimeError: last. Fetch it."),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "the file must be whole, got Unicode"),
        (ValueError("a sentence"), "^a sentence$"),
        (FileNotFoundError("no such file"), "^no such file$"),
    ],
)
def test_errors_from_inside_a_library_name_what_is_at_fault(error: Exception, told: str) -> None:
    described = described_errors("the file", "be whole", "Fetch it.")
    with pytest.raises((ValueError, OSError), match=told) as raised, described:
        raise error
    assert raised.value is error or raised.value.__cause__ is error


def test_a_full_memory_and_the_keyboard_are_not_renamed() -> None:
    for error in (MemoryError, KeyboardInterrupt):
        with pytest.raises(error), described_errors("a", "b", "c"):
            raise error
