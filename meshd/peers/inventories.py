"""Telling the others what this node offers and how busy it is, and hearing it of them (trio shell).

Gossip carries only a revision number and a small load vector; the inventories themselves travel
over the control links, pushed when they change.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from meshd.beat import next_beat
from meshd.errors import ProtocolError
from meshd.ids import NodeId
from meshd.inference import Inventory, Load
from meshd.peers.links import ControlLinks
from meshd.peers.switchboard import Switchboard
from meshd.routing.placement import Placement
from meshd.wire.control import InventoryPush, InventoryRequest, LoadPush, Message

LOAD_EVERY_S = 0.5
"""A changed load is told at most this often; peer responses carry it sooner to who needs it."""


class Inventories:
    """Both directions, for the catalogue and the loads of `Placement`."""

    def __init__(
        self,
        own: Callable[[], Inventory],
        own_load: Callable[[], Load],
        placement: Placement,
        links: ControlLinks,
        switchboard: Switchboard,
    ) -> None:
        self._own = own
        self._own_load = own_load
        self._placement = placement
        self._links = links
        self._told_load: Load | None = None
        switchboard.answer(InventoryPush, self._pushed)
        switchboard.answer(InventoryRequest, self._requested)
        switchboard.answer(LoadPush, self._load_pushed)
        switchboard.on_linked(self._linked)

    def changed(self) -> None:
        """This node's own inventory changed."""
        inventory = self._own()
        self._placement.catalogue.put(inventory, trio.current_time())
        self._links.notify_all(InventoryPush.of(inventory))

    async def run(self) -> None:
        """Tell the load while it changes."""
        while True:
            await next_beat(LOAD_EVERY_S)
            load = self._own_load()
            if load != self._told_load:
                self._told_load = load
                self._links.notify_all(LoadPush.of(load))

    async def fetch_if_newer(self, node: NodeId, revision: int) -> None:
        """Gossip says that the node has this revision: ask for it if it is not here."""
        if revision <= self._placement.catalogue.revision_of(node)[1] or not revision:
            return
        if not self._links.is_up(node):
            return  # it is pushed when the link comes up
        answer = await self._links.request(node, InventoryRequest())
        if isinstance(answer, InventoryPush):
            await self._pushed(node, answer)

    def _linked(self, node: NodeId) -> None:
        self._links.notify(node, InventoryPush.of(self._own()))
        self._links.notify(node, LoadPush.of(self._own_load()))

    async def _requested(self, node: NodeId, message: InventoryRequest) -> Message:
        return InventoryPush.of(self._own())

    async def _pushed(self, node: NodeId, message: InventoryPush) -> Message | None:
        inventory = message.read()
        if inventory.node != node:
            raise ProtocolError("a node may only tell its own inventory")
        self._placement.catalogue.put(inventory, trio.current_time())
        return None

    async def _load_pushed(self, node: NodeId, message: LoadPush) -> Message | None:
        self._placement.report(node, message.read())
        return None
