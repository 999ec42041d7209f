"""What became of each request, in one word for its colour and in sentences for a person.  Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from meshd.testing.checker import Answer, How, Kind
from meshd_chaos.excuses import EXCUSES, REPEATED
from meshd_chaos.records import Run


class Fate(StrEnum):
    """What became of a request; its value is the class of its bar."""

    WHOLE = "whole"
    RECOVERED = "recovered"
    REPEATED = "repeated"
    UNREACHED = "unreached"
    LEFT = "left"
    UNTAKEN = "untaken"
    EXCUSED = "excused"
    FAILED = "failed"
    BAD = "bad"


MEANING: Final = {
    Fate.WHOLE: "answered",
    Fate.RECOVERED: "answered, after its holder failed",
    Fate.REPEATED: "not answered there, asked again with its key",
    Fate.UNREACHED: "no connection, asked elsewhere with its key",
    Fate.LEFT: "the client went away",
    Fate.UNTAKEN: "never accepted",
    Fate.EXCUSED: "not answered, and excused",
    Fate.FAILED: "ended in an error",
    Fate.BAD: "lost, doubled, wrong or too late",
}

WAYS: Final = {
    "replay": "asked again elsewhere, before any text",
    "continue": "continued where it broke off",
    "regenerate": "run again and compared",
    "resume": "the same run, over another link",
    "repeat": "asked again by the client, with its key",
}
"""The rungs of the ladder in words: `Seam.way`, and what is counted without a seam."""

_BAD: Final = tuple(
    f"{kind}:"
    for kind in (
        Kind.LOST,
        Kind.DOUBLED,
        Kind.UNEXPECTED,
        Kind.WRONG,
        Kind.UNFINISHED,
        Kind.UNAVAILABLE,
    )
)
_NAMED: Final = re.compile(r"\b(?:request|answer to|key) ([^\s(),]+?)(?=[:,.)]?(?:\s|$))")
"""How the checker's sentences name a request or a key."""


class Names:
    """The requests of a run, found again in what the checker says of them."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._by_name: dict[str, list[int]] = defaultdict(list)
        for number, answer in enumerate(answers):
            self._by_name[answer.request].append(number)
            if answer.key and answer.key != answer.request:
                self._by_name[answer.key].append(number)

    def spans(self, sentence: str) -> list[tuple[int, int, list[int]]]:
        """Where a request or a key stands in it: from, to, and the numbers of its answers."""
        found = []
        for match in _NAMED.finditer(sentence):
            numbers = self._by_name.get(match[1])
            if numbers:
                found.append((match.start(1), match.end(1), numbers))
        return found


def fates(run: Run) -> list[Fate]:
    """Of each answer of the run, in their order."""
    names = Names(run.answers)
    bad = {
        number
        for violation in run.violations
        if violation.startswith(_BAD)
        for _, _, numbers in names.spans(violation.partition("\n")[0])
        for number in numbers
    }
    answered = {answer.key for answer in run.answers if answer.key and answer.how is How.WHOLE}
    return [
        Fate.BAD if number in bad else _fate(answer, answered)
        for number, answer in enumerate(run.answers)
    ]


def _fate(answer: Answer, answered_keys: set[str]) -> Fate:
    match answer.how:
        case How.WHOLE:
            return Fate.RECOVERED if answer.seams else Fate.WHOLE
        case How.LEFT:
            return Fate.LEFT
        case How.REFUSED if answer.excuse == REPEATED and not answer.status:
            return Fate.UNREACHED
        case _ if answer.excuse == REPEATED or answer.key in answered_keys:
            return Fate.REPEATED
        case _ if answer.excuse:
            return Fate.EXCUSED
        case How.ERROR | How.REFUSED:
            return Fate.FAILED
        case _ if answer.accepted and not answer.key:
            return Fate.BAD
        case _:
            return Fate.UNTAKEN


def facts(answer: Answer, fate: Fate) -> str:
    """A request's facts in a few lines."""
    key = f" (key {answer.key})" if answer.key else ""
    return "\n".join([f"{answer.request}{key}: {MEANING[fate]}", *about(answer)])


def about(answer: Answer) -> list[str]:
    """What was asked, when, and how it went, each a line."""
    lines = [
        f"{answer.mode}, {answer.dialect}, {answer.model} via {answer.entry}",
        _times(answer),
    ]
    if answer.holders or answer.attempts > 1:
        holders = f"holders: {', '.join(answer.holders)}" if answer.holders else "no holder known"
        lines.append(holders + (f" ({answer.attempts} attempts)" if answer.attempts > 1 else ""))
    for seam in answer.seams:
        first = seam.first_token_s
        of_it = "" if first is None else f", {seconds(first)} of it the new holder's first token"
        lines.append(
            f"at {seam.at_s:.2f} s: {WAYS.get(seam.way, seam.way)};"
            f" no text for {seconds(seam.gap_s)}{of_it}"
        )
    if answer.excuse and answer.excuse != REPEATED:
        lines.append(f"excused: {excuse(answer.excuse)}")
    if answer.cause or answer.status not in (0, 200):
        status = f"{answer.status} " if answer.status else ""
        lines.append(f"{status}{answer.cause}".strip())
    return lines


def _times(answer: Answer) -> str:
    sent = f"sent at {answer.sent_at_s:.2f} s"
    if answer.ended_at_s is None:
        return f"{sent}, never ended"
    took = f"{answer.how} after {seconds(answer.ended_at_s - answer.sent_at_s)}"
    return f"{sent}, {took}, {len(answer.text):,} characters"


def seconds(duration_s: float) -> str:
    """`12 ms`, `1.25 s`, `75 s`."""
    if duration_s < 0.9995:
        return f"{max(0.0, duration_s) * 1000:.0f} ms"
    return f"{duration_s:.2f} s" if duration_s < 9.995 else f"{duration_s:.1f} s"


def excuse(name: str) -> str:
    """An excuse in words."""
    return EXCUSES[name].sentence if name in EXCUSES else name


def counted(found: Iterable[Fate]) -> Mapping[Fate, int]:
    """How many of each there are, in the order of `Fate`."""
    counts = Counter(found)
    return {fate: counts[fate] for fate in Fate if counts[fate]}
