"""A network of many hosts in one process, in trio's time: with `MockClock`, in no time at all.

    world = MemoryNetwork(seed=1, latency_s=0.001)
    a = world.host("a", ["10.0.0.1"])       # a ports.Network
    a.use(memory_credentials(node_a))       # or real Credentials: certificates are checked then
    world.partition("a", "b"); world.heal("a", "b"); world.crash("b")

There is no TLS.  Who is at the other end is what its host's credentials say, and admission is
asked of `check_peer` on both sides, as on the real network.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import trio

from meshd.errors import NotAdmitted
from meshd.ids import Address, MeshId, NodeId
from meshd.ports import Credentials
from meshd.testing.memory_host import LOOPBACK, MemoryHost
from meshd.testing.memory_stream import Link
from meshd.testing.schedule import Trace

_SOME_MESH = MeshId("m" * 26)

__all__ = ["MemoryHost", "MemoryNetwork", "memory_credentials"]


def memory_credentials(
    node: NodeId,
    mesh: MeshId = _SOME_MESH,
    *,
    refuses: Callable[[NodeId], bool] = lambda node: False,
) -> Credentials:
    """Credentials for hosts in memory alone: the "certificate" is the names of mesh and node.

    `refuses` is asked about every peer, at every handshake.
    """

    def check_peer(certificate: bytes) -> NodeId:
        of_mesh, _, of_node = certificate.decode().partition("/")
        if of_mesh != mesh:
            raise NotAdmitted(f"The node is of another mesh ({of_mesh}).")
        peer = NodeId(of_node)
        if refuses(peer):
            raise NotAdmitted(f"{peer} is not a member.")
        return peer

    return Credentials(
        node=node,
        mesh=mesh,
        certificate_pem=f"{mesh}/{node}".encode(),
        private_key_pem=b"",
        ca_pem=b"",
        check_peer=check_peer,
    )


class MemoryNetwork:
    """The world: hosts, and links between each two of them, per direction."""

    def __init__(
        self,
        *,
        seed: int = 0,
        latency_s: float = 0.0,
        jitter_s: float = 0.0,
        datagram_loss: float = 0.0,
        datagram_duplication: float = 0.0,
        buffer_bytes: int = 65536,
    ) -> None:
        """`latency_s` is one way, for links that `set_latency` does not name.

        Jitter, loss and duplication are for datagrams only; streams are reliable.
        """
        self.latency_s = latency_s
        self.jitter_s = jitter_s
        self.datagram_loss = datagram_loss
        self.datagram_duplication = datagram_duplication
        self.buffer_bytes = buffer_bytes
        self.random = random.Random(seed)
        self.trace = Trace()
        """All that was sent, on streams and as datagrams."""
        self.hosts: dict[str, MemoryHost] = {}
        self._by_address: dict[str, MemoryHost] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._healed = trio.Event()

    def host(self, name: str, addresses: Sequence[str] = ()) -> MemoryHost:
        """A new host.  Without addresses it gets one of 10.0.0.0/8."""
        if name in self.hosts:
            raise ValueError(f"there is a host {name!r} already")
        count = len(self.hosts) + 1
        host = MemoryHost(self, name, list(addresses) or [f"10.0.{count // 250}.{count % 250 + 1}"])
        self.hosts[name] = host
        self.readdress(name, host.addresses)
        return host

    def readdress(self, name: str, addresses: Sequence[str]) -> None:
        """The host moves house: it is reachable at these and no longer at the old ones."""
        host = self.hosts[name]
        self._by_address = {k: h for k, h in self._by_address.items() if h is not host}
        host.addresses = list(addresses)
        for address in addresses:
            if address in self._by_address:
                raise ValueError(f"{address} is {self._by_address[address].name}'s already")
            self._by_address[address] = host

    def link(self, source: str, target: str) -> Link:
        """The direction from one host to another."""
        if (source, target) not in self._links:
            own = source == target
            self._links[source, target] = Link(
                0.0 if own else self.latency_s, f"{source} > {target}", self.trace
            )
        return self._links[source, target]

    def set_latency(self, a: str, b: str, latency_s: float) -> None:
        """One-way latency between two hosts, both directions."""
        self.link(a, b).latency_s = self.link(b, a).latency_s = latency_s

    def partition(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Nothing gets from a to b (nor back, unless `one_way`); nobody is told."""
        self.link(a, b).cut()
        if not one_way:
            self.link(b, a).cut()

    def heal(self, a: str, b: str) -> None:
        links = self.link(a, b), self.link(b, a)
        for link in links:
            link.up = True  # both, before anything is answered over the other
        for link in links:
            link.heal()
        self._healed.set()
        self._healed = trio.Event()

    def isolate(self, name: str) -> None:
        """Cut a host off from all others."""
        for other in self.hosts:
            if other != name:
                self.partition(name, other)

    def rejoin(self, name: str) -> None:
        """Undo `isolate`."""
        for other in self.hosts:
            if other != name:
                self.heal(name, other)

    def reset(self, a: str, b: str) -> None:
        """Break every stream between two hosts, as a rebooted router does."""
        for host, other in ((self.hosts[a], b), (self.hosts[b], a)):
            for stream in host.streams_to(other):
                stream.abort("reset")

    def crash(self, name: str, *, silent: bool = False) -> None:
        """Everything the host holds is gone: its process died (others see resets), or, if
        `silent`, its power (they see nothing).  Listening again brings it back."""
        self.hosts[name].crash(silent=silent)

    # --- for hosts

    def find(self, address: str, asker: MemoryHost) -> MemoryHost | None:
        return asker if address in LOOPBACK else self._by_address.get(address)

    async def until_healed(self, a: str, b: str) -> None:
        while not (self.link(a, b).up and self.link(b, a).up):
            await self._healed.wait()

    def route(self, data: bytes, source: MemoryHost, sender: Address, to: Address) -> None:
        """One datagram."""
        self.trace.note(f"{source.name} > {to} datagram", data)
        host = self.find(to.host, source)
        target = host.datagrams.get(to.port) if host is not None else None
        if host is None or target is None or not self.link(source.name, host.name).up:
            return
        if host is source:
            target.deliver(trio.current_time(), data, Address("127.0.0.1", sender.port))
            return
        if self.random.random() < self.datagram_loss:
            return
        copies = 2 if self.random.random() < self.datagram_duplication else 1
        for _ in range(copies):
            delay = self.link(source.name, host.name).latency_s
            delay += self.random.random() * self.jitter_s
            target.deliver(trio.current_time() + delay, data, sender)
