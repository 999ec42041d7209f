"""Making sockets: options, binding, connecting, and racing several addresses."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import trio

from meshd.errors import DialFailed, ListenFailed, MeshdError, NotAdmitted
from meshd.ids import Address

STAGGER_S = 0.075
"""Head start of each address over the next (RFC 8305 says 100 to 250 ms on the internet)."""

_BACKLOG = 512
_PORT_TRIES = 32

SockAddr = Any  # what the socket module calls an address
C = TypeVar("C")
T = TypeVar("T")


# A cut without a word (a pulled plug, a lost Wi-Fi) shows within this.  Peers hear of each other
# sooner by the beats of their protocol; this is for connections on which nothing is being said.
_PEER_TIMEOUT_S = 10
_PLAIN_TIMEOUT_S = 60
_UNACKED_S = 120
"""Linux counts here, too, how long the other side has no room, though it answers every probe: an
entry reads no faster than its client does, and must not lose its holder for that."""


def tune(sock: socket.socket, *, peer: bool) -> None:
    """Non-blocking, no Nagle, and keep-alive probes so that silent cuts show."""
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        return
    timeout_s = _PEER_TIMEOUT_S if peer else _PLAIN_TIMEOUT_S
    options = [
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", timeout_s // 2),  # Linux
        (socket.IPPROTO_TCP, "TCP_KEEPALIVE", timeout_s // 2),  # macOS, the same thing
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", max(1, timeout_s // 6)),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", _UNACKED_S * 1000),  # Linux
    ]
    for level, name, value in options:
        option = getattr(socket, name, None)
        if option is not None:
            with suppress(OSError):  # where one is not taken, cuts show later
                sock.setsockopt(level, option, value)


# --- addresses


def is_literal(host: str) -> bool:
    """Whether it is an IP address and not a name."""
    return ":" in host or host.replace(".", "").isdigit()


def to_address(sockaddr: SockAddr) -> Address | None:
    """The address in a socket's own form; None for UNIX sockets."""
    if not isinstance(sockaddr, tuple):
        return None
    host: str = sockaddr[0]
    return Address(host.removeprefix("::ffff:"), int(sockaddr[1]))


async def resolve(address: Address) -> list[tuple[int, SockAddr]]:
    """(family, socket address) of everything that the name stands for.  Raises DialFailed."""
    host, port, kind = address.host, address.port, socket.SOCK_STREAM
    found: Sequence[Any]
    try:
        if is_literal(host):
            found = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)
        else:
            found = await trio.socket.getaddrinfo(host, port, type=kind)
    except OSError as error:
        raise DialFailed(f"{address.host} has no address: {error.strerror or error}.") from None
    except (UnicodeError, ValueError, OverflowError):
        # Not a name at all (an empty label, one of 64 letters): members may announce anything.
        raise DialFailed(f"{address.host!r} cannot be the name of a machine.") from None
    return list(dict.fromkeys((int(entry[0]), entry[4]) for entry in found))


# --- connecting


async def connect(address: Address, *, peer: bool) -> socket.socket:
    """A connected, tuned, non-blocking TCP socket.  Raises DialFailed; has no timeout."""
    found = await resolve(address)

    async def attempt(candidate: tuple[int, SockAddr]) -> socket.socket:
        return await _connect_one(address, *candidate, peer=peer)

    if len(found) == 1:
        return await attempt(found[0])
    return await race(found, attempt, discard=socket.socket.close)


async def _connect_one(
    address: Address, family: int, sockaddr: SockAddr, *, peer: bool
) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise DialFailed(f"{address}: {error.strerror or error}.") from None
    try:
        tune(sock, peer=peer)
        code = sock.connect_ex(sockaddr)
        if code == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock.fileno())
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        else:
            await trio.lowlevel.checkpoint()
        if code:
            raise DialFailed(f"{address} does not answer: {os.strerror(code)}.")
    except BaseException:  # also a cancel: it is closed; raised again
        sock.close()
        raise
    return sock


async def race(
    candidates: Sequence[C],
    attempt: Callable[[C], Awaitable[T]],
    *,
    discard: Callable[[T], None],
) -> T:
    """The first success of `attempt`, tried on each candidate with a stagger, in parallel.

    A second success goes to `discard`.  If all fail: NotAdmitted if any was that (somebody answered
    and refused, which says more than silence), else DialFailed with every reason.
    """
    won: list[T] = []
    failures: list[MeshdError] = []

    async def run(candidate: C, over: trio.Event) -> None:
        try:
            result = await attempt(candidate)
        except (DialFailed, NotAdmitted) as error:
            failures.append(error)
            over.set()
            return
        if won:
            discard(result)
        else:
            won.append(result)
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for candidate in candidates:
                over = trio.Event()
                nursery.start_soon(run, candidate, over)
                with trio.move_on_after(STAGGER_S):
                    await over.wait()
    except BaseException:  # also a cancel: who won is let go; raised again
        for result in won:
            discard(result)
        raise
    if won:
        return won[0]
    for failure in failures:
        if isinstance(failure, NotAdmitted):
            raise failure
    raise DialFailed(
        " ".join(str(failure) for failure in failures) or "There is no address to try."
    )


# --- listening


def listen_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket on that address of this machine.  Raises ListenFailed."""
    try:
        family, sockaddr = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0][::4]
        return _bound(family, sockaddr, socket.SOCK_STREAM)
    except OSError as error:
        raise _listen_failed(f"{host}:{port}", error) from None


def bind_everywhere(port: int, kind: int) -> socket.socket:
    """A socket on that port of all interfaces, both families where there are both."""
    try:
        if socket.has_dualstack_ipv6():
            return _bound(socket.AF_INET6, ("::", port), kind)
        return _bound(socket.AF_INET, ("0.0.0.0", port), kind)
    except OSError as error:
        name = "TCP" if kind == socket.SOCK_STREAM else "UDP"
        raise _listen_failed(f"{name} port {port}", error) from None


def bind_pair(port: int) -> tuple[socket.socket, socket.socket]:
    """TCP (listening) and UDP on one port number; port 0 takes any that is free for both."""
    for _ in range(_PORT_TRIES if port == 0 else 1):
        tcp = bind_everywhere(port, socket.SOCK_STREAM)
        try:
            return tcp, bind_everywhere(tcp.getsockname()[1], socket.SOCK_DGRAM)
        except ListenFailed as error:
            tcp.close()
            last = error
    raise last


def _bound(family: int, sockaddr: SockAddr, kind: int) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6 and sockaddr[0] == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(sockaddr)
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
    except BaseException:  # whatever it is: it is closed; raised again
        sock.close()
        raise
    return sock


def _listen_failed(where: str, error: OSError) -> ListenFailed:
    if error.errno == errno.EADDRINUSE:
        return ListenFailed(f"{where} is in use by another program; choose another port.")
    return ListenFailed(f"{where} cannot be listened on: {error.strerror or error}.")
