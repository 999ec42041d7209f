"""The node's way of answering requests: its engines, its view of all holders, both relay ends."""

from __future__ import annotations

from typing import Any

import trio

from meshd import limits
from meshd.backends import Backends
from meshd.config import Config
from meshd.http import HttpServer, Room, ServerOptions, Sweeper
from meshd.ids import NodeId
from meshd.node.bad_requests import BadRequests, log_bug
from meshd.node.mesh import MeshSide
from meshd.paths import Paths
from meshd.peers.inventories import Inventories
from meshd.peers.roll_call import RollCall
from meshd.ports import Ports
from meshd.relay.forwarder import Forwarder
from meshd.relay.holder import Holder
from meshd.relay.remote import RemoteHolders
from meshd.relay.serving import PeerService
from meshd.relay.watchdog import Patience
from meshd.routing.catalogue import Catalogue, Target
from meshd.routing.placement import Placement
from meshd.routing.policies import policy_named
from meshd.wire.control import Cancel, LoadPush, Message
from meshd.wire.serve import CancelRequest

GONE = "the node is no member any more"


class DataSide:
    """Engines, placement, holder and entry of one node."""

    def __init__(
        self,
        ports: Ports,
        config: Config,
        paths: Paths,
        mesh: MeshSide,
        sweeper: Sweeper,
        room: Room,
    ) -> None:
        self._mesh = mesh
        self._began_at = trio.current_time()
        self.placement = Placement(
            mesh.id,
            Catalogue(config.aliases),
            policy_named(config.routing.policy, ports.entropy.randrange),
        )
        self.backends = Backends(
            ports,
            sweeper=sweeper,
            node=mesh.id,
            generation=mesh.standing.generation,
            configured=config.backends,
            detect=config.detect,
            claims_dir=paths.claims,
            on_change=self._offer_changed,
        )
        for gguf in config.ggufs:
            self.backends.add_bundled(
                gguf.path,
                alias=gguf.model,
                slots=gguf.slots,
                context_tokens=gguf.context_tokens,
                embedding=gguf.embedding,
            )
        self.holder = Holder(
            mesh.id,
            self.backends,
            sweeper,
            patience=Patience(config.limits.first_token_s, config.limits.inter_token_s),
            queue_limit=config.limits.queue,
        )
        self._goes = False
        """This node is about to end: it takes nothing new, whatever the member list says."""
        self.placement.own_load = self.holder.lane_load
        self.holder.had = self._had
        self.service = PeerService(self.holder, sweeper)
        self.bad_peers = BadRequests("peer_http_refused", "refused from a member")
        self.peer_http = HttpServer(
            self.service.handle,
            sweeper,
            options=ServerOptions(
                room=room,
                send_stall_s=limits.PEER_SEND_STALL_S,
                on_error=log_bug,
                on_refused=self.bad_peers.note,
            ),
        )
        mesh.switchboard.answer(Cancel, self._cancelled)
        mesh.switchboard.on_measured(self.placement.measured_rtt)
        self.inventories = Inventories(
            self.backends.inventory, self.holder.load, self.placement, mesh.links, mesh.switchboard
        )
        self.roll_call = RollCall(mesh.links)
        self.placement.is_mute = self.roll_call.is_mute
        self.remotes = RemoteHolders(
            ports.network,
            sweeper,
            mesh.addresses.of,
            on_load=self.placement.report,
            on_abandoned=lambda node, run: mesh.links.notify(node, Cancel(request=run)),
            name_of=mesh.name_of,
            rtt_s=self.placement.rtt_s,
        )
        self.forwarder = Forwarder(
            mesh.id,
            self.holder,
            self.remotes,
            self.placement,
            sweeper,
            on_failure=mesh.holder_failed,
            call_roll=self.roll_call.call,
            request_s=config.limits.request_s,
            queue_wait_s=config.limits.queue_wait_s,
            same_name_is_same_model=config.routing.same_name_is_same_model,
            hedge=config.routing.hedge,
        )

    # ---------------------------------------------------------------- what happens in the mesh

    def presence_changed(self, node: NodeId, present: bool, suspect: bool) -> None:
        """Gossip's word on a member."""
        self.placement.set_presence(node, present=present, suspect=suspect)
        if not present:
            self._lost(node)

    def unlinked(self, node: NodeId, reason: str) -> None:
        """The control link to a member broke."""
        self._lost(node)

    def _lost(self, node: NodeId) -> None:
        """Ask it on new connections only; if gossip and the link agree, end what it asked for.

        Either alone may be wrong, and an answer that still flows is worth more than their word.
        """
        self.remotes.drop_idle(node)
        if self.is_gone(node):
            self.service.entry_gone(node, "the node that asked is away")

    def is_gone(self, node: NodeId) -> bool:
        """Gossip and the control link agree that it is away."""
        return not (self.placement.is_present(node) or self._mesh.links.is_up(node))

    def seems_gone(self, node: NodeId) -> bool:
        """There is no link to it, and gossip does not call it well."""
        return not (self.placement.seems_well(node) or self._mesh.links.is_up(node))

    def unheard(self) -> list[NodeId]:
        """Members of whom nothing is known yet, in the first `limits.UNHEARD_S` after the start."""
        if trio.current_time() - self._began_at > limits.UNHEARD_S:
            return []
        known = self.placement.catalogue.inventory_of
        others = (m.id for m in self._mesh.registry.members() if m.id != self._mesh.id)
        return [node for node in others if known(node) is None]

    def forget(self, node: NodeId) -> None:
        """A node is no member any more: nothing of it is asked, nothing for it goes on."""
        self.placement.catalogue.drop(node)
        self.placement.forget(node)
        self.roll_call.forget(node)
        self.remotes.cut(node, GONE)
        self.service.cut(node, GONE)

    def members_changed(self) -> None:
        """This node may have been drained by an order, or taken back into use."""
        own = self._mesh.registry.get(self._mesh.id)
        self.holder.draining = self._goes or bool(own and own.drained)

    def woke(self) -> None:
        """Pooled connections did not survive this machine's sleep."""
        self.remotes.drop_all_idle()

    def drain(self) -> None:
        """Take nothing new, and say so."""
        self._goes = True
        self._tell_of_drain()

    def serve_again(self) -> None:
        """This node does not go after all: take requests again, and say so."""
        self._goes = False
        self.service.serve_again()
        self._tell_of_drain()

    def stop(self) -> None:
        """End what still runs, with an error that says so."""
        self.forwarder.stop()
        self.service.stop()

    def _tell_of_drain(self) -> None:
        self.members_changed()
        self._mesh.links.notify_all(LoadPush.of(self.holder.load()))

    # ---------------------------------------------------------------- what clients ask

    async def show(self, target: Target) -> dict[str, Any]:
        """Ollama's /api/show of one copy of a model.  Raises BackendFailed."""
        if target.node == self._mesh.id:
            return await self.holder.show(target.backend, target.model.name)
        return await self.remotes.show(target.node, target.backend, target.model.name)

    def _had(self, model: str) -> bool:
        """An engine of this node had it, and has stopped."""
        stopped = self.placement.catalogue.stopped(model, trio.current_time())
        return self._mesh.id in stopped

    def _offer_changed(self) -> None:
        self.holder.offer_changed()
        self.inventories.changed()

    async def _cancelled(self, node: NodeId, message: Cancel) -> Message | None:
        self.service.cancel(node, CancelRequest(message.request))
        return None
