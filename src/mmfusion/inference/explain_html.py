"""The page of an explanation: one file that needs no other file, no network and no script."""

import base64
import io
from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from .explanation import Explanation, Word

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1c2430; --soft: #566271;
  --line: #d9e0e8; --mark: #f1f5fa; --for: 196, 58, 32; --against: 32, 98, 190; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161c; --ink: #e7ecf2;
  --soft: #9aa7b6; --line: #303945; --mark: #1b222c; --for: 240, 110, 80;
  --against: 96, 160, 250; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 1.5rem 1.25rem 3rem; color: var(--ink);
  background: var(--ground); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.45rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p { margin: .4rem 0; }
.soft, figcaption, li { color: var(--soft); font-size: .9rem; }
.limits { margin-top: 1rem; padding: .75rem 1rem; background: var(--mark);
  border-left: 4px solid rgb(var(--for)); border-radius: 4px; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(2, minmax(0, 1fr)); }
figure { margin: 0; }
figcaption { margin-top: .4rem; }
.answer { display: grid; gap: 0 2.5rem; grid-template-columns: repeat(2, minmax(0, 1fr)); }
table.narrow { max-width: 26rem; margin-top: .5rem; }
.stack { position: relative; overflow: hidden; background: #000; border-radius: 4px; }
.stack img { display: block; width: 100%; height: auto; }
.stack .over { position: absolute; inset: 0; height: 100%; }
.stack .region { position: absolute; max-width: none; opacity: 0; }
.reading { display: grid; gap: 1rem; align-items: start; }
.reading.joined { grid-template-columns: minmax(0, 1fr) 17rem; }
.where { position: sticky; top: .5rem; }
.text { padding: .75rem 1rem; border: 1px solid var(--line); border-radius: 4px; line-height: 2;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.text .word { padding: .12em .15em; border-radius: 3px; }
.text .word:hover, .text .word:focus { outline: 2px solid var(--ink); outline-offset: 1px; }
.text .unread { color: var(--soft); text-decoration: line-through; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; min-width: 7rem; }
tr.target td { font-weight: 600; }
.bar { display: grid; grid-template-columns: 4.5rem 1fr 8.5rem; gap: .75rem; align-items: center;
  margin: .35rem 0; font-size: .9rem; }
.track { background: var(--mark); border-radius: 3px; height: 1.1rem; }
.track i { display: block; height: 100%; border-radius: 3px; background: rgb(var(--for)); }
.track i.against { background: rgb(var(--against)); }
.bar span:last-child { font-variant-numeric: tabular-nums; text-align: right; }
@media (max-width: 640px) { body { padding: 1rem .75rem 2rem; }
  .pictures, .answer, .reading.joined { grid-template-columns: minmax(0, 1fr); }
  .reading .where { order: -1; width: 60%; margin: 0 auto; background: var(--ground); }
  .bar { grid-template-columns: 3.5rem 1fr 7.5rem; gap: .5rem; } }
"""

_LIMITS = (
    "This page describes what the classifier computed. It does not prove that a part of the "
    "picture or a word is the cause of the answer, or of a disease. It is not for diagnosis."
)

# A page needs no more pixels than a screen shows. The heat map has few details.
_LARGEST, _SMALL = 900, 320
_OPAQUE = 0.7
_LEAST_CONTRAST = 0.5


def page(found: "Explanation") -> str:
    """Returns the page of an explanation.

    It holds no script, and its content policy forbids all but its own style and pictures. Texts and
    names are escaped.

    Args:
        found: the explanation.
    """
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Why {escape(found.target)}?</title>",
        f"<style>{_STYLE}{_hover(found)}</style>",
        "</head>",
        "<body>",
        *_top(found),
        '<div class="answer">',
        *_table(found),
        *_shares(found),
        "</div>",
        *_pictures(found),
        *_text(found),
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _top(found: "Explanation") -> Iterator[str]:
    probability = found.probabilities[found.target]
    yield f"<h1>{escape(found.target)}: {probability:.1%}</h1>"
    yield '<p class="soft">What the classifier based this answer on.</p>'
    yield f'<p class="limits">{escape(_LIMITS)}</p>'
    if found.notes:
        yield f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in found.notes)}</ul>"


def _pictures(found: "Explanation") -> Iterator[str]:
    if not found.heat:
        return
    yield "<h2>Picture</h2>"
    for heat in found.heat:
        size = _shown_size(heat.picture.size, _LARGEST)
        picture = f'<img alt="The picture." src="{_data(heat.picture.resize(size))}">'
        over = _data(_coloured(heat.values, size))
        method = escape(heat.method.replace("_", " "))
        yield (
            f'<div class="pictures"><figure><div class="stack">{picture}</div>'
            "<figcaption>The picture as it was read.</figcaption></figure>"
        )
        yield (
            f'<figure><div class="stack">{picture}<img class="over" alt="The heat map." '
            f'src="{over}"></div><figcaption>Where the picture speaks for '
            f"{escape(found.target)} ({method}), from dark red to yellow.</figcaption></figure>"
            "</div>"
        )


def _where(found: "Explanation") -> Iterator[str]:
    """Yields a small copy of each picture, on which a word shows the regions that attend to it."""
    for view, heat in enumerate(found.heat):
        if heat.words is None:
            continue
        small = heat.picture.resize(_shown_size(heat.picture.size, _SMALL))
        yield (
            f'<figure class="where"><div class="stack"><img alt="" src="{_data(small)}">'
            f"{''.join(_regions(found, view))}</div><figcaption>Point at a word to see which "
            "regions attend to it more than others.</figcaption></figure>"
        )


def _regions(found: "Explanation", view: int) -> Iterator[str]:
    """Yields for each word the map of the regions that attend to it, hidden until it is wanted."""
    heat = found.heat[view]
    if heat.words is None:
        return
    width, height = heat.picture.size
    left, top, right, bottom = heat.box
    place = (
        f"left:{100 * left / width:.3f}%;top:{100 * top / height:.3f}%;"
        f"width:{100 * (right - left) / width:.3f}%;height:{100 * (bottom - top) / height:.3f}%"
    )
    # How far a region attends to a word above the mean of all regions, on one scale for all words.
    # A word to which all regions attend alike stays without colour.
    means = np.maximum(heat.words.mean((1, 2), keepdims=True), 1e-12)
    above = np.maximum(heat.words / means - 1, 0)
    for number, grid in enumerate(above / max(float(above.max()), _LEAST_CONTRAST)):
        small = Image.fromarray(_colours(grid))
        yield (
            f'<img class="region r{number}" alt="" style="{place}" '
            f'src="{_data(small.resize((grid.shape[1] * 16, grid.shape[0] * 16)))}">'
        )


def _hover(found: "Explanation") -> str:
    """Returns the rules that show the regions of a word while it is pointed at."""
    if not any(heat.words is not None for heat in found.heat):
        return ""
    return "\n".join(
        f"body:has(#w{number}:hover) .r{number}, body:has(#w{number}:focus) .r{number} "
        "{ opacity: 1; }"
        for number in range(len(found.words))
    )


def _text(found: "Explanation") -> Iterator[str]:
    if found.text is None:
        return
    yield "<h2>Text</h2>"
    largest = max((abs(word.weight or 0) for word in found.words), default=0) or 1
    parts, at = [], 0
    for number, word in enumerate(found.words):
        parts += [_unread(found.text[at : word.start]), _word(number, word, largest)]
        at = max(at, word.end)
    where = "".join(_where(found))
    kind = "reading joined" if where else "reading"
    text = f'<div class="text">{"".join(parts)}{_unread(found.text[at:])}</div>'
    method = escape((found.word_method or "").replace("_", " "))
    caption = (
        f'<p class="soft">Red words speak for {escape(found.target)}, blue words against it '
        f"({method}). Point at a word to see its weight in log-odds. What was not read is struck "
        "through.</p>"
    )
    yield f'<div class="{kind}"><div>{text}{caption}{_strongest(found)}</div>{where}</div>'


def _unread(part: str) -> str:
    """Returns what stands between two words, struck through if it is more than white space."""
    inner = part.strip()
    if not inner:
        return escape(part)
    before, _, after = part.partition(inner)
    return f'{before}<span class="unread">{escape(inner)}</span>{after}'


def _word(number: int, word: "Word", largest: float) -> str:
    weight = word.weight or 0
    kind = "for" if weight > 0 else "against"
    title = "no weight" if word.weight is None else f"{word.weight:+.3f}"
    return (
        f'<span class="word" id="w{number}" tabindex="0" title="{title}" '
        f'style="background:rgba(var(--{kind}),{0.6 * abs(weight) / largest:.3f})">'
        f"{escape(word.text)}</span>"
    )


def _strongest(found: "Explanation") -> str:
    """Returns a table of the words with the largest weights."""
    weighted = [word for word in found.words if word.weight]
    chosen = sorted(weighted, key=lambda word: -abs(word.weight or 0))[:8]
    if not chosen:
        return ""
    rows = "".join(
        f"<tr><td>{escape(word.text)}</td><td>{word.weight:+.3f}</td></tr>" for word in chosen
    )
    return (
        '<div class="scroll"><table class="narrow"><thead><tr><th>word</th><th>weight</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _shares(found: "Explanation") -> Iterator[str]:
    yield "<section><h2>Share of each modality</h2>"
    for name, share in found.shares.items():
        added = found.contributions[name]
        kind = ' class="against"' if added < 0 else ""
        yield (
            f'<div class="bar"><span>{escape(name)}</span><span class="track">'
            f'<i{kind} style="width:{100 * share:.1f}%"></i></span>'
            f"<span>{share:.0%} ({added:+.2f})</span></div>"
        )
    yield (
        '<p class="soft">Shapley values in log-odds. They lead from '
        f"{found.base:+.2f}, before anything is known, to {found.log_odds:+.2f}. A blue bar speaks "
        f"against {escape(found.target)}.</p></section>"
    )


def _table(found: "Explanation") -> Iterator[str]:
    yield "<section><h2>Probabilities</h2>"
    others = {name: answer for name, answer in found.without.items() if answer}
    head = "".join(f"<th>without {escape(name)}</th>" for name in others)
    yield f'<div class="scroll"><table><thead><tr><th>class</th><th>answer</th>{head}</tr></thead>'
    yield "<tbody>"
    for name, probability in sorted(found.probabilities.items(), key=lambda pair: -pair[1]):
        cells = "".join(f"<td>{_percent(answer, name)}</td>" for answer in others.values())
        kind = ' class="target"' if name == found.target else ""
        yield f"<tr{kind}><td>{escape(name)}</td><td>{probability:.1%}</td>{cells}</tr>"
    yield "</tbody></table></div></section>"


def _percent(answer: Mapping[str, float], name: str) -> str:
    return f"{answer[name]:.1%}"


def _shown_size(size: tuple[int, int], largest: int) -> tuple[int, int]:
    scale = min(1.0, largest / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def _coloured(values: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """Returns a heat map in colours at a size; where the heat is 0 it is transparent."""
    shown = Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)
    return Image.fromarray(_colours(np.asarray(shown)))


def _colours(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns colours [H, W, 4] of values in 0 .. 1: dark red, red, yellow, ever more opaque."""
    clipped = np.clip(values, 0, 1)
    red = np.clip(0.45 + 1.1 * clipped, 0, 1)
    green = np.clip(1.6 * clipped - 0.6, 0, 1)
    opacity = _OPAQUE * clipped**1.2
    channels = np.stack([red, green, np.zeros_like(red), opacity], axis=-1)
    return np.rint(255 * channels).astype(np.uint8)


def _data(picture: Image.Image) -> str:
    """Returns a picture as an address that holds it."""
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
