"""Samples of signed member lists (proto/join.md)."""

from __future__ import annotations

from typing import Any

from meshd.identity.keys import KEY_SEED_BYTES, PrivateKey
from meshd.record.members import SIGNATURE_CONTEXT
from meshd.wire.codec import pack
from meshd.wire.gossip import WORD_CONTEXT
from tests.conformance.forms import CA, Vector
from tests.conformance.jsonform import from_json, to_json
from tests.conformance.samples.making import OTHER, bad, good

KEYS = sorted(
    (PrivateKey.from_random(bytes([n]) * KEY_SEED_BYTES).public for n in (1, 2, 3)),
    key=lambda key: key.id,
)


def member(index: int, name: str, **changes: Any) -> dict[str, Any]:
    return {
        "key": to_json(KEYS[index].der), "name": name, "addresses": [["192.168.1.5", 11436]],
        "joined": 1765000000, "founder": False, "drained": False, "labels": [],
    } | changes  # fmt: skip


FOUNDER = member(0, "studio", founder=True)
LIST: dict[str, Any] = {
    "mesh": str(CA.public.mesh), "mesh_name": "home", "version": 3,
    "members": [FOUNDER, member(1, "laptop", drained=True, addresses=[], labels=["gpu", "quiet"])],
    "removed": {OTHER: 1764000000},
}  # fmt: skip


def signature(body: dict[str, Any]) -> bytes:
    return CA.sign(SIGNATURE_CONTEXT, pack(from_json(body)))


def member_lists() -> list[Vector]:
    def vector(name: str, body: dict[str, Any]) -> Vector:
        decoded = {"list": body, "signature": to_json(signature(body))}
        return good(name, "members", decoded, ca=to_json(CA.public.der))

    return [
        vector("of one", LIST | {"members": [FOUNDER], "removed": {}, "version": 1}),
        vector("of two, one drained, and one that was removed", LIST),
        vector("of three",
               LIST | {"members": [*LIST["members"], member(2, "mini-2")]}),
    ]  # fmt: skip


def bad_member_lists() -> list[Vector]:
    def signed(name: str, **changes: Any) -> Vector:
        body = LIST | changes
        data = pack({"body": pack(from_json(body)), "signature": signature(body)})
        return bad(name, "members", data, "ProtocolError", ca=to_json(CA.public.der))

    def raw(name: str, value: dict[str, Any], ca: Any = CA) -> Vector:
        return bad(name, "members", pack(value), "ProtocolError", ca=to_json(ca.public.der))

    body = pack(from_json(LIST))
    right, other = signature(LIST), PrivateKey.from_random(b"\x09" * KEY_SEED_BYTES)
    laptop = member(1, "laptop")
    return [
        raw("no signature", {"body": body}),
        raw("a signature that was changed",
            {"body": body, "signature": right[:-1] + bytes([right[-1] ^ 1])}),
        raw("a signature for another purpose",
            {"body": body, "signature": CA.sign(WORD_CONTEXT, body)}),
        raw("a signature of another key",
            {"body": body, "signature": other.sign(SIGNATURE_CONTEXT, body)}),
        raw("another mesh's key", {"body": body, "signature": right}, ca=other),
        signed("of another mesh than its key's", mesh="n" * 26),
        signed("version 0", version=0),
        signed("members out of order", members=[laptop, FOUNDER]),
        signed("a member twice", members=[FOUNDER, member(0, "laptop")]),
        signed("two members with one name", members=[FOUNDER, member(1, "Studio")]),
        signed("no member", members=[]),
        signed("a removed member", members=[FOUNDER, laptop], removed={str(KEYS[1].id): 1}),
        signed("a name beyond ASCII", members=[member(0, "Küche", founder=True)]),
        signed("a name with an escape", members=[member(0, "\x1b[2J", founder=True)]),
        signed("a key that is none", members=[FOUNDER | {"key": {"$bin": "00"}}]),
        signed("a key is missing",
               members=[{k: v for k, v in FOUNDER.items() if k != "labels"}]),
        bad("not canonical", "members", b"\xde\x00\x00", "ProtocolError",
            ca=to_json(CA.public.der)),
    ]  # fmt: skip
