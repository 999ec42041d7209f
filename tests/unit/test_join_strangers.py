"""What strangers can say at the door: nothing that does not end in a refusal."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import ProtocolError, StreamBroken
from meshd.identity.certificates import read_ca_certificate
from meshd.peers.join_talk import JoinRefused
from meshd.wire.codec import pack
from meshd.wire.framing import frame
from meshd.wire.join import Agree, JoinHello, Part, Reason, Welcome, encode_join
from tests.joins import Mesh, make_key, stream_pair
from tests.unit.strangers import RAW, Stranger, check_refused

# --- bytes


@pytest.mark.parametrize("data", RAW.values(), ids=RAW.keys())
async def test_bytes_that_are_no_join_are_refused_and_change_nothing(
    autojump_clock: MockClock, data: bytes
) -> None:
    async def attack(stranger: Stranger) -> None:
        await stranger.stream.send_all(data)

    ending = await check_refused(Mesh(), attack, Reason.MALFORMED)
    assert isinstance(ending, ProtocolError)


@pytest.mark.parametrize("length", [0, 3, 4, 5, 10])
async def test_a_join_that_is_cut_off_changes_nothing(
    autojump_clock: MockClock, length: int
) -> None:
    mesh = Mesh()
    before = mesh.snapshot()
    async with trio.open_nursery() as nursery:
        stranger = Stranger(mesh, nursery)
        hello = frame(encode_join(JoinHello(protocol_min=1, protocol_max=1)))
        await stranger.stream.send_all(hello[:length])
        await stranger.stream.aclose()
    assert isinstance(mesh.endings[0], StreamBroken)
    assert mesh.snapshot() == before


async def test_who_says_nothing_is_sent_away_after_a_minute(autojump_clock: MockClock) -> None:
    async def attack(stranger: Stranger) -> None:
        await trio.sleep(limits.JOIN_S - 1)
        assert not stranger.over.is_set()

    ending = await check_refused(Mesh(), attack, Reason.TIMED_OUT)
    assert isinstance(ending, JoinRefused)


async def test_who_sends_a_byte_now_and_then_gets_no_more_time(autojump_clock: MockClock) -> None:
    async def attack(stranger: Stranger) -> None:
        hello = frame(encode_join(JoinHello(protocol_min=1, protocol_max=1)))
        for at in range(5):
            await stranger.stream.send_all(hello[at : at + 1])
            await trio.sleep(limits.JOIN_S / 5)

    await check_refused(Mesh(), attack, Reason.TIMED_OUT)


async def test_a_newcomer_that_never_reads_is_cut(autojump_clock: MockClock) -> None:
    mesh = Mesh()

    async def never(data: Any) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        ours, theirs = stream_pair(mesh.identity.certificate_der)
        theirs.send_all = never  # type: ignore[method-assign]
        nursery.start_soon(mesh.serve, theirs)
        await ours.send_all(frame(encode_join(JoinHello(protocol_min=1, protocol_max=1))))
    assert trio.current_time() <= limits.JOIN_S + 2 * limits.JOIN_GOODBYE_S + 1
    assert theirs.aborted is not None


@pytest.mark.parametrize(("low", "high"), [(0, 0), (2, 3), (2, 1), (2**53 - 1, 2**53 - 1)])
async def test_another_version_is_refused_as_that(
    autojump_clock: MockClock, low: int, high: int
) -> None:
    async def attack(stranger: Stranger) -> None:
        await stranger.talk.send(JoinHello(protocol_min=low, protocol_max=high))

    await check_refused(Mesh(), attack, Reason.VERSION)


async def test_a_later_version_that_speaks_ours_too_is_welcome(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    stranger = Stranger(Mesh(), nursery)
    hello = {"protocol_max": 9, "protocol_min": 1, "something new": True}
    await stranger.stream.send_all(frame(pack([1, hello])))
    assert (await stranger.talk.expect(Welcome)).protocol == 1
    await stranger.stream.aclose()


async def test_before_any_proof_a_stranger_learns_only_what_is_public(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    stranger = Stranger(mesh, nursery)
    welcome = await stranger.hello()
    assert (welcome.mesh, welcome.mesh_name) == (mesh.authority.mesh, "home")
    assert read_ca_certificate(welcome.ca_certificate) == mesh.authority.public
    assert set(welcome.__struct_fields__) == {
        "protocol",
        "mesh",
        "mesh_name",
        "ca_certificate",
        "nonce",
    }
    await stranger.stream.aclose()


# --- proofs


async def test_the_proof_that_the_tests_below_bend_admits_when_it_is_straight(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    stranger = Stranger(mesh, nursery)
    await stranger.talk.send(stranger.prove(mesh.token(), await stranger.hello()))
    await stranger.talk.expect(Part)
    assert mesh.names == ["attic", "stranger"]
    await stranger.stream.aclose()


async def test_a_proof_that_was_overheard_is_of_no_use_on_another_connection(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    token = mesh.token(uses=5)
    first = Stranger(mesh, nursery)
    overheard = first.prove(token, await first.hello())
    await first.stream.aclose()

    async def attack(stranger: Stranger) -> None:
        await stranger.hello()
        await stranger.talk.send(overheard)

    await check_refused(mesh, attack, Reason.WRONG_TOKEN)


@pytest.mark.parametrize(
    "changes",
    [
        {"public_key": make_key("thief").public.der},
        {"nonce": b"x" * 32},
        {"proof": bytes(32)},
        {"token": "aaaaaaaa"},
        {"token": ""},
        {"token": "x" * 64},
    ],
    ids=str,
)
async def test_a_proof_with_something_exchanged_is_refused(
    autojump_clock: MockClock, changes: dict[str, Any]
) -> None:
    mesh = Mesh()
    token = mesh.token()

    async def attack(stranger: Stranger) -> None:
        await stranger.talk.send(stranger.prove(token, await stranger.hello(), **changes))

    await check_refused(mesh, attack, Reason.WRONG_TOKEN)


@pytest.mark.parametrize("key", [b"", b"x" * 91, make_key(1).public.der + b"x", bytes(256)])
async def test_a_key_that_is_none_is_refused(autojump_clock: MockClock, key: bytes) -> None:
    mesh = Mesh()
    token = mesh.token()

    async def attack(stranger: Stranger) -> None:
        await stranger.talk.send(stranger.prove(token, await stranger.hello(), public_key=key))

    await check_refused(mesh, attack, Reason.MALFORMED)


async def test_a_second_proof_on_one_connection_is_not_even_read(
    autojump_clock: MockClock,
) -> None:
    mesh = Mesh()
    token = mesh.token()

    async def attack(stranger: Stranger) -> None:
        welcome = await stranger.hello()
        await stranger.talk.send(stranger.prove(token, welcome, proof=bytes(32)))
        await stranger.talk.send(stranger.prove(token, welcome))

    await check_refused(mesh, attack, Reason.WRONG_TOKEN)


async def test_consent_without_a_pairing_is_refused(autojump_clock: MockClock) -> None:
    async def attack(stranger: Stranger) -> None:
        await stranger.hello()
        await stranger.talk.send(Agree())

    await check_refused(Mesh(), attack, Reason.MALFORMED)
