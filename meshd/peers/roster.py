"""Keeping every node's member list the newest there is (trio shell).

The record brings it to every node that it reaches.  For the others, and for whoever starts before
its record does, whoever holds the CA's key signs each new list and hands it out; so signed it does
not matter who hands it on.  When a node's own link to another comes up it pushes the list if the
other's is older, and asks for it if the other's is newer: one link is enough, whichever of the two
could dial.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from meshd import logs
from meshd.errors import MeshdError, ProtocolError
from meshd.identity import Authority
from meshd.ids import NodeId, short
from meshd.peers.links import ControlLinks
from meshd.peers.switchboard import Switchboard
from meshd.record.members import MemberList, OtherSigner, SignedMembers
from meshd.record.registry import MemberRegistry, RegistryChange
from meshd.wire.control import Done, Hello, Message
from meshd.wire.control_mesh import MemberListPush, MemberListRequest

log = logs.get("roster")

NEWS_S = 60.0
"""For the record to tell of another CA, after the first list that it may have signed."""


class Roster:
    """Passes the member list around."""

    def __init__(
        self,
        registry: MemberRegistry,
        links: ControlLinks,
        switchboard: Switchboard,
        authority: Callable[[], Authority | None],
    ) -> None:
        """`authority` gives the CA's key if this node holds it now."""
        self._registry = registry
        self._authority = authority
        self._links = links
        self._versions: dict[NodeId, int] = {}
        """Of the list that each node had when it last greeted."""
        self._counters = switchboard.counters
        self._ahead, self._to_ask = trio.open_memory_channel[NodeId](math.inf)  # members, at most
        self._complaints = logs.PerSource(log, trio.current_time)
        self._early: tuple[NodeId, MemberListPush] | None = None
        """The last list that another signed than the CA: perhaps one that the record tells of
        in a moment."""
        self._early_since: float | None = None
        """From when on there were such lists, with the CA that there is."""
        switchboard.answer(MemberListPush, self._pushed)
        switchboard.answer(MemberListRequest, self._requested)
        switchboard.on_greeted(self._greeted)
        switchboard.on_linked(self._linked)
        registry.subscribe(self._changed)

    def applied(self, members: MemberList) -> None:
        """The record has come to this list here: whoever is not on it is cut off in this step."""
        if not self._registry.apply(members):
            return
        try:
            self.sign()
            self._registry.keep()
        except MeshdError as e:  # a full disk, or a list too large: it holds all the same
            log.error("the member list could not be kept", why=str(e))

    def signed(self, members: MemberList) -> SignedMembers:
        """That list, to which the record has come here, signed by this node, or a newer one.

        Raises ListTooLarge, DiskFailed.
        """
        self.applied(members)
        self.sign()
        return self._registry.signed

    def ca_changed(self) -> None:
        """The registry goes by another CA: it may have signed what was too early.

        Raises as `sign`.
        """
        early, self._early, self._early_since = self._early, None, None
        if early is not None:
            self._take(*early)
        self.sign()

    def sign(self) -> None:
        """Sign the list as it is, if this node can and nobody has, and hand it out.

        Raises ListTooLarge, DiskFailed.
        """
        authority = self._authority()
        if authority is not None and self._registry.sign(authority.key):
            self._links.notify_all(self._push())

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
        if self._versions.get(node, 0) < self._registry.signed_version and self._registry.is_signed:
            self._links.notify(node, self._push())
        elif self._versions.get(node, 0) > self._registry.version:
            self._ahead.send_nowait(node)

    def _changed(self, change: RegistryChange) -> None:
        for node in change.removed:
            self._versions.pop(node, None)

    async def _pushed(self, node: NodeId, message: MemberListPush) -> Message | None:
        self._take(node, message)
        return None

    def _take(self, node: NodeId, message: MemberListPush) -> None:
        try:
            newer = self._registry.accept(SignedMembers.from_bytes(message.members))
        except ProtocolError as e:
            self._counters["member_list_refused"] += 1
            if isinstance(e, OtherSigner) and self._may_be_early(node, message):
                log.debug("a member list by another than the CA", node=short(node))
            else:
                self._complaints.warning("member list refused", short(node), why=str(e))
            return
        except MeshdError as e:  # a full disk: it is not applied, and told again with the next link
            log.error("a newer member list could not be kept", why=str(e))
            return
        if newer:
            log.info("member list", version=self._registry.version, told_by=short(node))
            self._links.notify_all(self._push())

    def _may_be_early(self, node: NodeId, message: MemberListPush) -> bool:
        """Whether the record may still tell of the CA that signed it; it is kept until then."""
        now = trio.current_time()
        since = now if self._early_since is None else self._early_since
        is_early = now - since < NEWS_S
        self._early_since = since if is_early else None  # the next one may be of another change
        self._early = node, message
        return is_early

    async def _requested(self, node: NodeId, message: MemberListRequest) -> Message:
        if message.have_version >= self._registry.signed_version:
            return Done(message="there is none newer")
        return self._push()
