"""A run's book: each request as its client lived it, and what all of them together come to.

    tally = judge_answers(answers)
    assert tally.ok, tally.violations

sent        a request; one with a key is one, however often its client tries
accepted    the whole request was read by an entry that stays up (unkeyed), or its acceptance is
            committed (keyed)
lost        accepted, and neither a terminal event nor an explicit error
failed      ended in an explicit error
doubled     two different answers to one key, or a delta twice
wrong       differs from an undisturbed run
recovered   whole, after its holder failed
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from meshd.testing.checker.accounting import Asked, End, check_requests
from meshd.testing.checker.report import Kind, Report, Violation
from meshd.testing.checker.streams import Stream, check_stream

FAILED_MAX: Final = 0.01
"""Of the plain-text requests: more explicit errors without an excuse fail the run."""


class Mode(StrEnum):
    """How a request was made."""

    STREAMED = "streamed"
    WHOLE = "whole"  # its answer is one body
    KEYED = "keyed"  # with an Idempotency-Key, streamed or not
    QUEUED = "queued"  # a job in a queue


class How(StrEnum):
    """How it ended, as its client saw it."""

    WHOLE = "whole"  # with a finish_reason, or the whole body
    ERROR = "error"  # the dialect's own, within the stream
    REFUSED = "refused"  # a status that is not 200
    BROKEN = "broken"  # the connection to the entry broke
    CUT = "cut"  # it ended in order, and said neither
    GARBLED = "garbled"  # with what is no event of its dialect
    LEFT = "left"  # the client went away itself
    SILENT = "silent"  # it did not end by its deadline


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """One delta with text, as it came."""

    at_s: float
    text: str


class Seam(msgspec.Struct, frozen=True, kw_only=True):
    """Where an answer went on after its holder failed."""

    way: str
    """replay | continue | regenerate | repeat (the client's own, with its key)"""
    at_s: float
    """When the first text after it came."""
    gap_s: float
    """How long the client had seen no text by then."""
    first_token_s: float | None = None
    """What of the gap the new holder's engine took to its first token, if that is known."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One request as its client lived it.  Times are seconds since the run began."""

    request: str
    """Its own name: a repeat of a key has another."""
    mode: Mode
    dialect: str
    """openai | ollama"""
    model: str
    entry: str
    """The node that was asked."""
    key: str = ""
    """The same for all repeats of one keyed request."""
    sent_at_s: float
    ended_at_s: float | None = None
    how: How
    accepted: bool
    plain: bool = True
    """Plain text: no schema, no tools."""
    excuse: str = ""
    """Why it may have failed, one of the exclusions that docs/no-answer-lost.md names; "": none."""
    status: int = 0
    cause: str = ""
    """Of an error or a refusal: its code, or the first words of its text."""
    finish: str | None = None
    expected: str | None = None
    """The text of an undisturbed run; None: nobody knows it."""
    expected_finish: str | None = None
    pieces: Sequence[Piece] = ()
    """Of an answer in one body: that, once."""
    ids: Sequence[str] = ()
    """Every id, created and model that its events named."""
    attempts: int = 1
    holders: Sequence[str] = ()
    seams: Sequence[Seam] = ()
    after_finish: int = 0
    """Events with content that came after the finish_reason."""

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def came_in_pieces(self) -> bool:
        """It was streamed, or looks so to its client."""
        return len(self.pieces) > 1

    @property
    def failed(self) -> bool:
        """It ended in an explicit error."""
        return self.how in (How.ERROR, How.REFUSED)

    @property
    def is_excused(self) -> bool:
        """It has no answer, and the docs say that it need not have one."""
        return bool(self.excuse) and self.how not in (How.WHOLE, How.LEFT)

    def __str__(self) -> str:
        key = f" (key {self.key})" if self.key else ""
        via = f"{self.mode} {self.dialect} via {self.entry}"
        why = f", {self.cause}" if self.cause else ""
        return f"request {self.request}{key}: {via}: {self.how}{why}, {len(self.text)} characters"


class Request(msgspec.Struct, frozen=True):
    """What a client wanted, with all its tries: one, unless it has a key."""

    tries: tuple[Answer, ...]
    """In the order of the answers."""

    @property
    def accepted(self) -> bool:
        return any(one.accepted for one in self.tries)

    @property
    def end(self) -> Answer:
        """The try that counts: one that was answered, or the last that has no excuse."""
        whole = next((one for one in self.tries if one.how is How.WHOLE), None)
        last = next((one for one in reversed(self.tries) if not one.excuse), None)
        return whole or last or self.tries[-1]


def requests_of(answers: Iterable[Answer]) -> list[Request]:
    """The requests that these answers are to, in the order of their first tries."""
    tries: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        name = ("key", answer.key) if answer.key else ("request", answer.request)
        tries.setdefault(name, []).append(answer)
    return [Request(tuple(found)) for found in tries.values()]


class Gaps(msgspec.Struct, frozen=True, kw_only=True):
    """How long clients saw nothing at the seams of one way."""

    count: int
    p50_s: float
    p99_s: float
    longest_s: float
    p99_beyond_first_token_s: float | None = None
    """The same without what the new holder's engine took, where that is known."""


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to: numbers for a table, sentences for what must not be."""

    sent: int
    """Requests; so are all sums but `tries` and what is said of gaps."""
    tries: int
    """Those of clients with a key that asked again among them."""
    accepted: int
    answered: int
    """Whole."""
    lost: int
    doubled: int
    wrong: int
    failed: int
    """Explicit errors without an excuse."""
    failed_by: dict[str, int]
    excused_by: dict[str, int]
    """Not whole, and the docs say that it need not be."""
    left: int
    recovered_by: dict[str, int]
    gaps_by: dict[str, Gaps]
    """Of answers that came in pieces."""
    violations: list[str]
    """And what could not be decided: that is no pass."""

    @property
    def ok(self) -> bool:
        return not self.violations


def judge_answers(answers: Iterable[Answer], *others: Report) -> Tally:
    """All checks of what clients saw, and the sums; what `others` found is told with it, such as
    liveness after the heal, or what a record's history says."""
    answers = list(answers)
    report = check_requests(_asked(answer) for answer in answers if not answer.is_excused)
    for other in others:
        report += other
    for answer in answers:
        report += _text(answer)
    report += _failures(answers)
    kinds = Counter(violation.kind for violation in report.violations)
    requests = requests_of(answers)
    ends = [request.end for request in requests]
    failed = [end for end in ends if end.failed and not end.excuse]
    return Tally(
        sent=len(requests),
        tries=len(answers),
        accepted=sum(request.accepted for request in requests),
        answered=sum(end.how is How.WHOLE for end in ends),
        lost=kinds[Kind.LOST],
        doubled=kinds[Kind.DOUBLED],
        wrong=kinds[Kind.WRONG] + kinds[Kind.UNEXPECTED],
        failed=len(failed),
        failed_by=Counter(end.cause or str(end.status) for end in failed),
        excused_by=Counter(end.excuse for end in ends if end.is_excused),
        left=sum(end.how is How.LEFT for end in ends),
        recovered_by=Counter(
            seam.way for answer in answers if answer.how is How.WHOLE for seam in answer.seams
        ),
        gaps_by=gaps_by_way(answers),
        violations=[str(violation) for violation in report.violations]
        + [f"undecided: {sentence}" for sentence in report.undecided],
    )


def gaps_by_way(answers: Iterable[Answer]) -> dict[str, Gaps]:
    """For each way to go on, how long the gaps were."""
    seams: dict[str, list[Seam]] = {}
    for seam in seams_in_text(answers):
        seams.setdefault(seam.way, []).append(seam)
    return {way: gaps_of(found) for way, found in sorted(seams.items())}


def seams_in_text(answers: Iterable[Answer]) -> list[Seam]:
    """Those that a client could see: who gets one body hears nothing before its end anyway."""
    return [seam for answer in answers if answer.came_in_pieces for seam in answer.seams]


def gaps_of(seams: Sequence[Seam]) -> Gaps:
    """How long the gaps at these seams were; there is at least one."""
    gaps = [seam.gap_s for seam in seams]
    beyond = [s.gap_s - s.first_token_s for s in seams if s.first_token_s is not None]
    return Gaps(
        count=len(gaps),
        p50_s=quantile(gaps, 0.5),
        p99_s=quantile(gaps, 0.99),
        longest_s=max(gaps),
        p99_beyond_first_token_s=quantile(beyond, 0.99) if beyond else None,
    )


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that a share `q` of them does not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


_ENDS: Final = {
    How.WHOLE: End.WHOLE,
    How.ERROR: End.ERROR,
    How.REFUSED: End.ERROR,
    How.BROKEN: End.CUT,
    How.CUT: End.CUT,
    How.GARBLED: End.CUT,
    How.LEFT: End.LEFT,
    How.SILENT: End.SILENT,
}


def _asked(answer: Answer) -> Asked:
    return Asked(
        request=answer.request,
        key=answer.key,
        accepted=answer.accepted,
        end=_ENDS[answer.how],
        answer=answer.text if answer.how is How.WHOLE else "",
        cause=answer.cause,
    )


def _text(answer: Answer) -> Report:
    """However it ended, what came of it is the beginning of the right text."""
    whole = answer.how is How.WHOLE
    stream = Stream(
        request=answer.request,
        pieces=[piece.text for piece in answer.pieces],
        finish=(answer.finish or "?") if whole else None,
        ids=answer.ids,
        after_finish=answer.after_finish,
    )
    finish = answer.expected_finish if whole and answer.finish else None
    report = check_stream(stream, answer.expected, finish=finish)
    if answer.how is How.GARBLED:
        sentence = f"the answer to {answer.request}: {answer.entry} sent what is no event"
        found = Violation(Kind.WRONG, answer.request, f"{sentence}: {answer.cause}")
        report.violations.append(found)
    return report


def _failures(answers: Sequence[Answer]) -> Report:
    """A few explicit errors may be; more than FAILED_MAX of the plain-text requests may not."""
    plain = [end for end in (request.end for request in requests_of(answers)) if end.plain]
    failed = [answer for answer in plain if answer.failed and not answer.excuse]
    report = Report()
    if len(failed) > FAILED_MAX * len(plain):
        causes = Counter(answer.cause or str(answer.status) for answer in failed)
        why = ", ".join(f"{count} x {cause}" for cause, count in causes.most_common())
        sentence = f"{len(failed)} of {len(plain)} plain-text requests failed: {why}"
        report.violations.append(Violation(Kind.FAILED, "requests", sentence, failed[:3]))
    return report
