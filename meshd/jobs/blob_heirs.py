"""What a node that leaves for good must not take with it: blobs that others may not have (trio).

The voters get what they lack by themselves, but look for it only now and then; who leaves is gone
before that, and then nobody may have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import trio

from meshd import limits, logs
from meshd.errors import MeshdError, Refused
from meshd.jobs.blobs import Blobs

log = logs.get("blobs")

_AT_A_TIME: Final = 4
"""Of those that are one part.  Larger ones go alone: `put_s` reckons with a link of one's own."""


class BlobsNotHandedOver(MeshdError):
    """Some blobs that are here may be nowhere else; the text says why."""

    def __init__(self, count: int, why: str) -> None:
        """`count` is how many at the most."""
        super().__init__(why)
        self.count = count


async def hand_over(blobs: Blobs) -> None:
    """Have each blob that is needed and is on this disk on a majority of the present voters.

    One that a voter has already costs a part at the most.  There is no deadline but that of each
    (`put_s`): it takes as long as there is something to send and it arrives, and ends with the
    first that does not.  Raises BlobsNotHandedOver.
    """
    needed = await blobs.needed()
    small = [digest for digest, size in needed.items() if size <= limits.BLOB_PART_BYTES]
    large = [digest for digest, size in needed.items() if size > limits.BLOB_PART_BYTES]
    log.info("blobs that are here are stored with the voters", count=len(needed))
    handing = _Handing(blobs, len(needed))
    await handing.store(small, _AT_A_TIME)
    await handing.store(large, 1)
    if handing.left:
        raise BlobsNotHandedOver(handing.left, handing.why)


class _Handing:
    """How far it is."""

    def __init__(self, blobs: Blobs, count: int) -> None:
        self._blobs = blobs
        self.left = count
        self.why = ""
        """Why one could not be stored; "" as long as all could."""

    async def store(self, digests: list[bytes], at_a_time: int) -> None:
        queue = iter(digests)
        async with trio.open_nursery() as nursery:
            for _ in range(min(at_a_time, len(digests))):
                nursery.start_soon(self._store_some, queue)

    async def _store_some(self, queue: Iterator[bytes]) -> None:
        for digest in queue:
            if self.why:
                return
            try:
                await self._store(digest)
            except MeshdError as error:
                self.why = str(error)
                return
            self.left -= 1

    async def _store(self, digest: bytes) -> None:
        data = await self._blobs.get(digest)
        if data is not None:
            await self._blobs.put(data)
        elif digest in self._blobs.store.held:
            raise Refused("A file of this node could not be read, and no other node has it.")
        # Else it was lost before: damaged here, and nobody has it.
