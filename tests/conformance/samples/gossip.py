"""Samples of gossip and of the datagrams that it travels in (proto/gossip.md)."""

from __future__ import annotations

from typing import Any

from meshd.identity.keys import KEY_SEED_BYTES, PrivateKey
from meshd.wire.codec import pack
from meshd.wire.gossip import WORD_CONTEXT
from tests.conformance.forms import FORMS, RECEIVER, Vector
from tests.conformance.jsonform import from_json, to_json
from tests.conformance.samples.making import BIN, MESH, NODE, OTHER, bad, good, readable

AUTHOR = PrivateKey.from_random(bytes(range(KEY_SEED_BYTES)))
CLAIM: dict[str, Any] = {
    "k": 0, "n": str(AUTHOR.public.node), "g": 4, "i": 2, "h": "studio",
    "a": [["192.168.1.5", 11436], ["fd00::5", 11436]], "p": [1, 1, 1], "r": 9,
    "l": [1, 0, 4, False],
}  # fmt: skip


def signed_claim() -> dict[str, Any]:
    payload = pack(CLAIM)
    return to_json({"p": payload, "s": AUTHOR.sign(WORD_CONTEXT, payload)})  # type: ignore[no-any-return]


def gossip_packets() -> list[Vector]:
    author = to_json(AUTHOR.public.der)
    ping = [1, {"q": 7, "n": NODE}]
    return [
        good("an empty packet", "gossip", []),
        good("Ping", "gossip", [ping]),
        good("PingReq", "gossip", [[2, {"q": 8, "n": NODE, "a": [["10.0.0.2", 11436]]}]]),
        good("Ack", "gossip", [[3, {"q": 2**32 - 1}]]),
        good("Nack", "gossip", [[4, {"q": 0}]]),
        good("Word, signed", "gossip", [[5, signed_claim()]], author=author),
        good("Suspect", "gossip", [[6, {"n": NODE, "g": 4, "i": 2, "b": OTHER}]]),
        good("Failed", "gossip", [[7, {"n": NODE, "g": 4, "i": 2, "b": OTHER}]]),
        good("Ask", "gossip", [[8, {"n": NODE, "g": 4, "i": 2}]]),
        good("a ping with gossip behind it", "gossip",
             [ping, [5, signed_claim()], [6, {"n": NODE, "g": 1, "i": 0, "b": OTHER}]],
             author=author),
        readable("a type of a later version, skipped", "gossip", [ping],
                 pack([[99, {"x": 1}], ping]), unknown=1),
        readable("keys of a later version, ignored", "gossip", [ping],
                 pack([[1, {"q": 7, "n": NODE, "z": [1, 2]}]])),
        good("claim: alive", "claim", CLAIM),
        good("claim: asleep", "claim", CLAIM | {"k": 1}),
        good("claim: left", "claim", CLAIM | {"k": 2, "a": []}),
        good("claim: draining", "claim", CLAIM | {"l": [0, 0, 4, True]}),
        readable("claim: keys and items of a later version", "claim", CLAIM,
                 pack(CLAIM | {"z": 1, "l": [*CLAIM["l"], 5], "p": [*CLAIM["p"], 5]})),
    ]  # fmt: skip


def bad_gossip() -> list[Vector]:
    p = "ProtocolError"

    def raw(name: str, value: Any) -> Vector:
        return bad(name, "gossip", pack(from_json(value)), p)

    def claim(name: str, **changes: Any) -> Vector:
        return bad(f"claim: {name}", "claim", pack(from_json(CLAIM | changes)), p)

    return [
        raw("a map", {}),
        raw("a message that is a map", [{}]),
        raw("a message of three", [[3, {"q": 1}, 0]]),
        raw("a type that is text", [["3", {"q": 1}]]),
        raw("a type below 0", [[-1, {}]]),
        raw("a sequence over 32 bits", [[3, {"q": 2**32}]]),
        raw("a sequence that is true", [[3, {"q": True}]]),
        raw("a sequence that is missing", [[3, {}]]),
        raw("a node id that is short", [[1, {"q": 1, "n": "a"}]]),
        raw("an address without a port", [[2, {"q": 1, "n": NODE, "a": [["10.0.0.2"]]}]]),
        raw("port 0", [[2, {"q": 1, "n": NODE, "a": [["10.0.0.2", 0]]}]]),
        raw("port 65536", [[2, {"q": 1, "n": NODE, "a": [["10.0.0.2", 65536]]}]]),
        raw("a host with a blank", [[2, {"q": 1, "n": NODE, "a": [["a b", 1]]}]]),
        raw("a word that is text", [[5, {"p": "x", "s": BIN}]]),
        raw("a word that is no claim", [[5, {"p": {"$bin": "c0"}, "s": BIN}]]),
        bad("a signature of 81 bytes", "gossip",
            pack([[5, {"p": pack(CLAIM), "s": bytes(81)}]]), "LimitExceeded"),
        bad("not canonical", "gossip", "9192cc0381a17101", p),
        bad("cut", "gossip", "9192", p),
        claim("a kind that is not known", k=3),
        claim("a generation below 0", g=-1),
        claim("a name with a line feed", h="a\n"),
        claim("a name of 65 characters", h="h" * 65),
        claim("seventeen addresses", a=[["h", 1]] * 17),
        claim("a load of three", l=[0, 0, 0]),
        claim("a load whose draining is an integer", l=[0, 0, 0, 1]),
        claim("no protocol", p=None),
        bad("claim: over 896 bytes", "claim", pack(CLAIM | {"z": "x" * 900}), "LimitExceeded"),
    ]  # fmt: skip


CONTEXT: dict[str, Any] = {
    "mesh": MESH,
    "keys": {"305419896": "01" * 32, "2596069104": "02" * 32},
    "primary": 305419896,
    "members": [NODE, OTHER, RECEIVER],
}


def datagram(counter: int = 0, **changes: Any) -> dict[str, Any]:
    decoded = {
        "key_id": 305419896, "sender": NODE, "generation": 4, "counter": counter,
        "payload": {"$bin": pack([[3, {"q": 7}]]).hex()},
    }  # fmt: skip
    return decoded | changes


def datagrams() -> list[Vector]:
    full = {"$bin": "00" * 1137}
    return [
        good("the first of a generation", "datagram", datagram(), context=CONTEXT),
        good("the third", "datagram", datagram(2), context=CONTEXT),
        good("of another sender", "datagram", datagram(sender=OTHER), context=CONTEXT),
        good("of a later generation", "datagram", datagram(generation=5), context=CONTEXT),
        good("under another key of the keyring", "datagram", datagram(key_id=2596069104),
             context=CONTEXT),
        good("an empty payload", "datagram", datagram(payload={"$bin": ""}), context=CONTEXT),
        good("as long as can be", "datagram", datagram(payload=full), context=CONTEXT),
    ]  # fmt: skip


def bad_datagrams() -> list[Vector]:
    def sealed(counter: int = 0, context: dict[str, Any] = CONTEXT, **changes: Any) -> bytes:
        return FORMS["datagram"].write(datagram(counter, **changes), {"context": context})

    def refused(name: str, data: bytes, error: str, **more: Any) -> Vector:
        return bad(name, "datagram", data, error, context=CONTEXT | more)

    def flipped(data: bytes, at: int) -> bytes:
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    first, second, late = sealed(), sealed(1), sealed(70)
    tag = "Unauthenticated"
    return [
        refused("nothing", b"", "BadEnvelope"),
        refused("cut before the tag can be whole", first[:62], "BadEnvelope"),
        refused("1201 bytes", b"\x01" * 1201, "BadEnvelope"),
        refused("another version", b"\x02" + first[1:], "BadVersion"),
        refused("a DNS query", bytes(12) + b"\x05local" + bytes(60), "BadVersion"),
        refused("a key that is not here", flipped(first, 1), "UnknownKey"),
        refused("a sender that is no node id", first[:5] + b"A" * 26 + first[31:], "BadEnvelope"),
        refused("a sender that is no member", first[:5] + b"z" * 26 + first[31:], "UnknownSender"),
        refused("this node's own", sealed(sender=RECEIVER), "Replayed"),
        refused("a sender that was changed", first[:5] + OTHER.encode() + first[31:], tag),
        refused("a generation that was changed", flipped(first, 38), tag),
        refused("a counter that was changed", flipped(first, 46), tag),
        refused("a payload that was changed", flipped(first, 48), tag),
        refused("a tag that was changed", flipped(first, len(first) - 1), tag),
        refused("cut by a byte", first[:-1], tag),
        refused("of another mesh with the same key",
                sealed(context=CONTEXT | {"mesh": "n" * 26}), tag),
        refused("the same again", first, "Replayed", opened_before=[first.hex()]),
        refused("out of order, and the same again", first, "Replayed",
                opened_before=[second.hex(), first.hex()]),
        refused("older than the window", first, "Replayed", opened_before=[late.hex()]),
        refused("of an earlier generation", first, "Replayed",
                opened_before=[sealed(generation=5).hex()]),
    ]  # fmt: skip
