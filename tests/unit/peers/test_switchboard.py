"""Who is told of which message."""

from __future__ import annotations

import pytest

from meshd.errors import Refused
from meshd.ids import NodeId
from meshd.peers.switchboard import Switchboard
from meshd.wire.control import Done, Hello, InventoryRequest, LoadPush, Message, Unknown
from meshd.wire.control_record import RecordMessage
from tests.unit.peers.rig import MESH, A, B, hello_of


def board() -> Switchboard:
    return Switchboard(MESH, lambda: hello_of(A))


async def test_each_message_goes_to_its_one_answerer() -> None:
    switchboard = board()
    got: list[tuple[NodeId, Message]] = []

    async def answer(node: NodeId, message: InventoryRequest) -> Message | None:
        got.append((node, message))
        return Done(message="here")

    switchboard.answer(InventoryRequest, answer)
    assert await switchboard.handle(B, InventoryRequest()) == Done(message="here")
    assert got == [(B, InventoryRequest())]
    with pytest.raises(AssertionError, match="has an answerer already"):
        switchboard.answer(InventoryRequest, answer)


def test_what_is_taken_in_order_is_taken_at_once() -> None:
    switchboard = board()
    got: list[tuple[NodeId, bytes]] = []
    switchboard.take_in_order(RecordMessage, lambda node, message: got.append((node, message.data)))
    assert switchboard.take(B, RecordMessage(data=b"x"))
    assert got == [(B, b"x")]
    assert not switchboard.take(B, InventoryRequest())
    with pytest.raises(AssertionError, match="has a taker already"):
        switchboard.take_in_order(RecordMessage, lambda node, message: None)


async def test_unknown_and_unanswered_messages_are_counted_apart() -> None:
    switchboard = board()
    assert await switchboard.handle(B, Unknown(type=99, body={})) is None
    with pytest.raises(Refused, match="LoadPush is no question"):
        await switchboard.handle(B, LoadPush(load={}))
    assert switchboard.counters == {"control_unknown": 1, "control_not_a_question": 1}


def test_everybody_who_wants_to_know_is_told_in_order() -> None:
    switchboard = board()
    told: list[object] = []
    for number in (1, 2):
        switchboard.on_greeted(lambda node, hello, n=number: told.append((n, "greeted", node)))
        switchboard.on_linked(lambda node, n=number: told.append((n, "linked", node)))
        switchboard.on_unlinked(lambda node, why, n=number: told.append((n, why, node)))
        switchboard.on_measured(lambda node, rtt_s, n=number: told.append((n, rtt_s, node)))
    switchboard.greeted(B, hello_of(B))
    switchboard.linked(B)
    switchboard.unlinked(B, "cut")
    switchboard.measured(B, 0.5)
    whats = ["greeted", "linked", "cut", 0.5]
    assert told == [(n, what, B) for what in whats for n in (1, 2)]


def test_nobody_is_told_of_a_greeting_that_is_refused() -> None:
    switchboard = board()
    told: list[Hello] = []
    switchboard.on_greeted(lambda node, hello: told.append(hello))
    for hello in (
        hello_of(A),
        hello_of(B, mesh="x" * 26),
        hello_of(B, protocol_min=7, protocol_max=9),
    ):
        with pytest.raises(Refused):
            switchboard.greeted(B, hello)
    assert told == []


@pytest.mark.parametrize(("low", "high"), [(1, 1), (0, 1), (1, 99), (0, 99)])
def test_one_version_in_common_is_enough(low: int, high: int) -> None:
    switchboard = board()
    told: list[NodeId] = []
    switchboard.on_greeted(lambda node, hello: told.append(node))
    switchboard.greeted(B, hello_of(B, protocol_min=low, protocol_max=high))
    assert told == [B]
