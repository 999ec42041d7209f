"""What an entry knows of all holders, and whom it picks.  Pure: time comes in with each call.

Load information is stale by nature, so (DESIGN.md, "Invariants"): the holder's own answer is the
truth, every peer response refreshes what is known, and an entry counts its own dispatches at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import msgspec

from meshd.ids import NodeId
from meshd.inference import Load, ModelLoad
from meshd.routing.catalogue import Catalogue, Target
from meshd.routing.cost import Candidate, fitting, predict
from meshd.routing.demand import Demand
from meshd.routing.policies import Policy

AVOID_FIRST_S = 2.0
AVOID_MAX_S = 60.0
"""A target that failed is tried last for this long, doubling with each failure in a row."""

TargetKey = tuple[NodeId, str, str]


def load_key(backend: str, model: str) -> str:
    """How `Load.per_model` names a model of a backend."""
    return f"{backend}/{model}"


@dataclass(slots=True)
class _Avoided:
    until: float
    span_s: float


@dataclass(eq=False, slots=True)
class Dispatch:
    """One request that this entry sent to a holder, until it is over."""

    target: Target
    reached: bool = False
    """The holder has said that it has it: what it reports from now on includes it."""


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The next holder to ask."""

    target: Target
    local: bool
    others: int
    """How many more could be asked after this one."""


class Placement:
    """Candidates, their loads, and the order in which to try them."""

    def __init__(self, self_id: NodeId, catalogue: Catalogue, policy: Policy) -> None:
        self.catalogue = catalogue
        self._self_id = self_id
        self._policy = policy
        self._loads: dict[NodeId, Load] = {}
        self._own: dict[NodeId, dict[Dispatch, None]] = {}
        """Dispatches that no report of their holder includes yet."""
        self._avoided: dict[TargetKey, _Avoided] = {}
        self._rtt_s: dict[NodeId, float] = {}
        self._suspect: set[NodeId] = set()
        self.own_load: Callable[[str, str], ModelLoad] | None = None
        """This node's own lanes (backend, model), which need no report."""
        self.is_mute: Callable[[NodeId], bool] = lambda node: False
        """Whether that node was asked just now if it is there, and did not answer."""
        self._absent: set[NodeId] = set()

    def report(self, node: NodeId, load: Load) -> None:
        """A holder told how busy it is."""
        self._loads[node] = load
        for dispatch in [d for d in self._own.get(node, ()) if d.reached]:
            self.returned(dispatch)

    def load_of(self, node: NodeId) -> Load:
        """The last told; all zero if none was."""
        return self._loads.get(node) or Load()

    def set_presence(self, node: NodeId, *, present: bool, suspect: bool = False) -> None:
        """What membership says.  Absent nodes are not asked at all."""
        (self._absent.discard if present else self._absent.add)(node)
        (self._suspect.add if suspect else self._suspect.discard)(node)

    def seems_well(self, node: NodeId) -> bool:
        """Whether membership has nothing against it."""
        return node not in self._absent and node not in self._suspect

    def forget(self, node: NodeId) -> None:
        """A node that is no member any more."""
        self._loads.pop(node, None)
        self._absent.discard(node)
        self._suspect.discard(node)
        self._rtt_s.pop(node, None)
        self._own.pop(node, None)
        for key in [k for k in self._avoided if k[0] == node]:
            del self._avoided[key]

    def measured_rtt(self, node: NodeId, rtt_s: float) -> None:
        """A round trip over the peer link."""
        old = self._rtt_s.get(node)
        self._rtt_s[node] = rtt_s if old is None else old + 0.25 * (rtt_s - old)

    def rtt_s(self, node: NodeId) -> float:
        """The round trip as measured; 0 before that."""
        return self._rtt_s.get(node, 0.0)

    def dispatched(self, target: Target) -> Dispatch:
        """This entry sends a request there now.  It counts until a report can include it.

        Set `reached` when the holder is first heard about it: a report that arrives before that
        was made without it, however late it arrives.
        """
        dispatch = Dispatch(target)
        self._own.setdefault(target.node, {})[dispatch] = None
        return dispatch

    def returned(self, dispatch: Dispatch) -> None:
        """That request is over, however it ended.  Idempotent."""
        waiting = self._own.get(dispatch.target.node)
        if waiting is not None:
            waiting.pop(dispatch, None)
            if not waiting:
                del self._own[dispatch.target.node]

    def avoid(self, target: Target, now: float) -> None:
        """It failed: others first, for a while."""
        known = self._avoided.get(target.key)
        span_s = min(AVOID_MAX_S, known.span_s * 2) if known else AVOID_FIRST_S
        self._avoided[target.key] = _Avoided(now + span_s, span_s)

    def succeeded(self, target: Target) -> None:
        """It answered whole: no grudge."""
        self._avoided.pop(target.key, None)

    def is_present(self, node: NodeId) -> bool:
        """Whether membership has it among the living."""
        return node not in self._absent

    def holders(self, model: str) -> list[Target]:
        """Present holders of a model."""
        return [t for t in self.catalogue.holders(model) if t.node not in self._absent]

    def away(self, model: str, now: float) -> list[NodeId]:
        """Who has a model that nobody can answer with now: they, or their engines, are away.

        Empty if somebody can, and of a model that nobody has or lately had.
        """
        holders = self.catalogue.holders(model)
        if any(self.is_present(target.node) for target in holders):
            return []
        return sorted({t.node for t in holders} | {*self.catalogue.stopped(model, now)})

    def choose(
        self,
        model: str,
        demand: Demand,
        exclude: Collection[TargetKey],
        now: float,
        only: Callable[[Target], bool] | None = None,
    ) -> Choice | None:
        """The best holder not in `exclude`, of those that `only` allows; None if there is none."""
        holders = self.holders(model)
        if only is not None:
            holders = [target for target in holders if only(target)]
        able = fitting([self._candidate(t) for t in holders], demand)
        able = [c for c in able if c.target.key not in exclude and not self._draining(c)]
        if not able:
            return None
        there = [c for c in able if c.local or not self.is_mute(c.target.node)] or able
        trusted = [c for c in there if not self._is_avoided(c.target, now)] or there
        best = self._policy.order(trusted, demand)[0]
        return Choice(best.target, best.local, len(able) - 1)

    def before_reading_s(self, target: Target, demand: Demand) -> float:
        """How long it will take, as predicted, until that holder begins to read the prompt: a slot
        has to be free, and the model loaded."""
        predicted = predict(self._candidate(target), demand)
        return predicted.wait_s + predicted.load_s

    def _candidate(self, target: Target) -> Candidate:
        if target.node == self._self_id and self.own_load is not None:
            return Candidate(target, self.own_load(target.backend, target.model.name), local=True)
        told = self._loads.get(target.node)
        load = told.per_model.get(load_key(target.backend, target.model.name)) if told else None
        load = load or ModelLoad(slots=target.slots)
        if unreported := self._own.get(target.node):
            own = sum(dispatch.target.key == target.key for dispatch in unreported)
            load = msgspec.structs.replace(load, running=load.running + own)
        return Candidate(
            target=target,
            load=load,
            rtt_s=self.rtt_s(target.node),
            local=target.node == self._self_id,
            suspect=target.node in self._suspect,
        )

    def _draining(self, candidate: Candidate) -> bool:
        told = self._loads.get(candidate.target.node)
        return bool(told and told.draining)

    def _is_avoided(self, target: Target, now: float) -> bool:
        avoided = self._avoided.get(target.key)
        return avoided is not None and avoided.until > now
