"""Rows of a table of what was measured, with their goals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One number, or a median with its 99th percentile."""

    what: str
    unit: str
    value: float
    p99: float | None = None
    goal: str = ""
    met: bool | None = None
    note: str = ""


def percentile(values: Iterable[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * share) - 1)]


def latency(what: str, took: Sequence[float], goal: float | None = None, unit: str = "ms") -> Row:
    p50 = statistics.median(took)
    return Row(
        what,
        unit,
        p50,
        percentile(took, 0.99),
        f"p50 <= {goal:g}" if goal is not None else "",
        None if goal is None else p50 <= goal,
        f"{len(took)} times",
    )


def rate(what: str, done: dict[str, Any], goal: float | None = None) -> Row:
    per_s = done["count"] / done["took_s"]
    return Row(
        what,
        "/s",
        per_s,
        None,
        f">= {goal:,.0f}" if goal is not None else "",
        None if goal is None else per_s >= goal,
    )


def table(rows: Sequence[Row]) -> Table:
    shown = Table(title="the record: 3 voters, loopback, mutual TLS, each commit synced")
    shown.add_column("", no_wrap=True)
    for title in ("p50 or value", "p99"):
        shown.add_column(title, justify="right", no_wrap=True)
    for title in ("unit", "goal", "", "note"):
        shown.add_column(title, no_wrap=True)
    for row in rows:
        shown.add_row(
            row.what,
            _number(row.value),
            "" if row.p99 is None else _number(row.p99),
            row.unit,
            row.goal,
            {True: "met", False: "MISSED", None: ""}[row.met],
            row.note,
        )
    return shown


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
