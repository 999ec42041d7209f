"""The record on this node: opened, founded, driven, and opened anew when its disk failed (shell).

    disk --Stored--> kernel <--driver--> links          what is replicated, and how
                       |
                 RecordMachine                          what it means

Everybody above asks the `Ledger`: for the state as it is here, for a command to be carried out, for
a barrier before a read that must not be stale.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import trio

from meshd import limits, logs
from meshd.beat import next_beat
from meshd.consensus.driver import Driver, ProposalRefused, ProposalUnknown
from meshd.consensus.entries import Record, Stored
from meshd.consensus.history import Checked, History
from meshd.consensus.interface import Role, Settings, Status
from meshd.consensus.journal import (
    Journal,
    JournalFailed,
    JournalUnusable,
    Opened,
    open_journal,
    probe_sync_s,
)
from meshd.consensus.kernel import Kernel
from meshd.consensus.replay import EMPTY, replay
from meshd.consensus.voter_list import founding_records
from meshd.consensus.voters import Wish
from meshd.errors import DiskFailed, MeshdError
from meshd.ids import NodeId
from meshd.ledger.electorate import Electorate, Machine, Members
from meshd.ledger.machine import RecordMachine
from meshd.ledger.place import Place
from meshd.ledger.promises import Promises
from meshd.ledger.session import Session
from meshd.ports import Ports
from meshd.record import results
from meshd.record.commands import Entry, encode
from meshd.record.commands_registry import Adopt, Command, Found
from meshd.record.events import Event, NodeChanged, NodeRemoved
from meshd.record.frozen import StateDamaged, StateUnknown
from meshd.record.results import Code, RecordRefused
from meshd.record.state import RecordState

log = logs.get("record")

_T = TypeVar("_T")

REOPEN_S = 1.0
"""After a disk failed: some are full for a moment only.  Twice as long after each try in vain."""
REOPEN_MAX_S = 30.0
"""Others are made room on by people: each try reads the whole journal."""
CARE_S = 2.0
"""How often the leader looks whether the record lacks anything."""
SOON_S = 0.1
"""The same, while there is no record yet."""


class Ledger:
    """See the module's text."""

    def __init__(
        self,
        ports: Ports,
        place: Place,
        members: Members,
        *,
        send: Callable[[NodeId, Sequence[bytes]], None],
        linked: Callable[[], list[NodeId]],
        eligible: Callable[[NodeId], bool],
        founding: Callable[[], Found | None],
        missing: Callable[[RecordState], Adopt | None],
        machine: Callable[[], Machine],
        on_events: Callable[[list[Event]], None],
        on_applied: Callable[[RecordState], None] = lambda state: None,
        settle: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        why_not: Callable[[], str] = lambda: "",
        settings: Settings | None = None,
    ) -> None:
        """`send` sends messages to a linked node, in order; `linked` says who can be sent to.

        `founding` is the first command of a new record, at the one node that may found it; None
        elsewhere.  `missing` says what a signed list of members holds that the record does not.
        `on_applied` is called after each turn in which the state became another one.
        `machine` is what this node is as a voter; what only the ledger knows is filled in.
        `why_not` is a sentence on why nothing can be written now, for who wants to.
        """
        self._ports = ports
        self._place = place
        self._send = send
        self._linked = linked
        self._eligible = eligible
        self._founding = founding
        self._missing = missing
        self._machine = machine
        self._on_events = on_events
        self._on_applied = on_applied
        self._settle = settle
        self._settings = settings or Settings()
        self._why_not = why_not
        self._driver: Driver | None = None
        self._record = RecordMachine()
        self._applied, self._seen = trio.Event(), 0
        self._members = members
        self._promises = Promises(ports.disk, place)
        self.sync_s = 0.0
        """What making something durable costs here, in seconds; 0: not measured yet."""
        self.problem: str | None = None
        """Why the record does not run here, as a sentence; None while it does."""
        self.session = Session(
            lambda: self._driver if self._promises.are_noted else None,
            place.me,
            place.generation,
            ports.entropy.token(16),
            ports.entropy.random,
            why_not,
        )
        self.electorate = Electorate(
            place.me, lambda: self._driver, members, self.own_machine, self._order_for
        )

    # ---------------------------------------------------------------- what others use

    @property
    def state(self) -> RecordState:
        """The record as of the last command applied here.  Another object after a restart of it."""
        return self._record.state

    @property
    def me(self) -> NodeId:
        """This node."""
        return self._place.me

    @property
    def driver(self) -> Driver | None:
        """What drives the log here; None while it does not run."""
        return self._driver

    @property
    def status(self) -> Status | None:
        """Of the log here; None while it does not run."""
        return self._driver.status() if self._driver is not None else None

    def own_machine(self) -> Machine:
        """What this node is as a voter."""
        said = self._machine()
        driver = self._driver
        return Machine(
            wish=said.wish,
            on_mains=said.on_mains,
            portable=said.portable,
            uptime_s=said.uptime_s,
            sync_s=self.sync_s,
            runs=driver is not None,
            index=driver.status().commit if driver is not None else 0,
            is_void=self.vote_is_void,
        )

    @property
    def vote_is_void(self) -> bool:
        """Whether this node lost what it had promised as a voter, and may not vote for now."""
        return self._promises.are_void

    def void_votes(self) -> frozenset[NodeId]:
        """Whose vote is void, as far as this node knows."""
        own = {self._place.me} if self.vote_is_void else set()
        leads = self._driver is not None and self._driver.status().role is Role.LEADER
        return frozenset(own) | (self.electorate.void if leads else frozenset())

    def _order_for(self, node: NodeId) -> Wish:
        """What a person decided of that node's vote."""
        row = self.state.nodes.get(node)
        return Wish(row.vote) if row is not None else Wish.AUTO

    async def execute(
        self, command: Command, timeout_s: float = limits.COMMAND_S
    ) -> dict[str, Any]:
        """Have a command carried out, once.  Raises as `Session.execute`."""
        return await self.session.execute(command, timeout_s)

    async def read_barrier(self, timeout_s: float = limits.PROPOSE_S) -> int:
        """Wait until `state` holds all that was acknowledged anywhere before this call.

        Raises ProposalRefused when there is no majority to say so.
        """
        if self._driver is None:
            raise MeshdError(self.problem or "the record does not run here yet")
        try:
            return await self._driver.read_barrier(timeout_s)
        except ProposalRefused as error:
            if why := self._why_not():
                text = f"What was acknowledged last cannot be found out. {why}"
                raise ProposalRefused(error.why, text) from error
            raise

    async def until_applied(self) -> None:
        """Wait until something more is applied here (no deadline: the caller has one)."""
        await self._applied.wait()

    # ---------------------------------------------------------------- what links tell

    def received(self, node: NodeId, data: bytes) -> None:
        """A message about the log came from that node."""
        if self._driver is not None:
            self._driver.received(node, data)

    def connected(self, node: NodeId) -> None:
        """Our link to that node is up."""
        self.electorate.nudge()
        if self._driver is not None:
            self._driver.connected(node)

    def disconnected(self, node: NodeId) -> None:
        """Our link to that node is down."""
        if self._driver is not None:
            self._driver.disconnected(node)

    # ---------------------------------------------------------------- its life

    async def run(self) -> None:
        """Keep the record running here, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            nursery.start_soon(self.electorate.run)
            nursery.start_soon(self._care)
            nursery.start_soon(self.session.announce)

    async def _keep(self) -> None:
        pause_s = REOPEN_S
        while True:
            began_at = trio.current_time()
            try:
                if await self._one_life():
                    continue
            except (JournalUnusable, StateDamaged, StateUnknown) as error:
                self.problem = str(error)
                log.error("the record cannot run here", why=str(error))
                return  # it takes a person
            except (DiskFailed, JournalFailed) as error:
                self.problem = str(error)
            log.error("the record stopped here; trying again", why=self.problem)
            if trio.current_time() - began_at > REOPEN_MAX_S:
                pause_s = REOPEN_S  # it had been well since
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, REOPEN_MAX_S)

    async def _one_life(self) -> bool:
        """Until something stops it, which `problem` says; whether to go on at once."""
        opened = await self._blocking(self._open)
        self._say(opened)
        try:
            await self._promises.look(opened.stored)
            stored = await self._founded(opened)
            self._record = await self._restored(opened.journal, stored)
            kernel = Kernel(
                self._place.me,
                stored,
                self._record,
                chance=self._ports.entropy,
                now=trio.current_time(),
                eligible=self._eligible,
                settings=self._settings,
                vote_is_void=self.vote_is_void,
                history=History(
                    starts_known=self._promises.starts_known,
                    others=tuple(n for n in self._members.members() if n != self._place.me),
                    generation_of=self._newest_start,
                ),
            )
            driver = Driver(
                kernel,
                opened.journal,
                self._send,
                sync_s=self.sync_s,
                threads=not self._ports.disk.is_quick,
                stepped=self._stepped,
                settle=self._settle,
            )
            for node in self._linked():
                driver.connected(node)
            self._driver, self.problem = driver, None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._promises.keep, driver)
                await driver.run()
                nursery.cancel_scope.cancel()
            self.problem = driver.stopped
        finally:
            self._driver = None
            self._promises.are_noted = False
            opened.journal.close()
        if driver.checked is Checked.BEHIND:
            await self._promises.begin_anew(self.problem or "")
            return True
        return False

    def _open(self) -> Opened:
        """Reads the whole journal, and waits for a few syncs."""
        place, disk = self._place, self._ports.disk
        opened = open_journal(disk, place.folder, place.owner, self._ports.entropy)
        if not disk.is_quick:
            now = lambda: trio.from_thread.run_sync(trio.current_time)  # noqa: E731
            self.sync_s = probe_sync_s(disk, place.folder, now)
        return opened

    async def _blocking(self, call: Callable[[], _T]) -> _T:
        return call() if self._ports.disk.is_quick else await trio.to_thread.run_sync(call)

    async def _restored(self, journal: Journal, stored: Stored) -> RecordMachine:
        """The state of the snapshot, built a few milliseconds at a time.

        Raises StateUnknown for that of a later meshd, StateDamaged for one that contradicts its own
        hash though the journal's checksum is right.
        """
        machine = RecordMachine()
        if stored.snapshot is not None:
            for _ in machine.prepare(journal.snapshots.state(stored.snapshot.point)):
                await trio.lowlevel.checkpoint()
            machine.become()
        return machine

    def _say(self, opened: Opened) -> None:
        if opened.cut is not None:
            log.warning("a write that a crash had broken off was cut", what=str(opened.cut))
        if opened.swept:
            log.info("left-over files deleted", files=list(opened.swept))

    async def _founded(self, opened: Opened) -> Stored:
        """At the founder, an empty journal is a new log with one voter.

        Once: a founder that lost its journal would begin a second record beside the first, which
        the others still have, so it gets that from them like a node that joins.
        """
        stored, disk, mark = opened.stored, self._ports.disk, self._place.founded_mark
        if self._founding() is None or disk.size(mark) is not None:
            return stored
        if stored == EMPTY:
            records: tuple[Record, ...] = founding_records([self._place.me])
            await self._blocking(lambda: opened.journal.write(records))
            stored = replay(stored, records)
        await self._blocking(lambda: disk.write(mark, b"", private=True))
        return stored

    def _stepped(self) -> None:
        is_new = self._record.state.index != self._seen
        if is_new:  # also after a snapshot, which brings no events
            self._on_applied(self._record.state)
        events = self._record.take_events()
        if events:
            if any(isinstance(event, NodeChanged | NodeRemoved) for event in events):
                self.electorate.nudge()  # an order about its vote, or a vote that is nobody's
            self._on_events(events)
        if self._driver is not None:
            self._promises.stepped(self._driver)
            self.electorate.stepped(self._driver)
        if is_new:
            self._seen = self._record.state.index
            self._applied.set()
            self._applied = trio.Event()

    def _newest_start(self, node: NodeId) -> int:
        """Of that node, as far as it is on record here; 0: none is."""
        applied = row.generation if (row := self.state.nodes.get(node)) is not None else 0
        return max(applied, self._promises.starts.get(node, 0))

    # ---------------------------------------------------------------- what only the leader does

    async def _care(self) -> None:
        """Found the record, and take into it what a later list of members says."""
        while True:
            driver = self._driver
            if driver is not None:
                status = driver.status()
                if status.role is Role.LEADER and status.ready:
                    try:
                        await self._complete(driver)
                    except (ProposalRefused, ProposalUnknown, RecordRefused, MeshdError) as error:
                        log.info("the record could not be completed yet", why=str(error))
            await next_beat(CARE_S if self.state.nodes.is_founded else SOON_S)

    async def _complete(self, driver: Driver) -> None:
        if not self.state.nodes.is_founded:
            found = self._founding()
            if found is not None:
                outcome = await driver.propose(encode(Entry(found)))
                try:
                    results.read(outcome.result)
                except RecordRefused as refusal:
                    if refusal.code is not Code.FOUNDED_ALREADY:
                        raise
            return
        if self._missing(self.state) is None:
            return
        await self.read_barrier()  # what was acknowledged is here before anything is lacking
        adopt = self._missing(self.state)
        if adopt is not None:
            await self.execute(adopt)
