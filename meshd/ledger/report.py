"""What a person is told of the record.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from meshd.consensus.history import Checked
from meshd.consensus.interface import Role, Status
from meshd.control import RecordReport, VoterRow
from meshd.ids import NodeId
from meshd.record.state import RecordState

NameOf = Callable[[NodeId], str]
_UNCHECKED = (
    "When this node started, no other was there to ask, so it was not checked whether its disk was "
    "put back to an earlier state (a cloned disk, a backup of the data directory)."
)
_NUMBERS = {1: "one", 2: "two", 3: "three"}


def report(
    me: NodeId,
    status: Status | None,
    state: RecordState,
    members: Sequence[NodeId],
    answering: Collection[NodeId],
    *,
    name_of: NameOf,
    problem: str | None,
    sync_s: float,
    void: Collection[NodeId] = (),
    notes: Sequence[str] = (),
) -> RecordReport:
    """The record as this node has it; `status` None: it does not run here, for that `problem`.

    `answering` are the nodes to which this node's link is up; `void` those whose vote is, as far
    as this node knows.
    """
    rows = _rows(me, status, state, members, answering, name_of, void) if status is not None else []
    return RecordReport(
        problem=_problem(me, status, answering, name_of, problem),
        leader=name_of(status.leader) if status is not None and status.leader is not None else "",
        term=status.term if status is not None else 0,
        last=status.last if status is not None else 0,
        commit=status.commit if status is not None else 0,
        applied=state.index,
        digest=state.digest().hex(),
        sync_ms=round(sync_s * 1000, 2),
        members=len(state.nodes.rows()),
        voters=rows,
        notes=[
            *notes,
            *([_UNCHECKED] if status and status.checked is Checked.UNANSWERED else []),
        ],
    )


def shortage(me: NodeId, status: Status, answering: Collection[NodeId], name_of: NameOf) -> str:
    """Why nothing can be written while too few voters are there, who is missing, and what would
    help; empty: enough are."""
    here = [voter for voter in status.voters if voter == me or voter in answering]
    needed = len(status.voters) // 2 + 1
    if len(here) >= needed or not status.voters:
        return ""
    if len(status.voters) == 1:
        return (
            f"The record cannot be written: {name_of(status.voters[0])}, which alone has a vote, "
            "cannot be reached from here. Start it, or see what cuts this machine off; `meshd "
            "recover` is for a voter that is gone for good. Unkeyed requests are served all the "
            "same."
        )
    away = [name_of(voter) for voter in status.voters if voter not in here]
    more = needed - len(here)
    start = "Start it" if len(away) == 1 else f"Start {_NUMBERS.get(more, more)} of them"
    return (
        f"The record cannot be written: {needed} of its {len(status.voters)} voters are needed,"
        f" and {len(here)} can be reached from here. Away: {', '.join(away)}. {start}, or see what"
        " cuts this machine off; `meshd recover` is for voters that are gone for good."
        " Requests without an Idempotency-Key are served all the same."
    )


def _rows(
    me: NodeId,
    status: Status,
    state: RecordState,
    members: Sequence[NodeId],
    answering: Collection[NodeId],
    name_of: NameOf,
    void: Collection[NodeId],
) -> list[VoterRow]:
    rows = []
    others = [node for node in members if node not in status.voters]
    for node in [*status.voters, *others]:
        votes = "votes" if node in status.voters else "follows"
        there = "answers" if node in answering else "away"
        known = state.nodes.get(node)
        rows.append(
            VoterRow(
                id=node,
                name=name_of(node),
                part="leads" if node == status.leader else votes,
                state="here" if node == me else there,
                index=_index(node, me, status),
                follows=_follows(node, me, status, name_of),
                vote=known.vote if known is not None else "auto",
                void=node in void,
                holds_ca=known is not None and known.holds_ca,
            )
        )
    return rows


def _index(node: NodeId, me: NodeId, status: Status) -> int | None:
    """How far its copy reaches, if this node knows."""
    if node == me:
        return status.last
    peer = status.peers.get(node)
    return peer.match if peer is not None else status.subscribers.get(node)


def _follows(node: NodeId, me: NodeId, status: Status, name_of: NameOf) -> str:
    """The name of the voter whom it follows, if this node knows."""
    if node == me and status.source is not None:
        return name_of(status.source)
    return name_of(me) if node in status.subscribers else ""


def _problem(
    me: NodeId,
    status: Status | None,
    answering: Collection[NodeId],
    name_of: NameOf,
    problem: str | None,
) -> str:
    if status is None:
        return f"The record does not run here: {problem or 'it is being opened'}"
    if not status.voters:
        return "This node has no copy of the record yet; it gets one from the others."
    if missing := shortage(me, status, answering, name_of):
        return missing
    if status.leader is None and me not in status.voters and len(status.voters) == 1:
        voter = name_of(status.voters[0])
        return (
            f"{voter} alone has a vote, and does not lead: `meshd status` there says why. If it "
            "has lost the record, `meshd recover` goes on with the copy of another node."
        )
    if status.leader is None or (status.role is Role.LEADER and not status.ready):
        return "The voters of the record are choosing who leads; that takes a second or two."
    return ""
