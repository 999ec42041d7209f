"""The record clock: the one time that reducers know.  Pure.

It is committed, so that it is the same at every node and every time a log is replayed.  The leader
proposes the median of the nodes' wall clocks; the clock follows it forwards and never goes back.  A
step of more than `limits.CLOCK_STEP_S` is held until a person confirms it: one machine with a wrong
year must not let every token expire, and forget every idempotency key.  Time that the leader has
measured itself is no step: a mesh in which nothing was written for a day needs nobody.
"""

from __future__ import annotations

from typing import Final

from meshd import limits
from meshd.record.commands_registry import ConfirmClock, Tick
from meshd.record.context import Context
from meshd.record.events import ClockHeld, ClockMoved
from meshd.record.fields import UnixMs
from meshd.record.results import Code, Refuse
from meshd.record.table import Row, Table

STEP_MS: Final = limits.CLOCK_STEP_S * 1000


class ClockRow(Row, frozen=True):
    now_unix_ms: UnixMs = 0
    held_unix_ms: UnixMs = 0
    """Where the nodes' clocks were when last asked, if that is too far ahead; else 0."""


def clock_table() -> Table[int, ClockRow]:
    return Table("clock", ClockRow, lambda row: 0)


class Clock:
    """Reduces `Tick` and `ConfirmClock`."""

    def __init__(self, table: Table[int, ClockRow]) -> None:
        self._table = table
        self.row = table.get(0) or ClockRow()

    @property
    def now_unix_ms(self) -> int:
        return self.row.now_unix_ms

    def start(self, unix_ms: int) -> None:
        """With the founding of the mesh."""
        self._put(ClockRow(now_unix_ms=unix_ms))

    def tick(self, context: Context, command: Tick) -> None:
        """Follow the nodes' clocks, unless they have leapt.

        While they are not believed, the clock goes on at the pace that the leader has measured;
        while they are behind (they were set back), at half of it, until they have caught up: pauses
        of seconds must not take the hours that a clock was wrong by.
        """
        row = self.row
        expected = row.now_unix_ms + command.elapsed_ms
        held = command.unix_ms if command.unix_ms - expected > STEP_MS else 0
        behind = row.now_unix_ms + command.elapsed_ms // 2
        is_behind = command.unix_ms < row.now_unix_ms
        now = expected if held else behind if is_behind else command.unix_ms
        changed = ClockRow(now_unix_ms=now, held_unix_ms=held)
        if changed != row:
            self._put(changed)
        if now != row.now_unix_ms:
            context.emit(ClockMoved(context.index, now))
        if held:
            context.emit(ClockHeld(context.index, now, held))

    def confirm(self, context: Context, command: ConfirmClock) -> None:
        held = self.row.held_unix_ms
        if not held:
            raise Refuse(Code.NOTHING_HELD)
        if abs(held - command.unix_ms) > STEP_MS:
            raise Refuse(Code.OTHER_TIME, held=held)
        self._put(ClockRow(now_unix_ms=held))
        context.emit(ClockMoved(context.index, held))

    def _put(self, row: ClockRow) -> None:
        self._table.put(row)
        self.row = row

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        row = self.row
        assert row == (self._table.get(0) or ClockRow())
        assert not row.held_unix_ms or row.held_unix_ms - row.now_unix_ms > STEP_MS
