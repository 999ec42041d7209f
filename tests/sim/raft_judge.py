"""What must hold in every run, judged as it happens."""

from __future__ import annotations

from typing import Any

from meshd.consensus.entries import Stored
from meshd.consensus.interface import Outgoing, Status
from meshd.consensus.kernel import Kernel
from meshd.consensus.messages import AppendAnswer, AppendEntries, AskVote, FeedAnswer, VoteAnswer
from meshd.consensus.outcomes import Committed, Outcome, Readable, Refused, Unknown
from meshd.consensus.replay import base_of, last_of
from meshd.ids import NodeId


class Judge:
    """Remembers what was promised, and says when it is broken."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.leaders: dict[int, NodeId] = {}
        """By term."""
        self.entries: dict[int, tuple[bytes, int]] = {}
        """Payload and term at each index that some node takes for committed."""
        self.places: dict[bytes, int] = {}
        """Where each command was applied."""
        self.results: dict[int, bytes] = {}
        self.acks: dict[bytes, int] = {}
        self.noes: set[bytes] = set()
        self.newest_acknowledged = 0
        self.reads = 0
        self.unknown = 0
        self.followed = 0
        """Entries that were committed at a node without a vote."""
        self._voted_commit = 0
        self._looked: dict[tuple[NodeId, int], int] = {}

    def violation(self, what: str, *details: Any) -> None:
        self.violations.append(f"{what}: {', '.join(map(str, details))}")

    def applied(self, index: int, command: bytes, result: bytes) -> None:
        """A state machine applied a command."""
        if self.places.setdefault(command, index) != index:
            self.violation("a command was applied in two places", command, index)
        if self.results.setdefault(index, result) != result:
            self.violation("two states at one index", index)

    def looked_at(self, node: NodeId, kernel: Kernel) -> bool:
        """After each step: one leader a term, the same committed entries everywhere.

        Returns whether this is a new leader.
        """
        status = kernel.status()
        is_new = status.role == "leader" and status.term not in self.leaders
        if status.role == "leader" and self.leaders.setdefault(status.term, node) != node:
            self.violation("two leaders in a term", status.term, node, self.leaders[status.term])
        self._in_its_turn(node, status)
        life = (node, id(kernel))
        for index in range(max(self._looked.get(life, 0), kernel.log.floor) + 1, status.commit + 1):
            payload, _, term = kernel.log[index - kernel.log.floor]
            known = self.entries.setdefault(index, (payload, term))
            if known != (payload, term):
                self.violation("two entries are committed at one index", index, node, known)
        if node not in status.voters:
            self.followed += max(0, status.commit - self._looked.get(life, 0))
        self._looked[life] = status.commit
        for peer in status.peers.values():
            if peer.in_flight_bytes > kernel.settings.window_bytes + 1024:
                self.violation("more in flight than the window", node, peer.in_flight_bytes)
        return is_new

    def _in_its_turn(self, node: NodeId, status: Status) -> None:
        """A follower without a vote has for committed what is so at a voter, and no more."""
        if node in status.voters:
            self._voted_commit = max(self._voted_commit, status.commit)
        elif status.commit > self._voted_commit:
            self.violation("a follower is ahead", node, status.commit, self._voted_commit)

    def same_log(self, node: NodeId, kernel: Kernel, stored: Stored) -> None:
        """What is on disk is what the kernel has, but for what it has not handed over yet."""
        waiting = kernel.log.last.index - last_of(stored).index
        rows = {index: (payload, term) for payload, index, term in kernel.log[:]}
        kept = {e.index: (bytes([e.kind]) + e.data, e.term) for e in stored.entries}
        common = kept.keys() & rows.keys()
        if not kernel.log.has_records and (
            waiting or any(rows[i] != kept[i] for i in common) or kernel.log.base != base_of(stored)
        ):
            self.violation("disk and memory differ", node, kernel.log.last, last_of(stored))

    def leaves(self, node: NodeId, out: Outgoing, stored: Stored) -> None:
        """A message leaves: what it promises is on disk."""
        match out.message:
            case VoteAnswer(term=term, granted=True):
                kept = stored.ballot.term > term or (
                    stored.ballot.term == term and stored.ballot.voted_for == out.to
                )
            case AskVote(term=term):
                kept = stored.ballot.term > term or stored.ballot.voted_for == node
            case AppendEntries(term=term):
                kept = stored.ballot.term >= term
            case AppendAnswer(term=term, ok=True, index=index):
                kept = stored.ballot.term > term or last_of(stored).index >= index
            case FeedAnswer(index=index):
                kept = last_of(stored).index >= index
            case _:
                kept = True
        if not kept:
            self.violation("a promise left before it was on disk", node, out, stored.ballot)

    def outcome(self, node: NodeId, what: Any, outcome: Outcome) -> None:
        """A node says what became of a proposal or a read."""
        match outcome:
            case Committed(index=index, result=result):
                self.acknowledged(what, index, result)
            case Refused():
                self.refused(what)
            case Readable(index=index):
                self.read(node, what, index)
            case Unknown():
                self.unknown += 1

    def acknowledged(self, command: bytes, index: int, result: bytes) -> None:
        self.acks[command] = index
        self.newest_acknowledged = max(self.newest_acknowledged, index)
        if self.places.get(command) != index or self.results.get(index) != result:
            self.violation("an acknowledgement that is not true", command, index)

    def refused(self, what: bytes | int) -> None:
        if isinstance(what, bytes):
            self.noes.add(what)

    def read(self, node: NodeId, acknowledged: int, index: int) -> None:
        """A read began when `acknowledged` was the newest, and may see the log up to `index`."""
        self.reads += 1
        if index < acknowledged:
            self.violation("a stale read", node, index, acknowledged)

    def at_the_end(self, logs: dict[NodeId, list[tuple[int, bytes]]]) -> None:
        """Everything healed and calm: all hold the same, nothing that was promised is missing."""
        longest = max(logs.values(), key=len)
        for node, log in logs.items():
            if log != longest:
                self.violation("a node did not converge", node, len(log), len(longest))
        held = {command for _, command in longest}
        for command, index in self.acks.items():
            if (index, command) not in set(longest[-1:]) and command not in held:
                self.violation("an acknowledged command is lost", command, index)
        for command in self.noes & held:
            self.violation("a refused command is in the log", command)
