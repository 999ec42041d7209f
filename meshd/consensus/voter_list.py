"""A list of voters as an entry of the log.  Pure.

Hazard H19 begins here: pysyncobj logs *changes* ("add C"), so that nodes which started with
different lists differ for ever.  An entry of ours is the whole list, so the newest one in the log
is all there is to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshd import limits
from meshd.consensus.entries import Append, Ballot, Entry, EntryKind, Record
from meshd.errors import ProtocolError
from meshd.ids import NodeId, is_key_id
from meshd.wire.codec import pack, unpack

_LIST_BYTES = 40 * limits.RAFT_VOTERS


def pack_voters(voters: Iterable[NodeId]) -> bytes:
    """The data of a VOTERS entry."""
    return pack(sorted(set(voters)))


def parse_voters(data: bytes) -> tuple[NodeId, ...]:
    """Read the data of a VOTERS entry.  Raises ProtocolError."""
    value = unpack(data, max_bytes=_LIST_BYTES)
    if not isinstance(value, list):
        raise ProtocolError("A list of voters is no list.")
    return require_voters(value)


def require_voters(voters: Sequence[object]) -> tuple[NodeId, ...]:
    """The list as node ids.  Raises ProtocolError unless they ascend, each once, 1 to 7 of them."""
    ids = tuple(NodeId(v) for v in voters if isinstance(v, str) and is_key_id(v))
    if len(ids) != len(voters) or list(ids) != sorted(set(ids)):
        raise ProtocolError("A list of voters has other things in it than node ids in order.")
    if not 1 <= len(ids) <= limits.RAFT_VOTERS:
        raise ProtocolError(f"A list of voters has {len(ids)} of them.")
    return ids


def founding_records(voters: Iterable[NodeId]) -> tuple[Record, ...]:
    """What founds a log: its first entry is the list of its first voters.

    They are replayed onto an empty log, and only by a founder: every other node starts with nothing
    and has no part in elections until the log of the others lists it.
    """
    first = Entry(index=1, term=1, kind=EntryKind.VOTERS, data=pack_voters(voters))
    return (Ballot(term=1), Append((first,)))
