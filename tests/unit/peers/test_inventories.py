"""What nodes offer and how busy they are, told over the links."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
import trio
from trio.testing import MockClock

from meshd.errors import DialFailed, Refused
from meshd.ids import NodeId
from meshd.inference import BackendInfo, Inventory, Load, ModelInfo
from meshd.peers.inventories import LOAD_EVERY_S, Inventories
from meshd.peers.switchboard import Switchboard
from meshd.routing.catalogue import Catalogue
from meshd.routing.placement import Placement
from meshd.routing.policies import policy_named
from meshd.wire.control import InventoryPush, LoadPush
from tests.unit.peers.rig import MESH, A, B, C, Peer, Town, hello_of, until


def offering(node: NodeId, revision: int, *models: str, generation: int = 1) -> Inventory:
    backend = BackendInfo("x", "http://127.0.0.1:1", "llama.cpp", models=[*map(ModelInfo, models)])
    return Inventory(node, generation, revision, [backend] if models else [])


@dataclass
class Node:
    peer: Peer
    placement: Placement
    inventories: Inventories = field(init=False)
    own: Inventory = field(init=False)
    load: Load = field(default_factory=Load)

    def offers(self, revision: int, *models: str) -> None:
        self.own = offering(self.peer.node, revision, *models)
        self.inventories.changed()

    def names(self) -> list[str]:
        return self.placement.catalogue.names()

    def knows(self, other: Node) -> Inventory | None:
        return self.placement.catalogue.inventory_of(other.peer.node)


def make(town: Town, node: NodeId) -> Node:
    board = Switchboard(MESH, lambda: hello_of(node))
    peer = town.member(node, board)
    made = Node(peer, Placement(node, Catalogue(), policy_named("predicted", lambda stop: 0)))
    made.own = offering(node, 1)
    made.inventories = Inventories(
        lambda: made.own, lambda: made.load, made.placement, peer.links, board
    )
    return made


@asynccontextmanager
async def three(**network: object) -> AsyncIterator[tuple[Town, Node, Node, Node]]:
    async with Town.open(**network) as town:
        nodes = [make(town, node) for node in (A, B, C)]
        for node in nodes:
            node.peer.links.want({A, B, C} - {node.peer.node})
            town.run(node.peer)
            town.nursery.start_soon(node.inventories.run)
        await until(lambda: all(len(node.peer.links.up()) == 2 for node in nodes))
        a, b, c = nodes
        yield town, a, b, c


async def test_a_change_is_in_everybodys_list_after_one_trip(autojump_clock: MockClock) -> None:
    async with three(latency_s=0.01) as (_, a, b, c):
        a.offers(2, "llama")
        assert a.names() == ["llama"], "its own at once"
        await until(lambda: b.names() == c.names() == ["llama"], within_s=0.05)
        a.offers(3)
        await until(lambda: b.names() == c.names() == [], within_s=0.05)


async def test_who_comes_later_is_told_when_the_link_is_up(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        a, b = make(town, A), make(town, B)
        a.offers(5, "llama")
        a.load = Load(running=3, slots=4)
        for node, other in ((a, B), (b, A)):
            node.peer.links.want({other})
            town.run(node.peer)
        await until(lambda: b.names() == ["llama"])
        await until(lambda: b.placement.load_of(A).running == 3)


async def test_an_older_inventory_does_not_replace_a_newer_one(autojump_clock: MockClock) -> None:
    async with three() as (_, a, b, _c):
        a.offers(5, "new")
        await until(lambda: b.names() == ["new"])
        a.peer.links.notify(B, InventoryPush.of(offering(A, 4, "old")))
        a.peer.links.notify(B, InventoryPush.of(offering(A, 9, "old", generation=0)))
        await trio.sleep(1)
        assert b.names() == ["new"]


async def test_a_restarted_node_counts_from_its_generation(autojump_clock: MockClock) -> None:
    async with three() as (_, a, b, _c):
        a.offers(500, "before")
        await until(lambda: b.names() == ["before"])
        a.own = offering(A, 1, "after", generation=2)
        a.inventories.changed()
        await until(lambda: b.names() == ["after"])


async def test_a_node_tells_only_its_own(autojump_clock: MockClock) -> None:
    async with three() as (_, a, b, c):
        c.offers(2, "cs own")
        await until(lambda: b.names() == ["cs own"])
        with pytest.raises(Refused, match="only tell its own"):
            await a.peer.links.request(B, InventoryPush.of(offering(C, 99, "poison")))
        assert b.names() == ["cs own"]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"node": A, "generation": "1", "revision": 1},
        {"node": A, "generation": 1, "revision": 1, "backends": 7},
        {"node": A, "generation": 1, "revision": 1, "backends": [{}] * 1000},
    ],
)
async def test_an_inventory_that_cannot_be_read_is_refused(
    wrong: dict[str, object], autojump_clock: MockClock
) -> None:
    async with three() as (_, a, _b, _c):
        with pytest.raises(Refused, match="nventory"):
            await a.peer.links.request(B, InventoryPush(inventory=wrong))
        with pytest.raises(Refused, match="Load"):
            await a.peer.links.request(B, LoadPush(load={"running": "many"}))
        assert a.peer.links.is_up(B)


async def test_a_changed_load_is_told_within_half_a_second_and_no_more_often(
    autojump_clock: MockClock,
) -> None:
    async with three() as (_, a, b, _c):
        heard: list[int] = []
        report = b.placement.report

        def note(node: NodeId, load: Load) -> None:
            heard.append(load.running)
            report(node, load)

        b.placement.report = note  # type: ignore[method-assign]
        for running in range(100):
            a.load = Load(running=running)
            await trio.sleep(0.02)
        await trio.sleep(2 * LOAD_EVERY_S)
        assert heard[-1] == 99
        assert len(heard) <= 2.0 / LOAD_EVERY_S + 2
        quiet = len(heard)
        await trio.sleep(60)
        assert len(heard) == quiet, "an unchanged load is not told"


async def test_gossip_of_a_newer_revision_fetches_it(autojump_clock: MockClock) -> None:
    async with three() as (_, a, b, _c):
        a.own = offering(A, 7, "unheard of")  # its push was lost
        await b.inventories.fetch_if_newer(A, 7)
        assert b.names() == ["unheard of"]
        a.own = msgspec.structs.replace(a.own, revision=8)
        await b.inventories.fetch_if_newer(A, 7)
        known = b.knows(a)
        assert known is not None
        assert known.revision == 7, "nothing newer was told of"


async def test_gossip_of_somebody_without_a_link_waits_for_the_link(
    autojump_clock: MockClock,
) -> None:
    async with three() as (town, a, b, _c):
        town.world.partition("a", "b")
        await until(lambda: not b.peer.links.is_up(A))
        await b.inventories.fetch_if_newer(A, 7)  # not an error
        a.offers(7, "llama")
        town.world.heal("a", "b")
        await until(lambda: b.names() == ["llama"])


async def test_a_fetch_that_fails_is_a_failed_dial(autojump_clock: MockClock) -> None:
    async with three() as (town, _a, b, _c):
        town.world.partition("a", "b")
        with pytest.raises(DialFailed):
            await b.inventories.fetch_if_newer(A, 7)


async def test_an_offer_too_large_for_a_frame_goes_without_the_engines_details(
    autojump_clock: MockClock,
) -> None:
    async with three() as (_, a, b, _c):
        models = [ModelInfo(f"m{i}", details={"notes": "x" * 10_000}) for i in range(200)]
        a.own = Inventory(A, 1, 9, [BackendInfo("x", "u", "llama.cpp", models=models)])
        a.inventories.changed()
        await until(lambda: len(b.names()) == 200)
        assert a.peer.links.is_up(B)
