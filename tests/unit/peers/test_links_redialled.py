"""Control links that break, fall silent or lead to where a member no longer is: dialled again."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from meshd.errors import DialFailed
from meshd.ids import Address, NodeId
from meshd.peers.links import MOVED, OWN_DOING, REDIAL_MAX_S
from meshd.wire.control import InventoryRequest, Message
from tests.unit.peers.rig import A, B, Town, pair, until


async def test_a_link_that_breaks_is_dialled_again(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        a, _ = await pair(town)
        town.world.reset("a", "b")
        await until(lambda: bool(a.notes.downs))
        await until(lambda: a.notes.ups == [B, B], within_s=2)


async def test_who_waited_for_an_answer_is_told_when_the_link_breaks(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, b = await pair(town)

        async def cut(node: NodeId, message: Message) -> Message | None:
            town.world.reset("a", "b")
            await trio.sleep(1)
            return None

        b.notes.answer = cut
        with pytest.raises(DialFailed, match="broke"), trio.fail_after(2):
            await a.links.request(B, InventoryRequest())


async def test_a_silent_cut_is_noticed_on_both_sides_and_healed(autojump_clock: MockClock) -> None:
    async with Town.open(latency_s=0.01) as town:
        a, b = await pair(town)
        town.world.partition("a", "b")
        await until(lambda: not a.links.is_up(B) and not b.links.is_up(A), within_s=10)
        assert "nothing heard" in a.notes.downs[0][1]
        town.world.heal("a", "b")
        await until(lambda: a.links.is_up(B) and b.links.is_up(A), within_s=2 * REDIAL_MAX_S)


async def test_redials_become_rarer_but_never_end(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        a, b = town.member(A), town.member(B)  # nobody is at home at b
        dials: list[float] = []
        dial = a.host.dial_peer

        async def counted(*args: object, **kwargs: object) -> object:
            dials.append(trio.current_time())
            return await dial(*args, **kwargs)  # type: ignore[arg-type]

        a.host.dial_peer = counted  # type: ignore[method-assign, assignment]
        a.links.want({B})
        town.run(a)
        await trio.sleep(600)
        pauses = [later - earlier for earlier, later in pairwise(dials)]
        assert pauses[0] < 0.5
        assert all(0.5 * REDIAL_MAX_S <= pause <= 1.5 * REDIAL_MAX_S for pause in pauses[10:])
        town.run(b)
        await until(lambda: a.links.is_up(B), within_s=2 * REDIAL_MAX_S)


async def test_a_kick_dials_now(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        a, b = town.member(A), town.member(B)
        a.links.want({B})
        town.run(a)
        await trio.sleep(300)
        assert not a.links.is_up(B)
        town.run(b)
        await trio.testing.wait_all_tasks_blocked()
        a.links.kick(B)
        await until(lambda: a.links.is_up(B), within_s=0.5)


async def test_a_kick_during_a_dial_that_fails_counts_for_the_next(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, b = town.member(A), town.member(B)
        dial = a.host.dial_peer
        dials = 0

        async def kicked(*args: object, **kwargs: object) -> object:
            nonlocal dials
            dials += 1
            if dials == 9:
                town.run(b)
                await trio.testing.wait_all_tasks_blocked()
                a.links.kick(B)  # too late for this dial, which fails
                raise DialFailed("b was not there yet")
            return await dial(*args, **kwargs)  # type: ignore[arg-type]

        a.host.dial_peer = kicked  # type: ignore[method-assign, assignment]
        a.links.want({B})
        town.run(a)
        await until(lambda: dials >= 9, within_s=300)
        await until(lambda: a.links.is_up(B), within_s=0.5)


async def test_a_link_to_where_a_member_no_longer_is_is_dialled_anew(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, b = await pair(town)
        a.links.moved(B, [Address("10.9.9.9", 1)])
        await trio.sleep(1)
        assert a.notes.downs == [], "it did not lead there"
        old = b.address
        town.world.readdress("b", ["10.8.8.8"])
        a.links.moved(B, [old])
        await until(lambda: a.notes.ups == [B, B], within_s=1)
        assert a.notes.downs == [(B, MOVED)]
        assert MOVED in OWN_DOING
