"""Results on disk that are made once."""

import json

import pytest

from mmfusion.training.stored import finite, kept, write_json


def test_it_is_made_once_and_read_back(tmp_path):
    path = tmp_path / "new" / "0.json"
    assert kept(path, lambda: {"a": (1, 2)}) == {"a": [1, 2]}
    assert kept(path, lambda: pytest.fail("made again")) == {"a": [1, 2]}


def test_what_was_half_written_is_not_read(tmp_path):
    path = tmp_path / "0.json"
    path.with_suffix(".part").write_text('{"a": ')
    assert kept(path, lambda: {"a": 2}) == {"a": 2}
    assert not path.with_suffix(".part").exists()
    with pytest.raises(ZeroDivisionError):
        kept(tmp_path / "1.json", lambda: {"a": 1 / 0})
    assert not (tmp_path / "1.json").exists()


def test_a_file_is_whole_or_absent(tmp_path, full_disk):
    path = tmp_path / "new" / "file.json"
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": object()})
    with full_disk(1000), pytest.raises(OSError, match="File too large"):
        write_json(path, {"a": "x" * 2000})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_json_has_no_nan_and_no_infinity():
    value = {"a": [float("nan"), (1.5, float("-inf"))], "b": "nan", "c": True, "d": 3}
    assert finite(value) == {"a": [None, [1.5, None]], "b": "nan", "c": True, "d": 3}
