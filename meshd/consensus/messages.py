"""What voters and their followers say about the log, and its form as bytes.  Pure.

Each message is a msgpack array: its tag, then its fields in order.  Every field is bounded here,
and what can be judged from the message alone is judged here too (`decode`), so that the kernel sees
only messages in form.  What can only be judged against the log (an acknowledgement of entries that
were never sent) the kernel refuses with `Nonsense`.

Peers are authenticated by the link; no message names its sender.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshd import limits
from meshd.consensus.entries import EntryKind
from meshd.consensus.voter_list import parse_voters, require_voters
from meshd.errors import LimitExceeded, ProtocolError

Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Payload = Annotated[bytes, Meta(min_length=1, max_length=limits.RAFT_COMMAND_BYTES + 1)]
"""An entry's kind in one byte, and its data."""
Voter = Annotated[str, Meta(min_length=26, max_length=26)]


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """What all messages have."""


class PreVote(_Message, frozen=True, tag=1):
    """Would I get your vote in `term`, if I asked?  Nothing is promised and nothing stored."""

    term: Count
    last_index: Count
    last_term: Count


class PreVoteAnswer(_Message, frozen=True, tag=2):
    """To the PreVote of `asked`."""

    asked: Count
    granted: bool
    term: Count
    """The answering voter's own."""


class AskVote(_Message, frozen=True, tag=3):
    """Vote for me in `term`."""

    term: Count
    last_index: Count
    last_term: Count
    transfer: bool
    """The leader wants it: vote although you hear the leader."""


class VoteAnswer(_Message, frozen=True, tag=4):
    """Whether the voter's vote in `term` is the asking node's."""

    term: Count
    granted: bool


class AppendEntries(_Message, frozen=True, tag=5):
    """After (prev_index, prev_term) comes this; without entries it is a heartbeat."""

    term: Count
    round: Count
    """Echoed by the answer, so that the leader knows what question was answered, and when asked."""
    prev_index: Count
    prev_term: Count
    commit: Count
    entries: Annotated[
        tuple[tuple[Count, Payload], ...], Meta(max_length=limits.RAFT_BATCH_ENTRIES)
    ]
    """Term and payload of the entries from prev_index + 1 on."""


class AppendAnswer(_Message, frozen=True, tag=6):
    """To AppendEntries, and to the last part of a snapshot."""

    term: Count
    round: Count
    ok: bool
    index: Count
    """ok: the logs are equal up to here.  Otherwise: the last place where they may be."""
    rejected: Count
    """The prev_index that did not fit; 0 if ok."""


class SnapshotPart(_Message, frozen=True, tag=7):
    """A piece of the snapshot of the state after (index, snapshot_term)."""

    term: Count
    round: Count
    index: Count
    snapshot_term: Count
    voters: Annotated[tuple[Voter, ...], Meta(min_length=1, max_length=limits.RAFT_VOTERS)]
    size: Annotated[int, Meta(ge=0, le=limits.RAFT_SNAPSHOT_BYTES)]
    offset: Count
    data: Annotated[bytes, Meta(max_length=limits.RAFT_PART_BYTES)]
    crc32: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    """Of `data`."""
    stream: Count = 0
    """The subscription that it belongs to; 0: it is the leader's, for voters and learners."""


class SnapshotAnswer(_Message, frozen=True, tag=8):
    """How much of the snapshot at `index` is here without a gap."""

    term: Count
    round: Count
    index: Count
    held: Count
    stream: Count = 0
    """That of the part."""


class TimeoutNow(_Message, frozen=True, tag=9):
    """The leader of `term` hands over: campaign at once."""

    term: Count


class Forward(_Message, frozen=True, tag=10):
    """Commands for the leader, from a voter or learner that is none, or for a voter to pass on."""

    id: Count
    """Of the first one; those after it have the numbers after this."""
    commands: Annotated[
        tuple[Annotated[bytes, Meta(max_length=limits.RAFT_COMMAND_BYTES)], ...],
        Meta(min_length=1, max_length=limits.RAFT_FORWARDS),
    ]


class ForwardAnswer(_Message, frozen=True, tag=11):
    """Where commands were put into the log; or why they were not (`error` > 0)."""

    id: Count
    index: Count
    term: Count
    error: Annotated[int, Meta(ge=0, le=255)]
    count: Annotated[int, Meta(ge=1, le=limits.RAFT_FORWARDS)]
    """So many: those of the numbers from `id` on, in the places from `index` on."""


class ReadAsk(_Message, frozen=True, tag=12):
    """Up to where must I have applied the log, to read what was acknowledged before now?"""

    id: Count


class ReadAnswer(_Message, frozen=True, tag=13):
    id: Count
    index: Count | None
    """None: ask another, or again."""


class Follow(_Message, frozen=True, tag=14):
    """Send me what is committed, from here on: a node without a vote, to any voter."""

    stream: Count
    """Names this subscription; the asker's next one has another number."""
    last_index: Count
    last_term: Count
    """The end of the asker's log."""
    commit: Count
    """Up to here it is committed for sure."""


class Feed(_Message, frozen=True, tag=15):
    """These entries are committed, and so is the place before them."""

    stream: Count
    term: Count
    """The sender's own."""
    leader: Voter | None
    """Whom the sender can pass commands and questions on to; None: nobody now."""
    prev_index: Count
    prev_term: Count
    entries: Annotated[
        tuple[tuple[Count, Payload], ...], Meta(max_length=limits.RAFT_BATCH_ENTRIES)
    ]


class FeedAnswer(_Message, frozen=True, tag=16):
    """All up to `index` is committed and on disk here."""

    stream: Count
    index: Count


class FeedEnd(_Message, frozen=True, tag=17):
    """That subscription is none (any more): the sender does not serve it, or does not want it."""

    stream: Count
    voters: Annotated[tuple[Voter, ...], Meta(max_length=limits.RAFT_VOTERS)]
    """Who has a vote, as far as the sender knows, and may be asked instead."""


class Recall(_Message, frozen=True, tag=18):
    """I have started: what did you ever hear me promise?"""

    asked: Count
    """Of this start; echoed."""


class RecallAnswer(_Message, frozen=True, tag=19):
    """What this node knows of the asking one.  0: nothing."""

    asked: Count
    generation: Count
    """Its newest start that is on record here."""
    term: Count
    """The latest term in which it said anything."""
    voted_term: Count
    """The latest term in which it gave this node its vote."""
    match_term: Count
    index: Count
    """It said that its log equals that of the leader of `match_term` up to `index`."""
    list_term: Count
    list_index: Count
    """Where the newest list of voters is in this node's log, at the latest."""
    voters: Annotated[tuple[Voter, ...], Meta(max_length=limits.RAFT_VOTERS)]
    """That list; empty: none."""


Message = (
    PreVote | PreVoteAnswer | AskVote | VoteAnswer | AppendEntries | AppendAnswer
    | SnapshotPart | SnapshotAnswer | TimeoutNow | Forward | ForwardAnswer | ReadAsk | ReadAnswer
    | Follow | Feed | FeedAnswer | FeedEnd
    | Recall | RecallAnswer
)  # fmt: skip

MESSAGE_BYTES: Final = limits.RAFT_MESSAGE_BYTES

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode(data: bytes) -> Message:
    """Read a message.  Raises LimitExceeded or ProtocolError; what comes back is in form."""
    if len(data) > MESSAGE_BYTES:
        raise LimitExceeded(
            f"A message about the log has {len(data)} bytes, which is over {MESSAGE_BYTES}."
        )
    try:
        message = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"A message about the log is not in form: {error}.") from error
    check(message)
    return message


def check(message: Message) -> None:
    """Raise ProtocolError for what is wrong by itself, whatever the log holds."""
    if isinstance(message, (AppendEntries, Feed)):
        _check_entries(message)
    elif isinstance(message, RecallAnswer):
        if message.voters:
            require_voters(message.voters)
    elif isinstance(message, SnapshotPart):
        require_voters(message.voters)
        if message.offset + len(message.data) > message.size:
            raise ProtocolError("A part of a snapshot reaches past the snapshot's end.")
        if message.snapshot_term > message.term or message.index == 0:
            raise ProtocolError("A snapshot is of no place that there can be.")
    elif isinstance(message, (PreVote, AskVote)) and message.last_term >= message.term:
        raise ProtocolError("A candidate's log has entries of the term that it asks votes for.")
    elif isinstance(message, FeedEnd):
        if message.voters:
            require_voters(message.voters)
    elif isinstance(message, Follow) and message.commit > message.last_index:
        raise ProtocolError("More of a log is said to be committed than there is of it.")


def _check_entries(message: AppendEntries | Feed) -> None:
    before = message.prev_term
    if message.prev_index == 0 and before != 0:
        raise ProtocolError("The place before the first entry has term 0.")
    for term, payload in message.entries:
        if not before <= term <= message.term:
            raise ProtocolError("The terms of the entries do not grow up to the sender's.")
        before = term
        if payload[0] == EntryKind.VOTERS:
            parse_voters(payload[1:])
        elif payload[0] == EntryKind.NOOP:
            if len(payload) > 1:
                raise ProtocolError("An entry without meaning has data.")
        elif payload[0] != EntryKind.COMMAND:
            raise ProtocolError(f"There is no kind {payload[0]} of entries.")
    if before > message.term:
        raise ProtocolError("The sender's log has entries of a later term than its own.")
