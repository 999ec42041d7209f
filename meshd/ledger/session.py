"""This start of this node as a client of the record: each command takes effect once (trio shell).

A command is sent again, under its number, until its result is known or the caller's time is over.
The record remembers results by (node, number) and answers a repetition with the first one, so it
does not matter how often, or through which leader, a command gets into the log
(record/sessions.py; Ongaro's thesis, section 6.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from meshd import limits, logs
from meshd.consensus.driver import Driver, ProposalRefused, ProposalUnknown
from meshd.consensus.outcomes import Why
from meshd.errors import MeshdError
from meshd.ids import NodeId
from meshd.record import results
from meshd.record.commands import Entry, encode
from meshd.record.commands_registry import Command, Started
from meshd.record.results import Code, RecordRefused

log = logs.get("record")

FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 1.0
NOT_YET_PAUSE_S = 0.25

_NOT_YET = frozenset({Code.NOT_FOUNDED, Code.NO_SUCH_NODE})
"""What a node hears that was let in a moment ago: the record does not know it yet."""


class NotWritten(MeshdError):
    """The command did not get into the record within the time allowed, and never will."""


class MaybeWritten(MeshdError):
    """Whether the command got into the record is not known: there was no answer in time."""


class Session:
    """Numbers commands, repeats them, and opens itself when the record does not know it."""

    def __init__(
        self,
        driver: Callable[[], Driver | None],
        node: NodeId,
        generation: int,
        boot: bytes,
        random: Callable[[], float],
        why_not: Callable[[], str] = lambda: "",
    ) -> None:
        """`driver` is asked anew for each try; None while the record does not run here.

        `boot` are 16 random bytes of this start; `random` gives numbers in [0, 1) for pauses.
        `why_not` is a sentence on why nothing can be written now, if that is known.
        """
        self._driver = driver
        self._node = node
        self._generation = generation
        self._boot = boot
        self._random = random
        self._why_not = why_not
        self._next = 1
        self._wanted: dict[int, None] = {}
        """Numbers whose results somebody here still wants, in order."""
        self._confirmed = trio.Event()
        """Set when the oldest of them is wanted no more."""
        self._is_open = False
        self._opening: trio.Event | None = None
        """While one command opens the session: set when it is through with that."""

    async def execute(
        self, command: Command, timeout_s: float = limits.COMMAND_S
    ) -> dict[str, Any]:
        """Have a command carried out, once; the fields of its result.

        Raises RecordRefused (the record's own no, with its code), NotWritten, MaybeWritten.
        """
        deadline = trio.current_time() + timeout_s
        number = await self._new_number(deadline)
        try:
            while True:
                try:
                    return await self._try(command, number, deadline)
                except RecordRefused as refusal:
                    if refusal.code is not Code.NO_SESSION:
                        raise
                    self._is_open = False
        finally:
            was_oldest = number == self._oldest()
            del self._wanted[number]
            if was_oldest:
                self._confirmed.set()
                self._confirmed = trio.Event()

    async def announce(self) -> None:
        """Have it in the record that this node has started, for as long as that takes."""
        while not self._is_open:
            try:
                await self._be_open(trio.current_time() + limits.COMMAND_S)
            except RecordRefused as refusal:
                log.warning("this start is not on record", why=str(refusal))
                return
            except MeshdError as error:
                log.debug("this start is not on record yet", why=str(error))

    async def _new_number(self, deadline: float) -> int:
        """The next one, once it is less than `limits.SESSION_RESULTS` after the oldest wanted.

        The record keeps no more results of one client, and one slow command must not be the reason
        for which it refuses all that come after it.
        """
        while self._wanted and self._next - self._oldest() >= limits.SESSION_RESULTS:
            with trio.move_on_at(deadline) as scope:
                await self._confirmed.wait()
            if scope.cancelled_caught:
                raise NotWritten("Too many commands of this node wait to be written down.")
        number, self._next = self._next, self._next + 1
        self._wanted[number] = None
        return number

    def _oldest(self) -> int:
        return next(iter(self._wanted))

    async def _try(self, command: Command, number: int, deadline: float) -> dict[str, Any]:
        await self._be_open(deadline)
        data = encode(
            Entry(
                command,
                client=self._node,
                epoch=self._generation,
                seq=number,
                ack_below=self._oldest(),
            )
        )
        return results.read(await self._committed(data, deadline))

    async def _be_open(self, deadline: float) -> None:
        """Open the session if it is not; one command does, and the others wait for that.

        All at once afterwards: behind a lock they would come one by one, a turn of the loop each,
        and the last would be hundreds of numbers late.
        """
        while not self._is_open:
            if self._opening is None:
                self._opening = trio.Event()
                try:
                    await self._open(deadline)
                finally:
                    self._opening.set()
                    self._opening = None
            else:
                with trio.move_on_at(deadline) as scope:
                    await self._opening.wait()
                if scope.cancelled_caught:
                    why = self._why_not() or "it did not answer."
                    raise NotWritten(f"That could not be written into the record: {why}")

    async def _open(self, deadline: float) -> None:
        started = encode(
            Entry(Started(node=self._node, generation=self._generation, boot=self._boot))
        )
        while not self._is_open:
            try:
                results.read(await self._committed(started, deadline))
            except RecordRefused as refusal:
                if refusal.code not in _NOT_YET:
                    raise
                if trio.current_time() + NOT_YET_PAUSE_S >= deadline:
                    raise NotWritten(f"That could not be written: {refusal}") from refusal
                await trio.sleep(NOT_YET_PAUSE_S)
            else:
                self._is_open = True

    async def _committed(self, data: bytes, deadline: float) -> bytes:
        """Send it until it is committed; the result as it is in the log."""
        pause_s, perhaps, last = FIRST_PAUSE_S, False, "the record does not run here"
        while (left_s := deadline - trio.current_time()) > 0:
            driver = self._driver()
            if driver is not None:
                try:
                    outcome = await driver.propose(data, min(left_s, limits.PROPOSE_S))
                    return outcome.result
                except ProposalRefused as error:
                    if error.why is Why.DENIED:  # it will be, however often it is sent
                        raise NotWritten(f"That is not written into the record: {error}") from error
                    last = str(error)
                except ProposalUnknown as error:
                    last, perhaps = str(error), True
            left_s = deadline - trio.current_time()
            await trio.sleep(max(0.0, min(left_s, pause_s * (0.5 + self._random()))))
            pause_s = min(MAX_PAUSE_S, pause_s * 2)
        why = self._why_not() or f"{last.rstrip('.')}."
        if perhaps:
            raise MaybeWritten(f"It is not known whether that was written into the record: {why}")
        raise NotWritten(f"That could not be written into the record: {why}")
