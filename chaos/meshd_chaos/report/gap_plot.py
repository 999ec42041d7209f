"""How long clients saw no text, as a drawing: each gap a dot, powers of ten apart.  Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from meshd.testing.checker import Answer, seams_in_text
from meshd.testing.checker.answers import quantile
from meshd_chaos.report.fates import WAYS, seconds
from meshd_chaos.report.markup import Markup, element

DOTS_MAX: Final = 2_000
"""For each way; of more, as many are drawn, evenly taken."""

_WIDTH: Final = 1120
_LEFT: Final = 268
_RIGHT: Final = 40
_LANE: Final = 30
_TOP: Final = 22
_LEAST_S: Final = 0.001
_MOST_S: Final = 1000.0
"""Shorter and longer ones are drawn there."""


def gap_plot(answers: Iterable[Answer]) -> Markup | None:
    """The drawing; None if there was no gap."""
    gaps: dict[str, list[float]] = {}
    for seam in seams_in_text(answers):
        gaps.setdefault(seam.way, []).append(seam.gap_s)
    if not gaps:
        return None
    height = _TOP + _LANE * len(gaps) + 8
    axis = _Axis.of(gap for found in gaps.values() for gap in found)
    lanes = enumerate(sorted(gaps, key=_rung))
    return element(
        "svg",
        element("title", "Gaps by the way in which the answer went on"),
        *axis.lines(height),
        *(
            part
            for number, way in lanes
            for part in _lane(axis, _TOP + number * _LANE + 16, way, sorted(gaps[way]))
        ),
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        class_="timeline gaps",
    )


def _rung(way: str) -> tuple[int, str]:
    known = list(WAYS)
    return (known.index(way) if way in known else len(known)), way


@dataclass(frozen=True)
class _Axis:
    """From one power of ten to another, so that all gaps are in between."""

    first: int
    last: int

    @classmethod
    def of(cls, gaps: Iterable[float]) -> _Axis:
        bounded = [min(max(gap_s, _LEAST_S), _MOST_S) for gap_s in gaps]
        first = math.floor(math.log10(min(bounded)))
        return cls(first, max(first + 1, math.ceil(math.log10(max(bounded)))))

    def x(self, gap_s: float) -> float:
        bounded = min(max(gap_s, 10.0**self.first), 10.0**self.last)
        share = (math.log10(bounded) - self.first) / (self.last - self.first)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def lines(self, height: int) -> Iterator[Markup]:
        for power in range(self.first, self.last + 1):
            x = f"{self.x(10.0**power):.0f}"
            yield element("path", class_="grid", d=f"M{x} {_TOP - 6}V{height - 4}")
            label = f"{10**power:g} s" if power >= 0 else f"{10 ** (power + 3):g} ms"
            yield element("text", label, class_="tick", x=x, y=_TOP - 10)


def _lane(axis: _Axis, y: int, way: str, gaps: list[float]) -> Iterator[Markup]:
    """`gaps`: in order."""
    yield element("text", WAYS.get(way, way), class_="lane", x=8, y=y + 4)
    drawn = gaps[:: math.ceil(len(gaps) / DOTS_MAX)]
    scattered = (  # up and down by turns, or many alike would be one dot
        f"M{axis.x(gap):.1f} {y + (number * 7 % 11 - 5) * 0.8:.1f}h0"
        for number, gap in enumerate(drawn)
    )
    yield element("path", class_="dots", d="".join(scattered))
    p99 = quantile(gaps, 0.99)
    x = f"{axis.x(p99):.1f}"
    title = element("title", f"99 of 100 gaps are {seconds(p99)} or shorter")
    yield element("path", title, class_="p99", d=f"M{x} {y - 10}v20")
