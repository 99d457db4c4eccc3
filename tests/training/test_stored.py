"""Results on disk that are made once."""

import pytest

from mmfusion.training.stored import kept


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
