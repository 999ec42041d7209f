"""Joins by digits on both screens, over streams in memory and in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import NotAdmitted
from meshd.peers.join_client import Joined, PairingOffer, join_by_pairing
from meshd.peers.join_talk import JoinRefused
from meshd.testing.entropy import SeededEntropy
from meshd.wire.join import Reason
from tests.joins import HOST, JoinNetwork, Mesh, newcomer


def ignore(offer: PairingOffer) -> None:
    pass


async def by_pairing(
    net: JoinNetwork, confirm: Any, who: Any = None, seed: str = "", waiting: Any = ignore
) -> Joined:
    return await join_by_pairing(
        net.network, SeededEntropy(f"pairing {seed}"), HOST, who or newcomer(), confirm, waiting
    )


async def refused_by_pairing(net: JoinNetwork, confirm: Any, who: Any = None) -> JoinRefused:
    with pytest.raises(JoinRefused) as caught:
        await by_pairing(net, confirm, who)
    return caught.value


async def yes(offer: PairingOffer) -> bool:
    return True


async def test_both_screens_show_the_same_digits_and_both_consents_admit(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh = Mesh()
    seen: list[PairingOffer] = []

    async def confirm(offer: PairingOffer) -> bool:
        await trio.testing.wait_all_tasks_blocked()
        (waiting,) = mesh.server.pending()
        assert waiting.digits == offer.digits
        assert waiting.name == "laptop"
        assert not waiting.newcomer_agreed
        assert mesh.shown == [waiting]
        seen.append(offer)
        assert mesh.server.approve(f"{offer.digits[:3]} {offer.digits[3:]}").name == "laptop"
        return True

    joined = await by_pairing(mesh.network(nursery), confirm)
    assert seen[0].mesh_name == "home"
    assert seen[0].mesh == mesh.authority.mesh
    assert joined.identity.keyring == mesh.identity.keyring
    assert mesh.names == ["attic", "laptop"]
    assert mesh.server.pending() == []


async def test_the_member_may_consent_after_the_newcomer(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()

    async def approve_later() -> None:
        await trio.sleep(100)
        (waiting,) = mesh.server.pending()
        assert waiting.newcomer_agreed
        mesh.server.approve(waiting.digits)

    nursery.start_soon(approve_later)
    await by_pairing(mesh.network(nursery), yes)
    assert mesh.names == ["attic", "laptop"]


@pytest.mark.parametrize("member_first", [True, False])
async def test_who_was_approved_first_is_not_told_to_have_that_done(
    autojump_clock: MockClock, nursery: trio.Nursery, member_first: bool
) -> None:
    mesh, told = Mesh(), []

    async def confirm(offer: PairingOffer) -> bool:
        await trio.testing.wait_all_tasks_blocked()
        if member_first:
            mesh.server.approve(offer.digits)
        return True

    async def approve_later() -> None:
        await trio.sleep(100)
        assert [offer.digits for offer in told] == [mesh.server.pending()[0].digits]
        mesh.server.approve(told[0].digits)

    if not member_first:
        nursery.start_soon(approve_later)
    await by_pairing(mesh.network(nursery), confirm, waiting=told.append)
    assert len(told) == (0 if member_first else 1)


async def test_nothing_secret_crosses_before_both_have_consented(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    received: list[bytes] = []

    def tap(stream: Any) -> None:
        inner = stream.receive_some

        async def spying(max_bytes: int = 65536) -> bytes:
            data = await inner(max_bytes)
            received.append(data)
            return bytes(data)

        stream.receive_some = spying

    async def confirm(offer: PairingOffer) -> bool:
        await trio.sleep(10)
        assert mesh.names == ["attic"]
        crossed = b"".join(received)
        assert mesh.identity.keyring.primary.secret not in crossed
        assert mesh.registry.signed.body not in crossed
        mesh.server.approve(offer.digits)
        await trio.sleep(10)
        crossed = b"".join(received)  # the member has consented, this side has not
        assert mesh.identity.keyring.primary.secret not in crossed
        assert mesh.names == ["attic"]
        return True

    await by_pairing(mesh.network(nursery, tap=tap), confirm)
    assert mesh.identity.keyring.primary.secret in b"".join(received)


async def test_a_no_at_the_newcomer_ends_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()

    async def no(offer: PairingOffer) -> bool:
        await trio.testing.wait_all_tasks_blocked()
        mesh.server.approve(offer.digits)
        return False

    refused = await refused_by_pairing(mesh.network(nursery), no)
    assert refused.reason is Reason.PAIRING_REFUSED
    await trio.testing.wait_all_tasks_blocked()
    assert mesh.names == ["attic"]
    assert mesh.server.pending() == []
    (ending,) = mesh.endings
    assert isinstance(ending, JoinRefused)
    assert ending.reason is Reason.PAIRING_REFUSED


async def test_wrong_digits_burn_every_commitment_that_waits(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    refusals: list[Reason] = []

    async def wait_in_vain(seed: int) -> None:
        refused = await refused_by_pairing(mesh.network(nursery), forever, newcomer(seed))
        refusals.append(refused.reason)

    async def forever(offer: PairingOffer) -> bool:
        await trio.sleep_forever()
        return True

    async with trio.open_nursery() as two:
        two.start_soon(wait_in_vain, 1)
        two.start_soon(wait_in_vain, 2)
        await trio.testing.wait_all_tasks_blocked()
        shown = {waiting.digits for waiting in mesh.server.pending()}
        wrong = next(d for d in ("000000", "111111", "222222") if d not in shown)
        with pytest.raises(Exception, match="No waiting machine shows"):
            mesh.server.approve(wrong)
    assert refusals == [Reason.WRONG_DIGITS, Reason.WRONG_DIGITS]
    for digits in shown:
        with pytest.raises(Exception, match="No machine is waiting"):
            mesh.server.approve(digits)
    assert mesh.names == ["attic"]


async def test_a_pairing_ends_after_five_minutes(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    refused = await refused_by_pairing(mesh.network(nursery), yes)
    assert refused.reason is Reason.TIMED_OUT
    assert trio.current_time() == pytest.approx(limits.PAIRING_S, abs=10)
    assert mesh.server.pending() == []
    assert mesh.names == ["attic"]


async def test_only_three_may_wait_at_a_time(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()

    async def wait(seed: int) -> None:
        await refused_by_pairing(mesh.network(nursery), yes, newcomer(seed))

    async with trio.open_nursery() as three:
        for seed in range(limits.PAIRINGS_PENDING):
            three.start_soon(wait, seed)
        await trio.testing.wait_all_tasks_blocked()
        refused = await refused_by_pairing(mesh.network(nursery), yes, newcomer(9))
        assert refused.reason is Reason.TOO_MANY_PENDING
        assert len(mesh.server.pending()) == limits.PAIRINGS_PENDING


async def test_dropping_a_pairing_and_trying_again_gives_only_so_many_guesses(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh = Mesh()

    async def no(offer: PairingOffer) -> bool:
        return False

    reasons = []
    for number in range(limits.PAIRING_TRIES + 1):
        await trio.sleep(2)  # so that it is not the rate of connections that is refused
        refused = await refused_by_pairing(mesh.network(nursery), no, newcomer(number))
        reasons.append(refused.reason)
    assert reasons == [
        *[Reason.PAIRING_REFUSED] * limits.PAIRING_TRIES,
        Reason.TOO_MANY_PENDING,
    ]


async def test_a_newcomer_that_goes_away_gives_its_place_free(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()

    async def forever(offer: PairingOffer) -> bool:
        await trio.sleep_forever()
        return True

    with trio.move_on_after(5):
        await by_pairing(mesh.network(nursery), forever)
    await trio.testing.wait_all_tasks_blocked()
    assert mesh.server.pending() == []


async def test_the_question_is_withdrawn_when_the_member_ends_the_pairing(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh = Mesh()
    withdrawn = trio.Event()

    async def ask(offer: PairingOffer) -> bool:
        try:
            await trio.sleep_forever()
        finally:
            withdrawn.set()
        return True

    refused = await refused_by_pairing(mesh.network(nursery), ask)
    assert refused.reason is Reason.TIMED_OUT
    assert withdrawn.is_set()


async def test_a_man_in_the_middle_shows_other_digits_on_each_screen(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh, middle = Mesh(), Mesh("middle")
    outer: list[PairingOffer] = []

    async def say_yes_to_everything(offer: PairingOffer) -> bool:
        outer.append(offer)
        return True

    def join_the_real_mesh() -> None:
        async def run() -> None:
            refused = await refused_by_pairing(
                mesh.network(nursery), say_yes_to_everything, newcomer("evil")
            )
            assert refused.reason is Reason.WRONG_DIGITS

        nursery.start_soon(run)

    async def compare(offer: PairingOffer) -> bool:
        join_the_real_mesh()
        await trio.testing.wait_all_tasks_blocked()
        (at_the_member,) = mesh.server.pending()
        assert at_the_member.digits != offer.digits
        with pytest.raises(Exception, match="No waiting machine shows"):
            mesh.server.approve(offer.digits)  # the person types what the newcomer shows
        return False

    refused = await refused_by_pairing(middle.network(nursery), compare)
    assert refused.reason is Reason.PAIRING_REFUSED
    await trio.testing.wait_all_tasks_blocked()
    assert mesh.names == ["attic"]


async def test_pairing_refuses_a_member_whose_certificate_is_not_of_the_mesh_it_claims(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh, impostor = Mesh(), Mesh("impostor")
    net = mesh.network(nursery)
    net.certificate = lambda: impostor.identity.certificate_der
    with pytest.raises(NotAdmitted):
        await by_pairing(net, yes)
