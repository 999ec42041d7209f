"""What a snapshot of a large record does to the loop: `python -m tests.bench.snapshots`.

A leader with 20,000 open jobs and 180,000 kept keys starts, takes commands, takes a snapshot, and
brings up an empty follower; both run in this process on a real disk.  Prints how long each took,
the longest step of the loop meanwhile, and how late the loop was.  Run by hand: a minute, 1 GiB.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from meshd import limits
from meshd.consensus.driver import Driver
from meshd.consensus.entries import Point, Rebase, Snapshot
from meshd.consensus.journal import Owner, open_journal, probe_sync_s
from meshd.consensus.kernel import Kernel
from meshd.consensus.voter_list import founding_records
from meshd.ids import MeshId, NodeId
from meshd.ledger.machine import RecordMachine
from meshd.machine.disk import FileDisk
from meshd.machine.host import settle_garbage
from meshd.record import commands_jobs as jobs
from meshd.record.commands import Entry, encode
from meshd.record.commands_registry import Command, Found, NodeFields, SetAlias, Started
from meshd.record.job_rows import job_id
from meshd.record.state import RecordState
from meshd.testing.entropy import SeededEntropy
from tests.joins import make_key

JOBS, KEYS = 20_000, 180_000
BODY = bytes(40)
CA, LEADER, FOLLOWER = (make_key(name).public for name in ("ca", "leader", "follower"))
STEADY_S = 3.0


def large_state() -> RecordState:
    state, index, seq = RecordState(), 0, 0

    def apply(body: Command, *, session: bool = True) -> None:
        nonlocal index, seq
        index, seq = index + 1, seq + session
        entry = Entry(body, LEADER.node, 1, seq, seq) if session else Entry(body)
        state.apply(index, encode(entry))
        state.take_events()

    apply(
        Found(
            mesh=CA.mesh, mesh_name="bench", ca_key=CA.der, gossip_key=1,
            node=NodeFields(key=LEADER.der, name="leader"), unix_ms=1_790_000_000_000,
        ),
        session=False,
    )  # fmt: skip
    apply(Started(node=LEADER.node, generation=1, boot=bytes(16)), session=False)
    digest = bytes(32)
    request = jobs.RequestFields(digest=digest, size_bytes=len(BODY), inline=BODY, path="/v1")
    for number in range(KEYS + JOBS):
        key = jobs.KeyFields(scope="s", key=f"{number:032x}", fingerprint=digest)
        apply(jobs.Accept(key=key, request=request, lease_ms=60_000))
        if number < KEYS:
            done = jobs.Complete(
                job=job_id(index), fence=index, digest=digest, size_bytes=len(BODY), inline=BODY
            )
            apply(done)
    assert len(state.jobs.live) == JOBS
    return state


class Watch(trio.abc.Instrument):
    """The longest step of the loop, by what it computes (a machine is never alone), and how late
    the loop is, whyever."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.late_s: list[float] = []
        self._began = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.longest_s = max(self.longest_s, time.thread_time() - self._began)

    async def run(self) -> None:
        while True:
            due = trio.current_time() + 0.001
            await trio.sleep_until(due)
            self.late_s.append(trio.current_time() - due)

    async def over(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        self.longest_s, self.late_s = 0.0, []
        began = time.perf_counter()
        await work()
        took_s = time.perf_counter() - began
        late = sorted(self.late_s) or [0.0]
        p99 = late[int(len(late) * 0.99)]
        print(
            f"  {what:46} {took_s:6.2f} s   longest step {self.longest_s * 1e3:5.1f} ms   "
            f"late p99 {p99 * 1e3:5.1f}, worst {late[-1] * 1e3:5.1f} ms",
            flush=True,
        )


async def steady() -> None:
    await trio.sleep(STEADY_S)


async def until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110 - a look every 10 ms disturbs nothing
        await trio.sleep(0.01)


class Node:
    """A kernel with its journal, over a folder."""

    def __init__(self, name: NodeId, folder: Path) -> None:
        self.id = name
        self.disk = FileDisk()
        self.folder = folder / name
        self.machine = RecordMachine()
        self.links: dict[NodeId, Node] = {}

    async def start(self) -> None:
        owner = Owner(MeshId(CA.mesh), self.id)
        opened = await trio.to_thread.run_sync(
            lambda: open_journal(self.disk, self.folder, owner, SeededEntropy(self.id))
        )
        snapshot = opened.stored.snapshot
        if snapshot is not None:
            for _ in self.machine.prepare(opened.journal.snapshots.state(snapshot.point)):
                await trio.lowlevel.checkpoint()
            self.machine.become()
        self.journal = opened.journal
        self.kernel = Kernel(
            self.id, opened.stored, self.machine, chance=random.Random(1),
            now=trio.current_time(), eligible=lambda node: True,
        )  # fmt: skip
        self.driver = Driver(
            self.kernel, self.journal, self._send, stepped=self.machine.take_events,
            sync_s=probe_sync_s(self.disk, self.folder, time.perf_counter),
        )  # fmt: skip

    def _send(self, to: NodeId, messages: object) -> None:
        for message in messages:  # type: ignore[attr-defined]
            trio.lowlevel.current_trio_token().run_sync_soon(
                self.links[to].driver.received, self.id, message
            )

    def write(self, state: RecordState) -> None:
        """A journal whose snapshot is this state."""
        owner = Owner(MeshId(CA.mesh), self.id)
        journal = open_journal(self.disk, self.folder, owner, SeededEntropy(self.id)).journal
        journal.write(founding_records([self.id]))
        point = Point(1, state.index + 10)
        snapshot: Snapshot = journal.snapshots.save(point, [self.id], state.capture().parts())
        print(f"a state of {snapshot.size_bytes / 2**20:.0f} MiB")
        journal.write([Rebase(point, keep_after=False)])
        journal.close()


async def main(folder: Path) -> None:
    began = time.perf_counter()
    leader, follower = Node(LEADER.node, folder), Node(FOLLOWER.node, folder)
    leader.links, follower.links = {follower.id: follower}, {leader.id: leader}
    leader.write(large_state())
    print(f"made in {time.perf_counter() - began:.0f} s")
    settle_garbage()
    watch = Watch()
    async with trio.open_nursery() as nursery:
        trio.lowlevel.add_instrument(watch)
        nursery.start_soon(watch.run)
        await watch.over("the leader starts: read, check, restore", leader.start)
        nursery.start_soon(leader.driver.run)
        await follower.start()
        nursery.start_soon(follower.driver.run)
        nursery.start_soon(load, leader)
        await watch.over("commands alone", steady)

        async def snapshot() -> None:
            limits.RECORD_SNAPSHOT_EVERY = 1  # type: ignore[misc]
            leader.driver._turns_until_look = 0
            before = leader.kernel.log.base.index
            await until(lambda: leader.kernel.log.base.index > before)
            limits.RECORD_SNAPSHOT_EVERY = 10**9  # type: ignore[misc]

        await watch.over("a snapshot beside commands", snapshot)
        await watch.over("commands alone", steady)

        async def bring_up() -> None:
            leader.driver.connected(follower.id)
            follower.driver.connected(leader.id)
            leader.driver.set_learners([follower.id])
            await until(lambda: len(follower.machine.state.jobs.live) == JOBS)

        await watch.over("an empty follower is brought up, both in here", bring_up)
        nursery.cancel_scope.cancel()


async def load(leader: Node) -> None:
    """One command after the other, with a little pause."""
    for number in range(10**9):
        await leader.driver.propose(encode(Entry(SetAlias(alias="a", model=f"m{number}"))))
        await trio.sleep(0.003)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        trio.run(main, Path(made))
