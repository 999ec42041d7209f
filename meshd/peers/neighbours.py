"""Which members are there, where, and how loaded: gossip, wired to the rest of a node (trio shell).

Gossip is the authority on who is alive; links and requests feed it evidence (a link that broke is a
suspicion at once) and act on what it finds (a member that is back is dialled at once, a newer
inventory is fetched).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from meshd.beat import next_beat
from meshd.errors import MeshdError, ProtocolError
from meshd.identity import Keyring
from meshd.ids import Address, NodeId
from meshd.inference import Load
from meshd.membership.agent import Agent
from meshd.membership.core import Core
from meshd.membership.members import State
from meshd.membership.views import Change
from meshd.peers.addresses import AddressBook, Source
from meshd.peers.entering import Standing
from meshd.peers.links import OWN_DOING, ControlLinks
from meshd.peers.switchboard import Switchboard
from meshd.ports import Datagrams, Ports
from meshd.record import RegistryChange
from meshd.wire import gossip
from meshd.wire.control import PROTOCOL_MAX, PROTOCOL_MIN, Message, Ping, PushPull, PushPullReply
from meshd.wire.envelope import Envelope

PROFILE_S = 1.0
"""How often this node looks whether it has something new to say of itself."""

_PRESENT = frozenset({State.ALIVE, State.SUSPECT})


@dataclass(frozen=True, slots=True)
class Own:
    """What this node says of itself; asked anew each second."""

    addresses: Callable[[], Sequence[Address]]
    inventory_revision: Callable[[], int]
    load: Callable[[], Load]


@dataclass(frozen=True, slots=True)
class Heard:
    """Who wants to know."""

    present: Callable[[NodeId, bool, bool], None]
    """(node, is present, is suspect), whenever that changes."""
    inventory: Callable[[NodeId, int], Awaitable[None]]
    """A member says that it has this revision of its inventory."""
    woke: Callable[[], None]
    """This machine slept: pooled connections are not to be trusted."""


class Neighbours:
    """The membership agent of a node and its wiring."""

    def __init__(
        self,
        ports: Ports,
        standing: Standing,
        datagrams: Datagrams,
        links: ControlLinks,
        switchboard: Switchboard,
        addresses: AddressBook,
        own: Own,
        heard: Heard,
        *,
        on_unknown_key: Callable[[], None],
    ) -> None:
        self._registry = standing.registry
        self._node = standing.key.public.node
        self._name = standing.identity.name
        self._links = links
        self._addresses = addresses
        self._own, self._heard = own, heard
        self._announced: dict[NodeId, frozenset[Address]] = {}
        """Where each member last said that it is."""
        self._fetches, self._to_fetch = trio.open_memory_channel[tuple[NodeId, int]](64)
        keyring = standing.identity.keyring
        self._envelope = Envelope(
            self._registry.mesh,
            self._node,
            standing.generation,
            {key.id: key.secret for key in keyring.keys},
            keyring.primary.id,
            known=lambda node: self._registry.get(node) is not None,
        )
        core = Core(
            self._node,
            standing.generation,
            self._profile(),
            sign=lambda payload: standing.key.sign(gossip.WORD_CONTEXT, payload),
            verify=self._verify,
            chance=ports.entropy,
            now=trio.current_time(),
        )
        self.agent = Agent(
            core,
            datagrams,
            ports.clock,
            self._envelope,
            tcp_ping=self._tcp_ping,
            push_pull=self._push_pull,
            persist_generation=standing.store.save_generation,
            on_unknown_key=on_unknown_key,
            on_woke=lambda slept_s: heard.woke(),
        )
        self.agent.subscribe(self._changed)
        self._admit()
        standing.registry.subscribe(self._members_changed)
        switchboard.answer(PushPull, self._exchanged)
        switchboard.on_linked(self._linked)
        switchboard.on_unlinked(self._unlinked)

    async def run(self) -> None:
        """Take part until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.agent.run)
            nursery.start_soon(self._fetch_all)
            told = self._profile()
            while True:
                await next_beat(PROFILE_S)
                profile = self._profile()
                self.agent.set_profile(profile)
                gone = set(told.addresses) - set(profile.addresses)
                if any(not _is_loopback(address) for address in gone):
                    self._links.moved_here()
                told = profile

    def use_keys(self, keyring: Keyring) -> None:
        """Seal and open with these from now on."""
        self._envelope.set_keys({k.id: k.secret for k in keyring.keys}, keyring.primary.id)

    def suspect(self, node: NodeId, reason: str) -> None:
        """A request to that member broke."""
        self.agent.suspect(node, reason)

    # ---------------------------------------------------------------- what gossip asks for

    async def _tcp_ping(self, node: NodeId, addresses: Sequence[Address]) -> bool:
        if not self._links.is_up(node):
            self._links.kick(node)
            return False
        await self._links.request(node, Ping())
        return True

    async def _push_pull(self, node: NodeId, state: bytes) -> bytes:
        answer = await self._links.request(node, PushPull(state=state))
        if not isinstance(answer, PushPullReply):
            raise ProtocolError(f"an exchange was answered with {type(answer).__name__}")
        return answer.state

    async def _exchanged(self, node: NodeId, message: PushPull) -> Message:
        return PushPullReply(state=await self.agent.handle_push_pull(node, message.state))

    # ---------------------------------------------------------------- what gossip found

    def _changed(self, change: Change) -> None:
        if change.view is None:
            self._announced.pop(change.node, None)
            return  # no member any more: the registry's subscribers have dealt with it
        node, profile = change.node, change.view.profile
        self._addresses.put(node, profile.addresses, Source.ANNOUNCED)
        before, now = self._announced.get(node, frozenset()), frozenset(profile.addresses)
        self._announced[node] = now
        if before - now:
            self._links.moved(node, before - now)
        present = change.after in _PRESENT
        self._heard.present(node, present, change.after is State.SUSPECT)
        if present and not self._links.is_up(node):
            self._links.kick(node)
        if present:
            with suppress(trio.WouldBlock):  # the next word of that member says it again
                self._fetches.send_nowait((node, profile.inventory))

    async def _fetch_all(self) -> None:
        async for node, revision in self._to_fetch:
            try:
                await self._heard.inventory(node, revision)
            except MeshdError:
                continue  # it is pushed too as soon as the link is up

    # ---------------------------------------------------------------- what others found

    def _linked(self, node: NodeId) -> None:
        self.agent.found(node, self._addresses.of(node))

    def _unlinked(self, node: NodeId, reason: str) -> None:
        if reason not in OWN_DOING:
            self.agent.suspect(node, f"its link broke: {reason}")

    def _members_changed(self, change: RegistryChange) -> None:
        self._admit()

    def _admit(self) -> None:
        self.agent.admitted(frozenset(member.id for member in self._registry.members()))

    def _verify(self, node: NodeId, payload: bytes, signature: bytes) -> bool:
        key = self._registry.key_of(node)
        return key is not None and key.verify(gossip.WORD_CONTEXT, payload, signature)

    def _profile(self) -> gossip.Profile:
        load = self._own.load()
        return gossip.Profile(
            name=self._name,
            addresses=tuple(self._own.addresses()),
            protocol=(PROTOCOL_MIN, PROTOCOL_MAX, PROTOCOL_MAX),
            inventory=self._own.inventory_revision(),
            load=gossip.Load(load.running, load.queued, load.slots, load.draining),
        )


def _is_loopback(address: Address) -> bool:
    """What stands for "no network at all" (`ports.Network.interface_addresses`)."""
    return address.host == "::1" or address.host.startswith("127.")
