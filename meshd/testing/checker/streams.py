"""Whether what a client was sent, piece by piece, is what an undisturbed run would have sent.

It is exact where the answer is known beforehand: with the counting model
(`meshd.testing.models.expected_text`), or where a second, undisturbed run was recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from meshd.testing.checker.report import Kind, Report, Violation

_SHOWN: Final = 40
"""Characters of a text that a sentence shows."""
_LANDMARK: Final = 12
"""Characters by which a place in the expected text is recognised."""


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """One answer as it came."""

    request: str
    pieces: Sequence[str]
    """The text of each delta, in the order of arrival."""
    finish: str | None
    """The finish_reason; None: it ended in an error, or the client left."""
    numbers: Sequence[int] = ()
    """What the holder numbered these deltas, where that is known: 0, 1, 2, ..."""
    ids: Sequence[str] = ()
    """Every id, created and model that the events named, in order of appearance."""
    after_finish: int = 0
    """Events with content that came after the finish_reason."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def check_stream(stream: Stream, expected: str | None, *, finish: str | None = None) -> Report:
    """One answer against the text of an undisturbed run; None: nobody knows that text.

    An answer without finish_reason may end early, and must be right as far as it goes.  `finish` is
    the undisturbed run's finish_reason, if it is known.
    """
    report = Report()
    report.counts["streams compared"] += 1

    def wrong(kind: Kind, sentence: str) -> None:
        sentence = f"the answer to {stream.request} {sentence}"
        report.violations.append(Violation(kind, stream.request, sentence))

    if expected is not None and (found := difference(stream, expected)) is not None:
        wrong(*found)
    if (doubled := _first_double(stream.numbers)) is not None:
        wrong(Kind.DOUBLED, f"had delta {doubled} twice")
    elif list(stream.numbers) != list(range(len(stream.numbers))):
        wrong(Kind.WRONG, f"had deltas out of order, or not all: {_short(stream.numbers)}")
    if len(set(stream.ids)) > 1:
        names = ", ".join(dict.fromkeys(stream.ids))
        wrong(Kind.WRONG, f"changed its name on the way: {names}")
    if stream.after_finish:
        wrong(Kind.UNEXPECTED, f"went on after its finish_reason ({stream.after_finish} events)")
    if None not in (finish, stream.finish) and stream.finish != finish:
        wrong(Kind.WRONG, f"ended with {stream.finish!r}; undisturbed it ends with {finish!r}")
    return report


def difference(stream: Stream, expected: str) -> tuple[Kind, str] | None:
    """What is different about a text, and where; None if nothing is."""
    text = stream.text
    at = _common(text, expected)
    if at == len(text):
        if at == len(expected) or stream.finish is None:
            return None
        return Kind.LOST, f"ends early: after {at} characters, without {_quote(expected[at:])}"
    rest = text[at:]
    if (start := _came_before(rest, expected, at)) is not None:
        again = rest[: _common(rest, expected[start:])]
        return Kind.DOUBLED, f"has {_quote(again)} twice: again at character {at}"
    if at == len(expected):
        return Kind.UNEXPECTED, f"goes on after its end: {_quote(rest)}"
    if (next_at := _comes_later(rest, expected, at)) is not None:
        return Kind.LOST, f"lacks {_quote(expected[at:next_at])} at character {at}"
    return Kind.WRONG, (
        f"differs at character {at}: {_quote(rest)} instead of {_quote(expected[at:])}"
    )


def _came_before(rest: str, expected: str, at: int) -> int | None:
    """Where, before `at`, the expected text goes on as this does; the nearest such place."""
    landmark = rest[:_LANDMARK]
    start = expected.rfind(landmark, 0, at + len(landmark) - 1) if landmark else -1
    return start if 0 <= start < at else None


def _comes_later(rest: str, expected: str, at: int) -> int | None:
    """Where, after `at`, the expected text goes on as this does; the nearest such place."""
    start = expected.find(rest[:_LANDMARK], at + 1)
    return start if start >= 0 else None


def _common(one: str, other: str) -> int:
    """How long they are equal."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    low, high = 0, length  # equal up to low, not up to high
    while high - low > 1:
        middle = (low + high) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle
    return low


def _first_double(numbers: Sequence[int]) -> int | None:
    seen: set[int] = set()
    for number in numbers:
        if number in seen:
            return number
        seen.add(number)
    return None


def _quote(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _short(numbers: Iterable[int]) -> str:
    words = [str(number) for number in numbers]
    return ", ".join(words[:12]) + (", ..." if len(words) > 12 else "")
