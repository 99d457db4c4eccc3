"""Rules of style that a linter does not know: sizes, docstrings, final classes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    path
    for folder in ("src", "examples", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
LIBRARY = [path for path in SOURCES if (ROOT / "src") in path.parents]
PROPERTIES = ("property", "cached_property", "classproperty")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yields every function and method of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def decorators(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> list[str]:
    return [ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list]


def named(paths: list[Path]) -> list[object]:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


@pytest.mark.parametrize("path", named(SOURCES))
def test_files_functions_and_lines_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400
    assert not [number for number, line in enumerate(lines, 1) if len(line) > 100]
    for node in functions(path):
        docstring = ast.get_docstring(node, clean=False)
        documented = 0 if docstring is None else docstring.count("\n") + 1
        length = (node.end_lineno or node.lineno) - node.lineno + 1 - documented
        assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", named(LIBRARY))
def test_docstrings_begin_in_one_way(path: Path) -> None:
    """Those of functions begin with a verb ("Returns"), those of properties with a noun phrase."""
    for node in functions(path):
        docstring = ast.get_docstring(node)
        # The docstring of a command is what its help prints.
        if docstring is None or "app.command" in decorators(node):
            continue
        first = docstring.split()[0]
        is_verb = re.fullmatch(r"[A-Z][a-z]+s", first) is not None
        if any(name.rpartition(".")[2] in PROPERTIES for name in decorators(node)):
            assert first not in ("Return", "Returns"), f"{node.name}: {docstring.splitlines()[0]}"
        else:
            assert is_verb, f"{node.name}: {docstring.splitlines()[0]}"


def test_a_class_is_abstract_or_final() -> None:
    """An abstract class has ABC among its bases. An exception may be refined."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in LIBRARY}
    classes = [
        (path, node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    bases = {ast.unparse(base).rpartition(".")[2] for _, node in classes for base in node.bases}
    open_classes = []
    for path, node in classes:
        own = {ast.unparse(base).partition("[")[0] for base in node.bases}
        may_be_refined = "ABC" in own or any(
            name.endswith(("Error", "Warning", "Exception")) for name in own
        )
        if "final" not in decorators(node) and not may_be_refined:
            open_classes.append(f"{path.relative_to(ROOT)}: {node.name}")
        if "final" in decorators(node):
            assert node.name not in bases, f"{node.name} is final and has a subclass"
    assert not open_classes


def test_each_folder_says_what_lives_there() -> None:
    folders = sorted(path.parent for path in LIBRARY if path.name == "__init__.py")
    for folder in folders:
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8")))
        assert docstring is not None, folder
        assert len(docstring.splitlines()) <= 5, folder


def test_model_imports_nothing_outside_itself() -> None:
    """transformers copies the code of a pushed model from one folder."""
    for path in sorted((ROOT / "src" / "mmfusion" / "model").rglob("*.py")):
        assert path.parent.name == "model", f"{path.name} must not lie in a subfolder"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1 and not (node.module or "").startswith("mmfusion"), path
