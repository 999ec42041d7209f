"""Bodies, payloads and results, wherever they are: in the log itself, or as blobs (trio shell)."""

from __future__ import annotations

import msgspec

from meshd import limits
from meshd.errors import MeshdError
from meshd.jobs.blob_plan import digest_of, is_blob
from meshd.jobs.holding import Bodies
from meshd.record.commands_jobs import RequestFields


class TooLarge(MeshdError):
    """A body, a payload or a result that is larger than the mesh keeps."""


class Content(msgspec.Struct, frozen=True):
    """How a command names some bytes."""

    digest: bytes
    size_bytes: int
    inline: bytes = b""
    """The bytes themselves, if they are few."""


async def store(data: bytes, bodies: Bodies) -> Content:
    """Make it something that a command can name.  Raises TooLarge, BlobNotStored."""
    if len(data) > limits.BLOB_BYTES:
        raise TooLarge(
            f"A job's request or result may have {limits.BLOB_BYTES // limits.MIB} MiB, and this "
            f"one has {len(data)} bytes."
        )
    if is_blob(len(data)):
        return Content(await bodies.put(data), len(data))
    return Content(digest_of(data), len(data), data)


async def body_of(request: RequestFields, bodies: Bodies) -> bytes | None:
    """A job's request; None if nobody who keeps it can be asked now."""
    if request.inline or not is_blob(request.size_bytes):
        return request.inline
    return await bodies.get(request.digest)
