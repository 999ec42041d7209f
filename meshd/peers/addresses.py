"""Where each member may be found.  Pure.

Where it was last reached comes first, then a node's own signed word (gossip), then what the member
list says, then what mDNS showed or was kept from before.  Dialling goes down the list without
waiting long for anyone, so order is only a preference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

import msgspec

from meshd import limits
from meshd.ids import Address, NodeId


def advertised(wished: Iterable[Address], hosts: Iterable[str], port: int) -> list[Address]:
    """Where this node tells the others to reach it.

    That is what its config says (`wished`, port 0: `port`), else all of this machine's addresses
    (`hosts`), at the port that it listens on.
    """
    said = [Address(address.host, address.port or port) for address in wished]
    return said or [Address(host, port) for host in hosts]


class Source(IntEnum):
    """Who says so; lower is better."""

    REACHED = 0
    ANNOUNCED = 1
    LISTED = 2
    SIGHTED = 3


class Kept(msgspec.Struct, omit_defaults=True):
    """What is kept on disk of one member's addresses."""

    reached: tuple[str, int] | None = None
    others: list[tuple[str, int]] = []


class AddressBook:
    """Addresses of all members, bounded."""

    def __init__(self) -> None:
        self._entries: dict[NodeId, dict[Source, tuple[Address, ...]]] = {}

    def of(self, node: NodeId) -> list[Address]:
        """Best first, each once."""
        entries = self._entries.get(node, {})
        found = dict.fromkeys(a for source in sorted(entries) for a in entries[source])
        return list(found)[: limits.ADDRESSES_PER_NODE]

    def put(self, node: NodeId, addresses: Iterable[Address], source: Source) -> None:
        """Replace what this source said of a node before."""
        said = tuple(addresses)[: limits.ADDRESSES_PER_NODE]
        entries = self._entries.setdefault(node, {})
        if source is Source.ANNOUNCED:
            gone = set(entries.get(source, ())).difference(said)
            if not gone.isdisjoint(entries.get(Source.REACHED, ())):
                del entries[Source.REACHED]  # it has moved, and says so
        entries[source] = said

    def reached(self, node: NodeId, address: Address) -> None:
        """The node answered there, as itself: that is tried first, until another one works."""
        self.put(node, [address], Source.REACHED)

    def keep_only(self, nodes: set[NodeId]) -> None:
        """Forget those that are no members."""
        self._entries = {n: e for n, e in self._entries.items() if n in nodes}

    def export(self) -> dict[str, Kept]:
        """A form for disk."""
        return {node: self._kept(node) for node in sorted(self._entries)}

    def restore(self, saved: Mapping[str, Kept]) -> None:
        """Take back what `export` gave: where it was reached comes first, the rest last."""
        for name, kept in list(saved.items())[: limits.MEMBERS]:
            node = NodeId(name)
            self.put(node, [Address(*other) for other in kept.others], Source.SIGHTED)
            if kept.reached is not None:
                self.reached(node, Address(*kept.reached))

    def _kept(self, node: NodeId) -> Kept:
        reached = self._entries[node].get(Source.REACHED, ())
        others = [(a.host, a.port) for a in self.of(node) if a not in reached]
        return Kept((reached[0].host, reached[0].port) if reached else None, others)
