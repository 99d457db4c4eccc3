"""Texts from columns: clauses, missing values, numbers, errors."""

import math

import pytest

from mmfusion.model.template import check_columns, template_columns, write_text

TEMPLATE = "{sex}, {age} years. {indication}"


@pytest.mark.parametrize(
    ("sex", "age", "indication", "text"),
    [
        ("male", 60, "cough", "male, 60 years. cough"),
        ("male", 60, None, "male, 60 years."),
        ("male", None, "cough", "male. cough"),
        ("male", None, " ", "male."),
        (None, 60, "cough", "60 years. cough"),
        (None, math.nan, "cough", "cough"),
        (None, None, "", None),
    ],
)
def test_a_clause_with_a_missing_value_is_left_out(sex, age, indication, text):
    assert write_text(TEMPLATE, {"sex": sex, "age": age, "indication": indication}) == text


def test_the_strongest_separator_remains():
    values = {"a": 1, "b": None, "c": 3}
    assert write_text("{a}, {b}; {c}", values) == "1; 3"
    assert write_text("{a}; {b}, {c}", values) == "1; 3"
    assert write_text("{a}, {b}\n{c}", values) == "1\n3"
    # A comma waits for what was left out, a full stop does not.
    assert write_text("{a}, {b}", values) == "1"
    assert write_text("{a}. {b}", values) == "1."


def test_signs_inside_a_word_separate_nothing():
    assert write_text("{a}.{b} mg, then {c}", {"a": 1, "b": 5, "c": None}) == "1.5 mg"
    assert write_text("1,5 mg {a}", {"a": "daily"}) == "1,5 mg daily"


def test_clauses_without_a_column_stay_while_something_is_known():
    assert write_text("Patient: {sex}. No history", {"sex": "male"}) == "Patient: male. No history"
    assert write_text("Patient. {sex}", {"sex": None}) is None


def test_values_are_written_as_in_a_table():
    values = {"a": 60.0, "b": 0.5, "c": 0, "d": " x "}
    assert write_text("{a} {b} {c} {d}", values) == "60 0.5 0 x"
    # Braces and separators inside a value are text.
    assert write_text("{a}, {b}", {"a": "{b}", "b": "x, y"}) == "{b}, x, y"
    assert write_text("{{{a}}}", {"a": 1}) == "{1}"


@pytest.mark.parametrize("wrong", ["no column", "{}", "{ }", "{0.x}", "{a[b]}", "{a!r}", "{a:.1f}"])
def test_a_template_holds_names_alone(wrong):
    with pytest.raises(ValueError, match="template must"):
        template_columns(wrong)


def test_an_open_brace_is_named():
    with pytest.raises(ValueError, match="each brace closed"):
        template_columns("{age years")


def test_a_wrong_column_is_answered_with_the_right_one():
    with pytest.raises(ValueError, match=r"got 'gae'. Did you mean 'age'\?"):
        check_columns("{gae}", ["age", "sex"])
    assert template_columns("{a} {b} {a}") == ["a", "b"]
