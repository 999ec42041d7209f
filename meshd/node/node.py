"""A member of a mesh, with everything that it does."""

from __future__ import annotations

from collections import Counter
from functools import partial

import trio

from meshd import limits, logs
from meshd.api.access import Access
from meshd.api.admin import AdminApi, problem_body
from meshd.api.administration import Administration, Sources
from meshd.api.server import ClientApi
from meshd.config import Config
from meshd.control import Finding
from meshd.errors import MeshdError
from meshd.http import HttpServer, RequestLimits, Room, ServerOptions, Sweeper
from meshd.ids import Address
from meshd.node.bad_requests import BadRequests, log_bug
from meshd.node.data import DataSide
from meshd.node.departure import Departure
from meshd.node.drain import ClientPort, Drain
from meshd.node.jobs import JobsSide
from meshd.node.keys import NodeKeys
from meshd.node.mesh import Callbacks, MeshSide
from meshd.node.record import RecordSide
from meshd.node.registrar import Registrar
from meshd.paths import Paths
from meshd.peers.custody import Custody
from meshd.peers.entering import Standing
from meshd.peers.neighbours import Own
from meshd.ports import Datagrams, Listener, Ports
from meshd.screen import Screen

log = logs.get("node")

_EVERYWHERE = ("0.0.0.0", "::", "")


class Node:
    """The two sides of a node, its doors, its start and its end."""

    def __init__(
        self,
        ports: Ports,
        config: Config,
        paths: Paths,
        screen: Screen,
        standing: Standing,
        listener: Listener,
        datagrams: Datagrams,
        clients: Listener | None = None,
    ) -> None:
        """`listener` and `datagrams` are those of the mesh port, `clients` the client port's."""
        assert listener.address is not None
        self._ports, self._config, self._paths = ports, config, paths
        self._screen, self._listener = screen, listener
        self._port = listener.address.port
        self._stop = trio.Event()
        self._clients = clients
        self._rules = Access()
        self._rules_for: object = None
        """This machine's addresses as the rules have them."""
        self.client_url = ""
        """Where clients reach it, once it runs."""
        self._bad_clients = BadRequests("http_refused", "refused on the client port")
        self._bad_orders = BadRequests("control_refused", "refused on the control socket")
        self.sweeper = Sweeper()
        self.mesh = MeshSide(
            ports, config, paths, screen, standing, self._port, lambda: self._stop.set()
        )
        self.record = RecordSide(ports, config, paths, self.mesh)
        self.custody = Custody(
            standing,
            self.mesh.links,
            self.mesh.switchboard,
            self.record.ledger,
            clock=ports.clock,
            entropy=ports.entropy,
            ca_changed=self.mesh.ca_changed,
        )
        self.record.on_events(self.custody.happened)
        self.keys = NodeKeys(
            ports.disk,
            paths.keys,
            self.mesh.registry.mesh,
            self.record.ledger,
            trouble=lambda: self.record.report().problem,
        )
        self.record.on_events(self.keys.happened)
        self.room = Room(max(limits.BODIES_BYTES, 2 * config.limits.body_bytes))
        self.data = DataSide(ports, config, paths, self.mesh, self.sweeper, self.room)
        self.jobs = JobsSide(ports, config, self.mesh, self.record, self.data, self.room)
        self.mesh.use_record(Registrar(self.record, self.jobs.duties))
        self.drain = Drain(self.data, self.jobs.keyed, config.drain_timeout_s)
        self.departure = Departure(
            self.mesh.id,
            self.record.ledger,
            self.mesh.name_of,
            lambda: len(self.mesh.registry.members()),
            drain=self._drain_to_leave,
            hand_over_answers=self.jobs.hand_over,
            take_out=self.mesh.office.leave,
            serve_again=self._serve_again,
        )
        data = self.data
        self.mesh.connect(
            datagrams,
            Own(
                addresses=self.mesh.own_addresses,
                inventory_revision=lambda: data.backends.inventory().revision,
                load=data.holder.load,
            ),
            data.inventories.fetch_if_newer,
            Callbacks(
                presence=data.presence_changed,
                forgotten=data.forget,
                unlinked=data.unlinked,
                members=data.members_changed,
                woke=data.woke,
            ),
            data.peer_http,
        )

    async def run(self, stop: trio.Event) -> None:
        """Serve until `stop`, then drain and say goodbye."""
        self._stop = stop
        self.keys.load()
        async with trio.open_nursery() as nursery:
            for service in (
                self.sweeper.run,
                partial(self.mesh.door.run, self._listener),
                self.mesh.run,
                self.record.run,
                self.custody.run,
                self.keys.run,
                self.jobs.run,
                self.data.backends.run,
                self.data.holder.run,
                self.data.inventories.run,
            ):
                nursery.start_soon(service)
            await self.data.backends.first_probe_done()
            await self._serve_clients(nursery)
            await stop.wait()
            await self._drain_to_stop()
            await self.mesh.neighbours.agent.leave()
            nursery.cancel_scope.cancel()

    # ---------------------------------------------------------------- doors

    async def _serve_clients(self, nursery: trio.Nursery) -> None:
        config, network = self._config, self._ports.network
        listener = self._clients or await network.listen_clients(config.listen, config.api_port)
        assert listener.address is not None
        api_port = listener.address.port
        name = self.mesh.standing.identity.name
        api = ClientApi(
            name=name,
            forwarder=self.data.forwarder,
            placement=self.data.placement,
            node_name=self.mesh.name_of,
            unheard=self.data.unheard,
            show=self.data.show,
            access=self._access,
            clock=self._ports.clock,
            entropy=self._ports.entropy,
            room=self.room,
            jobs=self.jobs.api,
            keyed=self.jobs.keyed,
            traces=self.jobs.traces if config.traces else None,
        )
        self.jobs.use(api)
        options = ServerOptions(
            request=RequestLimits(body_bytes=config.limits.body_bytes),
            room=self.room,
            connections=config.limits.connections,
            admit=api.admit,
            error_body=api.error_body,
            on_error=log_bug,
            on_refused=self._bad_clients.note,
        )
        port = ClientPort(
            nursery,
            server=lambda: HttpServer(api.handle, self.sweeper, options=options),
            listen=lambda: network.listen_clients(config.listen, api_port),
        )
        port.serve(listener)
        self.drain.use(port)
        host = "127.0.0.1" if listener.address.host in _EVERYWHERE else config.listen
        self.client_url = f"http://{Address(host, api_port)}"
        await self._serve_control(nursery, api.counters)
        backends = self.data.backends.inventory().backends
        self._screen.serving(
            name=name,
            client_url=self.client_url,
            peer_port=self._port,
            nodes=len(self.mesh.registry.members()),
            models=sorted({model.name for b in backends for model in b.models}),
            engines=[b.engine for b in backends],
        )

    async def _serve_control(self, nursery: trio.Nursery, api_counters: Counter[str]) -> None:
        mesh, data = self.mesh, self.data
        sources = Sources(
            node=mesh.id,
            registry=mesh.registry,
            backends=data.backends,
            holder=data.holder,
            placement=data.placement,
            presence=mesh.presence,
            own_addresses=mesh.own_addresses,
            record=self.record.report,
            backup=self.record.backup,
            order_vote=self.record.order_vote,
            client_url=self.client_url,
            peer_port=self._port,
            counters=[
                api_counters,
                data.forwarder.counters,
                data.remotes.counters,
                self.jobs.finishing.counters,
                mesh.door.counters,
                mesh.join_server.counters,
                mesh.switchboard.counters,
                self._bad_clients.counters,
                self._bad_orders.counters,
                data.bad_peers.counters,
            ],
            gauges=self._gauges,
            admitting=self.record.admitting,
            problems=lambda: [
                *mesh.problems(),
                *self.record.problems(),
                *self.custody.problems(mesh.name_of),
            ],
            confirm_clock=self.record.confirm_clock,
            findings=[mesh.findings, self._custody_findings],
        )
        administration = Administration(
            sources,
            mesh.office,
            mesh.office.consents,
            self.departure,
            stop=self._stop.set,
            forget=self._forget,
        )
        options = ServerOptions(
            error_body=problem_body, on_error=log_bug, on_refused=self._bad_orders.note
        )
        orders = AdminApi(administration, {**self.jobs.orders.routes(), **self.keys.routes()})
        server = HttpServer(orders.handle, self.sweeper, options=options)
        listener = await self._ports.network.listen_control(self._paths.socket)
        nursery.start_soon(server.serve, listener)

    # ---------------------------------------------------------------- ends

    async def _drain_to_stop(self) -> None:
        """Take nothing new, tell the others, and give what runs its time."""
        await self.drain.begin()
        self._screen.draining(running=self.drain.running, timeout_s=self.drain.timeout_s)
        self._screen.stopped(unfinished=await self.drain.finish())

    async def _drain_to_leave(self) -> None:
        """The same while this node is a member still, and may have to stay one."""
        await self.drain.begin()
        log.info("leaving: requests end", running=self.drain.running, within_s=self.drain.timeout_s)
        log.info("leaving: drained", unfinished=await self.drain.finish())

    async def _serve_again(self) -> None:
        """It could not leave; nothing is begun again if it was told to stop meanwhile."""
        if self._stop.is_set():
            return
        try:
            await self.drain.take_back()
        except MeshdError as error:
            self._screen.warning(f"the client port cannot be opened again: {error} It stops.")
            self._stop.set()

    # ---------------------------------------------------------------- small things

    def _access(self) -> Access:
        """Who may use the client port, by this machine's addresses and name as they are now."""
        hosts = self.mesh.own_hosts()
        if hosts is not self._rules_for:  # they are looked up anew now and then
            config, self._rules_for = self._config, hosts
            advertised = (address.host for address in config.advertise)
            self._rules = Access(
                machine_names=frozenset({self._ports.network.host_name().lower()}),
                machine_addresses=frozenset((*hosts, *advertised)),
                allowed_hosts=frozenset(config.allowed_hosts),
                allowed_origins=config.allowed_origins,
                require_key=config.require_key,
                check_key=lambda key: self.keys.check(key.decode("latin-1")),
            )
        return self._rules

    async def _custody_findings(self) -> list[Finding]:
        """`meshd doctor`: whether anybody can let nodes in."""
        problems = self.custody.problems(self.mesh.name_of)
        await trio.lowlevel.checkpoint()
        return [Finding("ca-key", "warn", sentence, "see the sentence") for sentence in problems]

    def _forget(self) -> None:
        """This node has left the mesh.  Raises StoreDamaged, DiskFailed."""
        self.mesh.standing.store.leave()
        self.record.erase()
        self.keys.forget()

    def _gauges(self) -> dict[str, int]:
        return {
            "in_flight": self.data.forwarder.in_flight.count + self.jobs.keyed.in_flight.count,
            "loop_late_ms": round(self.sweeper.late_s * 1000),
            "loop_late_ms_max": round(self.sweeper.late_max_s * 1000),
            "bodies_bytes": self.room.held_bytes,
            **self.mesh.gauges(),
        }
