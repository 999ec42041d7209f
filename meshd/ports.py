"""The ports: every way in which meshd touches the world.

`node.py` is handed one of each.  `meshd.machine` has the real ones (sockets, TLS, files, the
system's clocks and randomness, child processes); `meshd.testing` has the ones in memory, on which
whole nodes run in virtual time.  Nothing else may import `socket`, `ssl`, `time`, `random` or
`secrets`, or open a file (import-linter holds it).  Timers of shells are trio's own
(`trio.sleep_until`, `trio.current_time`): under `trio.testing.MockClock` they are virtual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from typing import Any, Protocol, TypeVar

from meshd.ids import Address, MeshId, NodeId

T = TypeVar("T")


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

    def host_name(self) -> str:
        """What this machine is called, without a domain."""
        ...

    def interface_addresses(self) -> list[str]:
        """This machine's usable IP addresses, best first (no loopback unless nothing else)."""
        ...


class Clock(Protocol):
    """What time it is.  Waiting is trio's business."""

    def monotonic(self) -> float:
        """Seconds that never jump; the same timeline as trio.current_time()."""
        ...

    def wall(self) -> float:
        """Seconds since the UNIX epoch; may jump."""
        ...

    def suspended_s(self) -> float:
        """How long this machine has slept since it booted (BOOTTIME - MONOTONIC)."""
        ...


class AppendFile(Protocol):
    """A file that grows at its end, open for the one who made it.

    Errors are `DiskFailed`.  After one, of `append` or of `sync`, how much of what was added since
    the last good `sync` is on the medium is unknown, and nothing finds it out: a second `sync` may
    succeed without having written what the first one could not.  Give the file up.
    """

    @property
    def size_bytes(self) -> int:
        """What was added so far."""
        ...

    def append(self, data: bytes) -> None:
        """Add all of it to the end; a failed one may have added a part."""
        ...

    def sync(self) -> None:
        """Wait until all that was added survives a power loss (F_FULLFSYNC on macOS)."""
        ...

    def close(self) -> None:
        """Without a sync; idempotent."""
        ...


class Disk(Protocol):
    """Files: config, keys, lists, the journal.  Paths are absolute.

    Errors are `meshd.errors.DiskFailed`, which is an OSError and a sentence for the reader.  Calls
    block; those that write wait for the disk.  They may be made from several threads at a time, as
    long as no two concern the same file.
    """

    @property
    def is_quick(self) -> bool:
        """Whether calls return at once, as of a disk in memory: no thread is worth it."""
        ...

    def read(self, path: PurePath) -> bytes | None:
        """The file's bytes, None if there is no such file."""
        ...

    def read_part(self, path: PurePath, offset: int, size_bytes: int) -> bytes | None:
        """Its bytes from `offset` on, fewer at its end; None if there is no such file."""
        ...

    def size(self, path: PurePath) -> int | None:
        """The file's size in bytes, None if there is no such file."""
        ...

    def names(self, folder: PurePath) -> list[str]:
        """What is in the folder, sorted; empty if there is no such folder."""
        ...

    def free_bytes(self, folder: PurePath) -> int:
        """Room for this user on the disk that has this folder."""
        ...

    def write(self, path: PurePath, data: bytes, *, private: bool) -> None:
        """Replace the file whole and durably: aside, fsync, rename, fsync the folder.

        Makes missing folders.  `private` files are 0600 from their first byte on.
        """
        ...

    def append(self, path: PurePath, data: bytes) -> None:
        """Add to the end of a private file; after a power loss a part of it may be missing."""
        ...

    def create(self, path: PurePath) -> AppendFile:
        """A new private file (0600), empty; it must not be there already.

        Its name may be gone after a power loss, whatever was synced, until `rename` gives it
        another or something else in its folder is made durable: write aside, sync, rename.
        """
        ...

    def rename(self, source: PurePath, target: PurePath) -> None:
        """Give a file or a folder another name on the same disk, durably.

        In place of a file that has it already: after a power loss that name means the old file or
        the new one.  An `AppendFile` goes on under the new name.
        """
        ...

    def delete(self, path: PurePath) -> None:
        """No error if it is not there."""
        ...

    def folder(self, path: PurePath) -> None:
        """Make this folder and those above it, 0700; no error if it is there.

        Raises OSError if it is somebody else's, or others may write in it.
        """
        ...

    def lock(self, path: PurePath) -> int | None:
        """Take the data directory's lock for the life of this process.

        None when taken; else the pid of the holder (0 if it is not known).  It ends with the
        process, however that ends, or with `unlock`.
        """
        ...

    def unlock(self, path: PurePath) -> None:
        """Give up a lock that this process took; no error if it did not."""
        ...

    def remove_unlocked(self, path: PurePath) -> bool:
        """Delete the file of a lock that nobody holds; False if somebody does.

        Safe against somebody who is about to take that lock.
        """
        ...


class Entropy(Protocol):
    """Randomness: `token` for secrets, the rest for jitter and choice."""

    def token(self, size_bytes: int) -> bytes: ...

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def randrange(self, stop: int) -> int: ...


class EngineProcess(Protocol):
    """A child process that serves a model on loopback."""

    pid: int
    url: str

    @property
    def last_words(self) -> str:
        """The end of what it said on stderr."""
        ...

    async def wait(self) -> int:
        """Until it has ended; the exit code (negative: the signal).

        Somebody must be in here as long as it lives: this also takes what the engine says, which
        would otherwise block when the pipe is full.  Cancelling it kills the engine.
        """
        ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class Engines(Protocol):
    """Starts bundled engines."""

    async def spawn(
        self, gguf: PurePath, *, alias: str, slots: int, context_tokens: int, embedding: bool
    ) -> EngineProcess:
        """Start one in its own session; ready to serve when this returns.

        It exits by itself when this process dies, however it dies.  Raises `meshd.errors.Refused`
        with the engine's last words if it does not come up.
        """
        ...

    async def digest(self, gguf: PurePath) -> str:
        """The identity of that model's bytes: "gguf-" and hex SHA-256 of the file.

        Takes about a second per GiB, in a thread.  Raises OSError.
        """
        ...


SqlValue = str | int | float | bytes | None


class Transaction(Protocol):
    """SQL (SQLite's) within one transaction."""

    def execute(self, sql: str, values: Sequence[SqlValue] = ()) -> list[tuple[Any, ...]]:
        """All rows that one statement gives."""
        ...

    def execute_many(self, sql: str, rows: Iterable[Sequence[SqlValue]]) -> int:
        """The same statement for each; how many rows it changed in all."""
        ...


class Database(Protocol):
    """One SQLite file, which no other program has open.

    What is handed in runs in another thread (in memory: at once): it must touch nothing but its
    transaction and what it owns.  Errors are DiskFailed, after which everything is as it was and
    may be tried again; and DatabaseDamaged, after which only `aclose` and `set_aside` help.
    """

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Do all of it or nothing; on the medium when this returns.  One at a time."""
        ...

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Look at what was committed; waits for no writer, and delays none.  One at a time."""
        ...

    async def aclose(self) -> None: ...


class Databases(Protocol):
    """Files too large to be read and written whole."""

    async def open(self, path: PurePath) -> Database:
        """Open or make that file, 0600, and its folder.  Raises DiskFailed, DatabaseDamaged."""
        ...

    async def set_aside(self, path: PurePath) -> PurePath:
        """Move a file that is not open out of the way, over what was moved there before."""
        ...


@dataclass(frozen=True, slots=True)
class Power:
    """Where a machine's power comes from."""

    portable: bool = False
    """It has a battery."""
    on_mains: bool = True


class Host(Protocol):
    """What kind of machine this is."""

    def power(self) -> Power:
        """As of now; a machine that does not tell counts as one on mains for good."""
        ...

    def uptime_s(self) -> float:
        """Since the machine started."""
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """One of each, handed to a node."""

    network: Network
    clock: Clock
    disk: Disk
    entropy: Entropy
    engines: Engines
    host: Host
    databases: Databases
