"""The README: short, its code runs as it stands, its commands exist, its tables are the docs'."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from mmfusion.cli import app

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ").partition("  #")[0]
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


def test_it_fits_one_screen_after_the_other() -> None:
    assert len(TEXT.splitlines()) <= 150
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert len(pictures) == 2 and all((ROOT / name).is_file() for name in pictures)
    named = re.findall(r"`(docs/[\w/-]+\.md|examples/[\w/]+\.py|[A-Z]+(?:\.cff)?)`", TEXT)
    assert named and all((ROOT / name).is_file() for name in named)


def test_its_code_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in code.splitlines() if "import" not in line and line.strip()]) == 10
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    evaluation = names["evaluate"](names["model"], names["processor"], names["parts"]["test"])  # type: ignore[operator, index]
    # The colour is in the text alone and the shape in the picture alone: either gives about .5.
    assert evaluation.metrics["accuracy"].estimate > 0.9
    assert (tmp_path / "why.html").stat().st_size > 1000


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_exist(line: str) -> None:
    program, *words = shlex.split(line)
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert program == "mmfusion"
    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    # It refuses an option that does not exist.
    command.make_context(words[0], words[1:])


def test_its_table_of_libraries_is_that_of_the_page() -> None:
    page = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
    tables = [
        re.search(r"<!-- peers:start -->(.*?)<!-- peers:end -->", text, re.DOTALL)
        for text in (TEXT, page)
    ]
    assert tables[0] is not None and tables[1] is not None
    assert tables[0].group(1) == tables[1].group(1)
    for name in re.findall(r"^\| ([A-Z][\w' -]+)", tables[0].group(1), re.MULTILINE):
        assert f"[{name.split()[0]}" in page
