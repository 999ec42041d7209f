"""Messages of the control link about the record: the log, its voters, and blobs.  Pure.

`control` has their numbers, and reads and writes them.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from meshd import limits
from meshd.wire import short_form
from meshd.wire.fields import BlobOffset, BlobSize, Digest, ShortLine
from meshd.wire.message import Message


class RecordMessage(Message, frozen=True):
    """What voters say to each other about the log (proto/log.md), in the order of the link."""

    data: Annotated[bytes, Meta(min_length=1, max_length=short_form.DATA_BYTES)]


class MachineRequest(Message, frozen=True):
    """A leader asks what kind of voter this machine would be; answered by `MachineReply`."""


class MachineReply(Message, frozen=True):
    """What the answering machine is."""

    wish: ShortLine
    """`auto`, `always` or `never`, as set by its owner."""
    on_mains: bool
    portable: bool
    uptime_s: Annotated[float, Meta(ge=0)]
    sync_s: Annotated[float, Meta(ge=0)]
    """What making something durable costs there; 0: not known."""
    runs: bool
    """Its journal is in order and its part of the log runs."""
    unix_s: Annotated[float, Meta(ge=0)] = 0.0
    """What time it has; 0: it does not say."""
    void: bool = False
    """It lost what it had promised as a voter: its vote is to be taken, and given anew."""
    index: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 0
    """How much of the log it has that is committed."""


class BlobPart(Message, frozen=True):
    """Keep this part of a blob; answered by `BlobHeld`."""

    digest: Digest
    size_bytes: BlobSize
    """Of the whole."""
    offset: BlobOffset
    data: Annotated[bytes, Meta(min_length=1, max_length=limits.BLOB_PART_BYTES)]


class BlobHeld(Message, frozen=True):
    """How much of it is held."""

    upto: BlobOffset
    """All before this is; the sender goes on from here."""
    whole: bool
    """All of it, checked against the digest, and it survives a power loss."""


class BlobRequest(Message, frozen=True):
    """Asks for `BlobData`: a part of a blob."""

    digest: Digest
    offset: BlobOffset


class BlobData(Message, frozen=True):
    """That part; nothing and a size of 0 if the blob is not held here."""

    size_bytes: BlobOffset
    """Of the whole."""
    data: Annotated[bytes, Meta(max_length=limits.BLOB_PART_BYTES)]


class EndingRequest(Message, frozen=True):
    """Asks for `Ending`: how a job ended that is over."""

    job: Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Ending(Message, frozen=True):
    """That."""

    row: Annotated[bytes, Meta(max_length=limits.ENDING_BYTES)]
    """A `FinishedJob` in MessagePack; nothing if the answering node does not know."""
