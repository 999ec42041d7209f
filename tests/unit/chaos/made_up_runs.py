"""Runs that never were: as many requests, faults and odd ends as a test wants, from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable

from meshd.testing.checker import Answer, How, Mode, Piece, Seam, judge_answers
from meshd_chaos.records import FaultRecord, NotTested, Run

NODES = ("anna", "ben", "cara", "dora", "emil")


def a_run(
    answers: Iterable[Answer] = (),
    *,
    scenario: str = "kill-holder",
    faults: Iterable[FaultRecord] = (),
    not_tested: Iterable[NotTested] = (),
    more_violations: Iterable[str] = (),
    duration_s: float = 60.0,
    late_s: float = 0.0,
    given_as: str = "",
    flags: Iterable[str] = (),
    about: str = "The node that is answering is killed and comes back.",
) -> Run:
    """A run whose tally is that of its answers."""
    answers = tuple(answers)
    tally = judge_answers(answers)
    return Run(
        scenario=scenario,
        about=about,
        given_as=given_as,
        flags=tuple(flags),
        seed=7,
        nodes=NODES,
        rate_per_s=20.0,
        duration_s=duration_s,
        began="2026-05-04T10:00:00Z",
        machine="Linux 6.1, 2 cores, Python 3.11.7",
        meshd="0.1.0",
        faults=tuple(faults),
        not_tested=tuple(not_tested),
        answers=answers,
        healed_at_s=duration_s + 2.0,
        late_s=late_s,
        tally=tally,
        violations=(*tally.violations, *more_violations),
    )


def an_answer(request: str = "r1", **changes: object) -> Answer:
    """A streamed one, whole, with nothing of note; `changes` are fields of Answer."""
    fields: dict[str, object] = {
        "request": request,
        "mode": Mode.STREAMED,
        "dialect": "openai",
        "model": "tiny",
        "entry": "anna",
        "sent_at_s": 1.0,
        "ended_at_s": 3.0,
        "how": How.WHOLE,
        "accepted": True,
        "finish": "stop",
        "expected": "one two three",
        "pieces": (Piece(1.2, "one "), Piece(2.0, "two "), Piece(2.9, "three")),
        "holders": ("ben",),
    }
    return Answer(**(fields | changes))  # type: ignore[arg-type]


def went_on(request: str = "r1", *, at_s: float = 2.0, gap_s: float = 0.2) -> Answer:
    """A whole one that was continued by another holder."""
    seam = Seam(way="continue", at_s=at_s, gap_s=gap_s, first_token_s=gap_s / 2)
    return an_answer(request, seams=(seam,), holders=("ben", "cara"), attempts=2)


def many(count: int, *, seed: int = 7, span_s: float = 60.0) -> list[Answer]:
    """What a run of faults leaves: most are whole, some went on, a few ended some other way."""
    rng = random.Random(seed)
    return [_one(f"r{number}", rng, span_s) for number in range(count)]


def _one(request: str, rng: random.Random, span_s: float) -> Answer:
    sent = rng.uniform(0, span_s)
    took = rng.uniform(0.4, 5.0)
    mode = rng.choice(list(Mode))
    answer = {
        "mode": mode,
        "dialect": "mesh" if mode is Mode.QUEUED else rng.choice(["openai", "ollama"]),
        "entry": rng.choice(NODES),
        "key": f"key-{request}" if mode is Mode.KEYED else "",
        "sent_at_s": sent,
        "ended_at_s": sent + took,
        "pieces": tuple(
            Piece(sent + took * share, text)
            for share, text in ((0.1, "one "), (0.5, "two "), (0.98, "three"))
        ),
        "holders": (rng.choice(NODES),),
    }
    kind = rng.random()
    if kind < 0.05:
        way = rng.choice(["replay", "continue", "continue", "regenerate", "repeat"])
        gap = min(took * 0.6, rng.lognormvariate(-1.6, 0.8))
        at = sent + rng.uniform(gap, took)
        seam = Seam(way=way, at_s=at, gap_s=gap, first_token_s=gap * 0.7)
        answer |= {"seams": (seam,), "attempts": 2, "holders": tuple(rng.sample(NODES, 2))}
    elif kind < 0.06:
        answer |= {"how": How.LEFT, "pieces": (Piece(sent + took / 2, "one "),)}
    elif kind < 0.068:
        answer |= {"how": How.BROKEN, "accepted": False, "excuse": "the entry died", "pieces": ()}
    elif kind < 0.072:
        answer |= {"how": How.ERROR, "cause": "no_holder", "status": 503, "pieces": ()}
    return an_answer(request, **answer)


def faults(count: int = 8, *, seed: int = 7, span_s: float = 60.0) -> list[FaultRecord]:
    """Of several kinds, one after another."""
    rng = random.Random(seed)
    return [_fault(span_s * (number + 0.5) / count, rng) for number in range(count)]


def _fault(at_s: float, rng: random.Random) -> FaultRecord:
    node = rng.choice(NODES)
    name, did, lasts_s = rng.choice(
        [
            ("kill", f"killed {node}'s daemon (-9), holder of 4 streams", 3.0),
            ("pause", f"stopped {node} (SIGSTOP)", 2.5),
            ("partition", f"cut {node} off from all others", 5.0),
            ("slow-links", "added 40 ms to every link", 6.0),
            ("kill-engine", f"killed the engine of {node}", None),
        ]
    )
    return FaultRecord(
        name=name,
        nodes=() if name == "slow-links" else (node,),
        parameters={"for_s": lasts_s or 0.0},
        did=did,
        began_at_s=at_s,
        ended_at_s=None if lasts_s is None else at_s + lasts_s,
    )
