"""Sessions: a command that is sent again takes effect once.  Pure.

Each start of a node has one session, named by (node, generation).  Within it commands are numbered.
The result of each is kept, refusals included, until the client says that it has it (`ack_below`); a
number that comes again is answered with its first result and does nothing.  So a client that does
not know what became of a command sends it again under the same number, at any voter, until it
hears.  A session ends by a command alone: the node's next start, its removal, or `EndSession`.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshd import limits
from meshd.record.commands import Entry
from meshd.record.commands_registry import EndSession, Started
from meshd.record.context import Context
from meshd.record.fields import Boot, Count, Index, KeyId
from meshd.record.frozen import StateDamaged
from meshd.record.results import DONE, Code, Refuse, done
from meshd.record.table import Row, Table

_PARTS = 64


class SessionRow(Row, frozen=True):
    node: KeyId
    generation: Count
    boot: Boot
    opened: Index
    ack_below: Count = 0


class ResultRow(Row, frozen=True):
    node: KeyId
    seq: Count
    result: bytes


def session_table() -> Table[str, SessionRow]:
    return Table("sessions", SessionRow, lambda row: row.node)


def result_table() -> Table[tuple[str, int], ResultRow]:
    return Table(
        "results",
        ResultRow,
        lambda row: (row.node, row.seq),
        parts=_PARTS,
        part_of=lambda key: key[1] % _PARTS,
    )


class Sessions:
    """Keeps results, and answers what came before."""

    def __init__(
        self, table: Table[str, SessionRow], results: Table[tuple[str, int], ResultRow]
    ) -> None:
        self._table = table
        self._results = results
        self._kept: dict[str, set[int]] = {}
        """The numbers of the kept results.  Sets: nothing is done that depends on order."""

    def indexing(self) -> Iterator[None]:
        """Make the index of tables that were restored; one row an item."""
        self._kept = {row.node: set() for row in self._table.each()}
        for result in self._results.each():
            if result.node not in self._kept:
                raise StateDamaged("The state has a result of a session that it does not have.")
            self._kept[result.node].add(result.seq)
            yield

    def get(self, node: str) -> SessionRow | None:
        return self._table.get(node)

    def rows(self) -> list[SessionRow]:
        """All that are open, in the order of their nodes."""
        return self._table.rows()

    def first_result(self, entry: Entry) -> bytes | None:
        """The result of this command if it was applied before; None: apply it now.

        Raises Refuse if it must not be applied at all.
        """
        session = self._table.get(entry.client)
        if session is None:
            raise Refuse(Code.NO_SESSION)
        if entry.epoch != session.generation:
            raise Refuse(Code.SESSION_OVER, generation=session.generation)
        if entry.seq < session.ack_below:
            raise Refuse(Code.SEQ_FORGOTTEN)
        if entry.ack_below > entry.seq:
            raise Refuse(Code.MALFORMED)
        if entry.ack_below > session.ack_below:
            self._confirm(session, entry.ack_below)
        row = self._results.get((entry.client, entry.seq))
        if row is not None:
            return row.result
        if len(self._kept[entry.client]) >= limits.SESSION_RESULTS:
            raise Refuse(Code.SESSION_FULL)
        return None

    def keep(self, node: str, seq: int, result: bytes) -> None:
        """Keep a result; if the command ended its own session, there is nowhere to."""
        if node in self._kept:
            self._results.put(ResultRow(node=node, seq=seq, result=result))
            self._kept[node].add(seq)

    def start(self, context: Context, command: Started) -> bytes:
        """Open a session, if the node is one; whether it is a member was checked."""
        session = self._table.get(command.node)
        if session is not None and session.generation == command.generation:
            if session.boot != command.boot:
                raise Refuse(Code.GENERATION_TAKEN)
            return done(session=session.opened)
        self.forget(command.node)
        self._table.put(
            SessionRow(
                node=command.node,
                generation=command.generation,
                boot=command.boot,
                opened=context.index,
            )
        )
        self._kept[command.node] = set()
        return done(session=context.index)

    def end(self, context: Context, command: EndSession) -> bytes:
        session = self._table.get(command.node)
        if session is not None and session.generation == command.generation:
            self.forget(command.node)
        return DONE

    def forget(self, node: str) -> None:
        """End the node's session, if there is one."""
        if node in self._kept:
            for seq in self._kept.pop(node):
                self._results.drop((node, seq))
            self._table.drop(node)

    def _confirm(self, session: SessionRow, ack_below: int) -> None:
        kept = self._kept[session.node]
        numbers = range(session.ack_below, ack_below)
        for seq in list(numbers) if len(numbers) < len(kept) else sorted(kept):
            if seq < ack_below and seq in kept:
                kept.discard(seq)
                self._results.drop((session.node, seq))
        self._table.put(
            SessionRow(
                node=session.node,
                generation=session.generation,
                boot=session.boot,
                opened=session.opened,
                ack_below=ack_below,
            )
        )

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        kept: dict[str, set[int]] = {row.node: set() for row in self._table.rows()}
        for row in self._results.rows():
            assert row.seq >= self._table[row.node].ack_below
            kept[row.node].add(row.seq)
        assert kept == self._kept
        assert all(len(seqs) <= limits.SESSION_RESULTS for seqs in kept.values())
