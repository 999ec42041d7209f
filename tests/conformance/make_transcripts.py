"""Writes proto/vectors/transcripts anew: `python -m tests.conformance.make_transcripts`.

Golden, as the other vectors are (see make_vectors.py): made once, read by a person.
"""

from __future__ import annotations

import hashlib
from typing import Any

import trio
from trio.testing import MockClock

from meshd.ids import Address
from meshd.peers.join_client import (
    Joined,
    Newcomer,
    PairingOffer,
    join_by_pairing,
    join_with_token,
)
from meshd.wire.codec import unpack
from tests.conformance.jsonform import write
from tests.conformance.transcripts import FOLDER, describe, frames_of, listed
from tests.joins import HOST, MemoryStream, Mesh, make_key

NEWCOMER_NONCE = "6e" * 32


class Recorder:
    """Both directions of one conversation, in order."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []

    def tap(self, newcomer: MemoryStream) -> None:
        send, receive = newcomer.send_all, newcomer.receive_some
        pending = bytearray()

        async def send_all(data: bytes | bytearray | memoryview) -> None:
            self._note("newcomer", bytes(data))
            await send(data)

        async def receive_some(max_bytes: int = 65536) -> bytes:
            data = await receive(max_bytes)
            pending.extend(data)
            whole = b"".join(frames_of(bytes(pending)))
            self._note("member", whole)
            del pending[: len(whole)]
            return data

        newcomer.send_all = send_all  # type: ignore[method-assign]
        newcomer.receive_some = receive_some  # type: ignore[method-assign]

    def _note(self, side: str, data: bytes) -> None:
        for frame in frames_of(data):
            self.messages.append({"from": side, "message": describe(frame), "hex": frame.hex()})

    def body(self, name: str) -> dict[str, Any]:
        frame = next(bytes.fromhex(m["hex"]) for m in self.messages if m["message"] == name)
        fields: dict[str, Any] = unpack(frame[4:], max_bytes=len(frame))[1]
        return fields


def given(mesh: Mesh, who: Newcomer, recorder: Recorder) -> dict[str, Any]:
    return {
        "server_certificate": mesh.identity.certificate_der.hex(),
        "ca_certificate": mesh.authority.certificate_der.hex(),
        "mesh_name": mesh.identity.mesh_name,
        "newcomer_private_key_pem": who.key.pem().decode(),
        "newcomer_name": who.name,
        "newcomer_addresses": [[a.host, a.port] for a in who.addresses],
        "member_nonce": recorder.body("Welcome")["nonce"].hex(),
        "newcomer_nonce": NEWCOMER_NONCE,
    }


def results(mesh: Mesh, who: Newcomer, joined: Joined) -> dict[str, Any]:
    return {
        "mesh": mesh.authority.mesh,
        "node": who.key.public.node,
        "server_certificate_sha256": hashlib.sha256(mesh.identity.certificate_der).hexdigest(),
        "public_key": who.key.public.der.hex(),
        "name": joined.identity.name,
        "certificate": joined.identity.certificate_der.hex(),
        "members_version": mesh.registry.version,
        "keyring_version": joined.identity.keyring.version,
        "keyring": [secret.hex() for secret in joined.identity.keyring.secrets],
        "gossip_key_ids": [f"{key.id:08x}" for key in joined.identity.keyring.keys],
    }


async def record_token() -> dict[str, Any]:
    mesh, recorder = Mesh("transcript"), Recorder()
    who = Newcomer(make_key("transcript"), "laptop", [Address("192.168.7.9", 11436)])
    token = mesh.token()
    async with trio.open_nursery() as nursery:
        net = mesh.network(nursery, tap=recorder.tap)
        joined = await join_with_token(net.network, listed(NEWCOMER_NONCE), HOST, token, who)
    return {
        "about": "A join by token (join.md). The newcomer's side, and the member's: its nonce.",
        "given": {**given(mesh, who, recorder), "token": token.text()},
        "results": {
            **results(mesh, who, joined),
            "token_id": token.id,
            "token_key": token.key.hex(),
            "proof": recorder.body("Prove")["proof"].hex(),
        },
        "messages": recorder.messages,
    }


async def record_pairing() -> dict[str, Any]:
    mesh, recorder = Mesh("transcript"), Recorder()
    who = Newcomer(make_key("transcript"), "laptop", [Address("192.168.7.9", 11436)])
    shown: list[str] = []

    async def confirm(offer: PairingOffer) -> bool:
        await trio.testing.wait_all_tasks_blocked()
        mesh.server.approve(offer.digits)
        shown.append(offer.digits)
        return True

    async with trio.open_nursery() as nursery:
        net = mesh.network(nursery, tap=recorder.tap)
        joined = await join_by_pairing(net.network, listed(NEWCOMER_NONCE), HOST, who, confirm)
    return {
        "about": "A pairing (join.md) to which both sides consent.",
        "given": {
            **given(mesh, who, recorder),
            "pairing_member_nonce": recorder.body("MemberNonce")["nonce"].hex(),
        },
        "results": {
            **results(mesh, who, joined),
            "commitment": recorder.body("Commit")["commitment"].hex(),
            "digits": shown[0],
        },
        "messages": recorder.messages,
    }


def main() -> None:
    for name, record in (("join-token", record_token), ("join-pairing", record_pairing)):
        transcript = trio.run(record, clock=MockClock(autojump_threshold=0))
        write(FOLDER / f"{name}.json", transcript)


if __name__ == "__main__":
    main()
