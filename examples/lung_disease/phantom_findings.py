"""The findings of the synthetic radiographs: how MeSH headings are read and painted.

Nothing here is a model of a disease. The traces were made by eye. Each heading leaves a trace of
roughly the right kind, side and place, so that a classifier of the synthetic pictures can find some
of them and miss others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
from phantom_anatomy import Anatomy, Canvas
from phantom_curves import SIDES, Array, Point, bump, step

Side = Literal["left", "right", "both", "unknown"]

# The first part of a heading, in lower case, decides the kind. For "lung", _LUNG_KINDS decides.
_KINDS: dict[str, str] = {
    "airspace disease": "patch",
    "aorta": "aorta",
    "aorta, thoracic": "aorta",
    "atherosclerosis": "aorta",
    "blister": "lucency",
    "bronchiectasis": "interstitial",
    "calcified granuloma": "granuloma",
    "calcinosis": "granuloma",
    "cardiac shadow": "heart",
    "cardiomegaly": "heart",
    "catheters, indwelling": "catheter",
    "cavitation": "cavity",
    "cicatrix": "streak",
    "consolidation": "patch",
    "costophrenic angle": "blunting",
    "density": "patch",
    "diaphragm": "diaphragm",
    "diaphragmatic eventration": "diaphragm",
    "emphysema": "emphysema",
    "granuloma": "granuloma",
    "granulomatous disease": "granuloma",
    "heart failure": "congestion",
    "implanted medical device": "device",
    "infiltrate": "patch",
    "lucency": "lucency",
    "lung diseases, interstitial": "interstitial",
    "lung, hyperlucent": "lucency",
    "markings": "congestion",
    "mass": "mass",
    "medical device": "device",
    "nodule": "nodule",
    "opacity": "patch",
    "pleural effusion": "effusion",
    "pneumonia": "patch",
    "pneumothorax": "pneumothorax",
    "pulmonary artery": "hilum",
    "pulmonary atelectasis": "streak",
    "pulmonary congestion": "congestion",
    "pulmonary disease, chronic obstructive": "emphysema",
    "pulmonary edema": "congestion",
    "pulmonary emphysema": "emphysema",
    "pulmonary fibrosis": "interstitial",
    "sarcoidosis": "hilum",
    "scoliosis": "spine",
    "surgical instruments": "clips",
    "thickening": "pleura",
    "tube, inserted": "catheter",
    "tuberculosis": "patch",
    "volume loss": "diaphragm",
}
_LUNG_KINDS: dict[str, str] = {
    "hypoinflation": "hypoinflation",
    "hyperdistention": "hyperdistention",
    "interstitial": "interstitial",
    "hilum": "hilum",
    "blood vessels": "congestion",
    "azygos lobe": "fissure",
    "obscured": "patch",
}
# 1 is the usual strength.
_STRENGTHS: dict[str, float] = {
    "borderline": 0.55, "mild": 0.65, "small": 0.7, "moderate": 1.1, "large": 1.3, "severe": 1.45,
    "enlarged": 1.1,
}  # fmt: skip
# Two ranges: along the lung (0 at the apex, 1 at the base), and across it (0 at the midline, 1 at
# the chest wall).
_ZONES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "apex": ((0.10, 0.20), (0.35, 0.60)),
    "upper lobe": ((0.20, 0.45), (0.30, 0.75)),
    "hilum": ((0.50, 0.60), (0.10, 0.25)),
    "middle lobe": ((0.65, 0.85), (0.20, 0.55)),
    "lingula": ((0.65, 0.85), (0.40, 0.70)),
    "lower lobe": ((0.70, 0.95), (0.30, 0.80)),
    "base": ((0.88, 1.02), (0.25, 0.80)),
    "retrocardiac": ((0.85, 0.98), (0.05, 0.20)),
}
_ANYWHERE = ((0.20, 0.95), (0.20, 0.85))


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One finding to paint.

    Attributes:
        kind: what it looks like, a value of `_KINDS` or `_LUNG_KINDS`.
        side: the side of the lung.
        zone: the zone of the lung, a key of `_ZONES`, or None for any zone.
        strength: how strong it is. 1 is usual, 0 is invisible.
    """

    kind: str
    side: Side = "unknown"
    zone: str | None = None
    strength: float = 1.0


def read_heading(heading: str) -> Finding | None:
    """Returns the finding of a major MeSH heading, or None where the heading leaves no trace.

    Headings such as "normal", "Spine/degenerative" or "No Indexing" leave no trace. A heading
    without a side may still have one: the lingula is on the left, the middle lobe on the right.

    Args:
        heading: the parts of the heading, separated by slashes, as in the reports.

    Example:
        >>> read_heading("Opacity/lung/lingula/mild")
        Finding(kind='patch', side='left', zone='lingula', strength=0.65)
        >>> read_heading("normal") is None
        True
    """
    # The rest of a heading names side, zone and strength in any order.
    first, *rest = (part.strip().lower() for part in heading.split("/"))
    of_lung = next((_LUNG_KINDS[part] for part in rest if part in _LUNG_KINDS), None)
    kind = of_lung if first == "lung" else _KINDS.get(first)
    if kind is None:
        return None
    side: Side = "unknown"
    if "bilateral" in rest or {"left", "right"} <= set(rest):
        side = "both"
    elif "left" in rest or "lingula" in rest:
        side = "left"
    elif "right" in rest or "middle lobe" in rest:
        side = "right"
    zone = next((part for part in rest if part in _ZONES), None)
    strength = next((_STRENGTHS[part] for part in rest if part in _STRENGTHS), 1.0)
    return Finding(kind, side, zone, strength)


def adjust(anatomy: Anatomy, findings: Iterable[Finding]) -> Anatomy:
    """Returns the anatomy with the changes that findings make to its shape.

    These concern breath, heart, aorta, vessels, spine and diaphragm.

    Args:
        anatomy: the person without findings.
        findings: all findings. Those that change no shape are ignored.
    """
    for finding in findings:
        s = finding.strength
        if finding.kind == "hypoinflation":
            anatomy = replace(
                anatomy, inflation=anatomy.inflation - 1.15 * s, vessels=anatomy.vessels + 0.25 * s
            )
        elif finding.kind == "hyperdistention":
            anatomy = replace(
                anatomy, inflation=anatomy.inflation + 1.15 * s, vessels=anatomy.vessels - 0.15 * s
            )
        elif finding.kind == "emphysema":
            anatomy = replace(
                anatomy, inflation=anatomy.inflation + 0.45 * s, vessels=anatomy.vessels - 0.2 * s
            )
        elif finding.kind == "heart":
            anatomy = replace(anatomy, heart=anatomy.heart + 0.20 * s)
        elif finding.kind == "aorta":
            anatomy = replace(anatomy, knob=anatomy.knob + 0.30 * s)
        elif finding.kind == "congestion":
            anatomy = replace(anatomy, vessels=anatomy.vessels + 0.55 * s)
        elif finding.kind == "spine":
            anatomy = replace(anatomy, spine_curve=anatomy.spine_curve + 0.05 * s)
        elif finding.kind == "diaphragm":
            sign = -1.0 if finding.side == "left" else 1.0
            anatomy = replace(anatomy, dome_tilt=anatomy.dome_tilt + 0.10 * s * sign)
    return anatomy


def paint(canvas: Canvas, finding: Finding) -> None:
    """Adds a finding to the canvas.

    A finding that only changes the anatomy adds nothing.

    Args:
        canvas: the synthetic chest, drawn with the anatomy that `adjust` returned.
        finding: the finding to paint.
    """
    # Kinds without a painter only change the anatomy.
    painter = _PAINTERS.get(finding.kind)
    if painter is None or finding.strength <= 0:
        return
    for side in _sides(canvas, finding):
        canvas.attenuation += painter(canvas, finding, side) * finding.strength


def _sides(canvas: Canvas, finding: Finding) -> tuple[int, ...]:
    """Returns the sides to paint, drawn at random where the heading names none."""
    if finding.side == "both" or (finding.side == "unknown" and finding.kind in _USUALLY_BOTH):
        return SIDES
    if finding.side == "unknown":
        return (int(canvas.rng.choice(SIDES)),)
    return (1,) if finding.side == "left" else (-1,)


def _spot(canvas: Canvas, finding: Finding, side: int) -> Point:
    """Returns a random point in the zone of the finding."""
    along, across = _ZONES.get(finding.zone or "", _ANYWHERE)
    return canvas.place(side, canvas.rng.uniform(*along), canvas.rng.uniform(*across))


def _distance(canvas: Canvas, spot: Point, wide: float, tall: float) -> Array:
    """Returns the distance of each pixel from a point, 1 on the ellipse of these half-axes."""
    return np.hypot((canvas.x - spot[0]) / wide, (canvas.y - spot[1]) / tall)


def _patch(canvas: Canvas, finding: Finding, side: int) -> Array:
    far = _distance(
        canvas,
        _spot(canvas, finding, side),
        canvas.rng.uniform(0.09, 0.19),
        canvas.rng.uniform(0.08, 0.16),
    )
    mottled = np.clip(0.8 + 0.3 * canvas.texture(22), 0.2, 1.5)
    # A part of it shows through the heart, as on a real radiograph.
    return 0.22 * bump(far, 1.0) * mottled * np.maximum(canvas.lung(side), 0.25 * canvas.heart)


def _streak(canvas: Canvas, finding: Finding, side: int) -> Array:
    strokes = []
    for _ in range(int(canvas.rng.integers(2, 5))):
        # Atelectasis and scars are mostly at the base of the lung.
        place = replace(finding, zone=finding.zone or "base")
        x, y = _spot(canvas, place, side)
        half, tilt = canvas.rng.uniform(0.06, 0.14), canvas.rng.normal(0, 0.35)
        points = [
            (x - half, y - half * tilt),
            (x, y + canvas.rng.normal(0, 0.01)),
            (x + half, y + half * tilt),
        ]
        strokes.append((points, canvas.rng.uniform(0.018, 0.035), 1.0))
    return 0.17 * canvas.lines(strokes) * canvas.lung(side)


def _nodule(canvas: Canvas, finding: Finding, side: int) -> Array:
    radius = canvas.rng.uniform(0.035, 0.055)
    return 0.16 * step(1 - _distance(canvas, _spot(canvas, finding, side), radius, radius), 0.5)


def _mass(canvas: Canvas, finding: Finding, side: int) -> Array:
    radius = canvas.rng.uniform(0.08, 0.13)
    return 0.22 * step(
        1 - _distance(canvas, _spot(canvas, finding, side), radius, 0.85 * radius), 0.3
    )


def _cavity(canvas: Canvas, finding: Finding, side: int) -> Array:
    # A bright ring with a dark middle.
    far = _distance(canvas, _spot(canvas, finding, side), 0.10, 0.09)
    return 0.18 * bump(far - 1, 0.3) - 0.05 * bump(far, 0.8)


def _granuloma(canvas: Canvas, finding: Finding, side: int) -> Array:
    total = np.zeros_like(canvas.x)
    for _ in range(int(canvas.rng.integers(1, 4))):
        radius = canvas.rng.uniform(0.014, 0.024)
        total += 0.26 * step(
            1 - _distance(canvas, _spot(canvas, finding, side), radius, radius), 0.8
        )
    return total


def _effusion(canvas: Canvas, finding: Finding, side: int) -> Array:
    t = side * canvas.x / canvas.anatomy.width
    # The fluid reaches higher at the chest wall than in the middle, as a meniscus.
    level = (
        canvas.anatomy.base
        + canvas.rng.uniform(-0.08, 0.06)
        - 0.30 * np.clip(t - 0.35, 0, None) ** 2
    )
    return 0.30 * step(canvas.y - level, 0.05) * canvas.lung(side)


def _blunting(canvas: Canvas, finding: Finding, side: int) -> Array:
    corner = canvas.place(side, 1.12, 1.0)
    return 0.24 * bump(_distance(canvas, corner, 0.10, 0.12), 1.0) * canvas.lung(side)


def _interstitial(canvas: Canvas, finding: Finding, side: int) -> Array:
    net = np.abs(canvas.texture(54)) + 0.6 * np.abs(canvas.texture(34))
    place = (
        1.0
        if finding.zone is None
        else bump(_distance(canvas, _spot(canvas, finding, side), 0.3, 0.3), 1.0)
    )
    return np.asarray(0.055 * net * place * canvas.lung(side), dtype=np.float32)


def _lucency(canvas: Canvas, finding: Finding, side: int) -> Array:
    place = replace(finding, zone=finding.zone or "upper lobe")
    return (
        -0.09
        * bump(_distance(canvas, _spot(canvas, place, side), 0.26, 0.30), 1.0)
        * canvas.lung(side)
    )


def _hilum(canvas: Canvas, finding: Finding, side: int) -> Array:
    return 0.17 * bump(_distance(canvas, (side * 0.19, -0.06 - 0.03 * side), 0.085, 0.12), 1.0)


def _congestion(canvas: Canvas, finding: Finding, side: int) -> Array:
    haze = bump(_distance(canvas, (side * 0.2, 0.05), 0.30, 0.38), 1.0)
    return 0.05 * haze * np.clip(1 + 0.4 * canvas.texture(30), 0, None) * canvas.lung(side)


def _pleura(canvas: Canvas, finding: Finding, side: int) -> Array:
    top = canvas.place(side, 0.04, 0.5)
    return 0.16 * bump(_distance(canvas, top, 0.22, 0.075), 1.0) * canvas.cage[SIDES.index(side)]


def _pneumothorax(canvas: Canvas, finding: Finding, side: int) -> Array:
    # A thin bright line, the edge of the collapsed lung, with darker air outside it.
    far = _distance(canvas, (side * 0.26, 0.0), 0.30, 0.60)
    return (0.07 * bump(far - 1, 0.04) - 0.08 * step(far - 1, 0.05)) * canvas.lung(side)


def _fissure(canvas: Canvas, finding: Finding, side: int) -> Array:
    # The azygos lobe exists on the right side only.
    points = [(-0.34, canvas.anatomy.apex + 0.12), (-0.24, -0.45), (-0.16, -0.32), (-0.12, -0.26)]
    return 0.12 * canvas.lines([(points, 0.016, 1.0)]) * canvas.lung(-1)


def _catheter(canvas: Canvas, finding: Finding, side: int) -> Array:
    points = [
        (side * 0.62, -0.62),
        (side * 0.35, -0.56),
        (side * 0.10, -0.50),
        (-0.06, -0.32),
        (-0.07, 0.0),
    ]
    return 0.20 * canvas.lines([(points, 0.018, 1.0)])


def _device(canvas: Canvas, finding: Finding, side: int) -> Array:
    box = np.maximum(np.abs(canvas.x - 0.55) / 0.11, np.abs(canvas.y + 0.42) / 0.09)
    lead = [(0.50, -0.42), (0.25, -0.55), (-0.03, -0.45), (-0.05, 0.0), (0.18, 0.22)]
    return 0.55 * step(1 - box, 0.15) + 0.30 * canvas.lines([(lead, 0.014, 1.0)])


def _clips(canvas: Canvas, finding: Finding, side: int) -> Array:
    rows = np.linspace(-0.35, 0.25, 5)
    wires = [
        ([(-0.035, y), (0.0, y - 0.02), (0.035, y), (0.0, y + 0.02), (-0.035, y)], 0.012, 1.0)
        for y in rows
    ]
    return 0.35 * canvas.lines(wires)


# Some painters do not use every argument, so that all have one signature.
_Painter = Callable[[Canvas, Finding, int], Array]
_PAINTERS: dict[str, _Painter] = {
    "blunting": _blunting,
    "catheter": _catheter,
    "cavity": _cavity,
    "clips": _clips,
    "congestion": _congestion,
    "device": _device,
    "effusion": _effusion,
    "emphysema": _lucency,
    "fissure": _fissure,
    "granuloma": _granuloma,
    "hilum": _hilum,
    "interstitial": _interstitial,
    "lucency": _lucency,
    "mass": _mass,
    "nodule": _nodule,
    "patch": _patch,
    "pleura": _pleura,
    "pneumothorax": _pneumothorax,
    "streak": _streak,
}
# Kinds that affect both lungs where the heading names no side.
_USUALLY_BOTH = ("congestion", "emphysema", "hilum", "interstitial")
