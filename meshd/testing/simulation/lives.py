"""What clients of one run live through, and in the words of the checker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from meshd import limits
from meshd.testing.checker.answers import Answer, How, Mode, Piece
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.simulation.places import whole_events, wrong_id
from meshd.testing.simulation.questions import Question
from meshd.testing.world import Machine

POISONED: Final = "ended two engines"
"""What such a refusal says."""
FOR_GOOD: Final = {400: "exceeds the available context size", 404: "not found", 422: POISONED}
"""Statuses that are kept as a key's or a job's answer, and what was injected says with them."""
_OVER: Final = ("use another key", "it is not kept any more")
"""What a refusal says if its key has no answer, or none any more: all others may be there later."""
_NAMES: Final = (
    re.compile(rb'"id":"([^"]*)"'),
    re.compile(rb'"model":"([^"]*)"'),
    re.compile(rb'"created(?:_at)?":"?([^,"}]*)[,"}]'),
)


@dataclass
class Asked:
    """One request of one client."""

    name: str
    question: Question
    machine: Machine
    life: int
    """Which daemon of that machine was asked."""
    sent_at_s: float
    answer: MemoryAnswer
    must_work: bool
    """It was asked when everything was healed and nothing else was going on."""
    place: str = ""
    """After which it was asked for; "": from its start."""
    by_id: bool = False
    """By that of its job, and not by its key."""
    left: bool = False
    """Its client went away, or lost its connection."""

    @property
    def entry_died(self) -> bool:
        """Whether the daemon that was asked did not live to see the end."""
        return self.life in self.machine.died


@dataclass(frozen=True)
class Had:
    """What a client has of the answer to a key, when it asks for the rest."""

    events: bytes = b""
    """See `whole_events`."""
    job: str = ""
    """What the head of the answer called it; "": nobody told, or it is not to be had by that."""
    is_exact: bool = False
    """Whether a number of events was not enough to say where it is."""

    def after(self, asked: Asked) -> Had:
        """The same when it was asked for, and that came of it."""
        answer = asked.answer
        if answer.status == 200:
            return Had(whole_events(answer.raw), answer.headers.get("x-meshd-job", self.job))
        if answer.status not in (400, 404, 409):
            return self
        if asked.place.isdecimal():
            return replace(self, is_exact=True)
        return replace(self, job="") if asked.by_id else Had()


def is_final(asked: Asked) -> bool:
    """Whether this key will have no answer in this run: it is cancelled, or each try has failed and
    no more are made, or its time is over, or it was refused in a way that is kept."""
    answer = asked.answer
    has_ended = answer.status == 409 and any(words in answer.error for words in _OVER)
    return (has_ended and not asked.place and not asked.by_id) or is_refused_for_good(asked)


def is_refused_for_good(asked: Asked) -> bool:
    """Whether an engine was made to say that it cannot do this, or two ended under it."""
    return FOR_GOOD.get(asked.answer.status, "\n") in asked.answer.error


def is_poisoned(asked: Asked) -> bool:
    """Whether it was refused because engines ended under what it asks."""
    return asked.answer.status == 422 and POISONED in asked.answer.error


def is_without_quorum(asked: Asked) -> bool:
    """Whether it was refused because nothing could be written into the record."""
    return asked.answer.status == 503 and "into the record" in asked.answer.error


def lived(asked: Asked, *, is_gentle: bool, is_given_up: bool = False) -> Answer:
    """One request, in the words of the checker; `is_gentle`: see `Options`.

    `is_given_up`: no other try of its key had an answer, and there will be none after it.
    """
    answer, question = asked.answer, asked.question
    how = _how(asked)
    cause = (answer.error or answer.broken)[:200]
    return Answer(
        request=asked.name,
        mode=Mode.KEYED if question.key else Mode.STREAMED if question.stream else Mode.WHOLE,
        dialect=question.dialect,
        model="tiny",
        entry=asked.machine.name,
        key=question.key,
        sent_at_s=asked.sent_at_s,
        ended_at_s=answer.ended_at,
        how=how,
        accepted=_accepted(asked, how),
        excuse="" if is_given_up else _excuse(asked, how, is_gentle=is_gentle),
        status=answer.status,
        cause=cause,
        finish=answer.finish,
        expected=question.expected,
        expected_finish=question.finish,
        pieces=[Piece(answer.ended_at or 0.0, answer.text)],
        ids=_names(answer.raw) if question.stream else (),
        attempts=answer.attempts,
        holders=[answer.holder] if answer.holder else [],
    )


def _how(asked: Asked) -> How:
    if asked.left and asked.answer.how != "whole":
        return How.LEFT
    return How(asked.answer.how) if asked.answer.over else How.SILENT


def _accepted(asked: Asked, how: How) -> bool:
    """Whether somebody has taken it on: see the words in `checker/answers.py`."""
    if how in (How.REFUSED, How.LEFT):
        return False
    if asked.question.key and asked.answer.status == 200:
        return True
    return asked.answer.sent and not asked.entry_died


def _excuse(asked: Asked, how: How, *, is_gentle: bool) -> str:
    if asked.entry_died and how in (How.BROKEN, How.SILENT):
        return "the entry died"
    if how in (How.ERROR, How.REFUSED) and not asked.must_work:
        if is_poisoned(asked):
            return "engines ended under it"
        if asked.question.key:
            return "a key may be repeated"
        if "this node was stopped" in asked.answer.error:
            return "its time to drain was over"
        if "this node has just started" in asked.answer.error:
            return "its entry had not heard the others yet"
        if "busy" in asked.answer.error:
            return "more was asked than engines can do"
        if asked.answer.attempts >= limits.ATTEMPTS:
            return "one fault after the other"
        return "" if is_gentle else "a fault"
    return ""


def cut_by_the_living(asked: Asked) -> bool:
    """Whether a node that was there all the time broke the connection to its client.

    That is never excused, also where a key is repeated and answered elsewhere.
    """
    broken = asked.answer.over and asked.answer.how in ("broken", "cut")
    return broken and asked.answer.sent and not asked.left and not asked.entry_died


def misnamed(asked: Asked) -> str:
    """What is wrong with the ids by which a client can go on; "": nothing."""
    return wrong_id(asked.answer.raw) if asked.question.stream and asked.question.key else ""


def _names(raw: bytes) -> Sequence[str]:
    """What the events of a stream call it: one name for all of it, or all that there are."""
    whole_lines = raw[: raw.rfind(b"\n") + 1]
    found = [set(pattern.findall(whole_lines)) for pattern in _NAMES]
    if all(len(names) <= 1 for names in found):
        return [b" ".join(b"".join(names) for names in found).decode()]
    return sorted(name.decode() for names in found for name in names)
