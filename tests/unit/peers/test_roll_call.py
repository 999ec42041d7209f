"""Who answers when the roll is called."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from meshd.ids import NodeId
from meshd.peers.roll_call import ANSWER_S, COUNTS_S, RollCall

A, B = NodeId("a" * 26), NodeId("b" * 26)


class Links:
    def __init__(self) -> None:
        self.heard: dict[NodeId, float] = {A: -1.0, B: -1.0}
        self.pings: list[NodeId] = []

    def ping(self, node: NodeId) -> None:
        self.pings.append(node)

    def heard_at(self, node: NodeId) -> float | None:
        return self.heard.get(node)

    def answer(self, node: NodeId) -> None:
        self.heard[node] = trio.current_time()


async def test_who_does_not_answer_in_time_is_mute_until_it_does(
    autojump_clock: MockClock,
) -> None:
    links = Links()
    roll = RollCall(links)
    roll.call([A, B])
    await trio.sleep(0.1)
    links.answer(A)
    assert not roll.is_mute(B), "it has had no time"
    await trio.sleep(ANSWER_S)
    assert (roll.is_mute(A), roll.is_mute(B)) == (False, True)
    links.answer(B)
    assert not roll.is_mute(B)


async def test_who_was_not_called_is_not_mute(autojump_clock: MockClock) -> None:
    assert not RollCall(Links()).is_mute(A)


async def test_who_has_no_link_does_not_answer(autojump_clock: MockClock) -> None:
    links = Links()
    roll = RollCall(links)
    del links.heard[A]
    roll.call([A])
    await trio.sleep(ANSWER_S)
    assert roll.is_mute(A)


async def test_a_missing_answer_says_something_for_a_while_only(
    autojump_clock: MockClock,
) -> None:
    roll = RollCall(Links())
    roll.call([A])
    await trio.sleep(COUNTS_S + 0.1)
    assert not roll.is_mute(A)


async def test_a_second_call_gives_no_more_time_and_is_not_made_at_once(
    autojump_clock: MockClock,
) -> None:
    links = Links()
    roll = RollCall(links)
    for _ in range(4):
        roll.call([A])
        await trio.sleep(0.1)
    assert links.pings == [A] * 2
    assert roll.is_mute(A)
    links.answer(A)
    await trio.sleep(0.3)
    roll.call([A])
    assert not roll.is_mute(A), "a new call, a new time to answer"
