"""One node, composed: ports in, nursery out.  The only file that knows everyone.

run_node     enter a mesh, then run until a signal or an order stops it
Node         the parts of a running node, wired together
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import trio

from meshd import __version__, logs
from meshd.api.access import Access
from meshd.api.admin import AdminApi
from meshd.api.administration import Administration, Presence, Sources
from meshd.api.server import ClientApi
from meshd.apikeys import ApiKeys
from meshd.backends import Backends
from meshd.config import Config
from meshd.http import HttpServer, RequestLimits, ServerOptions, Sweeper
from meshd.identity import Keyring, check_peer, show_digits, to_pem
from meshd.ids import Address, NodeId, short
from meshd.inference import Failure, FailureKind
from meshd.paths import Paths
from meshd.peers.addresses import AddressBook, Source
from meshd.peers.door import PeerDoor
from meshd.peers.entering import Entrance, Standing
from meshd.peers.inventories import Inventories
from meshd.peers.join_admit import FounderAdmitter
from meshd.peers.join_server import JoinServer, Waiting
from meshd.peers.keys import MeshKeys
from meshd.peers.links import ControlLinks
from meshd.peers.neighbours import Heard, Neighbours, Own
from meshd.peers.office import MeshOffice
from meshd.peers.roster import Roster
from meshd.peers.switchboard import Switchboard
from meshd.ports import Alpn, Credentials, Datagrams, Listener, Ports
from meshd.record import RegistryChange
from meshd.relay.forwarder import Forwarder
from meshd.relay.holder import Holder
from meshd.relay.remote import RemoteHolders
from meshd.relay.serving import PeerService
from meshd.relay.watchdog import Patience
from meshd.routing.catalogue import Catalogue, Target
from meshd.routing.placement import Placement
from meshd.routing.policies import policy_named
from meshd.screen import Screen, SightedMesh
from meshd.wire.answer import CancelRequest
from meshd.wire.control import PROTOCOL_MAX, PROTOCOL_MIN, Cancel, Hello, LoadPush, Message

log = logs.get("node")


async def run_node(
    ports: Ports, config: Config, paths: Paths, *, screen: Screen, token: str | None = None
) -> None:
    """Enter a mesh and serve until SIGTERM, SIGINT or an order; the second signal does not wait.

    The data directory's lock is the caller's.  Raises MeshdError (or OSError) with a sentence if
    the node cannot start.
    """
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_obey_signals, stop)
        listener = await ports.network.listen_peers(config.port)
        async with trio.open_nursery() as entering:
            entering.start_soon(_give_up, stop, entering.cancel_scope)
            standing = await enter(ports, config, paths, screen, listener, token or "")
            entering.cancel_scope.cancel()
        if stop.is_set():
            nursery.cancel_scope.cancel()
            return
        assert listener.address is not None
        datagrams = await ports.network.listen_datagrams(listener.address.port)
        node = Node(ports, config, paths, screen, standing, listener, datagrams)
        await node.run(stop)
        nursery.cancel_scope.cancel()


async def _give_up(stop: trio.Event, scope: trio.CancelScope) -> None:
    await stop.wait()
    scope.cancel()


async def _obey_signals(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            if stop.is_set():
                raise KeyboardInterrupt
            stop.set()


async def enter(
    ports: Ports, config: Config, paths: Paths, screen: Screen, listener: Listener, token: str
) -> Standing:
    """Found, go on in, or join a mesh.  `listener` is bound, so that addresses can be told."""
    assert listener.address is not None
    port = listener.address.port

    async def browse() -> Sequence[SightedMesh]:
        return []

    entrance = Entrance(
        ports,
        paths.data,
        screen,
        name=config.name or ports.network.host_name(),
        addresses=[Address(host, port) for host in ports.network.interface_addresses()],
        browse=browse,
    )
    return await entrance.enter(config.join, token)


class Node:
    """A member of a mesh, with everything that it does."""

    def __init__(
        self,
        ports: Ports,
        config: Config,
        paths: Paths,
        screen: Screen,
        standing: Standing,
        listener: Listener,
        datagrams: Datagrams,
    ) -> None:
        assert listener.address is not None
        self.id: NodeId = standing.key.public.node
        self.standing = standing
        self._ports, self._config, self._paths = ports, config, paths
        self._screen = screen
        self._listener = listener
        self._port = listener.address.port
        self._stop = trio.Event()
        self._versions: dict[NodeId, str] = {}
        self._bad = logs.PerSource(logs.get("peers"), trio.current_time)
        self.registry = standing.registry
        self.sweeper = Sweeper()
        self._keys = ApiKeys()
        self._rules = Access()
        ports.network.use(self._credentials())
        self._build_mesh_side()
        self._build_data_side()
        self._build_membership(datagrams)

    # ---------------------------------------------------------------- composition

    def _build_mesh_side(self) -> None:
        ports, standing = self._ports, self.standing
        self.addresses = AddressBook()
        self.switchboard = Switchboard(self.registry.mesh, self._hello)
        self.links = ControlLinks(ports.network, ports.entropy, self.switchboard, self.addresses.of)
        self.office = MeshOffice(
            self.id,
            self.registry,
            self.links,
            self.switchboard,
            _founder(standing, ports),
            self._own_addresses,
        )
        self.join_server = JoinServer(
            identity=lambda: standing.identity,
            admitter=lambda: self.office,
            entropy=ports.entropy,
            on_waiting=self._newcomer,
        )
        self.office.use_door(self.join_server)
        self.roster = Roster(self.registry, self.links, self.switchboard)
        self.switchboard.on_greeted(self._greeted)
        self.switchboard.on_unlinked(self._unlinked)
        self.registry.subscribe(self._members_changed)

    def _build_data_side(self) -> None:
        ports, config = self._ports, self._config
        self.placement = Placement(
            self.id,
            Catalogue(config.aliases),
            policy_named(config.routing.policy, ports.entropy.randrange),
        )
        self.backends = Backends(
            ports,
            sweeper=self.sweeper,
            node=self.id,
            generation=self.standing.generation,
            configured=config.backends,
            detect=config.detect,
            claims_dir=self._paths.claims,
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
            self.id,
            self.backends,
            self.sweeper,
            patience=Patience(config.limits.first_token_s, config.limits.inter_token_s),
            queue_limit=config.limits.queue,
        )
        self.peer_service = PeerService(self.holder, self.sweeper)
        self.switchboard.answer(Cancel, self._cancelled)
        self.switchboard.on_measured(self.placement.measured_rtt)
        self.inventories = Inventories(
            self.backends.inventory, self.holder.load, self.placement, self.links, self.switchboard
        )
        self.remotes = RemoteHolders(
            ports.network,
            self.sweeper,
            self.addresses.of,
            on_load=self.placement.report,
            on_abandoned=lambda node, run: self.links.notify(node, Cancel(request=run)),
        )
        self.forwarder = Forwarder(
            self.id,
            self.holder,
            self.remotes,
            self.placement,
            self.sweeper,
            on_failure=self._holder_failed,
            request_s=config.limits.request_s,
            queue_wait_s=config.limits.queue_wait_s,
        )
        self.peer_http = HttpServer(self.peer_service.handle, self.sweeper)
        self.door = PeerDoor(
            {
                Alpn.CONTROL: self.links.serve,
                Alpn.HTTP: self.peer_http.serve_stream,
                Alpn.JOIN: self.join_server.serve,
            },
            on_bad=self._refused_at_door,
        )

    def _build_membership(self, datagrams: Datagrams) -> None:
        ports, standing = self._ports, self.standing
        self.keys = MeshKeys(
            standing.identity.keyring,
            self.registry,
            self.links,
            self.switchboard,
            ports.entropy,
            rotates=standing.identity.authority is not None,
            changed=self._keys_changed,
        )
        self.neighbours = Neighbours(
            ports,
            standing,
            datagrams,
            self.links,
            self.switchboard,
            self.addresses,
            Own(
                addresses=self._own_addresses,
                inventory_revision=lambda: self.backends.inventory().revision,
                load=self.holder.load,
            ),
            Heard(
                present=self._presence_changed,
                inventory=self.inventories.fetch_if_newer,
                woke=self._woke,
            ),
            on_unknown_key=self.keys.ask,
        )

    # ---------------------------------------------------------------- running

    async def run(self, stop: trio.Event) -> None:
        """Serve until `stop`, then drain."""
        self._stop = stop
        self._reload_keys()
        self._apply_members()
        async with trio.open_nursery() as nursery:
            for service in (
                self.sweeper.run,
                partial(self.door.run, self._listener),
                self.links.run,
                self.backends.run,
                self.inventories.run,
                self.keys.run,
                self.neighbours.run,
            ):
                nursery.start_soon(service)
            await self.backends.first_probe_done()
            clients = await self._serve_clients(nursery)
            await stop.wait()
            await self._drain(clients)
            await self.neighbours.agent.leave()
            nursery.cancel_scope.cancel()

    async def _serve_clients(self, nursery: trio.Nursery) -> HttpServer:
        config, network = self._config, self._ports.network
        listener = await network.listen_clients(config.listen, config.api_port)
        assert listener.address is not None
        api = ClientApi(
            name=self.standing.identity.name,
            forwarder=self.forwarder,
            placement=self.placement,
            node_name=self._node_name,
            show=self._show,
            access=lambda: self._rules,
            clock=self._ports.clock,
            entropy=self._ports.entropy,
        )
        options = ServerOptions(
            request=RequestLimits(body_bytes=config.limits.body_bytes),
            connections=config.limits.connections,
            admit=api.admit,
            on_error=lambda what, error: log.exception(what, exc_info=error),
        )
        clients = HttpServer(api.handle, self.sweeper, options=options)
        nursery.start_soon(clients.serve, listener)
        host = "127.0.0.1" if listener.address.host in ("0.0.0.0", "::", "") else config.listen
        client_url = f"http://{Address(host, listener.address.port)}"
        await self._serve_control(nursery, client_url, [api.counters])
        names = sorted({m.name for b in self.backends.inventory().backends for m in b.models})
        self._screen.serving(
            name=self.standing.identity.name,
            client_url=client_url,
            peer_port=self._port,
            nodes=len(self.registry.members()),
            models=names,
            engines=[b.engine for b in self.backends.inventory().backends],
        )
        return clients

    async def _serve_control(
        self, nursery: trio.Nursery, client_url: str, counters: list[Counter[str]]
    ) -> None:
        sources = Sources(
            node=self.id,
            registry=self.registry,
            backends=self.backends,
            holder=self.holder,
            placement=self.placement,
            presence=self._presence,
            own_addresses=self._own_addresses,
            client_url=client_url,
            peer_port=self._port,
            counters=[
                *counters,
                self.forwarder.counters,
                self.door.counters,
                self.join_server.counters,
                self.switchboard.counters,
            ],
            gauges=self._gauges,
            problems=self.neighbours.agent.problems,
        )
        administration = Administration(
            sources,
            self.office,
            stop=self._stop.set,
            reload_keys=self._reload_keys,
            forget=self.standing.store.leave,
        )
        server = HttpServer(AdminApi(administration).handle, self.sweeper)
        listener = await self._ports.network.listen_control(self._paths.socket)
        nursery.start_soon(server.serve, listener)

    async def _drain(self, clients: HttpServer) -> None:
        """Take nothing new, tell the others, and give what runs its time."""
        timeout_s = self._config.drain_timeout_s
        self.holder.draining = True
        clients.drain()
        self.links.notify_all(LoadPush.of(self.holder.load()))
        running = max(self.holder.in_flight.count, self.forwarder.in_flight.count)
        self._screen.draining(running=running, timeout_s=timeout_s)
        with trio.move_on_after(timeout_s):
            await self.forwarder.in_flight.until_none()
            await self.holder.in_flight.until_none()
        unfinished = max(self.holder.in_flight.count, self.forwarder.in_flight.count)
        self._screen.stopped(unfinished=unfinished)

    # ---------------------------------------------------------------- who we are

    def _credentials(self) -> Credentials:
        standing = self.standing
        return Credentials(
            node=self.id,
            mesh=self.registry.mesh,
            certificate_pem=to_pem(standing.identity.certificate_der),
            private_key_pem=standing.key.pem(),
            ca_pem=to_pem(standing.identity.ca_certificate_der),
            check_peer=self._check_peer,
        )

    def _check_peer(self, certificate_der: bytes) -> NodeId:
        return check_peer(
            certificate_der,
            mesh=self.registry.mesh,
            ca_public_key=self.standing.identity.ca,
            registered=self.registry.key_hash_of,
            removed=self.registry.is_removed,
            now_unix_s=self._ports.clock.wall(),
        )

    def _hello(self) -> Hello:
        return Hello(
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            version=__version__,
            node=self.id,
            generation=self.standing.generation,
            mesh=self.registry.mesh,
            name=self.standing.identity.name,
            members_version=self.registry.version,
        )

    def _own_addresses(self) -> list[Address]:
        return [Address(host, self._port) for host in self._ports.network.interface_addresses()]

    def _read_keys(self) -> ApiKeys:
        return ApiKeys.parse(self._ports.disk.read(self._paths.keys), self._paths.keys)

    def _reload_keys(self) -> int:
        self._keys = self._read_keys()
        self._rules = self._make_rules()
        return len(self._keys.keys)

    def _make_rules(self) -> Access:
        config, network = self._config, self._ports.network
        return Access(
            machine_names=frozenset({network.host_name().lower()}),
            machine_addresses=frozenset(network.interface_addresses()),
            allowed_hosts=frozenset(config.allowed_hosts),
            allowed_origins=config.allowed_origins,
            require_key=config.require_key,
            check_key=lambda key: self._keys.check(key.decode("latin-1")),
        )

    # ---------------------------------------------------------------- the others

    def _members_changed(self, change: RegistryChange) -> None:
        for node in change.removed:
            self._forget(node)
        self._apply_members()

    def _apply_members(self) -> None:
        others = {m.id for m in self.registry.members() if m.id != self.id}
        for member in self.registry.members():
            self.addresses.put(member.id, member.addresses, Source.LISTED)
        self.addresses.keep_only(others)
        own = self.registry.get(self.id)
        self.holder.draining = self._stop.is_set() or bool(own and own.drained)
        self.links.want(others)
        if self.registry.is_removed(self.id):
            self._screen.warning("this node was removed from the mesh; it stops")
            self._stop.set()

    def _forget(self, node: NodeId) -> None:
        self.placement.catalogue.drop(node)
        self.placement.forget(node)
        self.remotes.drop(node, "the node is no member any more")
        self.peer_service.cut(node, "the node is no member any more")
        self._versions.pop(node, None)

    def _gauges(self) -> dict[str, int]:
        return {
            "loop_late_ms": round(self.sweeper.late_s * 1000),
            "loop_late_ms_max": round(self.sweeper.late_max_s * 1000),
            **self.neighbours.agent.counters(),
        }

    def _offer_changed(self) -> None:
        self.inventories.changed()

    def _greeted(self, node: NodeId, hello: Hello) -> None:
        self._versions[node] = hello.version

    def _unlinked(self, node: NodeId, reason: str) -> None:
        self.remotes.drop(node, reason)

    def _presence_changed(self, node: NodeId, present: bool, suspect: bool) -> None:
        self.placement.set_presence(node, present=present, suspect=suspect)
        if not present:
            self.remotes.drop(node, "the node is away")

    def _presence(self, node: NodeId) -> Presence:
        view = self.neighbours.agent.member(node)
        version, addresses = self._versions.get(node, ""), self.addresses.of(node)
        if view is None:
            return Presence(
                "alive" if self.links.is_up(node) else "unknown", None, version, addresses
            )
        return Presence(view.state.value, round(view.heard_s, 1), version, addresses)

    def _keys_changed(self, keyring: Keyring) -> None:
        self.standing.identity.keyring = keyring
        self.standing.store.save_keyring(self.registry.mesh, keyring)
        self.neighbours.use_keys(keyring)

    def _woke(self) -> None:
        """Pooled connections did not survive the sleep, and nobody has told us."""
        self.remotes.drop_all("this machine slept")
        for node in self.links.up():
            self.links.cut(node, "this machine slept")

    def _holder_failed(self, target: Target, failure: Failure) -> None:
        log.info("a holder failed", node=self._node_name(target.node), why=failure.message)
        if failure.kind in (FailureKind.HOLDER_LOST, FailureKind.UNREACHABLE):
            self.neighbours.suspect(target.node, failure.message)

    async def _cancelled(self, node: NodeId, message: Cancel) -> Message | None:
        self.peer_service.cancel(node, CancelRequest(message.request))
        return None

    def _refused_at_door(self, source: str, why: str) -> None:
        self._bad.warning("refused on the mesh port", source, why=why)

    def _newcomer(self, waiting: Waiting) -> None:
        self._screen.newcomer(
            digits=show_digits(waiting.digits), name=waiting.name, address=waiting.address
        )

    def _node_name(self, node: NodeId) -> str:
        member = self.registry.get(node)
        return member.name if member else short(node)

    async def _show(self, target: Target) -> dict[str, Any]:
        if target.node == self.id:
            return await self.holder.show(target.backend, target.model.name)
        return await self.remotes.show(target.node, target.backend, target.model.name)


def _founder(standing: Standing, ports: Ports) -> FounderAdmitter | None:
    """The founder's desk, where this node is the founder."""
    authority = standing.identity.authority
    if authority is None:
        return None
    mesh = standing.registry.mesh
    return FounderAdmitter(
        node=standing.key.public.node,
        authority=authority,
        registry=standing.registry,
        tokens=standing.tokens,
        keyring=lambda: standing.identity.keyring,
        clock=ports.clock,
        entropy=ports.entropy,
        persist_tokens=lambda tokens: standing.store.save_tokens(mesh, tokens),
    )
