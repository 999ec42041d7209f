"""What strangers can do to a pairing: nothing but end it."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.identity import make_commitment
from meshd.wire.join import Agree, Commit, JoinMessage, MemberNonce, Reason, Reveal, encode_join
from tests.joins import Mesh, make_key
from tests.unit.strangers import Stranger, check_refused


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
