"""What the promise excludes, and which requests of a run that holds for.  Pure.

A request may fail for one of `EXCUSES` and for nothing else, and only if a fault that the harness
itself injected was the reason.  Each says how such a request may end: hardly any excuses silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import Final

import msgspec

from meshd.testing.checker import Answer, How, Mode
from meshd_chaos.records import FaultRecord

REPEATED: Final = "repeated"
"""The excuse of a careful client's tries but the last: it goes on asking, and gets its answer."""
SETTLING_S: Final = 5.0
"""After a fault: until links are up again and a leader is elected (consensus/deadlines.py)."""
HEARD_S: Final = 1.0
"""Until a client hears that its connection broke, on a busy machine."""
ATTEMPTS: Final = 3
"""Holders that one request is tried at (relay/machine.py)."""
ENGINES: Final = 2
"""Engines that may die under one request: then it is taken for the reason (relay/DESIGN.md)."""


class Harm(Flag):
    """What a fault takes away from the nodes that it hits."""

    NONE = 0
    DAEMON = auto()
    """It is dead, stopped or starting: who is connected to it is cut off."""
    GOODBYE = auto()
    """It is stopped in good order and started again, one at a time: others take over."""
    SERVICE = auto()
    """It stands still: whoever waits for it waits."""
    ENGINE = auto()
    """What its engines run."""
    LINKS = auto()
    """The others cannot reach it, or it cannot reach them."""
    DISK = auto()
    """Nothing can be written there."""


HARM: Final[Mapping[str, Harm]] = {
    "kill": Harm.DAEMON,
    "restart": Harm.GOODBYE,
    "leave": Harm.DAEMON,
    "freeze": Harm.SERVICE,
    "zombie": Harm.LINKS,
    "kill-backend": Harm.ENGINE,
    "freeze-backend": Harm.ENGINE,
    "partition": Harm.LINKS,
    "full-disk": Harm.DISK,
}
"""By the fault's name; the others (slow links, resets, clocks) take nothing away."""

_GONE: Final = Harm.DAEMON | Harm.SERVICE | Harm.LINKS
_EXPLICIT: Final = frozenset({How.ERROR, How.REFUSED})
_DURABLE: Final = frozenset({Mode.KEYED, Mode.QUEUED})


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Who does what in the mesh of a run."""

    holders: Mapping[str, Sequence[str]]
    """The nodes that have a model."""
    voters: Sequence[str]


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One way in which a request may fail."""

    sentence: str
    """As the docs say it."""
    ends: frozenset[How]
    """How it may end; an end that is not among them is a violation all the same."""
    modes: frozenset[Mode]
    holds: Callable[[Answer, Sequence[FaultRecord], Places], bool]


def _entry_died(answer: Answer, faults: Sequence[FaultRecord], places: Places) -> bool:
    died = Harm.DAEMON | Harm.GOODBYE
    ended_at_s = answer.ended_at_s if answer.ended_at_s is not None else float("inf")
    return any(
        _hits(fault, answer.entry, died)
        for fault in _during(answer, faults, 0.0)
        if fault.ended_at_s is None or ended_at_s <= fault.ended_at_s + HEARD_S
    )


def _no_holder(answer: Answer, faults: Sequence[FaultRecord], places: Places) -> bool:
    holders = set(places.holders.get(answer.model, ()))
    everyone = len(holders) or 1
    return _all_away(holders, answer, faults, _GONE | Harm.ENGINE, everyone)


def _no_quorum(answer: Answer, faults: Sequence[FaultRecord], places: Places) -> bool:
    voters = set(places.voters)
    enough = (len(voters) + 1) // 2 or 1  # of 3: two away; of 5: three; of 4: two
    return _all_away(voters, answer, faults, _GONE | Harm.DISK, enough)


def _attempts_spent(answer: Answer, faults: Sequence[FaultRecord], places: Places) -> bool:
    holders = set(places.holders.get(answer.model, ()))
    failed, engines = set[str](), set[str]()
    for fault in _during(answer, faults, 0.0):
        if harm_of(fault) & _RUNS:
            failed |= _lost(fault, holders, answer.entry)
        if harm_of(fault) & Harm.ENGINE:
            engines |= holders & set(fault.nodes)
    if not failed.issuperset(answer.holders):
        return False  # it ran at a holder that nothing was done to
    attempts = answer.attempts if _attempts_are_told(answer) else ATTEMPTS
    return min(len(engines), attempts) >= ENGINES or min(len(failed), attempts) >= ATTEMPTS


def _attempts_are_told(answer: Answer) -> bool:
    """A refusal's headers have them; a stream tells only of those that gave it something, and a
    repeated key may hear of an end that another node came to."""
    return answer.how is How.REFUSED and answer.mode in (Mode.STREAMED, Mode.WHOLE)


_RUNS: Final = _GONE | Harm.ENGINE

EXCUSES: Final[Mapping[str, Exclusion]] = {
    "entry-died": Exclusion(
        "a request without a key, on the entry that died or was stopped meanwhile",
        frozenset({How.BROKEN, How.REFUSED, How.ERROR}),
        frozenset({Mode.STREAMED, Mode.WHOLE}),
        _entry_died,
    ),
    "no-holder": Exclusion(
        "every node that has the model was away at the same time, or so was its engine",
        _EXPLICIT,
        frozenset(Mode),
        _no_holder,
    ),
    "no-quorum": Exclusion(
        "a request with a key, or a job, without a majority of the voters to write it down",
        _EXPLICIT,
        _DURABLE,
        _no_quorum,
    ),
    "attempts-spent": Exclusion(
        f"{ATTEMPTS} holders failed under this one request, or {ENGINES} engines did",
        _EXPLICIT,
        frozenset(Mode),
        _attempts_spent,
    ),
}
"""Every exclusion there is.  docs/no-answer-lost.md says the same in prose."""


def excused(
    answers: Iterable[Answer],
    faults: Sequence[FaultRecord],
    places: Places,
    allowed: Iterable[str] = tuple(EXCUSES),
) -> list[Answer]:
    """The same with what the faults decide: who was accepted, and who may have failed."""
    answers, faults = list(answers), [one for fault in faults for one in fault.each()]
    committed = {answer.key for answer in answers if answer.key and answer.accepted}
    return [_decided(answer, faults, places, committed, [*allowed]) for answer in answers]


def harm_of(fault: FaultRecord) -> Harm:
    """What it took away."""
    if fault.parameters.get("shape") == "pair":
        return Harm.NONE  # two nodes that do not reach each other reach all the others
    return HARM.get(fault.name, Harm.NONE)


def _decided(
    answer: Answer,
    faults: Sequence[FaultRecord],
    places: Places,
    committed: set[str],
    allowed: Sequence[str],
) -> Answer:
    if answer.key in committed and not answer.accepted:
        answer = msgspec.structs.replace(answer, accepted=True)
    if answer.excuse == REPEATED or answer.how in (How.WHOLE, How.LEFT):
        return answer
    for name in allowed:
        rule = EXCUSES[name]
        if (
            answer.mode in rule.modes
            and answer.how in rule.ends
            and rule.holds(answer, faults, places)
        ):
            accepted = answer.accepted and name != "entry-died"
            return msgspec.structs.replace(answer, excuse=name, accepted=accepted)
    return answer


# ------------------------------------------------------------------ who was away, and when


def _during(answer: Answer, faults: Sequence[FaultRecord], after_s: float) -> list[FaultRecord]:
    """The faults that were in force while it was under way, or so long before."""
    ended_at_s = answer.ended_at_s if answer.ended_at_s is not None else float("inf")
    return [
        fault
        for fault in faults
        if fault.began_at_s <= ended_at_s
        and (fault.ended_at_s is None or fault.ended_at_s + after_s >= answer.sent_at_s)
    ]


def _hits(fault: FaultRecord, node: str, harm: Harm) -> bool:
    return node in fault.nodes and bool(harm_of(fault) & harm)


def _all_away(
    nodes: set[str],
    answer: Answer,
    faults: Sequence[FaultRecord],
    harm: Harm,
    enough: int,
) -> bool:
    """Whether, at some moment of the request, so many of them were away from its entry."""
    found = _during(answer, faults, SETTLING_S)
    moments = {max(fault.began_at_s, answer.sent_at_s) for fault in found}
    return any(len(_away(nodes, answer.entry, found, harm, at_s)) >= enough for at_s in moments)


def _away(
    nodes: set[str], entry: str, faults: Sequence[FaultRecord], harm: Harm, at_s: float
) -> set[str]:
    """Which of the nodes were not there for the entry at that moment."""
    away: set[str] = set()
    for fault in faults:
        over_s = float("inf") if fault.ended_at_s is None else fault.ended_at_s + SETTLING_S
        if not fault.began_at_s <= at_s <= over_s or not harm_of(fault) & harm:
            continue
        away |= _lost(fault, nodes, entry)
    return away


def _lost(fault: FaultRecord, nodes: set[str], entry: str) -> set[str]:
    """Which of the nodes the entry loses by it."""
    hit = nodes & set(fault.nodes)
    if harm_of(fault) & Harm.LINKS and entry in fault.nodes:
        return nodes - hit  # it is the others that its side cannot reach
    return hit
