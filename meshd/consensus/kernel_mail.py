"""Which part of a kernel each kind of message is for.  Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshd.consensus.kernel_wire import Peer
from meshd.consensus.messages import (
    AppendAnswer,
    AppendEntries,
    AskVote,
    Feed,
    FeedAnswer,
    FeedEnd,
    Follow,
    Forward,
    ForwardAnswer,
    Message,
    PreVote,
    PreVoteAnswer,
    ReadAnswer,
    ReadAsk,
    Recall,
    RecallAnswer,
    SnapshotAnswer,
    SnapshotPart,
    TimeoutNow,
    VoteAnswer,
)

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel


def handler_of(kernel: Kernel, message: Message) -> Callable[[Peer, Any], None]:
    """What takes in a message of that kind."""
    match message:
        case AppendEntries():
            return kernel.receiving.on_append
        case AppendAnswer():
            return kernel.sending.on_append_answer
        case SnapshotPart():
            return kernel.snapshots.on_part
        case SnapshotAnswer():
            return kernel.snapshots.on_answer
        case PreVote():
            return kernel.elections.on_pre_vote
        case PreVoteAnswer():
            return kernel.elections.on_pre_vote_answer
        case AskVote():
            return kernel.elections.on_ask_vote
        case VoteAnswer():
            return kernel.elections.on_vote_answer
        case TimeoutNow():
            return kernel.elections.on_timeout_now
        case Forward():
            return kernel.proposals.on_forward
        case ForwardAnswer():
            return kernel.proposals.on_forward_answer
        case ReadAsk():
            return kernel.reads.on_ask
        case ReadAnswer():
            return kernel.reads.on_answer
        case Follow():
            return kernel.serving.on_follow
        case Feed():
            return kernel.following.on_feed
        case FeedAnswer():
            return kernel.serving.on_answer
        case FeedEnd():
            return kernel.following.on_end
        case Recall():
            return kernel.memory.on_recall
        case RecallAnswer():
            return kernel.rollback.on_answer
