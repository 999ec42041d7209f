"""A simulated start of a node as a client of the record: `ledger.session` on a heap of events.

The same protocol without trio: commands are numbered, sent again under their number until their
result is known or the caller's time is over, and the session is opened when the record knows none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from meshd.consensus.outcomes import Committed, Outcome
from meshd.record.commands import Entry, encode
from meshd.record.commands_registry import Command, Started
from meshd.record.results import Code

if TYPE_CHECKING:
    from tests.sim.record_world import RecordNode, RecordWorld

PROPOSE_S = 2.0
WANTED = 200
"""Commands without a result at a time."""
_NOT_YET = (Code.NOT_FOUNDED, Code.NO_SUCH_NODE)

Told = Callable[[bytes | None], None]
"""Gets the result, or None when the time is over and it is not known."""


@dataclass(slots=True)
class _Wish:
    command: Command
    seq: int
    give_up_at: float
    told: Told
    pause_s: float = 0.05


class SimSession:
    """One life of one node."""

    def __init__(self, world: RecordWorld, node: RecordNode) -> None:
        self._world = world
        self._node = node
        self._life = node.lives
        self._next = 1
        self._wanted: dict[int, None] = {}
        self._is_open = self._is_opening = False
        self._waiting: list[_Wish] = []

    def execute(self, command: Command, timeout_s: float, told: Told) -> int | None:
        """Have it carried out once.  Its number; None, and nothing is sent, if too many wait."""
        if len(self._wanted) >= WANTED:
            return None
        wish = _Wish(command, self._next, self._world.now + timeout_s, told)
        self._next += 1
        self._wanted[wish.seq] = None
        self._try(wish)
        return wish.seq

    def _try(self, wish: _Wish) -> None:
        if self._world.now >= wish.give_up_at:
            self._done(wish, None)
        elif not self._is_open:
            self._waiting.append(wish)
            self._open()
        else:
            oldest = next(iter(self._wanted))
            entry = Entry(wish.command, self._node.id, self._life, wish.seq, oldest)
            self._propose(encode(entry), lambda outcome: self._answered(wish, outcome))

    def _answered(self, wish: _Wish, outcome: Outcome) -> None:
        if not isinstance(outcome, Committed):
            self._again(wish)
        elif code_of(outcome.result) is Code.NO_SESSION:
            self._is_open = False
            self._try(wish)
        else:
            self._done(wish, outcome.result)

    def _again(self, wish: _Wish) -> None:
        pause_s, wish.pause_s = wish.pause_s, min(1.0, wish.pause_s * 2)
        self._world.after_in(
            self._node, pause_s * self._world.chance.uniform(0.5, 1.5), self._try, wish
        )

    def _done(self, wish: _Wish, result: bytes | None) -> None:
        del self._wanted[wish.seq]
        wish.told(result)

    def _open(self) -> None:
        if self._is_opening:
            return
        self._is_opening = True
        if self._world.asks and not self._node.may_promise:  # as a ledger: first asks the others
            self._world.after_in(self._node, 0.1, self._not_yet)
            return
        self._node.disk.starts_known = self._life
        boot = hashlib.sha256(f"{self._node.id} {self._life}".encode()).digest()[:16]
        started = Started(node=self._node.id, generation=self._life, boot=boot)
        self._propose(encode(Entry(started)), self._opened)

    def _not_yet(self) -> None:
        self._is_opening = False
        self._open()

    def _opened(self, outcome: Outcome) -> None:
        self._is_opening = False
        code = code_of(outcome.result) if isinstance(outcome, Committed) else None
        if code is Code.OK:
            self._is_open = True
        elif code is not None and code not in _NOT_YET:
            self._world.judge.violation("a session was refused", self._node.id, code.name)
        waiting, self._waiting = self._waiting, []
        for wish in waiting:
            if self._is_open:
                self._try(wish)
            else:
                self._again(wish)

    def _propose(self, data: bytes, answered: Callable[[Outcome], None]) -> None:
        self._world.propose_data(self._node, data, PROPOSE_S, answered)


def code_of(result: bytes) -> Code:
    """What a result says."""
    return Code(msgspec.msgpack.decode(result)[0])
