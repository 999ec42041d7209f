"""Whole joins, recorded and replayed, one side at a time (proto/vectors/transcripts)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import trio

from meshd.errors import StreamBroken
from meshd.identity import Keyring, MeshIdentity
from meshd.ids import Address
from meshd.peers.join_server import JoinServer
from meshd.ports import ByteStream, Entropy
from meshd.wire.codec import unpack
from meshd.wire.framing import FrameReader
from meshd.wire.join import JOIN_MESSAGES, Admitted, JoinRefusal, JoinRequest
from tests.conformance.jsonform import PROTO
from tests.joins import MemoryStream, stream_pair

FOLDER = PROTO / "vectors" / "transcripts"
NAMES = ("join-token", "join-pairing")

JsonMap = dict[str, Any]


def load(name: str) -> JsonMap:
    transcript: JsonMap = json.loads((FOLDER / f"{name}.json").read_text())
    return transcript


class ListedEntropy:
    """Gives out what is listed, in order, and nothing else."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.tokens = list(tokens)

    def token(self, size_bytes: int) -> bytes:
        value = self.tokens.pop(0)
        assert len(value) == size_bytes
        return value

    def random(self) -> float:
        return 0.5

    def randrange(self, stop: int) -> int:
        return 0


def listed(*tokens: str) -> Entropy:
    return cast(Entropy, ListedEntropy([bytes.fromhex(text) for text in tokens]))


def sent_by(transcript: JsonMap, side: str) -> list[bytes]:
    """The frames of one side, in order."""
    return [bytes.fromhex(m["hex"]) for m in transcript["messages"] if m["from"] == side]


def describe(frame: bytes) -> str:
    """The name of the message in a frame, for the reader of a transcript."""
    number, _ = unpack(frame[4:], max_bytes=len(frame))
    return JOIN_MESSAGES[number].__name__


def frames_of(data: bytes) -> list[bytes]:
    return [
        len(payload).to_bytes(4, "big") + payload for payload in FrameReader(1 << 20).feed(data)
    ]


async def play(stream: MemoryStream, transcript: JsonMap, side: str) -> None:
    """Be that side: say each frame when it is its turn, and wait for the other's between."""
    received = bytearray()
    expected = 0
    for message in transcript["messages"]:
        if message["from"] == side:
            await stream.send_all(bytes.fromhex(message["hex"]))
            continue
        expected += 1
        while len(frames_of(bytes(received))) < expected:
            data = await stream.receive_some()
            if not data:
                raise StreamBroken("the other side ended too soon")
            received += data
    await stream.aclose()


def member_identity(given: JsonMap) -> MeshIdentity:
    return MeshIdentity(
        name="attic",
        mesh_name=given["mesh_name"],
        certificate_der=bytes.fromhex(given["server_certificate"]),
        ca_certificate_der=bytes.fromhex(given["ca_certificate"]),
        keyring=Keyring.generate(bytes(32)),  # not the mesh's: the answer has that
        authority=None,
    )


class RecordedAdmitter:
    """Answers as it did when the transcript was made, and keeps what it was asked."""

    def __init__(self, answer: Admitted) -> None:
        self.answer = answer
        self.asked: list[JoinRequest] = []

    async def admit(self, request: JoinRequest) -> Admitted | JoinRefusal:
        self.asked.append(request)
        return self.answer


def recorded_answer(transcript: JsonMap) -> Admitted:
    data = b""
    for frame in sent_by(transcript, "member"):
        number, body = unpack(frame[4:], max_bytes=len(frame))
        if JOIN_MESSAGES[number].__name__ == "Part":
            data += body["data"]
    return Admitted.from_bytes(data)


async def replay_newcomer(transcript: JsonMap) -> tuple[bytes, list[JoinRequest], str]:
    """Play the newcomer against `JoinServer`: what the member sent, asked, and showed."""
    given = transcript["given"]
    admitter = RecordedAdmitter(recorded_answer(transcript))
    nonces = [given["member_nonce"]]
    if "pairing_member_nonce" in given:
        nonces.append(given["pairing_member_nonce"])
    shown: list[str] = []
    server = JoinServer(
        identity=lambda: member_identity(given),
        admitter=lambda: admitter,
        entropy=listed(*nonces),
        on_waiting=lambda waiting: shown.append(server.approve(waiting.digits).digits),
    )
    ours, theirs = _pair(given)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, cast(ByteStream, theirs))
        await play(ours, transcript, "newcomer")
    return bytes(theirs.sent), admitter.asked, "".join(shown)


def _pair(given: JsonMap) -> tuple[MemoryStream, MemoryStream]:
    return stream_pair(bytes.fromhex(given["server_certificate"]), Address("192.168.7.9", 50123))
