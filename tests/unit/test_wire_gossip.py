"""Gossip's messages: the form on the wire, and what is refused."""

from __future__ import annotations

import pytest

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError
from meshd.ids import Address, NodeId
from meshd.wire.codec import pack, unpack
from meshd.wire.gossip import (
    Ack,
    Failed,
    Load,
    Ping,
    Profile,
    Suspect,
    Word,
    WordKind,
    decode_packet,
    decode_word,
    encode,
    encode_packet,
    join,
    make_word,
)

NODE = NodeId("a" * 26)
OTHER = NodeId("b" * 26)
PROFILE = Profile("box", (Address("10.0.0.1", 11436),), (1, 2, 2), 9, Load(1, 2, 4, True))


def sign(payload: bytes) -> bytes:
    return b"signed:" + payload[:8]


def test_a_ping_has_this_form() -> None:
    assert encode(Ping(1, NODE)).hex() == "920182a16eba" + NODE.encode().hex() + "a17101"


def test_suspicions_and_failures_have_this_form() -> None:
    fields = {"b": OTHER, "g": 3, "i": 4, "n": NODE}
    assert encode(Suspect(NODE, (3, 4), OTHER)) == pack([6, fields])
    assert encode(Failed(NODE, (3, 4), OTHER)) == pack([7, fields])


def test_a_word_carries_what_was_signed_byte_for_byte() -> None:
    word = make_word(NODE, (3, 4), WordKind.ALIVE, PROFILE, sign)
    assert word.signature == sign(word.payload)
    assert unpack(word.payload, max_bytes=1000) == {
        "a": [["10.0.0.1", 11436]],
        "g": 3,
        "h": "box",
        "i": 4,
        "k": 0,
        "l": [1, 2, 4, True],
        "n": NODE,
        "p": [1, 2, 2],
        "r": 9,
    }
    assert decode_packet(encode_packet([word]), max_bytes=1000).messages == (word,)


def test_unknown_keys_and_longer_lists_of_a_word_are_kept_for_others() -> None:
    later = {
        "a": [["10.0.0.1", 11436]],
        "g": 3,
        "h": "box",
        "i": 4,
        "k": 0,
        "l": [1, 2, 4, True, "more"],
        "n": NODE,
        "p": [1, 2, 2, 9],
        "r": 9,
        "zeta": {"new": [1]},
    }
    payload = pack(later)
    word = decode_word(payload, b"s")
    assert word.profile == PROFILE
    assert decode_packet(encode_packet([word]), max_bytes=1000).messages == (word,)


def test_unknown_types_are_skipped_and_counted_and_unknown_keys_ignored() -> None:
    data = join([pack([99, {"x": 1}]), pack([3, {"q": 5, "z": 1}])])
    packet = decode_packet(data, max_bytes=1000)
    assert packet.messages == (Ack(5),)
    assert packet.unknown == 1


def test_a_packet_of_many_messages_has_the_longer_head() -> None:
    for count in (0, 15, 16, 300):
        data = encode_packet([Ack(1)] * count)
        assert data == pack([[3, {"q": 1}]] * count)
    with pytest.raises(LimitExceeded):
        join([b"\x00"] * 2**16)


@pytest.mark.parametrize(
    "items",
    [
        {"not": "a list"},
        [[3]],
        [[3, {"q": 1}, 0]],
        [["3", {"q": 1}]],
        [[3, []]],
        [[3, {}]],
        [[3, {"q": -1}]],
        [[3, {"q": True}]],
        [[3, {"q": 2**32}]],
        [[1, {"q": 1, "n": "short"}]],
        [[1, {"q": 1, "n": "A" * 26}]],
        [[2, {"q": 1, "n": NODE, "a": [["h", 0]]}]],
        [[2, {"q": 1, "n": NODE, "a": [["h"]]}]],
        [[2, {"q": 1, "n": NODE, "a": [["a b", 1]]}]],
        [[2, {"q": 1, "n": NODE, "a": [["h", 1]] * 17}]],
        [[6, {"n": NODE, "g": 2**63, "i": 0, "b": OTHER}]],
        [[6, {"n": NODE, "g": 0, "i": 0}]],
        [[5, {"p": "text", "s": b""}]],
        [[5, {"p": b"\xc0", "s": b""}]],
        [[5, {"p": b"", "s": b"s" * 81}]],
    ],
)
def test_what_breaks_the_form_is_refused_whole(items: object) -> None:
    with pytest.raises(ProtocolError):
        decode_packet(pack(items), max_bytes=2000)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("h", "x" * 65),
        ("h", "escape\x1b[2J"),
        ("h", b"bytes"),
        ("k", 3),
        ("l", [1, 2, 3]),
        ("l", [1, 2, 3, 4]),
        ("l", [-1, 2, 3, True]),
        ("p", [1, 2]),
        ("r", "nine"),
        ("n", "nobody"),
        ("a", None),
    ],
)
def test_a_word_with_a_wrong_field_is_refused(key: str, value: object) -> None:
    word = make_word(NODE, (3, 4), WordKind.ALIVE, PROFILE, sign)
    fields = unpack(word.payload, max_bytes=1000)
    with pytest.raises(ProtocolError):
        decode_word(pack({**fields, key: value}), b"s")


def test_a_word_over_the_limit_is_refused() -> None:
    word = make_word(NODE, (3, 4), WordKind.ALIVE, PROFILE, sign)
    fields = unpack(word.payload, max_bytes=1000)
    with pytest.raises(LimitExceeded):
        decode_word(pack({**fields, "z": b"x" * limits.GOSSIP_WORD_BYTES}), b"s")


def test_addresses_are_left_out_from_the_end_until_a_word_fits() -> None:
    long = tuple(Address("x" * 60, 11436) for _ in range(16))
    word = make_word(NODE, (1, 0), WordKind.ALIVE, Profile("n", long), sign)
    assert len(word.payload) <= limits.GOSSIP_WORD_BYTES
    assert 0 < len(word.profile.addresses) < 16
    assert isinstance(word, Word)
