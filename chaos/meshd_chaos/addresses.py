"""Loopback addresses for machines that share one, and who of them has which connection."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

import psutil
import trio

HOST: Final = "127.0.0.1"
_LOW, _HIGH = 15_000, 32_000
"""Below what systems give to whoever asks for any port (Linux from 32768, macOS from 49152): so a
daemon that was killed finds its own port free again."""
_TRIES: Final = 200


def bound_pair() -> tuple[socket.socket, socket.socket]:
    """A listening TCP socket and a UDP socket on one free port.  OSError: none was found."""
    while True:
        port = free_port()
        tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind((HOST, port))
            udp.bind((HOST, port))
        except OSError:  # somebody took it since it was looked at
            tcp.close()
            udp.close()
            continue
        tcp.listen(512)
        return tcp, udp


_chance = Random()
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, TCP and UDP alike, and that was not given before."""
    for _ in range(_TRIES):
        port = _chance.randrange(_LOW, _HIGH)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise OSError(f"no free port from {_LOW} to {_HIGH} was found in {_TRIES} tries")


def _is_free(port: int) -> bool:
    ends = [("0.0.0.0", socket.AF_INET)]
    ends += [("::", socket.AF_INET6)] if socket.has_dualstack_ipv6() else []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for host, family in ends:
            with socket.socket(family, kind) as sock:
                try:
                    sock.bind((host, port))
                except OSError:
                    return False
    return True


class Diallers:
    """Whose a connection is, by its local port: asked of the operating system."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        """`pids`: the daemons that run now, by machine."""
        self._pids = pids

    async def whose(self, port: int) -> str | None:
        """The machine whose daemon has a connection from that port; None: it is over already."""
        pids = dict(self._pids())
        if _TCP_TABLE.exists():
            return _find_in_proc(pids, port)
        return await trio.to_thread.run_sync(_find, pids, port)


_TCP_TABLE: Final = Path("/proc/net/tcp")
_LOCAL, _INODE = 1, 9
"""Fields of a line of that table."""


def _find_in_proc(pids: dict[str, int], port: int) -> str | None:
    """The same on Linux: 2 ms instead of psutil's 40, which reads the table for each process."""
    mark = f":{port:04X} ".encode()
    wanted = set()  # others may have the same port, towards other addresses
    for line in _TCP_TABLE.read_bytes().splitlines():
        if mark in line and (fields := line.split())[_LOCAL].endswith(mark.strip()):
            wanted.add(f"socket:[{fields[_INODE].decode()}]")
    return next((name for name, pid in pids.items() if wanted and _has(pid, wanted)), None)


def _has(pid: int, wanted: set[str]) -> bool:
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed meanwhile
                if os.readlink(entry.path) in wanted:
                    return True
    return False


def _find(pids: dict[str, int], port: int) -> str | None:
    for name, pid in pids.items():
        with suppress(psutil.Error):
            for connection in psutil.Process(pid).net_connections(kind="tcp"):
                if connection.laddr and connection.laddr.port == port:
                    return name
    return None
