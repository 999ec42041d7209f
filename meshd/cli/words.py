"""Numbers and names as a person reads them.  Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from meshd.ids import is_key_id, short

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """A name from another machine, safe on a terminal: nothing moves the cursor or turns text."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `5 min`, `3 h 12 min`, `2 d 4 h`."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def spelled(seconds: float) -> str:
    """`1 day`, `2 hours`, `90 minutes`, `45 seconds`: for a sentence."""
    whole = round(seconds)
    for unit_s, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if whole >= unit_s and whole % unit_s == 0:
            return count(whole // unit_s, unit)
    if whole < 300:
        return count(whole, "second")
    minutes = round(whole / 60)
    if minutes < 120:
        return count(minutes, "minute")
    hours = round(minutes / 60)
    return count(hours, "hour") if hours % 24 else count(hours // 24, "day")


def ago(seconds: float) -> str:
    """The same in one unit: `3 h`, `2 d`."""
    return " ".join(duration(seconds).split(" ")[:2])


def count(number: int, one: str, many: str = "") -> str:
    """`1 model`, `3 models`, `1,204 models`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def tokens(number: int) -> str:
    """A context length: `4096` is `4k`, `131072` is `128k`; 0 is not known."""
    if number <= 0:
        return "?"
    if number % 1024 == 0:
        return f"{number // 1024}k"
    return f"{round(number / 1000)}k" if number >= 10_000 else str(number)


def grouped_digits(digits: str) -> str:
    """`123456` as `123 456`: easier to compare on two screens."""
    alone = "".join(char for char in digits if char.isalnum())
    return f"{alone[:3]} {alone[3:]}"


def mesh_label(mesh: str) -> str:
    """A mesh's name as it is, its id in short."""
    return short(mesh) if is_key_id(mesh) else mesh


def listed(items: Sequence[str], most: int = 4) -> str:
    """`a, b and 3 more`."""
    shown = ", ".join(items[:most])
    rest = len(items) - most
    return f"{shown} and {rest} more" if rest > 0 else shown


_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def parse_duration(text: str) -> float:
    """Read `90s`, `30m`, `24h`, `7d`.  Raises ValueError, also for a number without a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is not None and not match[2]:
        raise ValueError(f"{text!r} is not a duration without a unit: s, m, h or d, as in 24h")
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is not a duration: write 90s, 30m, 24h or 7d")
    return float(match[1]) * _UNITS[match[2]]
