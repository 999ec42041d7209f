"""Gossip's bytes: what is written reads back, and garbage gives a ProtocolError, nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.errors import ProtocolError
from meshd.ids import Address, MeshId, NodeId
from meshd.wire.codec import pack
from meshd.wire.envelope import PAYLOAD_BYTES, BadEnvelope, Envelope, EnvelopeRefused
from meshd.wire.gossip import (
    Ack,
    Ask,
    Failed,
    Load,
    Message,
    Nack,
    Ping,
    PingReq,
    Profile,
    Suspect,
    Word,
    WordKind,
    decode_packet,
    encode_packet,
    make_word,
)

nodes = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26).map(NodeId)
sequences = st.integers(0, 2**32 - 1)
versions = st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
addresses = st.builds(
    Address, st.one_of(st.ip_addresses().map(str), st.just("box.local")), st.integers(1, 65535)
)
profiles = st.builds(
    Profile,
    name=st.text(st.characters(categories=["L", "N", "P"]), max_size=64),
    addresses=st.lists(addresses, max_size=16).map(tuple),
    protocol=st.tuples(*[st.integers(0, 65535)] * 3),
    inventory=st.integers(0, 2**63 - 1),
    load=st.builds(Load, *[st.integers(0, 2**31 - 1)] * 3, st.booleans()),
)
words = st.builds(
    lambda node, version, kind, profile: make_word(
        node, version, kind, profile, lambda payload: b"s" * 64
    ),
    nodes,
    versions,
    st.sampled_from(WordKind),
    profiles,
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, sequences, nodes),
    st.builds(PingReq, sequences, nodes, st.lists(addresses, max_size=4).map(tuple)),
    st.builds(Ack, sequences),
    st.builds(Nack, sequences),
    st.builds(Suspect, nodes, versions, nodes),
    st.builds(Failed, nodes, versions, nodes),
    st.builds(Ask, nodes, versions),
    words,
)


@settings(deadline=None)
@given(st.lists(messages, max_size=40))
def test_what_is_written_reads_back(told: list[Message]) -> None:
    data = encode_packet(told)
    packet = decode_packet(data, max_bytes=len(data))
    assert packet.messages == tuple(told)
    assert packet.unknown == 0
    assert encode_packet(packet.messages) == data


@settings(deadline=None)
@given(words)
def test_a_word_fits_into_a_datagram_with_a_ping_and_a_suspicion(word: Word) -> None:
    end = 2**63 - 1
    told = [Ping(2**32 - 1, word.node), Suspect(word.node, (end, end), word.node), word]
    assert len(encode_packet(told)) <= PAYLOAD_BYTES


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    try:
        packet = decode_packet(data, max_bytes=300)
    except ProtocolError:
        return
    assert encode_packet(packet.messages) == data or packet.unknown


values: st.SearchStrategy[object] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(), st.binary()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from("abghiklnpqrs"), inner, max_size=6),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), values), max_size=4))
def test_well_formed_nonsense_is_a_protocol_error_or_unknown(items: list[object]) -> None:
    data = pack(items)
    try:
        decode_packet(data, max_bytes=len(data))
    except ProtocolError:
        return


@settings(deadline=None)
@given(values)
def test_a_word_made_of_nonsense_is_a_protocol_error(payload: object) -> None:
    data = pack([[5, {"p": pack(payload), "s": b""}]])
    with pytest.raises(ProtocolError):
        decode_packet(data, max_bytes=len(data))


@settings(deadline=None)
@given(st.binary(max_size=64), st.integers(0, 10_000), st.integers(1, 255))
def test_a_datagram_with_any_byte_changed_does_not_open_and_leaves_no_trace(
    payload: bytes, place: int, flip: int
) -> None:
    key, mesh, me, peer = b"k" * 32, MeshId("m" * 26), NodeId("a" * 26), NodeId("b" * 26)
    sender = Envelope(mesh, peer, 1, {7: key}, 7, lambda node: True)
    receiver = Envelope(mesh, me, 1, {7: key}, 7, lambda node: True)
    datagram = sender.seal(payload)
    changed = bytearray(datagram)
    changed[place % len(changed)] ^= flip
    with pytest.raises(EnvelopeRefused):
        receiver.open(bytes(changed))
    assert receiver._sessions == {}
    assert receiver.open(datagram) == (peer, payload)


@settings(deadline=None)
@given(st.binary(max_size=1300))
def test_a_strangers_bytes_are_refused(data: bytes) -> None:
    receiver = Envelope(MeshId("m" * 26), NodeId("a" * 26), 1, {7: b"k" * 32}, 7, lambda node: True)
    with pytest.raises((EnvelopeRefused, BadEnvelope)):
        receiver.open(data)
