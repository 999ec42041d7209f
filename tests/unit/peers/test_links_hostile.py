"""Control links towards members that do not behave: each loses its link and nothing else."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from meshd import limits
from meshd.errors import StreamBroken
from meshd.ids import MeshId, NodeId
from meshd.peers.link import LINK_SILENT_S
from meshd.peers.switchboard import Switchboard
from meshd.ports import Alpn, ByteStream
from meshd.wire.control import Done, Hello, InventoryRequest, Message, Ping, Pong, Refusal, Unknown
from meshd.wire.control_mesh import MemberListPush, MemberListRequest
from meshd.wire.framing import frame
from tests.control_link import Raw
from tests.unit.peers.rig import MESH, A, B, C, Peer, Town, hello_of, until


async def two(town: Town) -> tuple[Peer, Peer]:
    """a serves with the node's own switchboard; b has only its machine."""
    board = Switchboard(MESH, lambda: hello_of(A))
    a = await town.live(A, board)

    async def answer(node: NodeId, message: Message) -> Message | None:
        return Done(message="yes")

    board.answer(InventoryRequest, answer)
    return a, town.member(B)


async def still_answers(town: Town, near: Peer, far: Peer) -> bool:
    """Whether a link that behaves is served as ever."""
    raw = await town.dial(near, far)
    assert isinstance(await raw.greet(hello_of(near.node)), Hello)
    await raw.say(InventoryRequest(), 7)
    return await raw.hear() == (Done(message="yes"), 7)


async def linked_to_a_deaf_one(town: Town) -> Peer:
    """a, with a link to b, which greets and then reads nothing more."""
    a, b = await town.live(A), town.member(B)

    async def deaf(stream: ByteStream) -> None:
        await Raw(stream).say(hello_of(B))
        await trio.sleep_forever()

    b.door._visits = {Alpn.CONTROL: deaf}
    town.run(b)
    a.links.want({B})
    await until(lambda: a.links.is_up(B))
    return a


GREETINGS = {
    "another mesh": (hello_of(B, mesh=MeshId("x" * 26)), "mesh"),
    "another node": (hello_of(C), "says that it is"),
    "an older protocol": (hello_of(B, protocol_min=0, protocol_max=0), "no common protocol"),
    "a newer protocol": (hello_of(B, protocol_min=9, protocol_max=11), "update the older one"),
}


@pytest.mark.parametrize("fault", GREETINGS)
async def test_a_greeting_that_does_not_fit_is_refused_with_the_reason(
    fault: str, autojump_clock: MockClock
) -> None:
    hello, words = GREETINGS[fault]
    async with Town.open(latency_s=0.01) as town:
        a, b = await two(town)
        raw = await town.dial(b, a)
        refusal = await raw.greet(hello)
        assert isinstance(refusal, Refusal)
        assert words in refusal.message
        assert await raw.ended()
        await until(lambda: len(a.bad) == 1)
        assert words in a.bad[0]
        assert a.door.counters["peer_refused"] == 1
        assert await still_answers(town, b, a)


PAYLOADS = {
    "no hello first": frame(b"\x93\x03\x00\x80"),
    "garbage": b"\x00\x00\x00\x08" + bytes(range(8)),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an empty frame": bytes(4),
    "a frame over the limit": (limits.CONTROL_FRAME_BYTES + 1).to_bytes(4, "big"),
    "a frame of four gigabytes": b"\xff\xff\xff\xff" + bytes(100),
    "not an array": frame(b"\x80"),
    "a huge array": frame(b"\xdd\xff\xff\xff\xff"),
    "nested too deep": frame(b"\x91" * 500 + b"\xc0"),
}


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("greeted", [False, True])
async def test_bytes_that_break_the_protocol_cost_the_link_and_are_counted(
    payload: str, greeted: bool, autojump_clock: MockClock
) -> None:
    if greeted and payload == "no hello first":
        return
    async with Town.open() as town:
        a, b = await two(town)
        raw = await town.dial(b, a)
        if greeted:
            await raw.greet(hello_of(B))
        await raw.stream.send_all(PAYLOADS[payload])
        assert await raw.ended()
        await until(lambda: a.door.counters["peer_refused"] == 1)
        assert len(a.bad) == 1
        assert await still_answers(town, b, a)


async def test_a_link_cut_in_the_middle_of_a_frame_harms_nothing(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, b = await two(town)
        raw = await town.dial(b, a)
        await raw.greet(hello_of(B))
        await raw.stream.send_all(b"\x00\x00\x10\x00half")
        raw.stream.abort("gone")
        await trio.sleep(1)
        assert await still_answers(town, b, a)


async def test_a_message_of_the_future_is_refused_if_it_asks_and_counted_either_way(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        board = Switchboard(MESH, lambda: hello_of(A))
        a = await town.live(A, board)
        raw = await town.dial(town.member(B), a)
        await raw.greet(hello_of(B))
        await raw.say(Unknown(type=900, body={"new": 1}), 5)
        answer, request_id = await raw.hear()
        assert isinstance(answer, Refusal)
        assert (answer.code, request_id) == ("unknown", 5)
        await raw.say(Unknown(type=900, body={}))
        await raw.say(Ping(), 6)
        assert await raw.hear() == (Pong(), 6)
        assert board.counters["control_unknown"] == 2


async def test_a_question_that_nobody_answers_here_is_refused_and_counted(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        board = Switchboard(MESH, lambda: hello_of(A))
        a = await town.live(A, board)
        raw = await town.dial(town.member(B), a)
        await raw.greet(hello_of(B))
        await raw.say(hello_of(B), 5)
        answer, _ = await raw.hear()
        assert isinstance(answer, Refusal)
        assert "no question for this node" in answer.message
        await raw.say(Done(message="unasked"))  # a notification of an answer: nothing comes back
        await raw.say(Ping(), 6)
        assert await raw.hear() == (Pong(), 6)
        assert board.counters["control_not_a_question"] == 2


@pytest.mark.parametrize("greeted", [False, True])
async def test_a_dialler_that_says_nothing_loses_its_link(
    greeted: bool, autojump_clock: MockClock
) -> None:
    async with Town.open() as town:
        a, b = await two(town)
        raw = await town.dial(b, a)
        if greeted:
            await raw.greet(hello_of(B))
        began = trio.current_time()
        assert await raw.ended()
        assert trio.current_time() - began <= 3 * LINK_SILENT_S


async def test_a_dialler_that_reads_nothing_is_not_read_and_loses_its_link(
    autojump_clock: MockClock,
) -> None:
    async with Town.open(buffer_bytes=4096) as town:
        a, b = await two(town)
        raw = await town.dial(b, a)
        await raw.greet(hello_of(B))
        sent = 0
        with suppress(StreamBroken), trio.fail_after(60):
            while True:
                await raw.say(Ping(), 1)
                sent += 1
        assert sent < 5000, "what it asks is not taken in without end"
        assert await still_answers(town, b, a)


async def test_an_acceptor_that_says_nothing_is_dialled_again(autojump_clock: MockClock) -> None:
    """Its process hangs between the handshake and the greeting: the next dial may find it well."""
    async with Town.open() as town:
        a = await town.live(A)
        b = town.member(B)
        visits = 0

        async def mute_once(stream: ByteStream) -> None:
            nonlocal visits
            visits += 1
            if visits == 1:
                await trio.sleep_forever()
            await b.links.serve(stream)

        b.door._visits = {Alpn.CONTROL: mute_once}
        town.run(b)
        a.links.want({B})
        await until(lambda: a.links.is_up(B), within_s=5 * limits.PEER_HANDSHAKE_S)
        assert visits == 2


async def test_an_acceptor_that_refuses_is_asked_again_but_logged_rarely(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Town.open() as town:
        a, b = await town.live(A), await town.live(B)
        b.notes.refuses = "update the older one"
        a.links.want({B})
        await trio.sleep(600)
        assert len(b.notes.greetings) > 30
        assert a.notes.ups == []
        lines = [line for line in capsys.readouterr().out.splitlines() if "link refused" in line]
        assert "update the older one" in lines[0]
        assert len(lines) <= 11, "one a minute"


@pytest.mark.parametrize("payload", ["garbage", "a frame over the limit", "not an array"])
async def test_an_acceptor_that_speaks_garbage_loses_the_link_and_is_redialled(
    payload: str, autojump_clock: MockClock
) -> None:
    async with Town.open() as town:
        a = await town.live(A)
        b = town.member(B)
        visits = 0

        async def babble_once(stream: ByteStream) -> None:
            nonlocal visits
            visits += 1
            if visits == 1:
                await stream.send_all(PAYLOADS[payload])
                await trio.sleep_forever()
            await b.links.serve(stream)

        b.door._visits = {Alpn.CONTROL: babble_once}
        town.run(b)
        a.links.want({B})
        await until(lambda: a.links.is_up(B), within_s=5)
        assert visits == 2


async def test_an_acceptor_that_does_not_read_loses_the_link_when_the_outbox_is_full(
    autojump_clock: MockClock,
) -> None:
    async with Town.open(buffer_bytes=1024) as town:
        a = await linked_to_a_deaf_one(town)
        for _ in range(limits.CONTROL_LINK_OUTBOX_FRAMES + 200):
            a.links.notify(B, Done(message="x" * 500))
        await until(lambda: bool(a.notes.downs), within_s=1)
        assert "does not read" in a.notes.downs[0][1]


async def test_an_acceptor_that_does_not_read_loses_the_link_before_it_costs_much_memory(
    autojump_clock: MockClock,
) -> None:
    async with Town.open(buffer_bytes=1024) as town:
        a = await linked_to_a_deaf_one(town)
        large = MemberListPush(members=bytes(limits.MEMBER_LIST_BYTES))
        fit = limits.CONTROL_LINK_OUTBOX_BYTES // limits.MEMBER_LIST_BYTES
        for _ in range(fit - 1):
            a.links.notify(B, large)
        await trio.sleep(1)
        assert not a.notes.downs
        for _ in range(2):
            a.links.notify(B, large)
        await until(lambda: bool(a.notes.downs), within_s=1)
        assert "does not read" in a.notes.downs[0][1]


async def test_who_asks_for_much_and_reads_nothing_loses_its_link(
    autojump_clock: MockClock,
) -> None:
    async with Town.open(buffer_bytes=1024) as town:
        a, b = town.member(A), await town.live(B)
        large = MemberListPush(members=bytes(limits.MEMBER_LIST_BYTES))

        async def generous(node: NodeId, message: Message) -> Message:
            return large

        b.notes.answer = generous
        raw = await town.dial(a, b)
        await raw.greet(hello_of(A))
        for number in range(1, limits.CONTROL_LINK_REQUESTS):
            await raw.say(MemberListRequest(have_version=0), number)
        await trio.sleep(LINK_SILENT_S / 2)
        with pytest.raises(StreamBroken):
            await raw.say(Ping(), 99)


async def test_a_greeting_that_breaks_our_own_code_costs_that_link_alone(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        board = Switchboard(MESH, lambda: hello_of(A))
        a = await town.live(A, board)
        await town.live(B)
        c = await town.live(C)

        def stumble(node: NodeId, hello: Hello) -> None:
            if node == B:
                raise ZeroDivisionError("nobody thought of this")

        board.on_greeted(stumble)
        a.links.want({B, C})
        c.links.want({A})
        await until(lambda: a.links.is_up(C) and c.links.is_up(A))
        await trio.sleep(20)  # for several dials, and any link that is silent
        assert a.links.up() == [C]


async def test_an_address_that_cannot_be_dialled_costs_that_link_alone(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, _ = await town.live(A), await town.live(C)
        b = town.member(B)
        dial = a.host.dial_peer

        async def dial_or_fail(node: NodeId, *rest: object) -> object:
            if node == B:
                raise UnicodeError("label empty or too long")
            return await dial(node, *rest)  # type: ignore[arg-type]

        a.host.dial_peer = dial_or_fail  # type: ignore[method-assign, assignment]
        a.links.want({B, C})
        await until(lambda: a.links.is_up(C))
        await trio.sleep(20)  # for several dials, and any link that is silent
        assert a.links.up() == [C]
        assert b.notes.greetings == []


async def test_one_member_holds_only_so_many_links_and_the_newest_live(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, b = await two(town)
        raws = []
        for _ in range(3 * limits.CONTROL_LINKS_PER_NODE):
            raw = await town.dial(b, a)
            await raw.greet(hello_of(B))
            raws.append(raw)
        alive = 0
        for raw in raws:
            try:
                await raw.say(Ping(), 1)
                assert await raw.hear() == (Pong(), 1)
                alive += 1
            except StreamBroken:
                assert alive == 0, "older ones go first"
        assert alive == limits.CONTROL_LINKS_PER_NODE


async def test_a_machine_that_was_stopped_does_not_hold_the_others_for_silent(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGSTOP and SIGCONT everybody looks silent, and their bytes wait to be read."""
    async with Town.open() as town:
        a, b = await town.live(A), await town.live(B)
        a.links.want({B})
        await until(lambda: a.links.is_up(B))
        await trio.sleep(5)
        autojump_clock.autojump_threshold = float("inf")
        autojump_clock.jump(300)  # nobody ran meanwhile
        autojump_clock.autojump_threshold = 0
        await trio.sleep(10)
        assert (a.notes.downs, b.bad) == ([], [])
