"""One host of a `MemoryNetwork`: its `ports.Network`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING

import trio
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from meshd.errors import DialFailed, ListenFailed, NotAdmitted, SentAway, StreamAborted
from meshd.http.baton import Baton
from meshd.ids import Address, NodeId
from meshd.machine.sockets import race
from meshd.ports import Alpn, ByteStream, Credentials, Datagrams, Listener, Remote
from meshd.testing.memory_datagrams import MemoryDatagrams
from meshd.testing.memory_stream import MemoryStream, Pipe

if TYPE_CHECKING:
    from meshd.testing.network import MemoryNetwork

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_ANYWHERE = ("0.0.0.0", "::", "")
_FIRST_PORT = 40_000
_PEM = b"-----BEGIN"


_Chain = tuple[bytes, ...]
"""Certificates in DER, its own first."""


class _Call:
    """A connection between being dialled and being let in."""

    def __init__(self, alpn: Alpn | None, chain: _Chain) -> None:
        self.alpn = alpn
        self.chain = chain
        self.answered = trio.Event()
        self.dropped = False
        """The listener went away before it looked."""
        self.refusal: NotAdmitted | None = None
        self.acceptor_chain: _Chain = ()


class MemoryListener:
    """Accepts what is dialled to one address of a host."""

    def __init__(self, host: MemoryHost, address: Address | None, *, peers: bool = False) -> None:
        self._host = host
        self._address = address
        self.peers = peers
        self._queue: list[MemoryStream] = []
        self._calls: dict[MemoryStream, _Call] = {}
        self._arrived = Baton()
        self._closed = False

    @property
    def address(self) -> Address | None:
        return self._address

    def offer(self, stream: MemoryStream, call: _Call) -> None:
        self._queue.append(stream)
        self._calls[stream] = call
        self._arrived.wake()

    async def accept(self) -> ByteStream:
        while not self._queue:
            if self._closed:
                raise StreamAborted("the listener is closed")
            await self._arrived.wait()
        await trio.lowlevel.checkpoint()
        return self._queue.pop(0)

    async def handshake(self, stream: ByteStream) -> ByteStream:
        assert isinstance(stream, MemoryStream)
        await trio.lowlevel.checkpoint()
        call = self._calls.pop(stream)
        if self.peers:
            try:
                credentials = self._host.credentials()
                call.acceptor_chain = _chain(credentials)
                node = None
                if call.alpn is not Alpn.JOIN:
                    node = _check(credentials, call.chain)
            except NotAdmitted as error:
                call.refusal = error
                call.answered.set()
                stream.abort(str(error))
                raise
            remote = stream.remote
            stream.remote = Remote(remote.address, node, call.alpn, _leaf(call.chain))
        call.answered.set()
        return stream

    def kill(self) -> None:
        """Nobody listens any more; who is on the way in is turned away."""
        if not self._closed:
            self._closed = True
            self._host.forget_listener(self)
            for stream in self._queue:
                stream.abort("the listener is closed")
                call = self._calls.pop(stream)
                call.dropped = True
                call.answered.set()
            self._queue.clear()
            self._arrived.wake()

    async def aclose(self) -> None:
        self.kill()
        await trio.lowlevel.checkpoint()


class MemoryHost:
    """One machine: a `ports.Network`."""

    def __init__(self, world: MemoryNetwork, name: str, addresses: list[str]) -> None:
        self.world = world
        self.name = name
        self.addresses = addresses
        self.datagrams: dict[int, MemoryDatagrams] = {}
        self._credentials: Credentials | None = None
        self._listeners: dict[tuple[str, int], MemoryListener] = {}
        self._control: dict[str, MemoryListener] = {}
        self._streams: list[tuple[MemoryStream, str]] = []
        self._vanished: list[MemoryStream] = []
        """What was open when this host lost its power."""
        self._next_port = _FIRST_PORT

    def use(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def credentials(self) -> Credentials:
        if self._credentials is None:
            raise NotAdmitted("This node is in no mesh yet: it has no certificate to show.")
        return self._credentials

    def host_name(self) -> str:
        return self.name

    def interface_addresses(self) -> list[str]:
        return list(self.addresses)

    # --- listening

    async def listen_peers(self, port: int) -> Listener:
        return self._listen("", port, peers=True)

    async def listen_clients(self, host: str, port: int) -> Listener:
        return self._listen(host, port)

    async def listen_control(self, path: PurePath) -> Listener:
        if str(path) in self._control:
            raise ListenFailed(f"Another daemon answers on the control socket {path}.")
        listener = self._control[str(path)] = MemoryListener(self, None)
        return listener

    async def listen_datagrams(self, port: int) -> Datagrams:
        port = port or self._free_port()
        if port in self.datagrams:
            raise ListenFailed(f"UDP port {port} is in use by another program; choose another.")

        def route(data: bytes, sender: Address, to: Address) -> None:
            # The sender is where the host is now, not where it was when the socket was bound.
            self.world.route(data, self, Address(self.addresses[0], sender.port), to)

        made = MemoryDatagrams(
            Address(self.addresses[0], port), route, lambda: self._forget_datagrams(port)
        )
        self.datagrams[port] = made
        return made

    def _listen(self, host: str, port: int, *, peers: bool = False) -> MemoryListener:
        for stream in self._vanished:
            stream.rebooted()
        self._vanished.clear()
        host = "" if host in _ANYWHERE else "127.0.0.1" if host in LOOPBACK else host
        port = port or self._free_port()
        if (host, port) in self._listeners:
            raise ListenFailed(f"TCP port {port} is in use by another program; choose another.")
        address = Address(host or self.addresses[0], port)
        listener = self._listeners[host, port] = MemoryListener(self, address, peers=peers)
        return listener

    def _free_port(self) -> int:
        self._next_port += 1
        return self._next_port

    def _listener_at(self, address: Address) -> MemoryListener | None:
        host = "127.0.0.1" if address.host in LOOPBACK else address.host
        found = self._listeners.get((host, address.port))
        return found or self._listeners.get(("", address.port))

    def forget_listener(self, listener: MemoryListener) -> None:
        self._listeners = {k: v for k, v in self._listeners.items() if v is not listener}
        self._control = {k: v for k, v in self._control.items() if v is not listener}

    def _forget_datagrams(self, port: int) -> None:
        del self.datagrams[port]

    # --- dialling

    async def dial_peer(
        self, node: NodeId, addresses: Sequence[Address], alpn: Alpn, timeout_s: float
    ) -> ByteStream:
        credentials = self.credentials()

        async def attempt(address: Address) -> MemoryStream:
            stream, call = await self._dial(address, alpn, _chain(credentials))
            try:
                if call.acceptor_chain:
                    found = _check(credentials, call.acceptor_chain)
                    if found != node:
                        raise NotAdmitted(f"{address} is another member ({found}, not {node}).")
                if call.refusal is not None:
                    refused = SentAway if call.refusal.was_removed else NotAdmitted
                    raise refused(f"{address} does not let this node in: {call.refusal}")
            except NotAdmitted as error:
                stream.abort(str(error))
                raise
            stream.remote = Remote(address, found, alpn, _leaf(call.acceptor_chain))
            return stream

        with trio.move_on_after(timeout_s):
            return await race(
                list(dict.fromkeys(addresses)), attempt, discard=lambda lost: lost.abort("lost")
            )
        raise DialFailed(f"{node} did not answer within {timeout_s:g} s.")

    async def dial_join(self, address: Address, timeout_s: float) -> ByteStream:
        with trio.move_on_after(timeout_s):
            stream, call = await self._dial(address, Alpn.JOIN, ())
            stream.remote = Remote(address, None, Alpn.JOIN, _leaf(call.acceptor_chain))
            return stream
        raise DialFailed(f"{address} did not answer within {timeout_s:g} s.")

    async def dial_plain(self, address: Address, timeout_s: float) -> ByteStream:
        with trio.move_on_after(timeout_s):
            return (await self._dial(address, None, ()))[0]
        raise DialFailed(f"{address} did not answer within {timeout_s:g} s.")

    async def dial_web(self, address: Address, timeout_s: float) -> ByteStream:
        """There are no certificates of the world in here."""
        return await self.dial_plain(address, timeout_s)

    async def _dial(
        self, address: Address, alpn: Alpn | None, chain: _Chain
    ) -> tuple[MemoryStream, _Call]:
        world = self.world
        host = world.find(address.host, self)
        if host is None:
            await trio.sleep_forever()  # nobody at that address: packets vanish
            raise AssertionError
        await world.until_healed(self.name, host.name)
        round_trip_s = (
            world.link(self.name, host.name).latency_s + world.link(host.name, self.name).latency_s
        )
        await trio.sleep(round_trip_s)
        listener = host._listener_at(address)
        if listener is None:
            raise DialFailed(f"{address} does not answer: Connection refused.")
        if (alpn is not None) != listener.peers:
            raise DialFailed(f"{address}: the TLS handshake failed.")
        call = _Call(alpn, chain)
        source = Address("127.0.0.1" if address.host in LOOPBACK else self.addresses[0], 0)
        stream = self._connect(listener, host, address, source, call)
        if alpn is not None:
            try:
                await call.answered.wait()
                if call.dropped:
                    raise DialFailed(f"{address} ended the connection before a welcome.")
                await trio.sleep(2 * round_trip_s)  # TLS 1.3, and the verdict
            except BaseException:  # cancelled too: the other side is told, and it is raised on
                stream.abort("given up")
                raise
        return stream, call

    def _connect(
        self,
        listener: MemoryListener,
        host: MemoryHost,
        address: Address | None,
        own: Address | None,
        call: _Call,
    ) -> MemoryStream:
        out = Pipe(self.world.link(self.name, host.name), self.world.buffer_bytes)
        back = Pipe(self.world.link(host.name, self.name), self.world.buffer_bytes)
        near = MemoryStream(Remote(address), back, out)
        far = MemoryStream(Remote(own), out, back)
        self._keep(near, host.name)
        host._keep(far, self.name)
        listener.offer(far, call)
        return near

    def _keep(self, stream: MemoryStream, other: str) -> None:
        self._streams = [entry for entry in self._streams if not entry[0].closed]
        self._streams.append((stream, other))

    # --- for the world

    def streams_to(self, other: str) -> Iterable[MemoryStream]:
        return [stream for stream, name in self._streams if name == other]

    def crash(self, *, silent: bool) -> None:
        for stream, _ in self._streams:
            if silent:
                stream.vanish("this host has no power")
                self._vanished.append(stream)
            else:
                stream.abort("this process was killed")
        self._streams.clear()
        for listener in [*self._listeners.values(), *self._control.values()]:
            listener.kill()
        for datagrams in list(self.datagrams.values()):
            datagrams.kill()


def _chain(credentials: Credentials) -> _Chain:
    """The certificates as the other side sees them; those of some tests are a mere name."""
    pem = credentials.certificate_pem
    if not pem.lstrip().startswith(_PEM):
        return (pem,)
    return tuple(one.public_bytes(Encoding.DER) for one in _load(pem))


def _leaf(chain: _Chain) -> bytes:
    return chain[0] if chain else b""


def _check(credentials: Credentials, chain: _Chain) -> NodeId:
    """What TLS and `check_peer` do: some CA has signed it, and it is let in."""
    if not chain:
        raise NotAdmitted("The other side shows no certificate.")
    if credentials.ca_pem and not _leads_to(chain, credentials.ca_pem):
        raise NotAdmitted("The certificate is not of this mesh.")
    return credentials.check_peer(chain[0])


@lru_cache(maxsize=256)
def _load(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


@lru_cache(maxsize=1024)
def _leads_to(chain: _Chain, ca_pem: bytes) -> bool:
    """Whether the first certificate comes from one of these CAs, over the others or not."""
    try:
        leaf, *others = (x509.load_der_x509_certificate(der) for der in chain)
    except ValueError:
        return False
    anchors = _load(ca_pem)
    while True:
        if any(_issued(leaf, ca) for ca in anchors):
            return True
        issuer = next((other for other in others if _issued(leaf, other)), None)
        if issuer is None:
            return False
        leaf = issuer
        others.remove(issuer)


def _issued(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
