"""What this node has promised as a voter, and whether it still knows (trio shell).

A voter that lost its journal has lost its promises with it.  Its vote is void then, by a mark
beside the journal: it follows, but neither votes nor campaigns, until the others have agreed on a
list of voters without it.

A journal may also be there and be an earlier image of itself (a disk that was put back): the core
asks the others (`consensus.rollback`), among other things for starts of this node that are on
record with them.  The newest one after which this node promised anything is beside the journal too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from meshd import logs
from meshd.consensus.driver import Driver
from meshd.consensus.entries import EntryKind, Stored
from meshd.consensus.history import Checked
from meshd.consensus.journal import set_aside
from meshd.consensus.replay import EMPTY
from meshd.errors import DiskFailed, MeshdError
from meshd.ids import NodeId
from meshd.ledger.place import Place
from meshd.ports import Disk
from meshd.record.commands import Entry, Malformed, UnknownCommand, decode, encode
from meshd.record.commands_registry import Started

log = logs.get("record")

_T = TypeVar("_T")

_STARTED: Final = encode(Entry(Started(node="a" * 26, generation=1, boot=bytes(16))))[:7]
"""How each `Started` begins: to look at all entries of a long log takes no time with it."""


class Promises:
    """Of one node, over all lives of its part of the record."""

    def __init__(self, disk: Disk, place: Place) -> None:
        self._disk = disk
        self._place = place
        self._may_regain = trio.Event()
        self._checked = trio.Event()
        self.are_void = False
        """They are lost: this node's vote does not count until it is given anew."""
        self.are_noted = False
        """This start is on the disk as one that may promise: others may know of it."""
        self.starts_known: int | None = None
        """The newest start that the disk knew of; None: it does not say."""
        self.checked = Checked.PENDING
        """What came of asking the others."""
        self.starts: dict[NodeId, int] = {}
        """Newest starts of nodes that the log held when it was opened, applied or not."""

    async def look(self, stored: Stored) -> None:
        """Before the log runs: what the disk says of them.  Raises DiskFailed.

        A node that began the record and has no journal has lost one.
        """
        mark = self._place.void_mark
        if stored == EMPTY and self._disk.size(self._place.founded_mark) is not None:
            await self._off_loop(lambda: self._disk.write(mark, b"", private=True))
        self.are_void = self._disk.size(mark) is not None
        if self.are_void:
            log.warning("this node's vote is void until the others have taken it")
        text = (self._disk.read(self._place.starts_mark) or b"").strip()
        self.starts_known = int(text) if text.isdigit() and len(text) <= 18 else None
        self._checked, self.checked = trio.Event(), Checked.PENDING
        self.starts = _starts_in(stored)

    def stepped(self, driver: Driver) -> None:
        """After each turn of the log: have the vote looked at once it may be good again.

        The record has to have it that this node has no vote, beyond doubt.  That is so when it is
        in what is here and all that is here is committed; `regain` asks for the rest.
        """
        if not self._checked.is_set():
            if driver.checked in (Checked.PASSED, Checked.UNANSWERED):
                self.checked = driver.checked
                self._checked.set()
            return
        if not self.are_void or self._may_regain.is_set():
            return
        status = driver.status()
        if (
            status.voters
            and self._place.me not in status.voters
            and status.commit == status.last
            and status.leader is not None
        ):
            self._may_regain.set()

    async def keep(self, driver: Driver) -> None:
        """Beside `driver`, until cancelled: note this start, and let a void vote be good again as
        soon as it is one that the others give anew."""
        await self._checked.wait()
        if self.checked is Checked.UNANSWERED:
            log.warning(
                "it was not checked whether this journal is an earlier image of itself: this node "
                "alone has a vote, and no other was there to ask"
            )
        generation = b"%d\n" % self._place.generation
        try:
            await self._off_loop(
                lambda: self._disk.write(self._place.starts_mark, generation, private=True)
            )
        except DiskFailed as error:
            driver.stop(str(error))
            return
        self.are_noted = True
        while True:
            await self._may_regain.wait()
            try:
                await self._regain_from(driver)
            except MeshdError as error:
                log.debug("its vote stays void for now", why=str(error))
            self._may_regain = trio.Event()

    async def begin_anew(self, why: str) -> None:
        """The journal, which nobody uses now, is behind: keep it aside, with its vote void.

        The mark first: a journal that is gone without one is as if it had never promised a thing.
        Raises DiskFailed.
        """
        await self._off_loop(lambda: self._disk.write(self._place.void_mark, b"", private=True))
        where = await self._off_loop(lambda: set_aside(self._disk, self._place.folder))
        log.error(
            "this disk was put back to an earlier image: the record is got from the others anew",
            why=why,
            kept=str(where),
        )

    async def _regain_from(self, driver: Driver) -> None:
        """All that was acknowledged before now has to be here: the leader says so, and the
        majority that it leads."""
        await driver.read_barrier()
        status = driver.status()
        if not status.voters or self._place.me in status.voters or status.commit < status.last:
            return
        driver.regain_vote()
        self.are_void = False
        mark = self._place.void_mark
        await self._off_loop(lambda: self._disk.delete(mark))
        log.info("this node may be given a vote again")

    async def _off_loop(self, call: Callable[[], _T]) -> _T:
        return call() if self._disk.is_quick else await trio.to_thread.run_sync(call)


def _starts_in(stored: Stored) -> dict[NodeId, int]:
    """The newest start of each node in the entries of a log."""
    found: dict[NodeId, int] = {}
    for entry in stored.entries:
        if entry.kind is EntryKind.COMMAND and entry.data.startswith(_STARTED):
            try:
                body = decode(entry.data).body
            except (Malformed, UnknownCommand):
                continue  # whoever applies it says so
            if isinstance(body, Started):
                node = NodeId(body.node)
                found[node] = max(found.get(node, 0), body.generation)
    return found
