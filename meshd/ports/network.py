"""Streams, datagrams and who is at their other end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from typing import Protocol

from meshd.ids import Address, MeshId, NodeId


class Alpn(StrEnum):
    """What a connection to the peer port is for (the TLS ALPN name)."""

    CONTROL = "meshd/1"
    HTTP = "http/1.1"
    JOIN = "meshd-join/1"


@dataclass(frozen=True, slots=True)
class Remote:
    """Who is at the other end of a stream, as far as the transport proved it."""

    address: Address | None
    """None for a UNIX socket and for in-process pipes."""
    node: NodeId | None = None
    """The node id from the verified certificate; None where none was asked for."""
    alpn: Alpn | None = None
    """None on plain (client, engine, control socket) connections."""
    certificate_der: bytes = b""
    """The peer's certificate, empty where there is none."""


class ByteStream(Protocol):
    """One bidirectional, ordered, reliable stream of bytes.

    One task reads and one task (it may be another) writes.  `receive_some` and `send_all` raise
    `StreamBroken` when the connection is reset, and `StreamAborted` after `abort`.  No call has a
    deadline of its own: owners watch with a `Sweeper` and call `abort`.
    """

    remote: Remote

    @property
    def unsent_bytes(self) -> int:
        """What `send_nowait` took and the transport has not; `send_all(b"")` waits for it."""
        ...

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """At least one byte, or b"" at the other side's orderly end.  Always a checkpoint."""
        ...

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Hand all of it to the transport; waits while the other side does not read."""
        ...

    def send_nowait(self, data: bytes) -> bool:
        """Send without waiting if the transport takes all of it right now.

        Returns False, with nothing sent, if anything is already waiting to be sent; a rest that the
        transport would not take at once is kept and goes out before the next `send_all`.
        """
        ...

    def abort(self, reason: str) -> None:
        """Close at once, without flushing.  Pending and later calls raise StreamAborted(reason).

        The other side gets StreamBroken, not an orderly end.
        Idempotent and synchronous, so that a deadline or a disconnect seen by another task can end
        a wait without a cancel scope per wait.
        """
        ...

    def is_stale(self) -> bool:
        """Whether an idle stream is no longer worth a request: ended, broken, or unasked bytes."""
        ...

    def close(self) -> None:
        """Close in order (TLS close_notify, FIN), without waiting; idempotent.

        The other side reads b"" behind what was sent.  If something is still unsent it is an
        `abort`, so that a cut never looks like an end.
        """
        ...

    async def aclose(self) -> None:
        """`close`, as a checkpoint."""
        ...


class Listener(Protocol):
    """Somewhere to accept streams."""

    @property
    def address(self) -> Address | None:
        """Where it listens (with the real port if 0 was asked for); None for a UNIX socket."""
        ...

    async def accept(self) -> ByteStream:
        """The next stream, its handshake NOT yet done for TLS: call `handshake` on it first."""
        ...

    async def handshake(self, stream: ByteStream) -> ByteStream:
        """Complete the transport's handshake, returning the stream with `remote` filled in.

        Run it in the connection's own task, so that a slow stranger delays nobody.  Raises
        NotAdmitted or StreamBroken.  Returns the same stream where there is no handshake.
        """
        ...

    async def aclose(self) -> None: ...


class Datagrams(Protocol):
    """The UDP side of the peer port.  What is sent may be lost, doubled or reordered."""

    @property
    def address(self) -> Address: ...

    async def send(self, data: bytes, to: Address) -> None:
        """Best effort; an unreachable address is not an error."""
        ...

    async def receive(self) -> tuple[bytes, Address]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a member shows on the peer port, and whom it lets in.

    Both come from the identity package; the key stays in memory and out of every `repr`.
    """

    node: NodeId
    mesh: MeshId
    certificate_pem: bytes
    """The node's certificate, then the rest of its chain if there is one."""
    private_key_pem: bytes = field(repr=False)
    ca_pem: bytes
    """Every CA certificate that vouches for members (two of them while the CA is rotated)."""
    check_peer: Callable[[bytes], NodeId]
    """Given a certificate (DER) that some CA of `ca_pem` signed, whose it is.

    It decides on dates, on the mesh in the SAN and on the registry.  Raises NotAdmitted; its text
    is told to the other side.
    """


class Network(Protocol):
    """All networking.  TLS lives inside the real one."""

    def use(self, credentials: Credentials) -> None:
        """Take (new) credentials; for handshakes from now on.

        Without them there is only plain networking and `dial_join`.
        """
        ...

    async def listen_peers(self, port: int) -> Listener:
        """The mesh port on all interfaces; streams carry the verified node and ALPN."""
        ...

    async def listen_datagrams(self, port: int) -> Datagrams: ...

    async def listen_clients(self, host: str, port: int) -> Listener:
        """Plain TCP for clients.  Port 0 takes any free one."""
        ...

    async def listen_control(self, path: PurePath) -> Listener:
        """A UNIX socket, mode 0600."""
        ...

    async def dial_peer(
        self, node: NodeId, addresses: Sequence[Address], alpn: Alpn, timeout_s: float
    ) -> ByteStream:
        """Reach that member over mutual TLS, trying its addresses in parallel, staggered.

        Raises DialFailed, or NotAdmitted if somebody else answers there or either side refuses.
        """
        ...

    async def dial_join(self, address: Address, timeout_s: float) -> ByteStream:
        """A stranger's way in: TLS with ALPN `meshd-join/1`, SNI `join`, no client certificate.

        Nothing about the other side is proven yet; `remote.certificate_der` is what it showed.
        """
        ...

    async def dial_plain(self, address: Address, timeout_s: float) -> ByteStream:
        """Plain TCP, for engines.  Raises DialFailed."""
        ...

    async def dial_web(self, address: Address, timeout_s: float) -> ByteStream:
        """TLS to a server of the world, as browsers do: by the name, and this machine's CAs.

        Raises DialFailed, or NotAdmitted if its certificate is not for that name, or not trusted.
        """
        ...

    def host_name(self) -> str:
        """What this machine is called, without a domain."""
        ...

    def interface_addresses(self) -> list[str]:
        """This machine's usable IP addresses, best first (no loopback unless nothing else)."""
        ...
