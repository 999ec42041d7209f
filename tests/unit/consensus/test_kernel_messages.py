"""Messages about the log: what comes in is in form, or is refused with a typed error."""

from __future__ import annotations

import contextlib
import random
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import limits
from meshd.consensus.messages import (
    AppendAnswer,
    AppendEntries,
    AskVote,
    Feed,
    FeedAnswer,
    FeedEnd,
    Follow,
    Forward,
    ForwardAnswer,
    Message,
    PreVote,
    PreVoteAnswer,
    ReadAnswer,
    ReadAsk,
    SnapshotAnswer,
    SnapshotPart,
    TimeoutNow,
    VoteAnswer,
    decode,
    encode,
)
from meshd.errors import LimitExceeded, ProtocolError
from tests.unit.consensus.kernel_rig import Mesh, ids, node_id

DATA = b"part"
SAMPLES: list[Message] = [
    PreVote(term=2, last_index=1, last_term=1),
    PreVoteAnswer(asked=2, granted=True, term=1),
    AskVote(term=2, last_index=1, last_term=1, transfer=False),
    VoteAnswer(term=2, granted=True),
    AppendEntries(term=2, round=1, prev_index=1, prev_term=1, commit=1, entries=((2, b"\0x"),)),
    AppendAnswer(term=2, round=1, ok=True, index=1, rejected=0),
    SnapshotPart(
        term=2, round=1, index=1, snapshot_term=1, voters=ids("abc"), size=9, offset=0, data=DATA,
        crc32=zlib.crc32(DATA),
    ),
    SnapshotAnswer(term=2, round=1, index=1, held=4),
    TimeoutNow(term=2),
    Forward(id=1, commands=(b"x",)),
    ForwardAnswer(id=1, index=1, term=1, error=0, count=1),
    ReadAsk(id=1),
    ReadAnswer(id=1, index=None),
    Feed(stream=3, term=2, leader=node_id("b"), prev_index=1, prev_term=1, entries=((2, b"\0x"),)),
    FeedAnswer(stream=3, index=2),
    Follow(stream=3, last_index=7, last_term=1, commit=5),
    FeedEnd(stream=3, voters=ids("abc")),
]  # fmt: skip


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    assert decode(encode(message)) == message


def fields(message: Message, **changes: Any) -> bytes:
    """The message with other values, whether it could be made that way or not."""
    tag = msgspec.msgpack.decode(encode(message))[0]
    values = [changes.get(name, getattr(message, name)) for name in message.__struct_fields__]
    return msgspec.msgpack.encode([tag, *values])


APPEND, PART, FEED = SAMPLES[4], SAMPLES[6], SAMPLES[13]


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (APPEND, {"term": -1}),
        (APPEND, {"term": 2**53}),
        (APPEND, {"term": 1.5}),
        (APPEND, {"term": None}),
        (APPEND, {"term": 1}),  # an entry of a later term than the leader's
        (APPEND, {"prev_term": 3}),
        (APPEND, {"prev_index": 0}),  # which has term 0
        (APPEND, {"entries": [[1, b"\0x"], [0, b"\0x"]]}),
        (APPEND, {"entries": [[2, b""]]}),
        (APPEND, {"entries": [[2, b"\x07x"]]}),
        (APPEND, {"entries": [[2, b"\x01x"]]}),
        (APPEND, {"entries": [[2, b"\x02x"]]}),
        (APPEND, {"entries": [[2]]}),
        (APPEND, {"entries": [[2, b"\0" + b"x" * (limits.RAFT_COMMAND_BYTES + 1)]]}),
        (APPEND, {"entries": [[2, b"\0"]] * (limits.RAFT_BATCH_ENTRIES + 1)}),
        (PART, {"voters": list(reversed(ids("abc")))}),
        (PART, {"voters": []}),
        (PART, {"voters": ["a"]}),
        (PART, {"voters": ["A" * 26]}),
        (PART, {"voters": list(ids("abcdefgh"))}),
        (PART, {"offset": 6}),
        (PART, {"size": limits.RAFT_SNAPSHOT_BYTES + 1}),
        (PART, {"snapshot_term": 3}),
        (PART, {"index": 0}),
        (PART, {"crc32": 2**32}),
        (SAMPLES[0], {"last_term": 2}),
        (SAMPLES[2], {"last_term": 2}),
        (SAMPLES[9], {"commands": [b"x" * (limits.RAFT_COMMAND_BYTES + 1)]}),
        (SAMPLES[9], {"commands": ["text"]}),
        (SAMPLES[9], {"commands": []}),
        (SAMPLES[9], {"commands": [b""] * (limits.RAFT_FORWARDS + 1)}),
        (SAMPLES[10], {"count": 0}),
        (FEED, {"entries": [[1, b"\0x"], [0, b"\0x"]]}),
        (FEED, {"leader": "a"}),
        (FEED, {"term": 1}),  # an entry of a later term than the voter's
        (SAMPLES[15], {"commit": 8}),  # of a log that ends at 7
        (SAMPLES[16], {"voters": list(reversed(ids("abc")))}),
        (SAMPLES[10], {"error": 256}),
        (SAMPLES[12], {"index": -1}),
    ],
)
def test_nonsense_is_refused(message: Message, changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode(fields(message, **changes))


def test_a_message_that_is_too_large_is_not_looked_at() -> None:
    with pytest.raises(LimitExceeded):
        decode(b"\xc1" * (limits.RAFT_MESSAGE_BYTES + 1))


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x90", b"\x91\x63", b"\x81\x01\x02", b"\x92\x09\x01x"]
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


@given(st.integers(0, 2**32), st.sampled_from(SAMPLES))
def test_damaged_bytes_are_a_message_or_are_refused(seed: int, message: Message) -> None:
    chance = random.Random(seed)
    data = bytearray(encode(message))
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    with contextlib.suppress(ProtocolError):
        decode(bytes(data))


counts = st.integers(0, 40) | st.integers(0, 2**53 - 1)
payloads = st.sampled_from([b"\0x", b"\0", b"\x01"])


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Any message in form, most of them near to what makes sense."""
    sample = draw(st.sampled_from(SAMPLES))
    values: dict[str, Any] = {}
    for name in sample.__struct_fields__:
        value = getattr(sample, name)
        if name == "entries":
            terms = sorted(draw(st.lists(st.integers(0, 9), max_size=4)))
            value = tuple((term, draw(payloads)) for term in terms)
        elif isinstance(value, bool):
            value = draw(st.booleans())
        elif isinstance(value, int) and name != "crc32":
            value = draw(counts) if name != "error" else draw(st.integers(0, 255))
        values[name] = value
    return type(sample)(**values)


@given(st.lists(st.tuples(st.sampled_from("bc"), messages()), max_size=12), st.booleans())
def test_a_hostile_voter_stops_no_core_and_undoes_nothing(
    said: list[tuple[str, Message]], leads: bool
) -> None:
    """Whatever two voters say, in any order: what is committed stays, and nothing breaks."""
    mesh = Mesh()
    mesh.elect("a" if leads else "b")
    mesh.commit("a", b"one", b"two")
    mesh.settle(1)
    committed = mesh.kernel("a").log[: mesh.kernel("a").status().commit + 1]
    mesh.queue.clear()
    for sender, message in said:
        try:
            decode(encode(message))
        except ProtocolError:
            continue
        try:
            mesh.hand(sender, "a", message)
        except ProtocolError:
            continue
        mesh["a"].turn()
        mesh.queue.clear()
    assert mesh.kernel("a").log[: len(committed)] == committed
    assert mesh["a"].machine.commands[:2] == [b"one", b"two"]
    assert mesh.kernel("a").next_wake() < 1e9
