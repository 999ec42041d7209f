"""What is wrong with what the clients of one run lived through."""

from __future__ import annotations

from collections import Counter

from meshd.testing.checker import Calm, How, Tally, check_keys, check_liveness, judge_answers
from meshd.testing.checker.report import Report
from meshd.testing.checker.streams import Stream, check_stream
from meshd.testing.simulation.clients import Clients
from meshd.testing.simulation.lives import (
    Asked,
    cut_by_the_living,
    is_poisoned,
    is_without_quorum,
    misnamed,
)


def judge_clients(clients: Clients, calm: Calm) -> tuple[Tally, list[str], Counter[str]]:
    """What it all comes to, a sentence for each thing that must not be, and what was counted.

    `calm`: when all was healed, and by when what was asked has to have ended.
    """
    answers, story = clients.answers(), clients.story
    liveness = check_liveness(answers, calm)
    tally = judge_answers(answers, liveness, check_keys(answers))
    found = list(tally.violations)
    if clients.going_on:
        found.append(f"{clients.going_on} clients never had the rest of an answer")
    for asked, answer in zip(clients.asked, answers, strict=True):
        told = f"{answer}: {asked.answer.error or asked.answer.broken}"
        if cut_by_the_living(asked):
            found.append(f"a living node cut off {told}")
        found += [str(violation) for violation in _thoughts(asked).violations]
        if wrong := misnamed(asked):
            found.append(f"{answer} {wrong}")
        story.sometimes(f"answer: {answer.how}")
        story.sometimes("answer: replayed", "x-meshd-replayed" in asked.answer.headers)
        story.sometimes("answer: poisoned", is_poisoned(asked))
        story.sometimes("answer: not without a quorum", is_without_quorum(asked))
        if answer.how is How.WHOLE and answer.attempts > 1:
            story.sometimes("whole after more than one attempt")
            story.sometimes("thoughts after more than one attempt", bool(asked.answer.thoughts))
    return tally, found, liveness.counts


def _thoughts(asked: Asked) -> Report:
    """However it ended, what was thought is the beginning of what the model thinks."""
    answer = asked.answer
    finish = answer.finish if answer.how == "whole" else None
    name = f"{asked.name} (its thoughts)"
    stream = Stream(request=name, pieces=[answer.thoughts], finish=finish)
    return check_stream(stream, asked.question.thoughts)
