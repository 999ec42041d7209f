"""Control links between members that behave: up, asked, pinged, redialled, cut."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from meshd import limits
from meshd.errors import DialFailed, Refused
from meshd.ids import NodeId
from meshd.wire.control import Done, InventoryRequest, Message, Ping
from meshd.wire.control_mesh import Leave, MemberListRequest
from meshd.wire.control_record import RecordMessage
from tests.unit.peers.rig import A, B, C, Town, pair, until


async def done(node: NodeId, message: Message) -> Message | None:
    await trio.lowlevel.checkpoint()
    return Done(message=f"done for {node[0]}")


async def test_each_side_dials_and_each_is_told_of_its_own_link_once(
    autojump_clock: MockClock,
) -> None:
    async with Town.open(latency_s=0.01) as town:
        a, b = await pair(town)
        assert (a.notes.ups, b.notes.ups) == ([B], [A])
        assert {node for node, _ in a.notes.greetings} == {B}
        assert len(a.notes.greetings) == 2, "on the link it dialled, and on the one it answers"
        assert a.links.up() == [B]


async def test_a_question_is_answered_and_a_notification_is_not(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        a, b = await pair(town)
        b.notes.answer = done
        assert await a.links.request(B, InventoryRequest()) == Done(message="done for a")
        a.links.notify(B, InventoryRequest())
        await until(lambda: len(b.notes.messages) == 2)
        assert [m for _, m in b.notes.messages] == [InventoryRequest()] * 2


async def test_messages_about_the_record_are_taken_in_the_order_of_the_link(
    autojump_clock: MockClock,
) -> None:
    async with Town.open(latency_s=0.01) as town:
        a, b = await pair(town)
        sent = [bytes([n]) for n in range(100)]
        for data in sent:
            a.links.notify(B, RecordMessage(data=data))
        await until(lambda: len(b.notes.taken) == 100)
        assert b.notes.taken == sent
        assert b.notes.messages == []


async def test_answers_find_their_questions_in_whatever_order_they_come(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, b = await pair(town)

        async def slow_first(node: NodeId, message: Message) -> Message:
            assert isinstance(message, MemberListRequest)
            await trio.sleep(10 - message.have_version)
            return Done(message=str(message.have_version))

        b.notes.answer = slow_first
        got: dict[int, str] = {}

        async def ask(version: int) -> None:
            answer = await a.links.request(B, MemberListRequest(have_version=version), 30)
            assert isinstance(answer, Done)
            got[version] = answer.message

        async with trio.open_nursery() as nursery:
            for version in range(1, 9):
                nursery.start_soon(ask, version)
        assert got == {version: str(version) for version in range(1, 9)}


async def test_a_refusal_comes_back_in_its_own_words(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        a, b = await pair(town)

        async def refuse(node: NodeId, message: Message) -> Message | None:
            raise Refused("not on a Sunday")

        b.notes.answer = refuse
        with pytest.raises(Refused, match="not on a Sunday"):
            await a.links.request(B, InventoryRequest())
        assert a.links.is_up(B)


async def test_a_bug_in_an_answerer_is_a_refusal_and_costs_neither_link_nor_node(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, b = await pair(town)

        async def stumble(node: NodeId, message: Message) -> Message | None:
            raise KeyError("nobody thought of this")

        b.notes.answer = stumble
        with pytest.raises(Refused, match="its log says more"):
            await a.links.request(B, InventoryRequest())
        b.notes.answer = done
        assert await a.links.request(B, InventoryRequest())


async def test_an_answer_that_cannot_be_written_is_a_refusal_and_the_link_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, b = await pair(town)

        async def wrong(node: NodeId, message: Message) -> Message | None:
            return Leave(node="not an id")

        b.notes.answer = wrong
        with pytest.raises(Refused, match="the other node failed"):
            await a.links.request(B, InventoryRequest())
        b.notes.answer = done
        assert await a.links.request(B, InventoryRequest())
        assert (a.notes.downs, b.bad) == ([], [])


async def test_a_question_that_no_frame_can_carry_fails_at_once_and_as_a_sentence(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, _ = await pair(town)
        began = trio.current_time()
        with pytest.raises(Refused, match="MemberListRequest"):
            await a.links.request(B, MemberListRequest(have_version=-1))
        big = Done(message="x", extra={"blob": bytes(limits.CONTROL_FRAME_BYTES)})
        with pytest.raises(Refused, match="over the limit"):
            await a.links.request(B, big)
        assert trio.current_time() == began
        a.links.notify(B, big)  # nobody waits for it: it is logged
        assert a.links.is_up(B)


async def test_no_link_and_no_answer_are_failed_dials(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        a, b = await pair(town)
        with pytest.raises(DialFailed, match="cannot be reached"):
            await a.links.request(C, Ping())

        async def sleep(node: NodeId, message: Message) -> Message | None:
            await trio.sleep(60)
            return None

        b.notes.answer = sleep
        with pytest.raises(DialFailed, match="did not answer within 3 s"):
            await a.links.request(B, InventoryRequest(), 3)


async def test_questions_that_were_given_up_free_their_places(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        a, b = await pair(town)
        hold = trio.Event()

        async def wait(node: NodeId, message: Message) -> Message | None:
            await hold.wait()
            return Done(message="late")

        b.notes.answer = wait
        for _ in range(2 * limits.CONTROL_LINK_REQUESTS):
            with trio.move_on_after(0.01):
                await a.links.request(B, InventoryRequest())
        hold.set()
        assert await a.links.request(B, InventoryRequest()) == Done(message="late")


async def test_only_so_many_questions_are_open_on_a_link(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        a, b = await pair(town)
        hold = trio.Event()
        at_once = most = 0

        async def wait(node: NodeId, message: Message) -> Message | None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await hold.wait()
            at_once -= 1
            return Done(message="")

        b.notes.answer = wait
        refused: list[str] = []

        async def ask() -> None:
            try:
                await a.links.request(B, InventoryRequest(), 30)
            except Refused as e:
                refused.append(str(e))

        async with trio.open_nursery() as nursery:
            for _ in range(limits.CONTROL_LINK_REQUESTS + 10):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            hold.set()
        assert 10 <= len(refused) <= 11  # a ping may have had a place
        assert "too many questions" in refused[0]
        assert most <= limits.CONTROL_LINK_REQUESTS


async def test_round_trips_are_measured_every_few_seconds(autojump_clock: MockClock) -> None:
    async with Town.open(latency_s=0.1) as town:
        a, _ = await pair(town)
        await trio.sleep(20)
        assert 8 <= len(a.notes.round_trips) <= 11
        assert a.notes.round_trips == pytest.approx([0.2] * len(a.notes.round_trips))


# ---------------------------------------------------------------- who is to be linked


async def test_who_is_no_member_any_more_is_cut_both_ways_in_that_step(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, b = await pair(town)
        a.links.want(set())
        await trio.testing.wait_all_tasks_blocked()
        assert not a.links.is_up(B)
        assert a.notes.downs == [(B, "it is no member any more")]
        assert not b.links.is_up(A)
        with pytest.raises(DialFailed):
            await a.links.request(B, Ping())
        await trio.sleep(60)
        assert a.notes.ups == [B], "it is not dialled again"


async def test_nothing_is_told_to_who_is_no_member_any_more(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        a, b = await pair(town)
        told: list[Message] = []

        async def note(node: NodeId, message: Message) -> Message | None:
            told.append(message)
            return None

        b.notes.answer = note
        a.links.want(set())
        a.links.notify_all(InventoryRequest())
        a.links.notify(B, InventoryRequest())
        await trio.sleep(10)
        assert told == []


async def test_who_leaves_gets_its_last_answer_and_nothing_after_it(
    autojump_clock: MockClock,
) -> None:
    async with Town.open(latency_s=0.05) as town:
        a, b = await pair(town)
        asked: list[Message] = []
        told: list[Message] = []

        async def note(node: NodeId, message: Message) -> Message | None:
            told.append(message)
            return None

        async def let_go(node: NodeId, message: Message) -> Message | None:
            asked.append(message)
            if isinstance(message, Leave):
                with a.links.letting_leave(node):
                    a.links.want(set())
                a.links.notify_all(InventoryRequest())  # new keys, say
            return Done(message="left")

        a.notes.answer = let_go
        b.notes.answer = note
        assert await b.links.request(A, Leave(node=B)) == Done(message="left")
        with pytest.raises((DialFailed, Refused)):
            await b.links.request(A, InventoryRequest(), 0.5)
        await until(lambda: bool(b.notes.downs), within_s=5)
        assert asked == [Leave(node=B)]
        assert told == []


async def test_who_is_wanted_before_the_links_run_is_dialled_when_they_do(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, _ = town.member(A), await town.live(B)
        a.links.want({B})
        await trio.sleep(1)
        assert a.notes.ups == []
        town.run(a)
        await until(lambda: a.links.is_up(B))
