"""TCP between machines that share one: late, cut, broken, and never changed."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd_chaos.links import CUT, Trouble
from tests.unit.chaos.lines import line

LONG_S = 5.0


async def hears(stream: trio.SocketStream, within_s: float = 1.0) -> bytes | None:
    """What comes next; None: nothing does."""
    with trio.move_on_after(within_s):
        return await stream.receive_some()
    return None


async def test_what_is_sent_arrives_unchanged_and_in_order_however_late(clock: MockClock) -> None:
    sent = bytes(range(256)) * 2000
    async with line() as wire, trio.open_nursery() as nursery:
        wire.forth.add(Trouble(latency_s=0.2, jitter_s=3))
        a, b = await wire.pair()
        nursery.start_soon(a.send_all, sent)
        got = b""
        while len(got) < len(sent):
            got += await b.receive_some()
        assert got == sent


async def test_a_piece_is_on_its_way_as_long_as_its_link_says(clock: MockClock) -> None:
    async with line() as wire:
        a, b = await wire.pair()
        wire.forth.add(Trouble(latency_s=LONG_S))
        began_s = trio.current_time()
        await a.send_all(b"late")
        assert await b.receive_some() == b"late"
        assert trio.current_time() - began_s >= LONG_S
        began_s = trio.current_time()
        await b.send_all(b"at once")
        assert await a.receive_some() == b"at once"
        assert trio.current_time() - began_s < LONG_S, "the way back is another link"


async def test_a_slow_link_takes_its_time_for_each_byte(clock: MockClock) -> None:
    async with line() as wire:
        a, b = await wire.pair()
        wire.forth.add(Trouble(bytes_per_s=100))
        began_s = trio.current_time()
        for number in range(3):
            await a.send_all(bytes([number]) * 200)
        got = b""
        while len(got) < 600:
            got += await b.receive_some()
        assert trio.current_time() - began_s >= 6


async def test_a_cut_holds_one_direction_and_loses_nothing(clock: MockClock) -> None:
    async with line() as wire:
        a, b = await wire.pair()
        wire.forth.add(CUT)
        await a.send_all(b"held")
        assert await hears(b, LONG_S) is None
        await b.send_all(b"passes")
        assert await hears(a) == b"passes"
        wire.forth.heal()
        assert await hears(b) == b"held"


async def test_behind_a_cut_nobody_hears_that_the_other_side_is_gone(clock: MockClock) -> None:
    async with line() as wire:
        a, b = await wire.pair()
        wire.back.add(CUT)
        await b.aclose()
        assert await hears(a, LONG_S) is None
        wire.back.heal()
        assert await hears(a) == b""


async def test_a_connection_that_is_made_during_a_cut_is_silent_until_it_is_healed(
    clock: MockClock,
) -> None:
    for cut in ("forth", "back"):
        async with line() as wire:
            link = wire.forth if cut == "forth" else wire.back
            link.add(CUT)
            a = await wire.dial()
            await a.send_all(b"hello")
            assert await hears(a, LONG_S) is None
            link.heal()
            b = await wire.accepted.receive()
            assert await hears(b) == b"hello"


async def test_a_connection_is_not_held_for_ever(clock: MockClock) -> None:
    async with line() as wire:
        wire.forth.add(CUT)
        a = await wire.dial()
        with pytest.raises(trio.BrokenResourceError):
            await a.receive_some()


async def test_an_end_passes_while_the_other_direction_goes_on(clock: MockClock) -> None:
    async with line() as wire:
        a, b = await wire.pair()
        await a.send_all(b"all")
        await a.send_eof()
        assert await hears(b) == b"all"
        assert await hears(b) == b""
        await b.send_all(b"answer")
        assert await hears(a) == b"answer"


async def test_a_reset_link_breaks_what_is_open_and_nothing_that_comes_after(
    clock: MockClock,
) -> None:
    async with line() as wire:
        a, b = await wire.pair()
        await a.send_all(b"x")
        assert await hears(b) == b"x"
        assert wire.back.reset() == 1
        for end in (a, b):
            with pytest.raises(trio.BrokenResourceError):
                await end.receive_some()
        a, b = await wire.pair()
        await a.send_all(b"anew")
        assert await hears(b) == b"anew"


@pytest.mark.parametrize("gone", ["nobody listens", "not started yet"])
async def test_who_dials_a_daemon_that_is_not_there_is_reset(clock: MockClock, gone: str) -> None:
    async with line() as wire:
        wire.proxy.target = None if gone == "not started yet" else ("127.0.0.1", 1)
        a = await wire.dial()
        with pytest.raises(trio.BrokenResourceError):
            await a.receive_some()


async def test_a_stranger_is_let_through_to_nobody(clock: MockClock) -> None:
    async with line(dialler=None) as wire:
        a = await wire.dial()
        with pytest.raises(trio.BrokenResourceError):
            await a.receive_some()
        with pytest.raises(trio.WouldBlock):
            wire.accepted.receive_nowait()
