"""The list of all error messages of the library, read from its source.

python docs/_ext/messages.py
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "mmfusion"
LEAST = 12
"""Shorter texts are no sentences."""


def messages() -> str:
    """Returns a list of the messages in Markdown, by folder and file.

    What a message fills in stands as three dots.
    """
    lines: list[str] = []
    folder = None
    for path in sorted(SOURCE.rglob("*.py")):
        found = sorted(set(_of_file(path)))
        if not found:
            continue
        where = path.relative_to(SOURCE)
        if where.parent.name != folder:
            folder = where.parent.name
            lines += ["", f"### {folder or 'mmfusion'}", ""]
        lines += [f"- {text} (`{where.as_posix()}`)" for text in found]
    return "\n".join(lines)


def _of_file(path: Path) -> list[str]:
    """Returns the messages of the errors that a file raises."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in node.exc.args:
                text = " ".join(_text(argument).split())
                if len(text.replace("…", "")) >= LEAST:
                    found.append(_escaped(text))
    return found


def _text(node: ast.expr) -> str:
    """Returns the text of an expression; what is not written there is a single sign."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            _text(part) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "…"


def _escaped(text: str) -> str:
    """Returns a text in which Markdown and HTML have no meaning."""
    text = re.sub(r"([\\`*_{}\[\]<>#|$])", r"\\\1", text)
    return text.replace("…", "...")


if __name__ == "__main__":
    print(messages())
