"""What engines had that stopped serving a short while ago.  Pure.

A node tells only what it can answer with now.  An engine that crashed, is restarting, or loads its
model again is out of its node's inventory meanwhile; a model of its is away, not unknown.
"""

from __future__ import annotations

from meshd import limits
from meshd.ids import NodeId
from meshd.inference import Inventory
from meshd.modelnames import normalise


class StoppedEngines:
    """Models of engines that left an inventory, until they are back or `limits.STOPPED_S` is over.

    Of at most `limits.STOPPED_MODELS` models; those that stopped first are forgotten first.
    """

    def __init__(self) -> None:
        self._until: dict[tuple[NodeId, str, str], float] = {}
        """(node, backend, normalised model name) -> when it is forgotten; the oldest first."""

    def told(self, before: Inventory | None, inventory: Inventory, now: float) -> None:
        """A node told its inventory, and `before` that the other one.

        An engine that serves has what it lists and no more: what was removed from it is no longer
        remembered.
        """
        node = NodeId(inventory.node)
        serving = {backend.id for backend in inventory.backends}
        for key in [k for k in self._until if k[0] == node and k[1] in serving]:
            del self._until[key]
        for backend in before.backends if before is not None else ():
            if backend.id not in serving:
                for model in backend.models:
                    key = (node, backend.id, normalise(model.name))
                    self._until[key] = now + limits.STOPPED_S
        while len(self._until) > limits.STOPPED_MODELS:
            del self._until[next(iter(self._until))]

    def drop(self, node: NodeId) -> None:
        """Forget a node that is no member any more."""
        for key in [k for k in self._until if k[0] == node]:
            del self._until[key]

    def nodes(self, name: str, now: float) -> list[NodeId]:
        """The nodes of such engines, of a model by its normalised name."""
        while self._until and next(iter(self._until.values())) <= now:
            del self._until[next(iter(self._until))]
        return sorted({node for node, _, model in self._until if model == name})
