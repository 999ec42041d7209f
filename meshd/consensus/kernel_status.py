"""What a kernel says of itself.  Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from meshd.consensus.interface import PeerStatus, Status
from meshd.consensus.kernel_stock import LEADER, ROLES
from meshd.consensus.sending import Progress
from meshd.ids import NodeId

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel


def status_of(kernel: Kernel) -> Status:
    """The moment, for status pages and policies."""
    stock = kernel.stock
    followers = kernel.sending.progress.values() if stock.role == LEADER else ()
    return Status(
        role=ROLES[stock.role],
        term=stock.term,
        leader=_leader(kernel),
        ready=kernel.is_ready,
        voters=kernel.configuration.voters,
        learners=kernel.learners,
        first=kernel.log.floor,
        last=kernel.log.last.index,
        commit=stock.commit,
        applied=stock.applied,
        queued=kernel.proposals.queued,
        transferring_to=kernel.handover.to,
        source=kernel.following.source.id if kernel.following.source is not None else None,
        subscribers={peer.id: s.match for peer, s in kernel.serving.subscribers.items()},
        peers={progress.peer.id: _peer(kernel, progress) for progress in followers},
        checked=kernel.rollback.checked,
        heard_at=_heard_at(kernel),
    )


def _heard_at(kernel: Kernel) -> float:
    if kernel.stock.role != LEADER:
        return kernel.following.heard_at
    progress = kernel.sending.progress.values()
    answered = {peer.peer.id: peer.answered_at for peer in progress} | {kernel.me: math.inf}
    voters = kernel.configuration.voters
    times = sorted((answered.get(voter, -math.inf) for voter in voters), reverse=True)
    return times[len(voters) // 2] if times else -math.inf


def _leader(kernel: Kernel) -> NodeId | None:
    """A follower without a vote asks its source, which stands in the leader's place."""
    leader, following = kernel.stock.leader, kernel.following
    if leader is None or leader != following.source:
        return leader.id if leader is not None else None
    return following.leader


def _peer(kernel: Kernel, progress: Progress) -> PeerStatus:
    node = progress.peer.id
    return PeerStatus(
        voter=node in kernel.configuration.voters,
        connected=node in kernel.wire.connected,
        match=progress.match,
        mode=progress.mode,
        in_flight_bytes=progress.in_flight_bytes,
        answered_s=progress.answered_at,
    )
