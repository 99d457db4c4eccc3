"""What a user sees of a mistake: one line, no traceback, and no control characters."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from mmfusion.cli import errors


def fails(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("names must be [a, b]"), "names must be [a, b]"),
        (ValueError("two\nlines  here"), "two lines here"),
        (ValueError("[red]\x1b[31m\x07:smile:\\[b]"), "[red]\\x1b[31m\\x07:smile:\\[b]"),
        (ValueError("\ud800 \u202e"), "\\ud800 \\u202e"),
        (TypeError(), "TypeError"),
        (MemoryError(), "the memory is full. Use a smaller batch, or fewer rows."),
        (
            OSError(errno.ENOSPC, "No space left on device", "out.csv"),
            "'out.csv' could not be read or written: No space left on device. "
            "Make room on the disk.",
        ),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory"),
            "a file could not be read or written: Is a directory. Check the path.",
        ),
        (
            RuntimeError("DataLoader worker (pid 3) is killed"),
            "DataLoader worker (pid 3) is killed",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_mistake_is_one_line(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as end:
        errors.user_errors(fails)(error)
    assert end.value.exit_code == 1
    assert capsys.readouterr().err == f"error: {line}\n"


def test_notes_follow_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    for stop, code, said in ((ValueError("Wrong."), 1, "Wrong."), (KeyboardInterrupt(), 130, None)):
        stop.add_note("Half is written.")
        with pytest.raises(typer.Exit) as end:
            errors.user_errors(fails)(stop)
        said = said or "stopped from the keyboard."
        assert capsys.readouterr().err == f"error: {said} Half is written.\n"
        assert end.value.exit_code == code


@pytest.mark.parametrize("bug", [KeyError("a bug"), RuntimeError("a bug"), BrokenPipeError()])
def test_a_bug_is_no_mistake(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        errors.user_errors(fails)(bug)


def test_a_name_that_the_terminal_lacks_is_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_alone = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_alone)
    errors.user_errors(lambda: print("肺"))()
    ascii_alone.flush()
    assert ascii_alone.buffer.getvalue() == b"\\u80ba\n"  # type: ignore[attr-defined]


def test_closed_streams_are_no_error() -> None:
    code = (
        "import sys\n"
        "from mmfusion.cli.errors import user_errors\n"
        "assert sys.stdout is None and sys.stderr is None\n"
        "@user_errors\n"
        "def fails(): raise ValueError('wrong')\n"
        "import typer\n"
        "try: fails()\n"
        "except typer.Exit as end: sys.exit(end.exit_code + 40)\n"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -c "$1" >&- 2>&-', "sh", code], check=False
    )
    assert done.returncode == 41


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder with a file, a folder, a pipe, links, and the folder of a model."""
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


LONG = "x" * 300


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder", "which is a folder"),
        ("pipe", "which is a pipe, a socket or a device"),
        ("zero", "which is a pipe, a socket or a device"),
        ("gone", "which does not exist"),
        ("nowhere", "which does not exist"),
        ("file.txt/x", "which does not exist"),
        ("loop", r"got 'loop' \(Too many levels"),
        (LONG, r"\(File name too long\)"),
        ("a\0b", r"\(embedded null byte\)"),
    ],
)
def test_a_file_to_read(places: Path, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^--image must be .*{message}"):
        errors.check_input_file("--image", Path(path))
    errors.check_input_file("--image", Path("file.txt"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder", "got 'folder', which is a folder"),
        ("pipe", "which is a pipe, a socket or a device"),
        ("/dev/full", "which is a pipe, a socket or a device"),
        ("file.txt/x.csv", "file.txt' is a file"),
        ("file.txt/a/b/x.csv", "file.txt' is a file"),
        ("loop/x.csv", "Too many levels"),
        (f"{LONG}.csv", "File name too long"),
    ],
)
def test_a_file_to_write(places: Path, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^--output must be .*{message}"):
        errors.check_output_file("--output", Path(path))
    for good in ("new.csv", "new/folder/x.csv", "file.txt", "nowhere"):
        errors.check_output_file("--output", Path(good))


@pytest.mark.parametrize("path", ["file.txt", "file.txt/a/b", "pipe", "zero/a"])
def test_a_folder_to_write(places: Path, path: str) -> None:
    with pytest.raises(ValueError, match="^--output must be in a folder or a new one"):
        errors.check_output_folder("--output", Path(path))
    for good in ("folder", "new", "folder/new/newer", "."):
        errors.check_output_folder("--output", Path(good))


def test_a_folder_that_is_read_only(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The user of the tests may be root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "folder")
    with pytest.raises(ValueError, match="where you may write, got 'folder/new', .*read-only"):
        errors.check_output_folder("--output", Path("folder/new"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/frist", r"got 'runs/frist', which does not exist\. Did you mean 'first'\?"),
        ("./first", "which does not exist"),
        ("runs/first/deeper", "which does not exist"),
        ("/no/such/folder", "which does not exist"),
        ("~/model", "which does not exist"),
        ("file.txt", "got 'file.txt', which is a file"),
        ("pipe", "which is a pipe"),
        ("folder", "which has no config.json"),
        ("a b", "which does not exist"),
        ("", "which has no config.json"),
    ],
)
def test_a_name_that_is_no_model(places: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^model must be .*{message}") as error:
        errors.check_name("model", name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["runs/first", "resnet18", "timm/resnet18", "hf-hub:timm/resnet18.a1", "google-bert/bert_1.5"],
)
def test_a_name_for_a_hub_passes(places: Path, name: str) -> None:
    errors.check_name("model", name)


def test_the_answer_to_the_keyboard_imports_no_torch() -> None:
    """Otherwise it would come seconds later; and where torch is half imported, it would fail."""
    code = (
        "import sys, typer\n"
        "from mmfusion.cli.errors import user_errors\n"
        "@user_errors\n"
        "def stopped(): raise KeyboardInterrupt\n"
        "try: stopped()\n"
        "except typer.Exit as end: assert end.exit_code == 130\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "error: stopped from the keyboard.\n")
