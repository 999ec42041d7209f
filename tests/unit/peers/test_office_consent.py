"""Newcomers without a token: listed, approved and refused by their digits, at any member."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from meshd import limits
from meshd.errors import Refused
from meshd.ids import NodeId
from meshd.wire.control_mesh import (
    PendingReply,
    PendingRequest,
)
from tests.unit.peers.desks import (
    sit,
)
from tests.unit.peers.mesh import Mesh


async def test_who_waits_is_listed_and_approved_from_any_member(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        at_b, at_c = sit(mesh["b"], "111222"), sit(mesh["c"], "333444")
        for member in mesh.members.values():
            rows = await member.office.consents.pending()
            assert {row.digits for row in rows} == {"111222", "333444"}
        done = await mesh["f"].office.consents.approve("333 444")
        assert "laptop 333444" in done.message
        assert (at_b.approved, at_c.approved) == ([], ["333444"])


async def test_a_member_that_cannot_list_hides_nobody_else(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        sit(mesh["c"], "333444")

        async def lies(node: NodeId, message: PendingRequest) -> PendingReply:
            row = {"digits": "x", "name": "y", "address": "z", "waiting_s": 1.0}
            reply = PendingReply(rows=[row])
            row["waiting_s"] = "soon"
            return reply

        mesh["b"].switchboard._answering[PendingRequest] = lies
        rows = await mesh["f"].office.consents.pending()
        assert [row.digits for row in rows] == ["333444"]
        assert await mesh["f"].office.consents.approve("333444")


@pytest.mark.parametrize("typed_at", ["f", "b", "c"])
async def test_digits_that_nobody_shows_burn_what_waits_anywhere(
    autojump_clock: MockClock, typed_at: str
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        desks = [sit(mesh["f"], "111222"), sit(mesh["b"], "333444", "555666"), sit(mesh["c"])]
        with pytest.raises(Refused, match="No waiting machine shows 999 999"):
            await mesh[typed_at].office.consents.approve("999999")
        assert [desk.waiting for desk in desks] == [[], [], []]
        with pytest.raises(Refused, match="No machine is waiting"):
            await mesh[typed_at].office.consents.approve("333444")
        assert not any(desk.approved for desk in desks)


async def test_digits_that_two_show_are_nobodys(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        desks = [sit(mesh["b"], "333444"), sit(mesh["c"], "333444")]
        with pytest.raises(Refused, match="No waiting machine"):
            await mesh["f"].office.consents.approve("333444")
        assert [(desk.waiting, desk.approved) for desk in desks] == [([], []), ([], [])]


async def test_more_members_are_no_more_guesses(autojump_clock: MockClock) -> None:
    """Somebody in the middle tries until the digits match, at every member as often as it may."""
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        at_b, at_c = sit(mesh["b"], "111222"), sit(mesh["c"], "333444")
        at_b.tries = limits.PAIRING_TRIES - 1
        assert await mesh["f"].office.consents.approve("111222"), "as many as at one member"
        at_c.tries = 2
        with pytest.raises(Refused, match=r"type this on the node .* \(b, c\)"):
            await mesh["f"].office.consents.approve("333444")
        assert at_c.approved == [], "it may have been found by trying"
        done = await mesh["c"].office.consents.approve("333444")
        assert done, "of this node's own there were two"
        assert at_c.approved == ["333444"]


async def test_wrong_digits_in_a_crowd_burn_what_waits_at_this_member(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        here, there = sit(mesh["f"], "111222"), sit(mesh["b"], "333444")
        there.tries = limits.PAIRING_TRIES
        with pytest.raises(Refused, match="type this on the node"):
            await mesh["f"].office.consents.approve("333444")
        assert here.waiting == []
        assert [w.digits for w in there.waiting] == ["333444"], "it was not looked at"


@pytest.mark.parametrize("digits", ["1" * 100_000, "", "12345", "１２３４５６", "12345a"])
async def test_what_is_no_six_digits_is_refused_and_burns_nothing(
    autojump_clock: MockClock, digits: str
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        desk = sit(mesh["f"], "111222")
        with pytest.raises(Refused, match="is not the 6 digits"):
            await mesh["f"].office.consents.approve(digits)
        assert len(desk.waiting) == 1
