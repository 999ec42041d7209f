"""From ports and a config to a running node, and to its end."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import trio

from meshd import logs
from meshd.config import Config
from meshd.membership.mdns import Mdns, MdnsFailed
from meshd.node.node import Node
from meshd.paths import Paths
from meshd.peers.addresses import advertised
from meshd.peers.entering import Entrance, Standing
from meshd.ports import Listener, Ports
from meshd.screen import Screen, SightedMesh

log = logs.get("node")

BROWSE_S = 2.0
"""How long to look around by mDNS: a responder answers within 120 ms (RFC 6762, section 6), twice
over a busy Wi-Fi."""


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
        # Both ports first: what is founded or joined after that can be reached.
        listener = await ports.network.listen_peers(config.port)
        clients = await ports.network.listen_clients(config.listen, config.api_port)
        standing = await _enter_unless(stop, ports, config, paths, screen, listener, token or "")
        if standing is not None:
            assert listener.address is not None
            datagrams = await ports.network.listen_datagrams(listener.address.port)
            node = Node(ports, config, paths, screen, standing, listener, datagrams, clients)
            await node.run(stop)
        nursery.cancel_scope.cancel()


async def enter(
    ports: Ports, config: Config, paths: Paths, screen: Screen, listener: Listener, token: str
) -> Standing:
    """Found, go on in, or join a mesh.  `listener` is bound, so that addresses can be told."""
    assert listener.address is not None
    port = listener.address.port
    entrance = Entrance(
        ports,
        paths.data,
        screen,
        name=config.name or ports.network.host_name(),
        addresses=advertised(config.advertise, ports.network.interface_addresses(), port),
        browse=lambda: _browse(ports, config),
    )
    return await entrance.enter(config.join, token)


async def _browse(ports: Ports, config: Config) -> Sequence[SightedMesh]:
    if not config.mdns:
        return []
    try:
        seen = await Mdns(None, ports.network.interface_addresses).browse(BROWSE_S)
    except MdnsFailed as e:
        log.warning("no looking around", why=str(e))
        return []
    return [SightedMesh(s.mesh, s.name, str(s.addresses[0]), s.ca) for s in seen if s.addresses]


async def _enter_unless(
    stop: trio.Event,
    ports: Ports,
    config: Config,
    paths: Paths,
    screen: Screen,
    listener: Listener,
    token: str,
) -> Standing | None:
    """`enter`, given up on a signal: None."""
    standing: Standing | None = None
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            await stop.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        standing = await enter(ports, config, paths, screen, listener, token)
        nursery.cancel_scope.cancel()
    return standing


async def _obey_signals(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            if stop.is_set():
                raise KeyboardInterrupt
            stop.set()
