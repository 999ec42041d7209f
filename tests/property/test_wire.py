"""Properties of the wire: what is written comes back, and nothing but ProtocolError comes out."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError
from meshd.inference import Delta, TokenLogprob, ToolCall, Usage
from meshd.wire import answer, control, gossip, join, said, serve
from meshd.wire.codec import pack, unpack
from meshd.wire.framing import FrameReader, frame
from tests.conformance.forms import FORMS, Vector
from tests.conformance.jsonform import VALID, load

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.binary(max_size=40)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(TEXT, inner, max_size=20),
    max_leaves=60,
)
BIG = 1 << 20
VECTORS = load(VALID)


def same(a: Any, b: Any) -> bool:
    """Equal, and of equal types all the way down (1 == 1.0 == True is not enough)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return bool(a == b)


@given(VALUES)
def test_any_value_comes_back(value: object) -> None:
    assert same(unpack(pack(value), max_bytes=BIG), value)


@given(VALUES)
def test_any_reader_of_msgpack_understands_what_is_written(value: object) -> None:
    data = pack(value)
    assert same(msgpack.unpackb(data), value)
    assert same(msgspec.msgpack.decode(data), value)


@given(VALUES)
def test_the_fast_writer_of_answers_is_canonical_too(value: object) -> None:
    assert msgspec.msgpack.Encoder(order="sorted").encode(value) == pack(value)


@given(st.binary(max_size=64) | st.lists(st.integers(0x80, 0xDF), max_size=30).map(bytes))
def test_bytes_are_refused_or_are_the_one_form_of_their_value(data: bytes) -> None:
    try:
        value = unpack(data, max_bytes=BIG)
    except ProtocolError:
        return
    assert pack(value) == data


@given(VALUES, st.data())
def test_a_changed_byte_is_refused_or_means_another_value(
    value: object, data: st.DataObject
) -> None:
    changed = bytearray(pack(value))
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] = data.draw(st.integers(0, 255))
    try:
        read = unpack(bytes(changed), max_bytes=BIG)
    except ProtocolError:
        return
    assert pack(read) == changed


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=10), st.data())
def test_frames_come_out_however_the_stream_is_cut(
    payloads: list[bytes], data: st.DataObject
) -> None:
    reader, out = FrameReader(50), []
    for piece in cut(b"".join(map(frame, payloads)), data):
        out += reader.feed(piece)
    assert out == payloads
    assert not reader.mid_frame


def cut(stream: bytes, data: st.DataObject) -> list[bytes]:
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    edges = [0, *cuts, len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


DELTAS = st.builds(
    Delta,
    text=TEXT,
    reasoning=TEXT,
    tool_calls=st.lists(st.builds(ToolCall, st.integers(0, 5), TEXT, TEXT, TEXT), max_size=3),
    logprobs=st.lists(st.builds(TokenLogprob, TEXT, st.floats(-50, 0)), max_size=3),
    finish_reason=st.none() | TEXT,
)
ITEMS = st.lists(DELTAS | TEXT.map(Delta) | st.builds(Usage, st.integers(0, 2**53)), max_size=12)


@given(ITEMS, st.data())
def test_answers_come_back_however_the_stream_is_cut(
    items: list[answer.AnswerItem], data: st.DataObject
) -> None:
    writer, reader = answer.AnswerWriter(), answer.AnswerReader()
    stream = b""
    for item in items:
        stream += writer.items([item])
        if data.draw(st.booleans()):
            stream += writer.beat()
    stream += writer.end()
    frames = [read for piece in cut(stream, data) for read in reader.feed(piece)]
    assert [item for read in frames for item in read.items] == items
    assert reader.complete
    assert [read.seq for read in frames if read.items] == list(range(1, len(items) + 1))


READERS = {
    "control": control.decode,
    "join": join.decode_join,
    "answer": lambda data: answer.AnswerReader().feed(data),
    "serve": serve.decode_serve,
    "said": lambda data: said.SaidReader().feed(data),
    "said request": said.decode_said_request,
    "cancel": serve.decode_cancel,
    "show": serve.decode_show,
    "gossip": lambda data: gossip.decode_packet(data, max_bytes=limits.DATAGRAM_BYTES),
    "claim": lambda data: gossip.decode_word(data, b""),
    "frames": lambda data: FrameReader(1000).feed(data),
    "admitted": join.Admitted.from_bytes,
}


@pytest.mark.parametrize("reader", READERS)
@given(data=st.binary(max_size=300) | VALUES.map(pack))
def test_no_bytes_raise_anything_but_a_protocol_error(reader: str, data: bytes) -> None:
    try:
        READERS[reader](data)
    except ProtocolError as error:
        assert str(error).endswith(".")  # noqa: PT017 - that there is one is not the point


def mutated(draw: st.DrawFn) -> tuple[Vector, bytes]:
    vector = draw(st.sampled_from(VECTORS))
    data = bytearray.fromhex(vector["hex"])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["set", "insert", "delete", "cut"])):
            case "set" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "insert":
                data.insert(at, draw(st.integers(0, 255)))
            case "delete":
                del data[at : at + draw(st.integers(1, 4))]
            case _:
                del data[at:]
    return vector, bytes(data)


@settings(max_examples=600)
@given(st.composite(mutated)())
def test_a_golden_vector_with_bytes_changed_is_refused_or_is_canonical(
    mutation: tuple[Vector, bytes],
) -> None:
    vector, data = mutation
    form = FORMS[vector["type"]]
    vector = {key: value for key, value in vector.items() if key != "unknown"}
    try:
        read = form.read(data, vector)
    except (ProtocolError, AssertionError):  # an AssertionError: of an unknown type, skipped
        return
    json.dumps(read)
    if vector["type"] in {"value", "control"}:  # the others drop what they do not know
        assert form.write(read, vector) == data


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**20))
def test_no_length_is_buffered_beyond_the_limit(length: int, most: int) -> None:
    reader = FrameReader(most)
    try:
        assert reader.feed(length.to_bytes(4, "big")) == []
    except LimitExceeded:
        assert length > most
    except ProtocolError:
        assert length == 0
    else:
        assert 0 < length <= most
