"""Commands on their way to the leader, and where they stand: many in one message.  Pure.

Under load hundreds of them go the same way in one step, and a message of its own would cost each
more than the command does.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshd import limits
from meshd.consensus.interface import Outgoing
from meshd.consensus.messages import Forward, ForwardAnswer
from meshd.ids import NodeId


class Forwards:
    """What is to be said since the last outbox, in order."""

    def __init__(self) -> None:
        self._commands: dict[NodeId, list[tuple[int, bytes]]] = {}
        self._answers: dict[NodeId, list[ForwardAnswer]] = {}

    def command(self, to: NodeId, id_: int, command: bytes) -> None:
        """A command for the leader, or for a voter to pass on."""
        self._commands.setdefault(to, []).append((id_, command))

    def answer(self, to: NodeId, id_: int, index: int, term: int, error: int) -> None:
        """Where that command of that node stands, or why it does not."""
        self._answers.setdefault(to, []).append(ForwardAnswer(id_, index, term, error, 1))

    def forget(self, peer: NodeId) -> None:
        """Its link is gone."""
        self._commands.pop(peer, None)
        self._answers.pop(peer, None)

    def take(self) -> list[Outgoing]:
        """All of it, as few messages."""
        if not self._commands and not self._answers:
            return []
        answers, self._answers = self._answers, {}
        commands, self._commands = self._commands, {}
        taken = [Outgoing(to, m) for to, all_ in answers.items() for m in _answers_of(all_)]
        taken += [Outgoing(to, m) for to, all_ in commands.items() for m in _commands_of(all_)]
        return taken


def _commands_of(commands: list[tuple[int, bytes]]) -> Iterator[Forward]:
    """Those whose numbers follow each other together."""
    batch: list[bytes] = []
    first = size_bytes = 0
    for id_, command in commands:
        size_bytes += len(command)
        full = len(batch) == limits.RAFT_FORWARDS or size_bytes > limits.RAFT_BATCH_BYTES
        if batch and (full or id_ != first + len(batch)):
            yield Forward(first, tuple(batch))
            batch, size_bytes = [], len(command)
        if not batch:
            first = id_
        batch.append(command)
    yield Forward(first, tuple(batch))


def _answers_of(answers: list[ForwardAnswer]) -> Iterator[ForwardAnswer]:
    """Those whose numbers and places follow each other together."""
    run = answers[0]
    for answer in answers[1:]:
        count = run.count
        follows = (answer.id, answer.term, answer.error) == (run.id + count, run.term, run.error)
        in_place = answer.error > 0 or answer.index == run.index + count
        if follows and in_place and count < limits.RAFT_FORWARDS:
            run = ForwardAnswer(run.id, run.index, run.term, run.error, count + 1)
        else:
            yield run
            run = answer
    yield run
