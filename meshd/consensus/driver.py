"""Drives one core: delivers, steps, makes durable, sends (trio shell of `interface.Core`).

The order of one turn is the durability of the whole log; see `interface.py`.  Messages are given to
the core as they arrive, in the task of whoever read them, also while a write is on its way to the
disk; everything else happens in `run`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from meshd import limits, logs
from meshd.consensus.driver_snapshots import SnapshotWork, Store
from meshd.consensus.history import Checked
from meshd.consensus.interface import Core, CoreStopped, OtherRecord, Outbox, Outgoing, Status
from meshd.consensus.journal import JournalFailed
from meshd.consensus.messages import decode, encode
from meshd.consensus.outcomes import Committed, Outcome, Readable, Refused, Unknown, Why
from meshd.consensus.snapshot_parts import Taken
from meshd.errors import DiskFailed, MeshdError, ProtocolError
from meshd.ids import NodeId, short

log = logs.get("record")

T = TypeVar("T")

INLINE_SYNC_S = 0.001
"""A disk that is quicker than this is waited for in the loop; a thread would cost as much."""


class ProposalRefused(MeshdError):
    """It is not in the log and never will be: it can be tried again as it is."""

    def __init__(self, why: Why, text: str = "") -> None:
        super().__init__(text or _SENTENCES.get(why, why.value))
        self.why = why


class ProposalUnknown(MeshdError):
    """It may be in the log, come into it yet, or never: repeat it within its session."""

    def __init__(self, why: Why) -> None:
        super().__init__(f"It is not known whether it was written down: {_SENTENCES[why]}.")
        self.why = why


_SENTENCES = {
    Why.QUEUE_FULL: "too many commands wait to be written down",
    Why.NO_LEADER: "no majority of the voters is there to write it down",
    Why.NOT_LEADER: "this node does not lead",
    Why.DENIED: "the leader does not know such a command: is this meshd newer than that one?",
    Why.OVERWRITTEN: "the leader lost its office before it was written down",
    Why.TIMED_OUT: "a majority of the voters did not answer in time",
    Why.LEADER_LOST: "the leader went away",
    Why.SKIPPED: "a snapshot took its place",
}


@dataclass(slots=True)
class _Waiter:
    """Somebody who waits for an outcome."""

    done: trio.Event = field(default_factory=trio.Event)
    outcome: Outcome | None = None


class Driver:
    """One core, its store, and the links it speaks over."""

    def __init__(
        self,
        core: Core,
        store: Store,
        send: Callable[[NodeId, Sequence[bytes]], None],
        *,
        sync_s: float,
        threads: bool = True,
        stepped: Callable[[], None] = lambda: None,
        settle: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        """`send` sends messages to a node over its link, at once if it can, and may drop them.

        `sync_s` is what making something durable costs (`journal.probe_sync_s`); `threads` False
        says that nothing the store does takes any time (`Disk.is_quick`).  `stepped` is called
        after each turn: commands may have been applied in it.  `settle` is awaited before a part
        of the log goes: until what `stepped` has told of it is needed no more.
        """
        self._core = core
        self._store = store
        self._send = send
        self._threads = threads
        self._inline = sync_s < INLINE_SYNC_S or not threads
        self._stepped = stepped
        self._waiters: dict[int, _Waiter] = {}
        self._kick = trio.Event()
        self._snapshot_index = core.status().first
        self._snapshots = SnapshotWork(
            core,
            store,
            blocking=self._blocking,
            send=self._send_all,
            settle=settle,
            kick=lambda: self._kick.set(),
        )
        self._turns_until_look = 0
        self._alarm = trio.CancelScope()
        self._alarm_at = math.inf
        self.stopped: str | None = None
        """Why it does nothing any more, once it does not."""
        self.met_other_record = False
        """Somebody has a log that lacks what this node knows to be committed."""
        self.counters: Counter[str] = Counter()

    # ---------------------------------------------------------------- what others use

    def status(self) -> Status:
        """Of the core, as of now."""
        return self._core.status()

    @property
    def is_ready(self) -> bool:
        """This node leads, and may change voters and read."""
        return self._core.is_ready

    @property
    def checked(self) -> Checked:
        """Whether the others remember more of this node than its journal holds."""
        return self._core.checked

    def stop(self, why: str) -> None:
        """Do nothing any more; `run` returns."""
        self.stopped = self.stopped or why
        self._kick.set()

    def connected(self, peer: NodeId) -> None:
        """There is a link to that node."""
        self._tell(lambda now: self._core.connected(peer, now))

    def disconnected(self, peer: NodeId) -> None:
        """The link to that node is gone."""
        self._tell(lambda now: self._core.disconnected(peer, now))

    def received(self, peer: NodeId, data: bytes) -> None:
        """A message from that node.  Nonsense is counted and changes nothing."""
        if self.stopped is not None:
            return
        try:
            self._core.on_message(peer, decode(data), trio.current_time())
        except CoreStopped as error:
            self.stopped = str(error)
        except ProtocolError as error:
            self.counters["record_refused"] += 1
            self.met_other_record = self.met_other_record or isinstance(error, OtherRecord)
            log.debug("a message about the record was refused", node=short(peer), why=str(error))
            return
        self._kick.set()

    async def propose(self, command: bytes, timeout_s: float = limits.PROPOSE_S) -> Committed:
        """Have a command committed and applied here.

        Raises ProposalRefused (not written down), ProposalUnknown (perhaps), CommandTooLarge.
        """
        outcome = await self._outcome(lambda now: self._core.propose(command, now, timeout_s))
        assert isinstance(outcome, Committed)
        return outcome

    async def read_barrier(self, timeout_s: float = limits.PROPOSE_S) -> int:
        """Wait until the state here holds all that was acknowledged before this call.

        Returns the index that it holds at least.  Raises ProposalRefused; then ask again.
        """
        outcome = await self._outcome(lambda now: self._core.read_index(now, timeout_s))
        assert isinstance(outcome, Readable)
        return outcome.index

    async def change_voters(
        self, voters: Sequence[NodeId], timeout_s: float = limits.PROPOSE_S
    ) -> None:
        """Have one voter more or less.  Raises ProposalRefused, ProposalUnknown."""
        await self._outcome(lambda now: self._core.change_voters(voters, now, timeout_s))

    def set_learners(self, learners: Sequence[NodeId]) -> None:
        """Who gets the log without a vote while this node leads."""
        self._tell(lambda now: self._core.set_learners(learners, now))

    def regain_vote(self) -> None:
        """A vote that the others give this node from now on is good."""
        self._tell(self._core.regain_vote)

    def transfer(self, to: NodeId) -> None:
        """Let that voter lead.  Raises TransferRefused."""
        self._tell(lambda now: self._core.transfer(to, now))

    # ---------------------------------------------------------------- the loop

    async def run(self) -> None:
        """Drive it until it stops, or for ever.

        Returns with `stopped` set when the core or its disk cannot go on; nothing is promised any
        more after that.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ring)
                nursery.start_soon(self._snapshots.send_parts)
                nursery.start_soon(self._snapshots.install_whole)
                await self._take_turns(nursery)
                nursery.cancel_scope.cancel()
        finally:
            self.stopped = self.stopped or "this node stops"
            for waiter in self._waiters.values():
                waiter.done.set()
            self._waiters.clear()

    async def _take_turns(self, nursery: trio.Nursery) -> None:
        try:
            while self.stopped is None:
                if self._core.checked is Checked.BEHIND:
                    self.stopped = f"its journal is behind: {self._core.why_behind}"
                    return
                self._core.step(trio.current_time())
                await self._carry_out(self._core.take_outbox())
                self._stepped()
                if (taken := self._snapshot_if_due()) is not None:
                    nursery.start_soon(self._snapshots.save, taken)
                await self._tell_what_is_durable()
                await self._until_there_is_something_to_do()
        except (CoreStopped, JournalFailed, DiskFailed) as error:
            self.stopped = str(error)

    async def _carry_out(self, outbox: Outbox) -> None:
        self._send_all(outbox.early)
        if outbox.pieces:
            await self._snapshots.take_in(outbox.pieces)
        if outbox.must_sync:
            if self._inline:
                self._store.write(outbox.records)
            else:
                await self._blocking(lambda: self._store.write(outbox.records))
            self._core.stored()
        self._send_all(outbox.late)
        self._snapshots.queue(outbox.parts)
        for outcome in outbox.outcomes:
            if (waiter := self._waiters.pop(outcome.id, None)) is not None:
                waiter.outcome = outcome
                waiter.done.set()

    def _send_all(self, outgoing: Sequence[Outgoing]) -> None:
        """In order to each node, and together: hundreds can be forwarded in one turn."""
        if not outgoing:
            return
        by_node: dict[NodeId, list[bytes]] = {}
        for out in outgoing:
            by_node.setdefault(out.to, []).append(encode(out.message))
        for node, messages in by_node.items():
            self._send(node, messages)

    def _snapshot_if_due(self) -> Taken | None:
        """What is to stand for the log, once that has grown long enough."""
        self._turns_until_look -= 1
        if self._turns_until_look > 0 or self._snapshots.is_saving:
            return None  # a status is a dozen times the price of a turn's own work
        status = self._core.status()
        since = status.applied - max(self._snapshot_index, status.first)
        if since < limits.RECORD_SNAPSHOT_EVERY:
            missing = limits.RECORD_SNAPSHOT_EVERY - since
            self._turns_until_look = max(1, missing // limits.RAFT_PER_STEP)
            return None
        self._snapshot_index = status.applied
        return self._core.take_snapshot()

    async def _tell_what_is_durable(self) -> None:
        """Let a snapshot that is on disk stand for the log up to its place."""
        if self._snapshots.finished(trio.current_time()):
            await self._carry_out(self._core.take_outbox())
            keep = self._core.snapshots_in_use()
            await self._blocking(lambda: self._store.compact(keep))

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call) if self._threads else call()

    async def _until_there_is_something_to_do(self) -> None:
        wake_at = self._core.next_wake()
        if self._kick.is_set() or wake_at <= trio.current_time():
            await trio.lowlevel.checkpoint()
        else:
            if wake_at < self._alarm_at:
                self._alarm_at = self._alarm.deadline = wake_at
            await self._kick.wait()
        self._kick = trio.Event()

    async def _ring(self) -> None:
        """Wake the loop when it is time for what the core waits for.

        The core's next deadline is put off by nearly every message; a cancel scope around each
        wait would cost a tenth of a turn, and a deadline that was put off costs nothing here.
        """
        while True:
            with trio.CancelScope(deadline=self._alarm_at) as self._alarm:
                await trio.sleep_forever()
            wake_at = self._core.next_wake()
            if wake_at <= trio.current_time():
                self._alarm_at = math.inf
                self._kick.set()
            else:
                self._alarm_at = wake_at

    # ---------------------------------------------------------------- small things

    def _tell(self, call: Callable[[float], None]) -> None:
        """Give the core something, unless it is no more."""
        if self.stopped is not None:
            return
        try:
            call(trio.current_time())
        except CoreStopped as error:
            self.stopped = str(error)
        self._kick.set()

    async def _outcome(self, ask: Callable[[float], int]) -> Outcome:
        if self.stopped is not None:
            raise ProposalRefused(Why.NO_LEADER, f"the record does not run here: {self.stopped}")
        number = ask(trio.current_time())
        waiter = self._waiters[number] = _Waiter()
        self._kick.set()
        try:
            # No deadline here: the core itself gives each an outcome within its time-out.
            await waiter.done.wait()
        finally:
            self._waiters.pop(number, None)
        match waiter.outcome:
            case None:
                raise ProposalUnknown(Why.LEADER_LOST)
            case Unknown(why=why):
                raise ProposalUnknown(why)
            case Refused(why=why, text=text):
                raise ProposalRefused(why, text)
            case outcome:
                return outcome
