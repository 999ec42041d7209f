"""Unmended pysyncobj, to show each hazard on it: its own copy, a clock and a network in our hands.

The kernel takes hold of the installed pysyncobj for the whole process.  So the stock library is
imported a second time, under the same name, and kept apart: nothing that the kernel replaced is
replaced in this copy.
"""

from __future__ import annotations

import functools
import importlib
import pickle  # to put back what importing stock pysyncobj does to it; nothing is unpickled here
import sys
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgpack

import meshd.consensus.kernel_seams  # noqa: F401  (it takes hold of pysyncobj first)

Message = dict[str, Any]


@functools.cache
def stock_modules() -> SimpleNamespace:
    """A fresh import of pysyncobj's modules."""
    ours = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "pysyncobj"}
    dispatch = dict(pickle._Unpickler.dispatch)
    for name in ours:
        del sys.modules[name]
    sys.modules["pysyncobj.win_inet_pton"] = ours["pysyncobj.win_inet_pton"]
    try:
        importlib.import_module("pysyncobj")
        fresh = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "pysyncobj"}
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "pysyncobj"]:
            del sys.modules[name]
        sys.modules.update(ours)
        pickle._Unpickler.dispatch.update(dispatch)
    return SimpleNamespace(**{name.rpartition(".")[2]: module for name, module in fresh.items()})


class StockNode(stock_modules().node.Node):  # type: ignore[misc]
    """A node of the copy that pickle finds again by its name."""


class NoPoller:
    def subscribe(self, *_: object) -> None: ...

    def unsubscribe(self, *_: object) -> None: ...

    def poll(self, timeout: float) -> None: ...


def inside(node: Any, name: str) -> Any:
    """A private field of a SyncObj."""
    return getattr(node, f"_SyncObj__{name}")


def set_inside(node: Any, name: str, value: Any) -> None:
    setattr(node, f"_SyncObj__{name}", value)


def rows(node: Any) -> list[tuple[bytes, int, int]]:
    """Its whole log: payload, index, term."""
    return [(bytes(e[0]), e[1], e[2]) for e in inside(node, "raftLog")[:]]


class StockMesh:
    """Nodes named by letters, whose messages wait in `queue` until they are delivered."""

    def __init__(self, ids: str = "abc", **conf: Any) -> None:
        self.modules = stock_modules()
        self.now = 1000.0
        self.conf = conf
        self.queue: deque[tuple[str, str, Message]] = deque()
        self.cuts: set[frozenset[str]] = set()
        self.nodes: dict[str, Any] = {}
        self.transports: dict[str, Any] = {}
        self.applied: dict[str, list[bytes]] = {}
        syncobj = self.modules.syncobj
        syncobj.monotonicTime = lambda: self.now
        syncobj.createPoller = lambda kind: NoPoller()
        for name in ids:
            self.start(name, ids)
        self.relink()

    def start(self, name: str, ids: str, **conf: Any) -> Any:
        """(Re)start a node with this list of voters."""
        syncobj = self.modules.syncobj
        mesh = self

        class Transport(self.modules.transport.Transport):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__(None, None, [])
                self.up: set[str] = set()

            def send(self, node: Any, message: Message) -> bool:
                if node.id not in self.up:
                    return False
                copy = msgpack.unpackb(msgpack.packb(message), raw=False)
                mesh.queue.append((name, node.id, copy))
                return True

        class Node(syncobj.SyncObj):  # type: ignore[misc, name-defined]
            def _SyncObj__doApplyCommand(self, payload: bytes) -> Any:
                if payload[0] == 0:
                    return mesh.apply(name, bytes(payload[1:]))
                return syncobj.SyncObj._SyncObj__doApplyCommand(self, payload)

        transport = Transport()
        settings = {
            "autoTick": False, "raftMinTimeout": 1.0, "raftMaxTimeout": 2.0,
            "appendEntriesPeriod": 0.1, "connectionTimeout": 5.0, "leaderFallbackTimeout": 5.0,
            **self.conf, **conf,
        }  # fmt: skip
        self.applied[name] = []
        self.transports[name] = transport
        self.nodes[name] = Node(
            StockNode(name),
            [StockNode(i) for i in ids if i != name],
            syncobj.SyncObjConf(**settings),
            nodeClass=StockNode,
            transport=transport,
        )
        return self.nodes[name]

    def node(self, name: str) -> Any:
        return StockNode(name)

    def apply(self, name: str, command: bytes) -> int:
        self.applied[name].append(command)
        return len(self.applied[name])

    # --- network

    def relink(self) -> None:
        for a, transport in self.transports.items():
            for b in self.nodes:
                up = a != b and frozenset((a, b)) not in self.cuts
                if up and b not in transport.up:
                    transport.up.add(b)
                    transport._onNodeConnected(self.node(b))
                elif not up and b in transport.up:
                    transport.up.discard(b)
                    transport._onNodeDisconnected(self.node(b))

    def cut(self, a: str, others: str) -> None:
        self.cuts |= {frozenset((a, b)) for b in others}
        self.relink()

    def heal(self, a: str, others: str) -> None:
        self.cuts -= {frozenset((a, b)) for b in others}
        self.relink()

    def hand(self, sender: str, to: str, message: Message) -> None:
        """Deliver one message, whatever the network is like."""
        self.transports[to]._onMessageReceived(self.node(sender), message)

    def deliver(self, keep: Callable[[str, str, Message], bool] | None = None) -> None:
        """Deliver all that waits; what `keep` says yes to is dropped."""
        for _ in range(100_000):
            if not self.queue:
                return
            sender, to, message = self.queue.popleft()
            if frozenset((sender, to)) not in self.cuts and not (
                keep is not None and keep(sender, to, message)
            ):
                self.hand(sender, to, message)

    # --- time

    def tick(self, who: str | None = None, dt: float = 0.11) -> None:
        self.now += dt
        for name in who if who is not None else sorted(self.nodes):
            self.nodes[name]._onTick(0)

    def settle(self, rounds: int = 5, who: str | None = None) -> None:
        for _ in range(rounds):
            self.tick(who)
            self.deliver()

    def no_elections(self) -> None:
        for node in self.nodes.values():
            if not node._isLeader():
                set_inside(node, "raftElectionDeadline", self.now + 1e6)

    def elect(self, who: str, among: str | None = None) -> None:
        self.now += 1.1
        for name in among if among is not None else self.nodes:
            node = self.nodes[name]
            set_inside(node, "lastResponseTime", dict.fromkeys(
                inside(node, "lastResponseTime"), self.now + 1
            ))  # fmt: skip
            set_inside(node, "raftElectionDeadline", 0 if name == who else self.now + 1e6)
        self.settle(6, among)
        assert self.nodes[who]._isLeader()
        self.no_elections()

    # --- clients

    def propose(self, who: str, command: bytes) -> list[tuple[Any, int]]:
        """Propose; what the callback gets is appended to the list (0 means success)."""
        got: list[tuple[Any, int]] = []
        self.nodes[who]._applyCommand(command, lambda *answer: got.append(answer), 0)
        return got
