"""The clients of one run: what they ask, where and how, and what they live through.

All answers are known beforehand: engines count (`testing.models`), so what a client got can be held
against what it should have, word by word.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from meshd import limits
from meshd.testing.checker.answers import Answer, How, Mode, Piece
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.models import expected_text
from meshd.testing.simulation.options import LENGTHS, Options
from meshd.testing.simulation.story import Story
from meshd.testing.world import Machine, World, until

REPEAT_PAUSE_S: Final = (0.1, 0.5, 2.0)
_OPENAI: Final = ("/v1/chat/completions", "/v1/completions")
_OLLAMA: Final = ("/api/chat", "/api/generate")
_REPEATABLE: Final = ({"temperature": 0}, {"seed": 7})
"""What makes an answer one that can be had a second time."""
_BOUND: Final = ({"response_format": {"type": "json_object"}}, {"format": "json"})
"""What makes an answer one that no other run can continue: OpenAI's word, Ollama's."""
_NAMES: Final = (
    re.compile(rb'"id":"([^"]*)"'),
    re.compile(rb'"model":"([^"]*)"'),
    re.compile(rb'"created(?:_at)?":"?([^,"}]*)[,"}]'),
)


@dataclass(frozen=True)
class Question:
    """What is asked; a repeat of a key asks the same."""

    path: str
    body: Mapping[str, Any]
    key: str
    expected: str
    finish: str

    @property
    def stream(self) -> bool:
        return bool(self.body["stream"])

    @property
    def dialect(self) -> str:
        return "ollama" if self.path in _OLLAMA else "openai"


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
    left: bool = False

    @property
    def entry_died(self) -> bool:
        """Whether the daemon that was asked did not live to see the end."""
        return self.life in self.machine.died


@dataclass
class Clients:
    """All of one world."""

    world: World
    options: Options
    story: Story
    chance: random.Random
    asked: list[Asked] = field(default_factory=list)
    keys: list[Question] = field(default_factory=list)
    """Each key's question, in the order of their first use."""
    peace: bool = False
    """Nobody leaves any more, or reads slowly."""

    async def run(self, nursery: trio.Nursery) -> None:
        """Ask, until cancelled; clients live in that nursery, and go on."""
        while True:
            await trio.sleep(self.chance.expovariate(self.options.asks))
            machine = self.somewhere()
            if machine is None:
                continue
            question = self._question()
            if question.key and self.chance.random() < 0.5:
                nursery.start_soon(self.insist, question, machine)
            else:
                nursery.start_soon(self.follow, self.ask(question, machine))

    def somewhere(self) -> Machine | None:
        """A node that takes requests now."""
        open_ones = [m for m in self.world.machines.values() if is_open(m)]
        return self.chance.choice(open_ones) if open_ones else None

    # --- questions

    def _question(self) -> Question:
        if self.chance.random() >= self.options.keyed:
            return self.new_question()
        if self.keys and self.chance.random() < self.options.repeats:
            return self.chance.choice(self.keys[-5:])
        return self.new_question(f"key-{len(self.keys)}")

    def new_question(self, key: str = "", *, length: int | None = None) -> Question:
        """One that nobody has asked yet."""
        chance = self.chance
        length = length or chance.choice(LENGTHS)
        path = chance.choice([*_OPENAI, *_OLLAMA])
        text = f"Count, please. #{len(self.asked)}{key}"
        body: dict[str, Any] = {"model": "tiny", "stream": chance.random() < 0.7}
        if path in ("/v1/completions", "/api/generate"):
            body["prompt"] = text
        else:
            body["messages"] = [{"role": "user", "content": text}]
        told: dict[str, Any] = body.setdefault("options", {}) if path in _OLLAMA else body
        told["num_predict" if path in _OLLAMA else "max_tokens"] = length
        if chance.random() < self.options.repeatable:
            told.update(chance.choice(_REPEATABLE))
            if chance.random() < 0.3:
                body.update(_BOUND[path in _OLLAMA])
        question = Question(path, body, key, expected_text(max_tokens=length), "length")
        if key:
            self.keys.append(question)
        return question

    # --- asking

    def ask(self, question: Question, machine: Machine, *, must_work: bool = False) -> Asked:
        """One request, to be followed."""
        headers = [f"idempotency-key: {question.key}"] if question.key else []
        answer = machine.client.post(question.path, dict(question.body), *headers)
        name = f"r{len(self.asked)}"
        now = trio.current_time()
        asked = Asked(name, question, machine, machine.starts, now, answer, must_work)
        self.asked.append(asked)
        key = f" {question.key}" if question.key else ""
        how = "streamed" if question.stream else "whole"
        length = len(question.expected.split())
        self.story.say(machine.name, f"{name}{key} asks {question.path} {how}, {length} words")
        return asked

    async def follow(self, asked: Asked) -> None:
        """Send it, and read its answer as this kind of client does."""
        answer, chance = asked.answer, self.chance
        if not self.peace and chance.random() < self.options.slow_readers:
            answer.slowness_s = chance.choice([0.02, 0.2])
        async with trio.open_nursery() as nursery:
            if not self.peace and chance.random() < self.options.leavers:
                nursery.start_soon(self._leave, asked, chance.uniform(0.05, 3.0))
            await answer.run()
            nursery.cancel_scope.cancel()
        self._ended(asked)

    def unanswered_keys(self) -> list[Question]:
        """Keys whose answer no client has seen whole."""
        answered = {a.question.key for a in self.asked if a.answer.how == "whole" or _is_final(a)}
        return [question for question in self.keys if question.key not in answered]

    async def insist(self, question: Question, machine: Machine) -> None:
        """Repeat a key at other nodes until it is answered."""
        while True:
            asked = self.ask(question, machine)
            await self.follow(asked)
            if asked.answer.how == "whole" or asked.left or _is_final(asked):
                return
            await trio.sleep(self.chance.choice(REPEAT_PAUSE_S))
            await until(lambda: self.somewhere() is not None, within_s=math.inf, poll_s=1.0)
            machine = self.somewhere() or machine

    async def _leave(self, asked: Asked, after_s: float) -> None:
        await trio.sleep(after_s)
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


def _is_final(asked: Asked) -> bool:
    """Whether this key will have no answer: each try has failed, and no more are made."""
    return asked.answer.status == 409


def is_open(machine: Machine) -> bool:
    """Whether a daemon on it serves clients."""
    serves = machine.node is not None and machine.screen.last("serving") is not None
    return serves and not machine.stopping and machine.running.drain.is_open


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
    """Whether somebody has taken it on: see issue 4's words in `answers.py`."""
    if how in (How.REFUSED, How.LEFT):
        return False
    if asked.question.key and asked.answer.status == 200:
        return True
    return asked.answer.sent and not asked.entry_died


def _excuse(asked: Asked, how: How, *, is_gentle: bool) -> str:
    if asked.entry_died and how in (How.BROKEN, How.SILENT):
        return "the entry died"
    if how in (How.ERROR, How.REFUSED) and not asked.must_work:
        if asked.question.key:
            return "a key may be repeated"
        if "this node was stopped" in asked.answer.error:
            return "its time to drain was over"
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


def _names(raw: bytes) -> Sequence[str]:
    """What the events of a stream call it: one name for all of it, or all that there are."""
    found = [set(pattern.findall(raw)) for pattern in _NAMES]
    if all(len(names) <= 1 for names in found):
        return [b" ".join(b"".join(names) for names in found).decode()]
    return sorted(name.decode() for names in found for name in names)
