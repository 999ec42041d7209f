"""The ports: every way in which meshd touches the world.

`node.py` is handed one of each.  `meshd.machine` has the real ones (sockets, TLS, files, the
system's clocks and randomness, child processes); `meshd.testing` has the ones in memory, on which
whole nodes run in virtual time.  Nothing else may import `socket`, `ssl`, `time`, `random` or
`secrets`, or open a file (import-linter holds it).  Timers of shells are trio's own
(`trio.sleep_until`, `trio.current_time`): under `trio.testing.MockClock` they are virtual.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshd.ports.databases import Database, Databases, SqlValue, Transaction
from meshd.ports.disk import AppendFile, Disk
from meshd.ports.engines import EngineProcess, Engines
from meshd.ports.host import Clock, Entropy, Host, Power
from meshd.ports.network import Alpn, ByteStream, Credentials, Datagrams, Listener, Network, Remote

__all__ = [
    "Alpn",
    "AppendFile",
    "ByteStream",
    "Clock",
    "Credentials",
    "Database",
    "Databases",
    "Datagrams",
    "Disk",
    "EngineProcess",
    "Engines",
    "Entropy",
    "Host",
    "Listener",
    "Network",
    "Ports",
    "Power",
    "Remote",
    "SqlValue",
    "Transaction",
]


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
