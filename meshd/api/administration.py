"""What the command line asks and orders, answered from the parts of a running node.

`Office` carries out what is decided for the whole mesh; everything else is read from memory.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from meshd import __version__, control
from meshd.backends import Backends
from meshd.ids import Address, NodeId, short
from meshd.inference import Load
from meshd.record.members import Member
from meshd.record.registry import MemberRegistry
from meshd.relay.holder import Holder
from meshd.routing.placement import Placement


class Office(Protocol):
    """What is decided for the whole mesh.  Raises Refused or DialFailed with a sentence."""

    async def create_token(self, order: control.TokenOrder) -> control.TokenMade: ...
    def tokens(self) -> list[control.TokenRow]: ...
    async def revoke_token(self, token: str) -> control.Done: ...
    async def set_drained(self, node: NodeId, drained: bool) -> control.Done: ...
    async def set_labels(self, node: NodeId, labels: Sequence[str]) -> control.Done: ...
    async def remove(self, node: NodeId) -> control.Done: ...


class Consents(Protocol):
    """Who waits to be let in without a token.  Raises Refused or DialFailed with a sentence."""

    async def pending(self) -> list[control.PendingRow]: ...
    async def approve(self, digits: str) -> control.Done: ...


class Departure(Protocol):
    """How a node leaves its mesh.  Raises Refused with a sentence."""

    async def leave(self) -> control.Done: ...
    async def destroy(self) -> control.Done: ...


@dataclass(frozen=True, slots=True)
class Presence:
    """What membership knows of one other node."""

    state: str
    """alive | suspect | failed | left | asleep | unknown"""
    seen_s: float | None = None
    version: str = ""
    addresses: Sequence[Address] = ()


@dataclass(slots=True)
class Sources:
    """The parts that are read."""

    node: NodeId
    registry: MemberRegistry
    backends: Backends
    holder: Holder
    placement: Placement
    presence: Callable[[NodeId], Presence]
    own_addresses: Callable[[], Sequence[Address]]
    record: Callable[[], control.RecordReport]
    confirm_clock: Callable[[], Awaitable[control.Done]]
    backup: Callable[[], Awaitable[Iterator[bytes]]]
    order_vote: Callable[[NodeId, str], Awaitable[control.VotesDecided]]
    client_url: str
    peer_port: int
    counters: Sequence[Counter[str]] = ()
    gauges: Callable[[], Mapping[str, int]] = dict
    """What is as it is, rather than counted up."""
    admitting: Callable[[], Collection[str]] = tuple
    """The nodes that hold the CA's key, by the record."""
    problems: Callable[[], Sequence[str]] = tuple
    """What other parts want a person to know."""
    findings: Sequence[Callable[[], Awaitable[list[control.Finding]]]] = ()
    started_at: float = field(default_factory=trio.current_time)


class Administration:
    """The `Administrator` of a running node."""

    def __init__(
        self,
        sources: Sources,
        office: Office,
        consents: Consents,
        departure: Departure,
        stop: Callable[[], None],
        forget: Callable[[], None],
    ) -> None:
        """`forget` deletes what this node keeps of its mesh, after it has left."""
        self._sources = sources
        self._office = office
        self._consents = consents
        self._departure = departure
        self._stop = stop
        self._forget = forget

    # ---------------------------------------------------------------- what there is

    def status(self) -> control.StatusReport:
        of = self._sources
        rows = self.node_rows()
        return control.StatusReport(
            version=__version__,
            node=next(row for row in rows if row.state == "self"),
            mesh=of.registry.mesh_name,
            members_version=of.registry.version,
            client_url=of.client_url,
            peer_port=of.peer_port,
            pid=os.getpid(),
            uptime_s=round(trio.current_time() - of.started_at, 1),
            nodes=rows,
            backends=of.backends.rows(),
            models=len(self.model_rows()),
            counters={**_sum(of.counters), **of.gauges()},
            problems=self._problems(rows),
            notes=of.record().notes,
        )

    def node_rows(self) -> list[control.NodeRow]:
        return [self._node_row(member) for member in self._sources.registry.members()]

    async def confirm_clock(self) -> control.Done:
        """A person says that the machines' clocks are right."""
        return await self._sources.confirm_clock()

    def record(self) -> control.RecordReport:
        """The record that all nodes keep together, as this one has it."""
        return self._sources.record()

    async def backup(self) -> Iterator[bytes]:
        """All of that record as of now, in pieces."""
        return await self._sources.backup()

    async def order_vote(self, order: control.VoteOrder) -> control.VotesDecided:
        """A person decides about a node's vote.  Raises Refused."""
        node = self._sources.registry.find(order.node).id
        return await self._sources.order_vote(node, order.vote)

    def model_rows(self) -> list[control.ModelRow]:
        catalogue = self._sources.placement.catalogue
        rows = []
        for name in catalogue.names():
            targets = self._sources.placement.holders(name)
            if not targets:
                continue  # only nodes that are away have it
            digests = {t.model.digest for t in targets if t.model.digest}
            capabilities = {c for t in targets for c in t.model.capabilities}
            copies = [
                control.Copy(
                    node=self._name(t.node),
                    engine=t.engine,
                    digest=t.model.digest,
                    resident=t.model.resident,
                    context_tokens=t.model.context_tokens,
                    slots=t.slots,
                )
                for t in targets
            ]
            rows.append(control.ModelRow(name, max(1, len(digests)), sorted(capabilities), copies))
        return rows

    async def findings(self) -> list[control.Finding]:
        found: list[control.Finding] = []
        for check in self._sources.findings:
            found += await check()
        return found

    # ---------------------------------------------------------------- what is ordered

    async def create_token(self, order: control.TokenOrder) -> control.TokenMade:
        return await self._office.create_token(order)

    def tokens(self) -> list[control.TokenRow]:
        return self._office.tokens()

    async def revoke_token(self, order: control.TokenQuery) -> control.Done:
        return await self._office.revoke_token(order.token)

    async def pending(self) -> list[control.PendingRow]:
        return await self._consents.pending()

    async def approve(self, order: control.ApproveOrder) -> control.Done:
        return await self._consents.approve(order.digits)

    async def set_drained(self, order: control.NodeOrder, drained: bool) -> control.Done:
        return await self._office.set_drained(self._which(order.node), drained)

    async def set_labels(self, order: control.LabelsOrder) -> control.Done:
        return await self._office.set_labels(self._which(order.node), order.labels)

    async def remove(self, order: control.NodeOrder) -> control.Done:
        return await self._office.remove(self._sources.registry.find(order.node).id)

    async def leave(self, order: control.LeaveOrder) -> control.Done:
        leave = self._departure.destroy if order.destroy else self._departure.leave
        done = await leave()
        self._forget()
        self._stop()
        return done

    def stop(self) -> control.Done:
        self._stop()
        return control.Done("stopping: running requests get their time to finish")

    def _which(self, text: str) -> NodeId:
        """The member that is meant; this node if none is named.  Raises NoSuchNode."""
        return self._sources.registry.find(text).id if text else self._sources.node

    # ---------------------------------------------------------------- rows

    def _node_row(self, member: Member) -> control.NodeRow:
        of, node = self._sources, member.id
        if node == of.node:
            presence = Presence("self", 0.0, __version__, of.own_addresses())
            load = of.holder.load()
        else:
            presence = of.presence(node)
            load = of.placement.load_of(node)
        inventory = of.placement.catalogue.inventory_of(node)
        if not of.placement.is_present(node):
            load, inventory = Load(), None  # what it had is of no use to anybody now
        backends = inventory.backends if inventory else []
        models = {m.name: m for b in backends for m in b.models}
        warm = {m.name for b in backends for m in b.models if m.resident}
        return control.NodeRow(
            id=node,
            name=member.name,
            addresses=[str(a) for a in presence.addresses or member.addresses],
            state=presence.state,
            version=presence.version,
            founder=member.founder,
            drained=member.drained,
            models=len(models),
            warm=len(warm),
            running=load.running,
            queued=load.queued,
            slots=sum(b.slots for b in backends),
            seen_s=presence.seen_s,
            engines=[b.engine for b in backends],
            labels=list(member.labels),
            admits=node in of.admitting(),
        )

    def _name(self, node: NodeId) -> str:
        member = self._sources.registry.get(node)
        return member.name if member else short(node)

    def _problems(self, rows: Sequence[control.NodeRow]) -> list[str]:
        problems = list(self._sources.problems())
        for row in rows:
            if row.state == "failed":
                problems.append(
                    f"{row.name} does not answer: is it on, and is UDP and TCP open to it?"
                )
            elif row.state == "suspect":
                problems.append(f"{row.name} may be gone: it missed its probes")
        problems += [
            f"{backend.engine or 'the engine'} at {backend.url}: {backend.state}"
            for backend in self._sources.backends.rows()
            if backend.state != "serving"
        ]
        if not self._sources.placement.catalogue.names():
            problems.append("no node offers a model: start Ollama or another engine, or use --gguf")
        return problems


def _sum(counters: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return dict(sorted(total.items()))
