"""The record's state: what committed commands add up to.  Pure.

It knows no Raft.  Whoever applies commands hands them in with their index, in order, each once, and
gets the result; what came about is told by events.  Nothing in here reads a clock, draws a number
or iterates in an order that depends on anything but the state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

from meshd import limits
from meshd.record import commands_registry as registry
from meshd.record.commands import VERSION, Entry, Malformed, decode, require_feature
from meshd.record.context import Context
from meshd.record.events import Event
from meshd.record.frozen import FORM, FrozenState, Head, StateDamaged, thaw
from meshd.record.job_rows import JobRow, KeptRow, KeyRow
from meshd.record.reducers import WITHOUT_SESSION, Reducers, empty_tables
from meshd.record.results import Code, Refuse, refused
from meshd.record.table import Row, Table, encode_row

STEP_ROWS: Final = 512
"""While a state is restored: so many rows at most between two pauses."""


class RecordState:
    """Registry, jobs, sessions and clock as of the last applied command."""

    def __init__(self) -> None:
        """The state before the first command."""
        self._events: list[Event] = []
        tables = empty_tables()
        self._become(tables, Reducers(tables), index=0)

    def _become(self, tables: dict[str, Table[Any, Any]], reducers: Reducers, index: int) -> None:
        self._tables = tables
        self._reducers = reducers
        self._index = index
        self.clock = reducers.clock
        self.nodes = reducers.nodes
        self.sessions = reducers.sessions
        self.tokens = reducers.tokens
        self.api_keys = reducers.api_keys
        self.settings = reducers.settings
        self.jobs = reducers.jobs

    @property
    def index(self) -> int:
        """Of the last applied command; 0: none."""
        return self._index

    @property
    def feature(self) -> int:
        """The newest version of commands that may be proposed."""
        return self.nodes.mesh.feature if self.nodes.is_founded else VERSION

    def next_due_unix_ms(self) -> int | None:
        """When the record clock has to move on, for anything here to change by it; None: never."""
        due = (
            self.jobs.next_due_unix_ms(),
            self.tokens.next_due_unix_ms(self.clock.now_unix_ms),
        )
        return min((at for at in due if at is not None), default=None)

    # --- commands

    def apply(self, index: int, command: bytes) -> bytes:
        """Apply a committed command; its result, in canonical msgpack (results.py).

        A command that is refused changes nothing but what its session remembers of it.  Raises
        UnknownCommand for one of a later version: the state is as it was, and the caller must not
        go on to the next.
        """
        if index <= self._index:
            raise ValueError(f"command {index} after {self._index}: commands are applied in order")
        try:
            result = self._apply(index, command)
        except Refuse as refusal:
            result = refused(refusal)
        self._index = index
        return result

    def take_events(self) -> list[Event]:
        """What the commands since the last call brought about, in order."""
        events, self._events = self._events, []
        return events

    def _apply(self, index: int, command: bytes) -> bytes:
        try:
            entry = decode(command)
        except Malformed:
            too_large = len(command) > limits.COMMAND_BYTES
            raise Refuse(Code.TOO_LARGE if too_large else Code.MALFORMED) from None
        if isinstance(entry.body, registry.RaiseFeature):
            require_feature(entry.body.version)
        if entry.version > 1 and entry.version > self.feature:
            raise Refuse(Code.NOT_ENABLED, feature=self.feature)
        context = Context(index, entry.client, self.clock.now_unix_ms, self._events.append)
        if not entry.client:
            if type(entry.body) not in WITHOUT_SESSION:
                raise Refuse(Code.NO_SESSION)
            if not self.nodes.is_founded and type(entry.body) is not registry.Found:
                raise Refuse(Code.NOT_FOUNDED)
            return self._reducers.reduce(context, entry.body)
        return self._once(context, entry)

    def _once(self, context: Context, entry: Entry) -> bytes:
        first = self.sessions.first_result(entry)
        if first is not None:
            return first
        try:
            result = self._reducers.reduce(context, entry.body)
        except Refuse as refusal:
            result = refused(refusal)
        self.sessions.keep(entry.client, entry.seq, result)
        return result

    # --- the state as a whole

    def digest(self) -> bytes:
        """SHA-256 over the state: equal where the same rows are, whatever came before."""
        return _digest(self._tables)

    def capture(self) -> FrozenState:
        """The state as it is now, to be packed while commands go on being applied."""
        tables = list(self._tables.values())
        head = Head(
            form=FORM,
            feature=self.feature,
            index=self._index,
            digest=self.digest(),
            rows=sum(len(table) for table in tables),
        )
        return FrozenState(head, [table.capture() for table in tables])

    def blobs(self) -> Iterator[list[bytes]]:
        """The digests of what is kept outside of the record and may still be asked for.

        As of the first item; an item is what a millisecond or so finds, and the caller may pause
        between two while commands go on being applied.  A digest may come twice.
        """
        captured = [self._tables[name].capture() for name in ("jobs", "dead", "keys", "kept")]
        for table in captured:
            for rows in table.rows():
                yield list(_blobs_of(rows))

    def answered(self) -> Iterator[list[tuple[int, bytes]]]:
        """The jobs that keys got an answer by which was in the log itself, and its digest.

        In pieces, as `blobs`.
        """
        for rows in self._tables["keys"].capture().rows():
            yield list(_small_answers(rows))

    def freeze(self) -> bytes:
        """The state as bytes, at once; equal states give equal bytes."""
        return self.capture().to_bytes()

    def restore(self, data: bytes) -> None:
        """Become the state that was frozen, at once.  Raises as `restoring`."""
        for _ in self.restoring([data]):
            pass

    def restoring(self, pieces: Iterable[bytes]) -> Iterator[None]:
        """Become the state that was frozen, a millisecond or so between two items.

        `pieces` are the frozen form, cut anywhere.  Until the last item this state is as it was,
        and may be read.  Raises StateDamaged or StateUnknown, and then it stays as it was.
        """
        tables = empty_tables()
        thawing = thaw(pieces, tables)
        head = next(thawing)
        for _ in thawing:
            yield
        if _digest(tables) != head.digest:
            raise StateDamaged("The state is not the one that was frozen: its hash differs.")
        reducers = Reducers(tables)
        for number, _ in enumerate(reducers.indexing()):
            if number % STEP_ROWS == 0:
                yield
        self._become(tables, reducers, head.index)

    def become(self, other: RecordState) -> None:
        """Have the state of the other, which is given up with it."""
        self._become(other._tables, other._reducers, other._index)

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken.  For tests and `record check`."""
        self._reducers.check()
        for table in self._tables.values():
            table.check()


def _digest(tables: dict[str, Table[Any, Any]]) -> bytes:
    sums = [[name, table.hash_sum().to_bytes(32, "big")] for name, table in tables.items()]
    return hashlib.sha256(encode_row(sums)).digest()


def _small_answers(rows: Iterable[Row]) -> Iterator[tuple[int, bytes]]:
    for row in rows:
        match row:
            case KeyRow(job=job, digest=digest, size_bytes=size_bytes) if digest and size_bytes:
                if size_bytes <= limits.INLINE_BYTES:
                    yield job, digest


def _blobs_of(rows: Iterable[Row]) -> Iterator[bytes]:
    """What is no larger than `INLINE_BYTES` is in the log itself, whoever has it now."""
    for row in rows:
        match row:
            case JobRow(queue=queue, request=request):
                # Of a keyed request there is its fingerprint alone: who repeats it has its body.
                if queue and request.size_bytes > limits.INLINE_BYTES:
                    yield request.digest
            case KeyRow(size_bytes=size_bytes, digest=digest) if size_bytes > limits.INLINE_BYTES:
                yield digest
            case KeptRow(digest=digest):
                yield digest
