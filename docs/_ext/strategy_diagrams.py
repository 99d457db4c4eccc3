"""The diagrams of the strategies, one SVG each, all in one style.

    python docs/_ext/strategy_diagrams.py FOLDER

A diagram is read from left to right: the image tower is above, the text tower below. Its colours
can be read on a light and on a dark page.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 780, 170
IMAGE, TEXT, FUSED, LINE = "#2f7ed8", "#d9822b", "#8e5bc0", "#7b8794"
TOP, BOTTOM = 40, 125
"""The middle of the row of the image, and of that of the text."""
BLOCKS = (120, 168, 216, 264)
"""The left edges of the four blocks that are drawn of a tower."""
SIDE = 38


class Diagram:
    """An SVG that boxes and arrows are added to."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def box(self, x: float, y: float, width: float, text: str, colour: str) -> None:
        """Adds a box with a text; y is its middle."""
        self.parts.append(
            f'<rect x="{x}" y="{y - 15}" width="{width}" height="30" rx="5" fill="{colour}" '
            f'fill-opacity=".18" stroke="{colour}" stroke-width="1.5"/>'
        )
        if text:
            self.say(x + width / 2, y + 4, text)

    def say(self, x: float, y: float, text: str, size: int = 12) -> None:
        """Adds a text around x."""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="middle" '
            f'fill="{LINE}">{escape(text)}</text>'
        )

    def arrow(self, *points: tuple[float, float], both: bool = False) -> None:
        """Adds an arrow through points."""
        path = " ".join(f"{x},{y}" for x, y in points)
        start = ' marker-start="url(#tip)"' if both else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.5" '
            f'marker-end="url(#tip)"{start}/>'
        )

    def towers(self) -> None:
        """Adds both towers, of four blocks each, and the mapper behind the text's."""
        for y, name, colour in ((TOP, "picture", IMAGE), (BOTTOM, "text", TEXT)):
            self.say(45, y + 4, name)
            self.arrow((75, y), (BLOCKS[0] - 3, y))
            for x in BLOCKS:
                self.box(x, y, SIDE, "", colour)
            for x in BLOCKS[1:]:
                self.arrow((x - 10, y), (x - 3, y))
        self.arrow((302, BOTTOM), (330, BOTTOM))
        self.box(333, BOTTOM, 70, "mapper", TEXT)

    def answer(self, x: float, y: float, name: str = "head") -> None:
        """Adds a head and the answer behind it."""
        self.box(x, y, 56, name, FUSED)
        self.arrow((x + 56, y), (x + 82, y))
        self.say(x + 112, y + 4, "answer")

    def svg(self, title: str) -> str:
        """Returns the whole file."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'font-family="system-ui, sans-serif" role="img"><title>{escape(title)}</title>'
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" '
            f'markerHeight="6" orient="auto-start-reverse"><path d="M0,0 L8,4 L0,8 z" '
            f'fill="{LINE}"/></marker></defs>{"".join(self.parts)}</svg>\n'
        )


def _behind(d: Diagram, name: str, width: float = 160, notes: Sequence[str] = ()) -> None:
    """Adds a box behind both towers, and the head behind it."""
    middle = (TOP + BOTTOM) / 2
    d.arrow((302, TOP), (430, TOP), (430, middle - 6), (447, middle - 6))
    d.arrow((403, BOTTOM), (430, BOTTOM), (430, middle + 6), (447, middle + 6))
    d.box(450, middle, width, name, FUSED)
    d.arrow((450 + width, middle), (450 + width + 12, middle))
    d.answer(450 + width + 15, middle)
    for place, note in enumerate(notes):
        d.say(450 + width / 2, middle + 32 + 15 * place, note, 11)


def _concat(d: Diagram) -> None:
    _behind(d, "pooled, side by side")


def _gated(d: Diagram) -> None:
    _behind(d, "g · image + (1 - g) · text", notes=["g: a gate for each channel"])


def _low_rank(d: Diagram) -> None:
    _behind(d, "U image ⊙ V text", notes=["of low rank"])


def _tokens(d: Diagram) -> None:
    _behind(d, "small transformer", notes=["over the tokens of both towers"])


def _cross_attention(d: Diagram) -> None:
    d.arrow((302, TOP), (447, TOP))
    d.box(450, TOP, 130, "attention + gate", FUSED)
    d.arrow((403, BOTTOM), (515, BOTTOM), (515, TOP + 18))
    d.say(560, BOTTOM - 8, "keys, values", 11)
    d.say(375, TOP - 10, "queries", 11)
    d.arrow((580, TOP), (592, TOP))
    d.answer(595, TOP)


def _into_tower(d: Diagram, note: str) -> None:
    """Adds an arrow from the mapper into the image tower before its third block."""
    d.arrow((368, BOTTOM - 15), (368, 82), (211, 82), (211, TOP + 4))
    d.say(300, 76, note, 11)
    d.arrow((302, TOP), (447, TOP))


def _joint(d: Diagram) -> None:
    _into_tower(d, "tokens join before block at")
    d.answer(450, TOP)


def _film(d: Diagram) -> None:
    _into_tower(d, "scale and shift")
    d.answer(450, TOP)


def _mmtm(d: Diagram) -> None:
    for x in BLOCKS[2:]:
        d.box(x + 2, (TOP + BOTTOM) / 2, SIDE - 4, "S", FUSED)
        d.arrow((x + SIDE / 2, TOP + 16), (x + SIDE / 2, 65), both=True)
        d.arrow((x + SIDE / 2, 100), (x + SIDE / 2, BOTTOM - 16), both=True)
    d.say(150, 82, "S: squeeze both,", 11)
    d.say(150, 96, "re-weight both", 11)
    _behind(d, "pooled, side by side")


def _bottleneck(d: Diagram) -> None:
    d.box(BLOCKS[2], (TOP + BOTTOM) / 2, 86, "few tokens", FUSED)
    for x in BLOCKS[2:]:
        d.arrow((x + SIDE / 2, TOP + 16), (x + SIDE / 2, 65), both=True)
        d.arrow((x + SIDE / 2, 100), (x + SIDE / 2, BOTTOM - 16), both=True)
    _behind(d, "pooled, side by side")


def _late(d: Diagram) -> None:
    d.arrow((302, TOP), (447, TOP))
    d.arrow((403, BOTTOM), (447, BOTTOM))
    d.box(450, TOP, 56, "head", IMAGE)
    d.box(450, BOTTOM, 56, "head", TEXT)
    _joined(d, "product of experts", (TOP, BOTTOM))


def _guarded(d: Diagram) -> None:
    middle = (TOP + BOTTOM) / 2
    d.arrow((302, TOP), (447, TOP))
    d.arrow((403, BOTTOM), (447, BOTTOM))
    d.arrow((425, TOP), (425, middle - 6), (447, middle - 6))
    d.arrow((425, BOTTOM), (425, middle + 6), (447, middle + 6))
    for y, colour, name in (
        (TOP, IMAGE, "image"),
        (middle, FUSED, "joint"),
        (BOTTOM, TEXT, "text"),
    ):
        d.box(450, y, 56, name, colour)
    _joined(d, "weighted", (TOP, middle, BOTTOM))


def _joined(d: Diagram, name: str, rows: Sequence[float]) -> None:
    middle = (TOP + BOTTOM) / 2
    for y in rows:
        d.arrow((506, y), (525, y), (525, middle), (537, middle))
    d.box(540, middle, 140, name, FUSED)
    d.arrow((680, middle), (706, middle))
    d.say(736, middle + 4, "answer")


DRAWN: dict[str, Callable[[Diagram], None]] = {
    "concat": _concat,
    "joint": _joint,
    "cross_attention": _cross_attention,
    "mmtm": _mmtm,
    "bottleneck": _bottleneck,
    "film": _film,
    "gated": _gated,
    "low_rank": _low_rank,
    "tokens": _tokens,
    "late": _late,
    "guarded": _guarded,
}


def write(folder: Path) -> list[Path]:
    """Writes the diagram of every strategy into a folder, and returns the paths.

    Args:
        folder: where.
    """
    from mmfusion.model.fusion import BUILT_IN, FUSIONS

    assert set(DRAWN) == set(BUILT_IN), "a strategy has no diagram, or a diagram no strategy"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in BUILT_IN:
        diagram = Diagram()
        diagram.towers()
        DRAWN[name](diagram)
        content = diagram.svg(f"{name}: {FUSIONS[name].summary}")
        path = folder / f"{name}.svg"
        # An unchanged file keeps its time stamp, so Sphinx does not build its page again.
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
        paths.append(path)
    return paths


if __name__ == "__main__":
    print(*write(Path(sys.argv[1])), sep="\n")
