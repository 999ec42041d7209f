"""One run as a drawing: what was done to each node, and below it every request.  Pure.

Time runs to the right.  A lane for each node shows its faults; each fault goes down through the
requests as a band.  A request is a bar, in the colour of what became of it; one that went on
elsewhere shows its gap as a thin line and a tick where it went on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from meshd.testing.checker import Answer
from meshd_chaos.records import FaultRecord, Run
from meshd_chaos.report.fates import Fate, facts, seconds
from meshd_chaos.report.markup import Markup, element, join
from meshd_chaos.report.packing import pack

HOVER_MAX: Final = 20_000
"""Requests on a page whose quiet bars have a hover text; with more they are one path."""

_WIDTH: Final = 1120
_LEFT: Final = 92
_RIGHT: Final = 20
_SECOND_MIN: Final = 8.0
"""Units a second at least: a long run is drawn wider, and scrolls."""
_WIDTH_MAX: Final = 6000
_AXIS: Final = 22
_LANE: Final = 15
_LANE_ROWS: Final = 3
"""Faults at one time in a node's lane; more lie over each other."""
_LETTER: Final = 5.6
"""About the width of a letter of the labels."""
_HEIGHT: Final = 620
"""Of the requests, about: many at a time make the bars thinner."""
_PITCH_MIN: Final = 2.0
_PITCH_MAX: Final = 10.0
_QUIET: Final = frozenset({Fate.WHOLE})
_TICKS_S: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)

Span = tuple[float, float]


def timeline(run: Run, fates: Sequence[Fate], *, anchor: str, hover: bool = True) -> Markup:
    """The drawing.  `fates`: of each answer; `anchor`: what the ids of its bars begin with."""
    return _Drawing(run, fates, anchor, hover).svg()


def bar_id(anchor: str, number: int) -> str:
    """The id of the bar of an answer, for links."""
    return f"{anchor}-{number}"


class _Drawing:
    def __init__(self, run: Run, fates: Sequence[Fate], anchor: str, hover: bool) -> None:
        self._run, self._fates, self._anchor, self._hover = run, fates, anchor, hover
        self._begin, self._end = _extent(run)
        span = self._end - self._begin
        room = _WIDTH - _LEFT - _RIGHT
        self._scale = min(max(room, span * _SECOND_MIN), _WIDTH_MAX) / span
        self._width = round(_LEFT + span * self._scale + _RIGHT)
        spans = [self._span(answer) for answer in run.answers]
        self._rows = pack([(begin, end + 1.5) for begin, end in spans])
        rows = max(self._rows, default=-1) + 1
        self._pitch = min(_PITCH_MAX, max(_PITCH_MIN, _HEIGHT / max(1, rows)))
        self._lanes = _lanes(run)
        self._lane_tops: dict[str, float] = {}
        self._faults = [one for fault in run.faults for one in fault.each()]
        self._faults_by_lane = {lane: _of_lane(self._faults, lane) for lane in self._lanes}
        top = _AXIS + 4.0
        for lane, faults in self._faults_by_lane.items():
            self._lane_tops[lane] = top
            depth = max(self._fault_rows(faults), default=0) + 1
            top += _LANE * min(depth, _LANE_ROWS) + 3
        self._top = top + 8
        self._bottom = self._top + max(24.0, rows * self._pitch) + 4

    def svg(self) -> Markup:
        height = round(self._bottom + _AXIS)
        scrolls = f"min-width:{self._width}px" if self._width > _WIDTH else None
        parts = [
            element("title", f"Timeline of {self._run.scenario}"),
            *self._grid(),
            *self._lane_lines(),
            *(self._band(fault) for fault in self._faults),
            *self._healed(),
            self._quiet(),
            *self._eventful(),
            *self._fault_bars(),
        ]
        return element(
            "svg",
            join(parts),
            viewBox=f"0 0 {self._width} {height}",
            role="img",
            class_="timeline",
            style=scrolls,
        )

    # --- where things are

    def _x(self, at_s: float) -> float:
        inside = min(max(at_s, self._begin), self._end) if math.isfinite(at_s) else self._end
        return _LEFT + (inside - self._begin) * self._scale

    def _span(self, answer: Answer) -> Span:
        end = self._end if answer.ended_at_s is None else answer.ended_at_s
        begin = self._x(answer.sent_at_s)
        return begin, max(begin + 0.5, self._x(end))

    def _fault_span(self, fault: FaultRecord) -> Span:
        begin = self._x(fault.began_at_s)
        end = begin if fault.ended_at_s is None else self._x(fault.ended_at_s)
        return begin, max(begin + 2.0, end)

    def _fault_rows(self, faults: Sequence[FaultRecord]) -> list[int]:
        return pack([self._fault_span(fault) for fault in faults])

    # --- what lies beneath

    def _grid(self) -> Iterator[Markup]:
        span = self._end - self._begin
        step = next((t for t in _TICKS_S if t * self._scale >= 56), 2 * _TICKS_S[-1])
        first = math.ceil(self._begin / step)
        for number in range(first, first + int(span / step) + 1):
            x = _n(self._x(number * step))
            if number * step > self._end:
                break
            yield element(
                "path", class_="grid", d=f"M{x} {_AXIS - 6}V{_n(self._bottom)}"
            )  # fmt: skip
            label = f"{number * step:g} s"
            for y in (_AXIS - 9, self._bottom + 14):
                yield element("text", label, class_="tick", x=x, y=_n(y))
        yield element("text", "requests", class_="lane", x=8, y=_n(self._top + 11))
        count = f"{len(self._run.answers):,}"
        yield element("text", count, class_="lane faint", x=8, y=_n(self._top + 25))

    def _lane_lines(self) -> Iterator[Markup]:
        for lane, top in self._lane_tops.items():
            y = _n(top + _LANE - 2)
            yield element("path", class_="rule", d=f"M{_LEFT} {y}H{self._width - _RIGHT}")
            name = lane if len(lane) <= 13 else f"{lane[:12]}\N{HORIZONTAL ELLIPSIS}"
            yield element("text", name, class_="lane", x=8, y=_n(top + 10))

    def _band(self, fault: FaultRecord) -> Markup:
        begin, end = self._fault_span(fault)
        place = f"M{_n(begin)} {_n(self._top - 4)}"
        if fault.ended_at_s is None:
            return element("path", class_="moment", d=f"{place}V{_n(self._bottom)}")
        shape = f"{place}H{_n(end)}V{_n(self._bottom)}H{_n(begin)}z"
        return element("path", element("title", _fault_facts(fault)), class_="band", d=shape)

    def _healed(self) -> Iterator[Markup]:
        if self._run.healed_at_s is None:
            return
        x = self._x(self._run.healed_at_s)
        title = element(
            "title", f"all faults over, the mesh whole at {self._run.healed_at_s:.1f} s"
        )
        yield element("path", title, class_="healed", d=f"M{_n(x)} {_AXIS - 2}V{_n(self._bottom)}")
        left = x + 72 > self._width
        yield element(
            "text",
            "whole again",
            class_="healed-label",
            x=_n(x - 4 if left else x + 4),
            y=_n(self._bottom - 4),
            text_anchor="end" if left else None,
        )

    # --- faults

    def _fault_bars(self) -> Iterator[Markup]:
        for lane, faults in self._faults_by_lane.items():
            rows = [min(row, _LANE_ROWS - 1) for row in self._fault_rows(faults)]
            for number, (fault, row) in enumerate(zip(faults, rows, strict=True)):
                begin, end = self._fault_span(fault)
                y = self._lane_tops[lane] + row * _LANE
                rest = [
                    self._fault_span(other)[0]
                    for other, its_row in zip(faults[number + 1 :], rows[number + 1 :], strict=True)
                    if its_row == row
                ]
                room = min(rest, default=float(self._width)) - end - 4
                yield self._fault_bar(fault, begin, end, y, room)

    def _fault_bar(
        self, fault: FaultRecord, begin: float, end: float, y: float, room: float
    ) -> Markup:
        width = end - begin
        needed = len(fault.name) * _LETTER + 6
        parts = [
            element("title", _fault_facts(fault)),
            element("rect", x=_n(begin), y=_n(y + 1), width=_n(width), height=11, rx=2),
        ]
        if width >= needed:
            parts.append(element("text", fault.name, x=_n(begin + 4), y=_n(y + 10)))
        elif room >= needed:
            beside = {"class_": "beside", "x": _n(end + 3), "y": _n(y + 10)}
            parts.append(element("text", fault.name, **beside))
        return element("g", *parts, class_="fault")

    # --- requests

    def _y(self, number: int) -> float:
        return self._top + (self._rows[number] + 0.5) * self._pitch

    def _quiet(self) -> Markup:
        """Those that nothing happened to: one thin line each."""
        numbers = [n for n, fate in enumerate(self._fates) if fate in _QUIET]
        thin = _n(self._pitch * 0.5)
        if not self._hover:
            lines = "".join(self._line(number) for number in numbers)
            return element("path", class_="whole", stroke_width=thin, d=lines or None)
        return element(
            "g", *(self._quiet_bar(n) for n in numbers), class_="whole", stroke_width=thin
        )

    def _quiet_bar(self, number: int) -> Markup:
        answer = self._run.answers[number]
        took = (answer.ended_at_s or answer.sent_at_s) - answer.sent_at_s
        holder = f", {answer.holders[-1]} answered" if answer.holders else ""
        title = (
            f"{answer.request}: {answer.mode} {answer.dialect} via {answer.entry}{holder}"
            f" in {seconds(took)}"
        )
        return element("path", element("title", title), d=self._line(number))

    def _line(self, number: int) -> str:
        begin, end = self._span(self._run.answers[number])
        return f"M{_n(begin)} {_n(self._y(number))}H{_n(end)}"

    def _eventful(self) -> Iterator[Markup]:
        """Mildest first: what must not be lies on top."""
        for fate in Fate:
            if fate not in _QUIET:
                for number, its in enumerate(self._fates):
                    if its is fate:
                        yield self._bar(number, fate)

    def _bar(self, number: int, fate: Fate) -> Markup:
        answer = self._run.answers[number]
        y = self._y(number)
        thick = self._pitch * (0.95 if fate is Fate.BAD else 0.7)
        waits, said = self._parts(answer)
        parts = [element("title", facts(answer, fate))]
        if waits:
            parts.append(element("path", class_="wait", d=_lines(waits, y)))
        parts.append(element("path", class_="said", stroke_width=_n(thick), d=_lines(said, y)))
        ticks = "".join(
            f"M{_n(self._x(seam.at_s))} {_n(y - self._pitch * 0.75)}v{_n(self._pitch * 1.5)}"
            for seam in answer.seams
        )
        if ticks:
            parts.append(element("path", class_="seam", d=ticks))
        if answer.ended_at_s is None:
            _, x = self._span(answer)
            parts.append(element("path", class_="endless", d=f"M{_n(x - 3)} {_n(y - 3)}l4 3l-4 3"))
        return element("g", *parts, id=bar_id(self._anchor, number), class_=str(fate))

    def _parts(self, answer: Answer) -> tuple[list[Span], list[Span]]:
        """Where it waited for text, and where text came."""
        begin, end = self._span(answer)
        silent = []
        if answer.came_in_pieces:
            silent = [(seam.at_s - seam.gap_s, seam.at_s) for seam in answer.seams]
            silent.insert(0, (answer.sent_at_s, answer.pieces[0].at_s))
        waits: list[Span] = []
        said: list[Span] = []
        at = begin
        for since_s, until_s in silent:
            since = min(max(at, self._x(since_s)), end)
            until = min(max(since, self._x(until_s)), end)
            if until - since < 0.2:
                continue
            if since > at:
                said.append((at, since))
            waits.append((since, until))
            at = until
        if end > at or not said:
            said.append((min(at, end - 0.5), end))
        return waits, said


def _extent(run: Run) -> Span:
    times = [0.0]
    for answer in run.answers:
        times += [answer.sent_at_s, answer.ended_at_s or 0.0]
    for fault in run.faults:
        times += [fault.began_at_s, fault.ended_at_s or 0.0]
    times.append(run.healed_at_s or 0.0)
    finite = [at_s for at_s in times if math.isfinite(at_s)]
    begin, end = min(finite), max(finite)
    return begin, max(end, begin + 1.0)


_LINKS: Final = "links"


def _lanes(run: Run) -> list[str]:
    """Every node has one, and "links" if a fault was on all of them."""
    lanes = list(dict.fromkeys([*run.nodes, *(n for fault in run.faults for n in fault.nodes)]))
    return [*lanes, _LINKS] if any(not fault.nodes for fault in run.faults) else lanes


def _of_lane(faults: Sequence[FaultRecord], lane: str) -> list[FaultRecord]:
    found = [f for f in faults if lane in f.nodes or (lane == _LINKS and not f.nodes)]
    return sorted(found, key=lambda fault: fault.began_at_s)


def _fault_facts(fault: FaultRecord) -> str:
    until = "" if fault.ended_at_s is None else f" to {fault.ended_at_s:.2f} s"
    return f"{fault.name}: {fault.did}\nat {fault.began_at_s:.2f} s{until}"


def _lines(spans: Sequence[Span], y: float) -> str:
    return "".join(f"M{_n(begin)} {_n(y)}H{_n(end)}" for begin, end in spans)


def _n(number: float) -> str:
    """A coordinate, as short as it can be."""
    return f"{number:.1f}".removesuffix(".0")
