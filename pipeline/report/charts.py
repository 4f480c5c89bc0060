"""Charts as SVG: numbers in, places of lines and texts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 28


@dataclass(frozen=True)
class Curve:
    """A line over frames, in the units of an SVG of `WIDTH` by `HEIGHT`.

    Attributes:
        points: `x,y x,y ...`, for a polyline.
        dots: x, y, position and value of each point.
        across: y and text of the lines that go across.
        along: x and text of the marks below.
    """

    points: str
    dots: list[tuple[float, float, int, float]]
    across: list[tuple[float, str]]
    along: list[tuple[float, str]]


def curve(values: Sequence[tuple[int, float]], top: float = 1.0) -> Curve:
    """A line through (position, value 0..top); positions rise, there is at least one."""
    first, last = values[0][0], values[-1][0]
    span = max(1, last - first)

    def x_of(position: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * (position - first) / span, 1)

    def y_of(value: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - value / top), 1)

    dots = [(x_of(position), y_of(value), position, value) for position, value in values]
    marks = sorted({first + round(span * part / 4) for part in range(5)} & set(range(first, last + 1)))
    return Curve(
        " ".join(f"{x},{y}" for x, y, _, _ in dots),
        dots,
        [(y_of(top * part), f"{top * part:.3g}") for part in (0, 0.25, 0.5, 0.75, 1)],
        [(x_of(position), str(position)) for position in marks],
    )
