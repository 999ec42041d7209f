"""Which models exist in the mesh, and where.  Pure.

Built from the inventories that nodes push to each other over the peer link; answers every list
(`/v1/models`, `/api/tags`, ...) from memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from meshd.ids import NodeId
from meshd.inference import Inventory, ModelInfo
from meshd.modelnames import near, normalise
from meshd.routing.stopped import StoppedEngines


class Target(msgspec.Struct, frozen=True, gc=False):
    """One copy of a model: this backend of this node offers it."""

    node: NodeId
    backend: str
    engine: str
    slots: int
    model: ModelInfo

    @property
    def key(self) -> tuple[NodeId, str, str]:
        """What tells two targets apart."""
        return (self.node, self.backend, self.model.name)


class Catalogue:
    """All inventories, indexed by normalised model name."""

    def __init__(self, aliases: Mapping[str, str] | None = None) -> None:
        """`aliases`: name as clients say it -> model name in the mesh."""
        self._aliases = {normalise(k): v for k, v in (aliases or {}).items()}
        self._inventories: dict[NodeId, Inventory] = {}
        self._by_name: dict[str, list[Target]] = {}
        self._stopped = StoppedEngines()

    def put(self, inventory: Inventory, now: float) -> bool:
        """Take a node's inventory; False if what is known is as new or newer."""
        node = NodeId(inventory.node)
        known = self._inventories.get(node)
        if known and (known.generation, known.revision) >= (
            inventory.generation,
            inventory.revision,
        ):
            return False
        self._stopped.told(known, inventory, now)
        self._inventories[node] = inventory
        self._index()
        return True

    def drop(self, node: NodeId) -> None:
        """Forget a node that is no member any more; one that is away keeps its inventory."""
        self._stopped.drop(node)
        if self._inventories.pop(node, None) is not None:
            self._index()

    def revision_of(self, node: NodeId) -> tuple[int, int]:
        """(generation, revision) known of a node; (0, 0) if nothing is."""
        inventory = self._inventories.get(node)
        return (inventory.generation, inventory.revision) if inventory else (0, 0)

    def inventory_of(self, node: NodeId) -> Inventory | None:
        """What is known of a node."""
        return self._inventories.get(node)

    def resolve(self, name: str) -> str:
        """The model name behind an alias; the name itself if it is none."""
        return self._aliases.get(normalise(name), name)

    def holders(self, name: str) -> list[Target]:
        """All copies of a model, by name or alias, in a stable order."""
        return self._by_name.get(normalise(self.resolve(name)), [])

    def stopped(self, name: str, now: float) -> list[NodeId]:
        """Nodes whose engine had that model, by name or alias, and stopped a short while ago."""
        return self._stopped.nodes(normalise(self.resolve(name)), now)

    def near(self, name: str) -> list[str]:
        """Names that the client may have meant."""
        return near(name, self.names())

    def names(self) -> list[str]:
        """Every model's name once, as its engine spells it, sorted; aliases after them."""
        spelt = {key: targets[0].model.name for key, targets in self._by_name.items()}
        alive = [k for k, v in self._aliases.items() if normalise(v) in self._by_name]
        return sorted(spelt.values()) + sorted(a for a in alive if a not in spelt)

    def aliases(self) -> dict[str, str]:
        """Alias -> the model's name, of those whose model is present."""
        return {k: v for k, v in self._aliases.items() if normalise(v) in self._by_name}

    def targets(self) -> Iterable[Target]:
        """Every copy of every model."""
        for targets in self._by_name.values():
            yield from targets

    def _index(self) -> None:
        by_name: dict[str, list[Target]] = {}
        for node in sorted(self._inventories):
            for backend in self._inventories[node].backends:
                for model in backend.models:
                    target = Target(node, backend.id, backend.engine, backend.slots, model)
                    by_name.setdefault(normalise(model.name), []).append(target)
        self._by_name = by_name
