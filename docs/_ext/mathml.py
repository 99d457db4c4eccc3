"""A Sphinx extension that writes formulas as MathML, which browsers show without a script.

MathJax would be loaded from the network, and formulas would stay raw where there is none.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert


def _inline(translator: Any, node: nodes.Element) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.Element) -> None:
    # A block may hold several formulas, one in each paragraph.
    for formula in filter(None, map(str.strip, node.astext().split("\n\n"))):
        translator.body.append(f'<div class="math">{convert(formula, display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Registers the writer of formulas."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}
