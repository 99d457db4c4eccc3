"""The rule by which two texts count as the same text."""

import pytest

from mmfusion.data.text import normalise_text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The lungs are clear.", "  the LUNGS\tare\nclear"),
        ("No effusion; no mass", "no effusion - no mass!"),
        ("ﬁbrosis", "fibrosis"),
        ("Straße", "STRASSE"),
        ("pneu\u00admonia", "pneumonia"),
        ("Œdème", "œde\u0300me"),
        ("a\x00b", "a b"),
    ],
)
def test_same_text(one: str, other: str) -> None:
    assert normalise_text(one) == normalise_text(other)


@pytest.mark.parametrize(
    ("one", "other"), [("T1", "T2"), ("कि", "का"), ("+", "<"), ("no mass", "nomass")]
)
def test_different_text(one: str, other: str) -> None:
    assert normalise_text(one) != normalise_text(other)
