"""Every method of pysyncobj that is replaced, why, and where its replacement is.

The numbers H1 to H20 are those of DESIGN.md of this package.  What is not named here runs as
pysyncobj has it: roles, terms and votes, the commit rule of the current term, the order of
applying, the no-op of a new leader, check-quorum, the queue of commands and their forwarding.

Nothing here is longer than a few lines: the ideas are in the modules that it calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NoReturn

from meshd.consensus.entries import EntryKind
from meshd.consensus.interface import CoreStopped, Role
from meshd.consensus.kernel_log import Row
from meshd.consensus.kernel_seams import SyncObj, SyncObjConf, private
from meshd.consensus.kernel_wire import Peer
from meshd.ids import NodeId

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel

ROLES: Final = (Role.FOLLOWER, Role.CANDIDATE, Role.LEADER)
"""By pysyncobj's numbers."""
FOLLOWER, CANDIDATE, LEADER = range(3)

Callback = Callable[[Any, int], None]
"""(result, pysyncobj's FAIL_REASON)."""


def _field(name: str) -> Any:
    """A private field of pysyncobj's, under a name of ours."""
    mangled = private(name)
    return property(attrgetter(mangled), lambda stock, value: setattr(stock, mangled, value))


class Stock(SyncObj):  # type: ignore[misc]
    """pysyncobj's SyncObj, mended."""

    term: int = _field("raftCurrentTerm")
    voted_for: NodeId | None = _field("votedForNodeId")
    role: int = _field("raftState")
    leader: Peer | None = _field("raftLeader")
    applied: int = _field("raftLastApplied")
    deadline: float = _field("raftElectionDeadline")
    others: set[Peer] = _field("otherNodes")
    match: dict[Peer, int] = _field("raftMatchIndex")
    answered: dict[Peer, float] = _field("lastResponseTime")
    noop_index: int | None = _field("noopIDx")
    waiting_commit: dict[int, list[tuple[int, Callback]]] = _field("commandsWaitingCommit")
    waiting_reply: dict[int, Callback] = _field("commandsWaitingReply")
    reply_counter: int = _field("commandsLocalCounter")

    # pysyncobj's constructor looks at every attribute of the object before these three are there.
    _SyncObj__commandsWaitingCommit = _SyncObj__commandsWaitingReply = None
    _SyncObj__commandsLocalCounter = 0

    _commit = 0

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        settings = kernel.settings
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,
            dynamicMembershipChange=True,
            commandsWaitLeader=False,
            commandsQueueSize=0,  # proposals.py hands over no more than fits into a step
            raftMinTimeout=settings.election_min_s,
            raftMaxTimeout=settings.election_max_s,
            appendEntriesPeriod=settings.heartbeat_s,
            leaderFallbackTimeout=settings.quorum_s,
            connectionTimeout=10 * settings.election_max_s,  # only compared with the others
            journalFile=kernel.log,
            fullDumpFile=None,
            useFork=False,
            logCompactionMinEntries=2**60,
            logCompactionMinTime=2**60,
        )
        others = [kernel.peer(v) for v in kernel.log.voters if v != kernel.me]
        super().__init__(
            kernel.peer(kernel.me), others, conf, nodeClass=Peer, transport=kernel.wire
        )
        self.applied = kernel.log.base.index
        del self._SyncObj__serializer  # the pickling one; nothing may reach it

    def on_message(self, peer: Peer, message: dict[str, Any]) -> None:
        """Hand one of pysyncobj's own messages to it."""
        self._SyncObj__onMessageReceived(peer, message)

    def set_term(self, term: int) -> None:
        """Another has a later term: it holds here too, nobody has the vote yet, nobody leads."""
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self.leader = None

    def spend_vote(self) -> None:
        """Nobody gets this node's vote in this term any more: it may have given it before."""
        if self.term and self.voted_for is None:
            self._SyncObj__setCurrentTerm(self.term, self.kernel.me)

    def leader_lost(self) -> None:
        """What was forwarded and not answered has an unknown outcome."""
        self._SyncObj__onLeaderChanged()

    def set_others(self, others: list[Peer]) -> None:
        self._SyncObj__updateClusterConfiguration(others)

    def election_timeout_s(self) -> float:
        timeout: float = self._SyncObj__generateRaftTimeout()
        return timeout

    # --- commit

    @property
    def _SyncObj__raftCommitIndex(self) -> int:
        return self._commit

    @_SyncObj__raftCommitIndex.setter
    def _SyncObj__raftCommitIndex(self, index: int) -> None:
        """The commit index never goes back, and rests only on what is on disk.

        Stock counts a leader as soon as it has appended.  Here the leader needs its own entry on
        disk as well: it may be one of the few that the majority consists of.  (Cutting stock's
        answer down must not leave an entry of an earlier term as the last one: Raft 5.4.2.)
        """
        if self.role == LEADER:
            index = min(index, self.kernel.log.durable)
            if index < (self.noop_index or math.inf):
                return
        if index > self._commit:
            self._commit = self.kernel.log.committed = index

    @property
    def commit(self) -> int:
        return self._commit

    @commit.setter
    def commit(self, index: int) -> None:
        self._SyncObj__raftCommitIndex = index

    # --- elections.py

    def _SyncObj__connectedToAnyone(self) -> bool:
        """Stock asks this before it campaigns: only who won a pre-vote, or was told to, may."""
        return self.kernel.elections.may_campaign

    # --- replication: sending.py, receiving.py

    def _SyncObj__onBecomeLeader(self) -> None:
        self.kernel.sending.begin()
        super()._SyncObj__onBecomeLeader()

    def _SyncObj__sendAppendEntries(self) -> None:
        """H3, H16, H17: replaced by sending.py, which the kernel calls at the end of each step."""

    def _SyncObj__sendNextNodeIdx(
        self,
        node: Peer,
        reset: bool = False,
        nextNodeIdx: int | None = None,
        success: bool = False,
    ) -> None:
        """H3: an answer says for which term and which question it is."""
        self.kernel.receiving.answer(node, success)

    def _SyncObj__getEntries(
        self,
        fromIDx: int,
        count: int | None = None,
        maxSizeBytes: int | None = None,
    ) -> list[Row]:
        """H4: of the entries after a place that fits, stock cuts all that this returns.

        H15: and it applies all that this returns.
        """
        if count is None:
            count = 1 if self.kernel.receiving.nothing_conflicts else None
        else:
            count = min(count, self.kernel.settings.per_step)
        rows: list[Row] = super()._SyncObj__getEntries(fromIDx, count)
        return rows

    # --- applying.py

    def _SyncObj__doApplyCommand(self, payload: bytes) -> bytes:
        """H7, H8, H9: no versions that are skipped, nothing tried twice, nothing unpickled."""
        return self.kernel.applying.apply(self.applied + 1, payload)

    # --- configuration.py

    def _SyncObj__parseChangeClusterRequest(self, payload: bytes) -> bytes | None:
        """H9, H19: an entry is a whole list in msgpack, not a pickled change."""
        return payload[1:] if payload[0] == EntryKind.VOTERS else None

    def _SyncObj__changeCluster(self, data: bytes) -> bool:
        """H2: one change at a time.  (Stock's own guard looks at a field that is never set.)"""
        return self.kernel.configuration.why_not_change(data) is None

    def _SyncObj__doChangeCluster(self, data: bytes, reverse: bool = False) -> bool:
        """H12, H19: the list in force is read off the log after every call, so nothing to do."""
        return True

    # --- snapshots.py

    def _SyncObj__tryLogCompaction(self) -> None:
        """H10, H11, H13: snapshots are taken when the driver wants them."""

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> NoReturn:
        raise CoreStopped("pysyncobj wanted to load a dump file.")
