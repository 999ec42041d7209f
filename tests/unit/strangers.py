"""Somebody at the mesh port who is no member, and what it may say there."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import trio

from meshd import limits
from meshd.errors import MeshdError, StreamBroken
from meshd.identity import Token, make_proof
from meshd.ids import Address
from meshd.peers.join_talk import Talk
from meshd.ports import ByteStream
from meshd.wire.codec import pack
from meshd.wire.framing import frame
from meshd.wire.join import (
    JoinHello,
    JoinRefusal,
    MemberNonce,
    Part,
    Prove,
    Reason,
    Welcome,
    encode_join,
)
from tests.joins import Mesh, make_key, stream_pair

RAW = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "empty frame": b"\0\0\0\0",
    "oversized": (limits.JOIN_FRAME_BYTES + 1).to_bytes(4, "big"),
    "huge": b"\x7f\xff\xff\xff",
    "no msgpack": frame(b"\xc1"),
    "no list": frame(pack({"a": 1})),
    "empty list": frame(pack([])),
    "three items": frame(pack([1, {}, 0])),
    "type is true": frame(pack([True, {"protocol_min": 1, "protocol_max": 1}])),
    "type is text": frame(pack(["1", {}])),
    "unknown type": frame(pack([99, {}])),
    "type zero": frame(pack([0, {}])),
    "negative type": frame(pack([-1, {}])),
    "body is no map": frame(pack([1, []])),
    "a key is missing": frame(pack([1, {"protocol_min": 1}])),
    "a key is nil": frame(pack([1, {"protocol_min": 1, "protocol_max": None}])),
    "wrong type of a key": frame(pack([1, {"protocol_min": "1", "protocol_max": 1}])),
    "float for an integer": frame(pack([1, {"protocol_min": 1.0, "protocol_max": 1}])),
    "not canonical": frame(b"\x92\x01\xde\x00\x02\xacprotocol_max\x01\xacprotocol_min\x01"),
    "keys out of order": frame(b"\x92\x01\x82\xacprotocol_min\x01\xacprotocol_max\x01"),
    "bytes behind": frame(pack([1, {"protocol_min": 1, "protocol_max": 1}]) + b"\0"),
    "deeply nested": frame(pack([1, {}])[:1] + b"\x01" + b"\x91" * 100 + b"\xc0"),
    "a prover first": frame(
        encode_join(
            Prove(
                token="x",
                public_key=b"x",
                nonce=bytes(32),
                proof=bytes(32),
                name="x",
                addresses=[],
            )
        )
    ),
    "a member's word": frame(encode_join(MemberNonce(nonce=bytes(32)))),
    "an answer": frame(encode_join(Part(data=b"x", last=True))),
}


class Stranger:
    """Somebody at the mesh port who says what it likes."""

    def __init__(self, mesh: Mesh, nursery: trio.Nursery, address: Address | None = None) -> None:
        self.mesh = mesh
        certificate = mesh.identity.certificate_der
        self.stream, theirs = (
            stream_pair(certificate, address) if address else stream_pair(certificate)
        )
        self.talk = Talk(cast(ByteStream, self.stream))
        self.certificate_hash = hashlib.sha256(certificate).digest()
        self.over = trio.Event()

        async def serve() -> None:
            await mesh.serve(theirs)
            theirs.abort("the visit is over")
            self.over.set()

        nursery.start_soon(serve)

    async def hello(self) -> Welcome:
        await self.talk.send(JoinHello(protocol_min=1, protocol_max=1))
        return await self.talk.expect(Welcome)

    def prove(self, held: Token, welcome: Welcome, **changes: Any) -> Prove:
        key = make_key("stranger")
        nonce = b"n" * 32
        proof = make_proof(
            held.key,
            server_certificate_hash=self.certificate_hash,
            public_key_der=key.public.der,
            newcomer_nonce=nonce,
            member_nonce=welcome.nonce,
            token_id=held.id,
        )
        fields: dict[str, Any] = {
            "token": held.id,
            "public_key": key.public.der,
            "nonce": nonce,
            "proof": proof,
            "name": "stranger",
            "addresses": [],
        }
        return Prove(**{**fields, **changes})

    async def last_word(self) -> Reason | None:
        """The refusal that came, if any; the connection must be over then."""
        try:
            message = await self.talk.receive()
        except StreamBroken:
            return None
        if message is None:
            return None
        assert isinstance(message, JoinRefusal)
        with pytest.raises((StreamBroken, AssertionError)):
            assert await self.talk.receive() is not None
        return message.known_reason


async def check_refused(
    mesh: Mesh, attack: Callable[[Stranger], Awaitable[None]], *expected: Reason
) -> MeshdError:
    """The attack ends in one of these refusals, with nothing changed at the member."""
    before = mesh.snapshot()
    async with trio.open_nursery() as nursery:
        stranger = Stranger(mesh, nursery)
        await attack(stranger)
        assert await stranger.last_word() in expected
        await stranger.stream.aclose()
        await stranger.over.wait()
    assert mesh.snapshot() == before
    assert mesh.server.pending() == []
    ending = mesh.endings[-1]
    assert isinstance(ending, MeshdError)
    return ending
