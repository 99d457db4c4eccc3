"""The parts of the commands: options that were given, one line for a mistake."""

import json

import pytest

from mmfusion.cli import support


def test_options_that_were_not_given_are_left_out() -> None:
    assert support.given(a=None, b=0, c="x") == {"b": 0, "c": "x"}


def test_a_misspelt_part_is_refused_where_it_is_not_used() -> None:
    """A classifier of one modality has no fusion, so it would take any name."""
    for mapper, fusion in (("linear", "concta"), ("liner", "late")):
        with pytest.raises(ValueError, match=r"must be one of .* Did you mean '(concat|linear)'"):
            support.check_parts({"name": mapper}, {"name": fusion})


def test_options_of_parts_are_read_and_checked() -> None:
    words = ["at=8", "kind=deep", "shared=True", "rate=0.5"]
    found = support.part_options("--fusion-option", "joint", words)
    assert found == {"name": "joint", "at": 8, "kind": "deep", "shared": True, "rate": 0.5}
    for wrong in (["at"], ["at=1", "at=2"], ["name=late"], ["a b=1"]):
        with pytest.raises(ValueError, match=r"--fusion-option must be NAME=VALUE"):
            support.part_options("--fusion-option", "joint", wrong)
    mlp = {"name": "mlp", "hidden_dim": 5, "dropout": 0.1}
    support.check_parts(mlp, {"name": "joint", "at": 8})
    with pytest.raises(ValueError, match=r"options of fusion 'joint' must be what Joint takes"):
        support.check_parts(mlp, {"name": "joint", "att": 8})
    with pytest.raises(ValueError, match=r"--mapper-option must be .* Did you mean 'hidden_dim'"):
        support.check_parts({"name": "mlp", "hiden_dim": 5}, {"name": "late"})


def test_json_has_no_words_that_json_lacks() -> None:
    value = {"a": [float("nan"), 1.5, {"b": (float("inf"), "NaN")}], "c": None, "d": True}
    text = support.to_json(value)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": [None, 1.5, {"b": [None, "NaN"]}], "c": None, "d": True}
