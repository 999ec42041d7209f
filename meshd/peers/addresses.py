"""Where each member may be found.  Pure.

Where it was last reached comes first, then a node's own signed word (gossip), then what the member
list says, then where it was seen dialling from (with the mesh port put in, since an outgoing port
says nothing).  All are dialled in parallel, so order is only a preference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum

from meshd import limits
from meshd.ids import Address, NodeId


class Source(IntEnum):
    """Who says so; lower is better."""

    REACHED = 0
    ANNOUNCED = 1
    LISTED = 2
    SEEN = 3
    SIGHTED = 4


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
        self._entries.setdefault(node, {})[source] = said

    def keep_only(self, nodes: set[NodeId]) -> None:
        """Forget those that are no members."""
        self._entries = {n: e for n, e in self._entries.items() if n in nodes}

    def export(self) -> dict[str, list[list[str | int]]]:
        """A form for disk."""
        return {n: [[a.host, a.port] for a in self.of(n)] for n in sorted(self._entries)}

    def restore(self, saved: Mapping[str, Sequence[Sequence[str | int]]]) -> None:
        """Take back what `export` gave, as the weakest word there is."""
        for node, addresses in list(saved.items())[: limits.MEMBERS]:
            found = [Address(str(host), int(port)) for host, port in addresses]
            self.put(NodeId(node), found, Source.SIGHTED)
