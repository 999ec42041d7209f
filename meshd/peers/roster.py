"""Keeping every node's member list the newest there is (trio shell).

The list is signed by the mesh's CA, so it does not matter who hands it on.  When a node's own link
to another comes up it pushes the list if the other's is older, and asks for it if the other's is
newer: one link is enough, whichever of the two could dial.
"""

from __future__ import annotations

import math

import trio

from meshd import logs
from meshd.errors import MeshdError, ProtocolError
from meshd.ids import NodeId, short
from meshd.peers.links import ControlLinks
from meshd.peers.switchboard import Switchboard
from meshd.record.members import SignedMembers
from meshd.record.registry import MemberRegistry, RegistryChange
from meshd.wire.control import Done, Hello, Message
from meshd.wire.control_mesh import MemberListPush, MemberListRequest

log = logs.get("roster")


class Roster:
    """Passes the member list around."""

    def __init__(
        self, registry: MemberRegistry, links: ControlLinks, switchboard: Switchboard
    ) -> None:
        self._registry = registry
        self._links = links
        self._versions: dict[NodeId, int] = {}
        """Of the list that each node had when it last greeted."""
        self._counters = switchboard.counters
        self._ahead, self._to_ask = trio.open_memory_channel[NodeId](math.inf)  # members, at most
        self._complaints = logs.PerSource(log, trio.current_time)
        switchboard.answer(MemberListPush, self._pushed)
        switchboard.answer(MemberListRequest, self._requested)
        switchboard.on_greeted(self._greeted)
        switchboard.on_linked(self._linked)
        registry.subscribe(self._changed)

    async def run(self) -> None:
        """Ask those that have a newer list, until cancelled."""
        async with trio.open_nursery() as nursery:
            async for node in self._to_ask:
                nursery.start_soon(self._ask, node)

    async def _ask(self, node: NodeId) -> None:
        try:
            answer = await self._links.request(
                node, MemberListRequest(have_version=self._registry.version)
            )
        except MeshdError as e:  # it is asked again with the next link
            log.debug("no newer member list", node=short(node), why=str(e))
            return
        if isinstance(answer, MemberListPush):
            await self._pushed(node, answer)

    def _push(self) -> MemberListPush:
        return MemberListPush(members=self._registry.signed.to_bytes())

    def _greeted(self, node: NodeId, hello: Hello) -> None:
        self._versions[node] = hello.members_version

    def _linked(self, node: NodeId) -> None:
        if self._versions.get(node, 0) < self._registry.version:
            self._links.notify(node, self._push())
        elif self._versions.get(node, 0) > self._registry.version:
            self._ahead.send_nowait(node)

    def _changed(self, change: RegistryChange) -> None:
        for node in change.removed:
            self._versions.pop(node, None)
        self._links.notify_all(self._push())

    async def _pushed(self, node: NodeId, message: MemberListPush) -> Message | None:
        try:
            newer = self._registry.accept(SignedMembers.from_bytes(message.members))
        except ProtocolError as e:
            self._counters["member_list_refused"] += 1
            self._complaints.warning("member list refused", short(node), why=str(e))
            return None
        except MeshdError as e:  # a full disk: it is not applied, and told again with the next link
            log.error("a newer member list could not be kept", why=str(e))
            return None
        if newer:
            log.info("member list", version=self._registry.version, told_by=short(node))
        return None

    async def _requested(self, node: NodeId, message: MemberListRequest) -> Message:
        if message.have_version >= self._registry.version:
            return Done(message="there is none newer")
        return self._push()
