"""What a node that leaves for good must not take with it: blobs that others may not have (trio).

The voters get what they lack by themselves, but look for it only now and then; who leaves is gone
before that, and then nobody may have it.
"""

from __future__ import annotations

from typing import Final

from meshd import limits, logs
from meshd.errors import Refused
from meshd.jobs.blobs import Blobs
from meshd.jobs.handing_over import HandingOver

log = logs.get("blobs")

_AT_A_TIME: Final = 4
"""Of those that are one part.  Larger ones go alone: `put_s` reckons with a link of one's own."""


async def hand_over(blobs: Blobs) -> None:
    """Have each blob that is needed and is on this disk on a majority of the present voters.

    One that a voter has already costs a part at the most.  There is no deadline but that of each
    (`put_s`): it takes as long as there is something to send and it arrives, and ends with the
    first that does not.  Raises NotHandedOver.
    """
    needed = await blobs.needed()
    small = [digest for digest, size in needed.items() if size <= limits.BLOB_PART_BYTES]
    large = [digest for digest, size in needed.items() if size > limits.BLOB_PART_BYTES]
    log.info("blobs that are here are stored with the voters", count=len(needed))

    async def store(digest: bytes) -> None:
        data = await blobs.get(digest)
        if data is not None:
            await blobs.put(data)
        elif digest in blobs.store.held:
            raise Refused("A file of this node could not be read, and no other node has it.")
        # Else it was lost before: damaged here, and nobody has it.

    handing = HandingOver(len(needed))
    await handing.each(small, store, _AT_A_TIME)
    await handing.each(large, store, 1)
    handing.check()
