"""The clients of one run: who asks what and where, and what they do when it breaks."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Final

import trio

from meshd.testing.checker.answers import Answer
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.simulation.lives import Asked, Had, is_final, lived
from meshd.testing.simulation.options import Options
from meshd.testing.simulation.places import place_after
from meshd.testing.simulation.questions import Question, Questions
from meshd.testing.simulation.queues import JOBS
from meshd.testing.simulation.story import Story
from meshd.testing.simulation.targets import is_open
from meshd.testing.world import Machine, World, until

REPEAT_PAUSE_S: Final = (0.1, 0.5, 2.0)
LEAVES_S: Final = (0.05, 3.0)
"""After how long a client leaves."""
LOSES: Final = 0.5
"""The share of their connections that clients which go on lose on the way."""


@dataclass
class Clients:
    """All of one world."""

    world: World
    options: Options
    story: Story
    chance: random.Random
    asked: list[Asked] = field(default_factory=list)
    going_on: int = 0
    """Clients that will not rest before they have all of an answer."""
    peace: bool = False
    """Nobody leaves any more, or reads slowly."""

    def __post_init__(self) -> None:
        self.questions = Questions(self.options, self.chance)

    async def run(self, nursery: trio.Nursery) -> None:
        """Ask, until cancelled; clients live in that nursery, and go on."""
        while True:
            await trio.sleep(self.chance.expovariate(self.options.asks))
            machine = self.somewhere()
            if machine is None:
                continue
            question = self.questions.some()
            is_keyed_stream = bool(question.key) and question.stream
            if is_keyed_stream and self.chance.random() < self.options.goes_on:
                nursery.start_soon(self.go_on, question, machine)
            elif question.key and self.chance.random() < 0.5:
                nursery.start_soon(self.insist, question, machine)
            else:
                nursery.start_soon(self.follow, self.ask(question, machine))

    def somewhere(self) -> Machine | None:
        """A node that takes requests now."""
        open_ones = [m for m in self.world.machines.values() if is_open(m)]
        return self.chance.choice(open_ones) if open_ones else None

    # --- asking

    def ask(self, question: Question, machine: Machine, *, must_work: bool = False) -> Asked:
        """One request, to be followed."""
        headers = [f"idempotency-key: {question.key}"] if question.key else []
        answer = machine.client.post(question.path, dict(question.body), *headers)
        return self._asked(question, machine, answer, must_work=must_work)

    def ask_for_rest(self, question: Question, machine: Machine, had: Had) -> Asked:
        """What is not had of a key's answer yet: by its job, or by the key again."""
        place = place_after(had.events) if had.events else ""
        if place and not had.is_exact and self.chance.random() < 0.3:
            place = place.partition("-")[0]
        by_id = bool(had.job) and self.chance.random() < 0.5
        in_query = by_id and self.chance.random() < 0.5
        headers = [f"last-event-id: {place}"] if place and not in_query else []
        if by_id:
            path = f"{JOBS}/{had.job}/stream" + (f"?from={place or 0}" if in_query else "")
            answer = machine.client.stream(path, *headers, before=had.events)
        else:
            headers.append(f"idempotency-key: {question.key}")
            body = dict(question.body)
            answer = machine.client.post(question.path, body, *headers, before=had.events)
        return self._asked(question, machine, answer, place=place, by_id=by_id)

    def _asked(
        self,
        question: Question,
        machine: Machine,
        answer: MemoryAnswer,
        *,
        must_work: bool = False,
        place: str = "",
        by_id: bool = False,
    ) -> Asked:
        name = f"r{len(self.asked)}"
        now = trio.current_time()
        asked = Asked(name, question, machine, machine.starts, now, answer, must_work, place, by_id)
        self.asked.append(asked)
        key = f" {question.key}" if question.key else ""
        how = "streamed" if question.stream else "whole"
        after = f", after {place}" if place else ""
        what = f"{name}{key} asks {answer.path} {how}, {question.words} words{after}"
        self.story.say(machine.name, what)
        return asked

    async def follow(self, asked: Asked, *, goes_on: bool = False) -> None:
        """Send it, and read its answer as this kind of client does."""
        answer, chance = asked.answer, self.chance
        if not self.peace and chance.random() < self.options.slow_readers:
            answer.slowness_s = chance.choice([0.02, 0.2])
        async with trio.open_nursery() as nursery:
            if goes_on and not self.peace and chance.random() < LOSES:
                nursery.start_soon(self._lose, asked)
            elif not goes_on and not self.peace and chance.random() < self.options.leavers:
                nursery.start_soon(self._leave, asked, chance.uniform(*LEAVES_S))
            await answer.run()
            nursery.cancel_scope.cancel()
        self._ended(asked)

    async def _leave(self, asked: Asked, after_s: float) -> None:
        await trio.sleep(after_s)
        self._break(asked)

    async def _lose(self, asked: Asked) -> None:
        """Somewhere in the middle of it."""
        pieces = self.chance.randrange(asked.question.words)
        await until(lambda: len(asked.answer.pieces) > pieces, within_s=math.inf)
        self._break(asked)

    def _break(self, asked: Asked) -> None:
        if asked.answer.sent and not asked.answer.over and not self.peace:
            asked.left = True
            self.story.say(asked.machine.name, f"{asked.name}: its client leaves")
            asked.answer.leave()

    def _ended(self, asked: Asked) -> None:
        answer = asked.answer
        why = answer.error or answer.broken
        words = len(answer.text.split())
        status = f" {answer.status}" if answer.status not in (0, 200) else ""
        self.story.say(
            asked.machine.name, f"{asked.name} ends {answer.how}{status}, {words} words. {why}"
        )

    # --- keys

    def unanswered_keys(self) -> list[Question]:
        """Keys whose answer no client has seen whole."""
        answered = {a.question.key for a in self.asked if a.answer.how == "whole" or is_final(a)}
        return [question for question in self.questions.keyed if question.key not in answered]

    async def insist(self, question: Question, machine: Machine) -> None:
        """Repeat a key at other nodes until it is answered."""
        while True:
            asked = self.ask(question, machine)
            await self.follow(asked)
            if asked.answer.how == "whole" or asked.left or is_final(asked):
                return
            machine = await self._elsewhere(machine)

    async def go_on(self, question: Question, machine: Machine) -> None:
        """Ask for the rest of a key's answer, at one node after the other, until it is whole.

        This client never leaves; but it may lose its connection.
        """
        self.going_on += 1
        had, entry_died = Had(), False
        while True:
            asked = self.ask_for_rest(question, machine, had)
            await self.follow(asked, goes_on=True)
            if asked.place:
                self._note_how(asked)
            if asked.answer.how == "whole" or is_final(asked):
                break
            had = had.after(asked)
            entry_died = bool(had.events) and (entry_died or asked.entry_died)
            machine = await self._elsewhere(machine)
        self.going_on -= 1
        self.story.sometimes("went on, though the entry had died", entry_died)

    def _note_how(self, asked: Asked) -> None:
        """What came of going on from a place."""
        way = "its job" if asked.by_id else "its key"
        if asked.answer.status != 200:
            self.story.sometimes(f"no way to go on by {way}: {asked.answer.status}")
        elif asked.answer.how == "whole":
            self.story.sometimes(f"went on by {way}")
            self.story.sometimes("went on after a number of events", "-" not in asked.place)

    async def _elsewhere(self, machine: Machine) -> Machine:
        """The node to ask next, after a while."""
        await trio.sleep(self.chance.choice(REPEAT_PAUSE_S))
        await until(lambda: self.somewhere() is not None, within_s=math.inf, poll_s=1.0)
        return self.somewhere() or machine

    # --- the end

    def answers(self) -> list[Answer]:
        """As their clients lived them, for the checker."""
        unanswered = {question.key for question in self.unanswered_keys()}
        last = {
            asked.question.key: asked for asked in self.asked if asked.question.key in unanswered
        }
        return [
            lived(
                asked,
                is_gentle=self.options.is_gentle,
                is_given_up=last.get(asked.question.key) is asked,
            )
            for asked in self.asked
        ]
