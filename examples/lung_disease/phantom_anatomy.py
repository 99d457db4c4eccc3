"""The synthetic chest of `phantom.py`: lungs, heart, bones and vessels that attenuate X-rays.

The coordinates are anatomical: x runs from -1 (the patient's right, the left of the picture) to 1,
and y from -1 (neck) to 1 (abdomen). `t` is the distance from the midline towards the outside, so
that one formula describes both sides. Every number is synthetic. The shapes were chosen by eye so
that the result resembles a frontal radiograph, and nothing here was measured on a patient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import final

import numpy as np
from numpy.typing import NDArray
from phantom_curves import SIDES, Array, Point, bump, step
from PIL import Image, ImageDraw


@final
@dataclass(frozen=True)
class Anatomy:
    """One synthetic person and one exposure.

    Every field is a number without unit, drawn by `sample_anatomy`. `inflation` is 0 for a usual
    breath, about -1 for hypoinflated and about 1 for hyperdistended lungs.
    """

    inflation: float
    half_width: float
    apex: float
    dome: float
    dome_tilt: float
    heart: float
    heart_shift: float
    mediastinum: float
    knob: float
    body: float
    ribs: float
    rib_gap: float
    rib_phase: float
    clavicle_tilt: float
    vessels: float
    spine_curve: float
    rotation: float
    zoom: float
    shift_x: float
    shift_y: float

    @property
    def base(self) -> float:
        """The height y of the right dome. It grows with inflation: the dome moves down."""
        return self.dome + 0.105 * self.inflation

    @property
    def width(self) -> float:
        """Half the inner width of the chest."""
        return self.half_width * (1 + 0.035 * self.inflation)


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """Returns a random synthetic person.

    People differ in build, breath, position and zoom.

    Args:
        rng: the source of randomness.

    Example:
        >>> sample_anatomy(np.random.default_rng(0)) == sample_anatomy(np.random.default_rng(0))
        True
    """
    spread = {
        "inflation": (0.0, 0.20),
        "half_width": (0.66, 0.028),
        "apex": (-0.76, 0.022),
        "dome": (0.36, 0.022),
        "dome_tilt": (0.05, 0.022),
        "heart": (1.0, 0.07),
        "heart_shift": (0.0, 0.02),
        "mediastinum": (1.0, 0.09),
        "knob": (1.0, 0.12),
        "body": (0.0, 1.0),
        "ribs": (1.0, 0.22),
        "rib_gap": (0.148, 0.006),
        "rib_phase": (0.0, 0.03),
        "clavicle_tilt": (0.0, 0.05),
        "vessels": (1.0, 0.15),
        "spine_curve": (0.0, 0.012),
        "rotation": (0.0, 0.025),
        "zoom": (1.03, 0.035),
        "shift_x": (0.0, 0.03),
        "shift_y": (0.0, 0.025),
    }
    # Each field takes the next random number, so the order of the fields decides the picture.
    assert list(spread) == [field.name for field in fields(Anatomy)]
    # Without the limit, a rare draw would give an impossible shape.
    draws = np.clip(rng.standard_normal(len(spread)), -2.5, 2.5)
    return Anatomy(
        **{
            name: float(mean + scale * draw)
            for (name, (mean, scale)), draw in zip(spread.items(), draws, strict=True)
        }
    )


@final
class Canvas:
    """An unfinished synthetic radiograph: coordinates, organs, and the attenuation painted so far.

    Args:
        anatomy: the person.
        size: the width and height in pixels.
        rng: the source of randomness for texture and vessels, which the anatomy does not fix.
    """

    def __init__(self, anatomy: Anatomy, size: int, rng: np.random.Generator) -> None:
        """Makes the coordinate grids and draws the anatomy without any finding."""
        self.anatomy, self.size, self.rng = anatomy, size, rng
        axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
        columns, rows = np.meshgrid(axis, axis)
        cos, sin = np.cos(anatomy.rotation), np.sin(anatomy.rotation)
        columns, rows = columns - anatomy.shift_x, rows - anatomy.shift_y
        self.x: Array = ((cos * columns + sin * rows) / anatomy.zoom).astype(np.float32)
        self.y: Array = ((cos * rows - sin * columns) / anatomy.zoom).astype(np.float32)
        self.cage = [self._cage(side) for side in SIDES]
        self.heart = self._heart()
        self.middle = self._mediastinum()
        # Heart and mediastinum hide the part of the lungs behind them.
        covered = (1 - self.heart) * (1 - self.middle)
        self.lungs = [cage * covered for cage in self.cage]
        self.attenuation: Array = self._tissue()

    def lung(self, side: int) -> Array:
        """Returns the share of each pixel, 0 to 1, in the lung of a side (see `SIDES`)."""
        lung: Array = self.lungs[SIDES.index(side)]
        return lung

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The pixels of the lungs that heart and mediastinum do not hide, bool [H, W]."""
        return np.asarray((self.lungs[0] + self.lungs[1]) > 0.5)

    def dome(self, t: Array | float, side: int) -> Array:
        """Returns the height y of the diaphragm at the distance t from the midline."""
        anatomy = self.anatomy
        arch = 0.62 - 0.18 * anatomy.inflation
        base = anatomy.base + (anatomy.dome_tilt if side > 0 else 0.0)
        drop = np.square((np.asarray(t, dtype=np.float32) - 0.3) / anatomy.width)
        return np.asarray(base + arch * drop, dtype=np.float32)

    def place(self, side: int, along: float, across: float) -> Point:
        """Returns a point in a lung.

        Args:
            side: one of `SIDES`.
            along: 0 at the apex to 1 at the base.
            across: 0 at the midline to 1 at the chest wall.
        """
        anatomy = self.anatomy
        y = anatomy.apex + along * (anatomy.base - anatomy.apex)
        inner = 0.16
        outer = anatomy.width * (1 - (1 - max(along, 0.04)) ** 3) ** 0.5
        return side * (inner + across * (outer - inner)), y

    def pixels(self, points: Sequence[Point], scale: int = 1) -> list[Point]:
        """Returns anatomical points in pixel coordinates of a picture `scale` times as large."""
        anatomy, half = self.anatomy, self.size * scale / 2
        cos, sin = (
            anatomy.zoom * math.cos(anatomy.rotation),
            anatomy.zoom * math.sin(anatomy.rotation),
        )
        return [
            (
                (cos * x - sin * y + anatomy.shift_x + 1) * half,
                (sin * x + cos * y + anatomy.shift_y + 1) * half,
            )
            for x, y in points
        ]

    def lines(self, strokes: Sequence[tuple[Sequence[Point], float, float]]) -> Array:
        """Returns a picture of antialiased polylines, values 0 to 1.

        Args:
            strokes: for each line its points, its width in anatomical units and its strength, 0 to
                1.
        """
        # Pillow draws lines without antialiasing, so they are drawn large and then averaged.
        scale = 2
        picture = Image.new("L", (self.size * scale, self.size * scale))
        pen = ImageDraw.Draw(picture)
        # Strong strokes come last, because a later stroke covers an earlier one.
        for points, width, strength in sorted(strokes, key=lambda stroke: stroke[2]):
            wide = max(1, round(width * self.size * scale / 2))
            pen.line(
                self.pixels(points, scale), fill=round(255 * strength), width=wide, joint="curve"
            )
        small = picture.resize((self.size, self.size), Image.Resampling.BOX)
        return np.asarray(small, dtype=np.float32) / 255

    def texture(self, cells: int) -> Array:
        """Returns smooth noise with about `cells` blobs per edge, mean 0 and deviation about 1."""
        coarse = Image.fromarray(self.rng.standard_normal((cells, cells)).astype(np.float32))
        return (
            np.asarray(
                coarse.resize((self.size, self.size), Image.Resampling.BICUBIC), dtype=np.float32
            )
            * 1.4
        )

    def _inside(self, side: int) -> Array:
        """Returns t, limited to the chest wall: beyond it the diaphragm stays level."""
        return np.asarray(np.minimum(side * self.x, self.anatomy.width * 0.93), dtype=np.float32)

    def _cage(self, side: int) -> Array:
        anatomy, t = self.anatomy, side * self.x
        y_corner = anatomy.base + 0.25
        q = np.clip((self.y - anatomy.apex) / (y_corner - anatomy.apex), 0, 1)
        # Wide from the apex on, and then almost straight down: a rounded top, parallel walls.
        wall = anatomy.width * (1 - (1 - q) ** 3) ** 0.5
        inner = 0.10 - 0.02 * bump(self.y + 0.35, 0.3)
        summit = anatomy.apex + 1.3 * np.square(t - 0.25)
        inside = np.minimum.reduce(
            [wall - t, t - inner, self.y - summit, 0.75 * (self.dome(t, side) - self.y)]
        )
        return step(inside, 0.014)

    def _heart(self) -> Array:
        anatomy = self.anatomy
        size = anatomy.heart * (1 - 0.07 * anatomy.inflation)
        tall = 0.30 + 0.03 * anatomy.inflation
        bottom = anatomy.base + 0.10
        slant = 0.32 * (self.y - (bottom - tall)) / (2 * tall)
        x = self.x - (0.09 + anatomy.heart_shift) - slant * 0.35
        y = self.y - (bottom - tall * 0.85)
        radius = np.sqrt(np.square(x / (0.285 * size)) + np.square(y / tall))
        apex = np.sqrt(np.square((x - 0.13 * size) / (0.19 * size)) + np.square((y - 0.13) / 0.16))
        return step(1 - np.minimum(radius, apex), 0.07)

    def _mediastinum(self) -> Array:
        anatomy = self.anatomy
        half = (
            0.085 + 0.05 * step(-0.58 - self.y, 0.10) + 0.02 * step(self.y - 0.05, 0.15)
        ) * anatomy.mediastinum
        band = step(half - np.abs(self.x - 0.012), 0.014)
        knob = np.hypot(self.x - 0.115, (self.y + 0.30) * 0.8) / (0.085 * anatomy.knob)
        artery = np.hypot(self.x - 0.12, (self.y + 0.14) * 0.55) / 0.062
        vein = np.hypot(self.x + 0.085, (self.y + 0.20) * 0.25) / 0.055
        bulges = np.minimum.reduce([knob, artery, vein])
        return np.maximum(band, step(1 - bulges, 0.14))

    def _tissue(self) -> Array:
        """Returns the attenuation of the whole chest without findings."""
        anatomy = self.anatomy
        chest = self.cage[0] + self.cage[1]
        body = self._torso()
        dome = np.where(self.x < 0, self.dome(self._inside(-1), -1), self.dome(self._inside(1), 1))
        flank = step(np.abs(self.x) - anatomy.width, 0.05)
        below = step(self.y - dome, 0.02 + 0.4 * flank)
        thick = 0.66 + 0.04 * anatomy.body + 0.20 * below + 0.05 * bump(self.x, 0.45)
        air = (
            (0.43 + 0.03 * anatomy.inflation)
            * chest
            * (1 - 0.10 * bump(np.abs(self.x) - 0.15, 0.18))
        )
        heart = 0.37 * chest * self.heart
        middle = 0.37 * chest * self.middle * (1 - self.heart)
        total = body * (thick - air) + heart + middle
        total -= body * self._gas()
        total += 0.13 * body * self._spine()
        total += anatomy.ribs * self._ribs() * (0.35 + 0.65 * chest) * body
        total += 0.13 * self._clavicles() * body + 0.08 * self._shoulders() * body
        total += (
            anatomy.vessels * (self.lungs[0] + self.lungs[1] + 0.3 * self.heart) * self._vessels()
        )
        return np.asarray(total, dtype=np.float32)

    def _torso(self) -> Array:
        anatomy = self.anatomy
        flank = anatomy.width + 0.22 + 0.05 * anatomy.body
        waist = flank - 0.05 * bump(self.y - 0.45, 0.4)
        trunk = step(waist - np.abs(self.x), 0.012)
        slope = -0.86 + 0.42 * np.square(np.clip(np.abs(self.x) - 0.17, 0, None))
        shoulders = step(self.y - slope, 0.02)
        arm = np.hypot(np.abs(self.x) - 0.93, (self.y + 0.40) * 0.55)
        arms = step(0.30 + 0.04 * anatomy.body - arm, 0.02)
        neck = step(0.20 + 0.02 * anatomy.body - np.abs(self.x), 0.02)
        return np.asarray(np.maximum(np.maximum(trunk, 0.9 * arms) * shoulders, neck))

    def _gas(self) -> Array:
        """Returns the darkening by gas, in the trachea and in the stomach under the left dome."""
        trachea = step(0.042 - np.abs(self.x + 0.012), 0.015) * step(-0.18 - self.y, 0.06)
        bubble = np.hypot(
            (self.x - 0.34) / 0.15, (self.y - float(self.dome(0.34, 1)) - 0.09) / 0.05
        )
        return np.asarray(0.12 * trachea + 0.10 * step(1 - bubble, 0.3), dtype=np.float32)

    def _spine(self) -> Array:
        middle = self.x - self.anatomy.spine_curve * np.sin(3 * self.y)
        column = step(0.085 - np.abs(middle), 0.012)
        discs = 0.75 + 0.25 * np.sin(self.y * 42)
        return np.asarray(column * discs + 0.35 * bump(middle, 0.02) * discs, dtype=np.float32)

    def _ribs(self) -> Array:
        total = np.zeros_like(self.x)
        for side in SIDES:
            # A rib stays on its side, so half the columns are enough.
            columns = np.flatnonzero((side * self.x).max(axis=0) > 0.05)
            half = slice(int(columns[0]), int(columns[-1]) + 1)
            total[:, half] += self._ribs_of(
                side * self.x[:, half] / self.anatomy.width, self.y[:, half]
            )
        wall_line = np.abs(np.abs(self.x) - self.anatomy.width * 1.03)
        return total + 0.05 * bump(wall_line, 0.02) * step(self.y + 0.35, 0.1) * step(
            0.55 - self.y, 0.1
        )

    def _ribs_of(self, t: Array, y: Array) -> Array:
        """Returns the ribs of one side; t is 0 at the midline and 1 at the chest wall."""
        anatomy = self.anatomy
        outward, arch = t * t * t, (t - 0.32) * (1 - t)
        inside = step(1.06 - t, 0.03) * step(t - 0.10, 0.04)
        lateral = inside * step(t - 0.42, 0.06)
        gap = anatomy.rib_gap * (1 + 0.06 * anatomy.inflation)
        total = np.zeros_like(t)
        # Ten ribs are visible behind the lungs; the fronts of seven of them cross the lungs again.
        for index in range(10):
            top = -0.86 + anatomy.rib_phase + gap * index
            fall = 0.21 + 0.028 * index - 0.05 * anatomy.inflation
            behind = top + 0.02 - 0.30 * arch + fall * outward
            total += 0.080 * self._band(y - behind, 0.030) * inside
            if index < 7:
                front = top + 0.34 - 0.26 * t + 0.05 * np.square(t - 0.7)
                total += 0.038 * self._band(y - front, 0.034) * lateral
        return total

    @staticmethod
    def _band(distance: Array, half: float) -> Array:
        """Returns the profile of a rib, a flat bone with denser edges."""
        far = np.abs(distance)
        return np.asarray(
            step(half - far, 0.007) * (0.75 + 0.5 * bump(far - half, 0.010)), dtype=np.float32
        )

    def _clavicles(self) -> Array:
        tilt = self.anatomy.clavicle_tilt
        total = np.zeros_like(self.x)
        for side in SIDES:
            t = side * self.x
            curve = -0.44 - 0.40 * t - 0.04 * np.sin(6 * t) - tilt * side * t
            reach = step(t - 0.06, 0.02) * step(0.80 - t, 0.02)
            total += self._band(self.y - curve, 0.032) * reach
        return total

    def _shoulders(self) -> Array:
        """Returns the heads of the upper arms and the inner edges of the shoulder blades."""
        t = np.abs(self.x)
        head = step(0.10 - np.hypot(t - 0.93, self.y + 0.62), 0.015)
        blade = step(self.y + 0.62, 0.03) * step(-0.10 - self.y, 0.06)
        edge = 0.62 + 0.10 * (self.y + 0.1)
        return head + 0.5 * blade * step(t - edge, 0.012) * step(
            0.86 - 0.35 * (self.y + 0.6) - t, 0.02
        )

    def _vessels(self) -> Array:
        strokes: list[tuple[Sequence[Point], float, float]] = []
        for side in SIDES:
            # The left hilum is higher than the right one, as in people.
            root = (side * 0.15, -0.06 - 0.03 * side)
            for angle in np.linspace(-1.35, 1.25, 9):
                heading = float(angle) + self.rng.normal(0, 0.12)
                strokes += list(self._branch(root, heading, side, 0.030, 4))
        fine = self.lines(strokes)
        return np.asarray(
            0.17 * fine + 0.09 * bump(np.abs(self.x) - 0.18, 0.07) * bump(self.y + 0.07, 0.14),
            dtype=np.float32,
        )

    def _branch(
        self, start: Point, heading: float, side: int, width: float, depth: int
    ) -> Iterator[tuple[Sequence[Point], float, float]]:
        """Yields the strokes of a vessel and of its thinner branches, `depth` generations deep."""
        length = 0.13 * (0.8 + 0.4 * self.rng.random())
        bend = heading + self.rng.normal(0, 0.2)
        middle = (
            start[0] + side * length / 2 * np.cos(heading),
            start[1] + length / 2 * np.sin(heading),
        )
        end = (middle[0] + side * length / 2 * np.cos(bend), middle[1] + length / 2 * np.sin(bend))
        yield (start, middle, end), width, min(1.0, 0.25 + 14 * width)
        if depth > 1:
            spread = 0.25 + 0.3 * self.rng.random()
            yield from self._branch(end, bend - spread, side, width * 0.66, depth - 1)
            yield from self._branch(end, bend + spread, side, width * 0.66, depth - 1)
