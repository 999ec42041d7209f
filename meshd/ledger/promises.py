"""What this node has promised as a voter, and whether it still knows (trio shell).

A voter that lost its journal has lost its promises with it.  Its vote is void then, by a mark
beside the journal: it follows, but neither votes nor campaigns, until the others have agreed on a
list of voters without it.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from meshd import logs
from meshd.consensus.driver import Driver
from meshd.consensus.entries import Stored
from meshd.consensus.replay import EMPTY
from meshd.errors import MeshdError
from meshd.ledger.place import Place
from meshd.ports import Disk

log = logs.get("record")


class Promises:
    """Of one node, over all lives of its part of the record."""

    def __init__(self, disk: Disk, place: Place) -> None:
        self._disk = disk
        self._place = place
        self._may_regain = trio.Event()
        self.are_void = False
        """They are lost: this node's vote does not count until it is given anew."""

    async def look(self, stored: Stored) -> None:
        """Before the log runs: what the disk says of them.  Raises DiskFailed.

        A founder that has no journal has lost one.
        """
        mark = self._place.void_mark
        if stored == EMPTY and self._disk.size(self._place.founded_mark) is not None:
            await self._off_loop(lambda: self._disk.write(mark, b"", private=True))
        self.are_void = self._disk.size(mark) is not None
        if self.are_void:
            log.warning("this node's vote is void until the others have taken it")

    def stepped(self, driver: Driver) -> None:
        """After each turn of the log: have the vote looked at once it may be good again.

        The record has to have it that this node has no vote, beyond doubt.  That is so when it is
        in what is here and all that is here is committed; `regain` asks for the rest.
        """
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

    async def regain(self, driver: Driver) -> None:
        """Let a void vote be good again as soon as it is one that the others give anew.

        Runs until cancelled, beside `driver`.
        """
        while True:
            await self._may_regain.wait()
            try:
                await self._regain_from(driver)
            except MeshdError as error:
                log.debug("its vote stays void for now", why=str(error))
            self._may_regain = trio.Event()

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

    async def _off_loop(self, call: Callable[[], None]) -> None:
        if self._disk.is_quick:
            call()
        else:
            await trio.to_thread.run_sync(call)
