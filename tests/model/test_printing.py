"""What a message shows: no control characters, and not all of a damaged header."""

from mmfusion.model.printing import LONGEST_NAME, MOST_NAMES, list_names, printable


def test_control_characters_are_written_as_escapes() -> None:
    text = "œ肺 \x1b]0;x\x07\x9b1m\r\n\t\u202e\ud800"
    assert printable(text) == "œ肺 \\x1b]0;x\\x07\\x9b1m\\r\\n\\t\\u202e\\ud800"
    assert printable(text).isprintable()


def test_names_are_listed_up_to_a_limit() -> None:
    assert list_names(["a", "b\x1b"]) == repr(["a", "b\x1b"])
    many = list_names(["x" * 1000] * (MOST_NAMES + 7))
    assert many.endswith("...'] and 7 more")
    assert many.count("x" * LONGEST_NAME + "...") == MOST_NAMES
