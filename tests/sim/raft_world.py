"""Voters in virtual time: real kernels, a made-up network, disks that forget, one heap of events.

Everything follows from the seed: latency, loss, crashes, what of an unfinished write is on disk
after one, the clocks' speeds and the kernels' own choices.  The same seed gives the same trace.

What must hold whatever happens is judged as it happens (`raft_judge.py`); what happens is in
`raft_weather.py`.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import random
from collections.abc import Callable
from typing import Any

from meshd.consensus.entries import Snapshot, Stored
from meshd.consensus.history import Checked
from meshd.consensus.interface import CoreStopped, Nonsense, NotEligible, Outbox, Outgoing
from meshd.consensus.kernel import Kernel
from meshd.consensus.messages import Forward, decode, encode
from meshd.consensus.replay import EMPTY, replay
from meshd.consensus.snapshot_parts import Taken
from meshd.consensus.voter_list import founding_records
from meshd.ids import NodeId
from tests.sim.raft_images import Album, begin_anew
from tests.sim.raft_judge import Judge
from tests.sim.raft_nodes import SETTINGS, Disk, Machine, Node, node_id, short


class World:
    """A few machines and what is between them."""

    def __init__(
        self, seed: int, founders: int, others: int = 0, trace: bool = False, asks: bool = False
    ) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.now = 0.0
        self.judge = self._make_judge()
        self.ids = self._make_ids(founders + others)
        self.founders = self.ids[:founders]
        self.nodes = {node: self._make_node(node) for node in self.ids}
        self.cut: set[tuple[NodeId, NodeId]] = set()
        """Directions in which nothing arrives."""
        self.links: dict[tuple[NodeId, NodeId], int] = {}
        """Which connection each node has to each other: a number, the same at both ends."""
        self.slow_s: dict[tuple[NodeId, NodeId], float] = {}
        self.asks = asks
        """Whether nodes that start ask the others if their disk is what it was."""
        self.album = Album()
        self.loss = 0.0
        self.doubling = 0.0
        self.strays = 0.0
        """Probability that a message of an earlier connection still arrives."""
        self.story: list[str] | None = None
        """What happened, for a person, if anybody wants to know."""
        self.messages = self.steps = self.proposed = self.asked = self.crashes = self.snapshots = 0
        self.installed = 0
        self.set_aside = self.faults = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._connection = 0
        self._last_arrival: dict[tuple[NodeId, NodeId], float] = {}
        self._trace = hashlib.blake2b(digest_size=16) if trace else None
        for node in self.ids:
            self.start(node)

    # --- what it is made of; a world with another machine on its nodes has others

    def _make_judge(self) -> Judge:
        return Judge()

    def _make_ids(self, count: int) -> list[NodeId]:
        return [node_id(n + 1) for n in range(count)]

    def _make_node(self, node: NodeId) -> Node:
        founded = replay(EMPTY, founding_records(self.founders))
        return Node(
            node,
            Disk(founded if node in self.founders else EMPTY),
            speed=self.chance.uniform(0.99, 1.01),
            offset_s=self.chance.uniform(0, 1e6),
        )

    def _boot(self, node: Node) -> Stored | None:
        """Read the disk, and build the machine's state; None if the node cannot go on with it."""
        node.disk.reopen(take_up=self.chance.random() < 0.5)
        node.machine = Machine(self.judge.applied)
        node.disk.shelf.bring_up(node.machine, node.disk.stored.snapshot)
        return node.disk.stored

    def _lose_power(self, node: Node) -> None:
        """Of a write that was not synced, any beginning may be on disk."""
        if node.syncing is not None:
            survived = self.chance.randint(0, len(node.syncing.records))
            node.disk.write(node.syncing.records[:survived])

    def _write(self, node: Node, outbox: Outbox) -> bool:
        """Make an outbox durable; whether that worked, and the node goes on."""
        node.disk.write(outbox.records)
        return True

    def _take_in(self, node: Node, outbox: Outbox) -> Snapshot | None:
        """Write what arrived of a snapshot; that, if it is whole."""
        return node.disk.shelf.take_in(outbox.pieces)

    def say(self, text: str) -> None:
        if self.story is not None:
            self.story.append(f"{self.now:8.3f}  {text}")

    # --- time

    def at(self, when: float, do: Callable[..., None], *args: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (max(when, self.now), self._number, do, args))

    def after(self, delay_s: float, do: Callable[..., None], *args: Any) -> None:
        self.at(self.now + delay_s, do, *args)

    def run_until(self, end: float) -> None:
        """Let things happen, until `end` or the first violation."""
        while self._events and self._events[0][0] <= end and not self.judge.violations:
            self.now, _, do, args = heapq.heappop(self._events)
            if self._trace is not None:
                self._trace.update(f"{self.now!r} {do.__name__}".encode())
            do(*args)
        self.now = max(self.now, end)

    @property
    def trace(self) -> str:
        return self._trace.hexdigest() if self._trace is not None else ""

    # --- machines

    def up(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.kernel is not None]

    def leader(self) -> Node | None:
        """The one in the latest term."""
        leaders = [
            (node.kernel.stock.term, node)
            for node in self.up()
            if node.kernel is not None and node.kernel.status().role == "leader"
        ]
        return max(leaders, key=lambda pair: pair[0])[1] if leaders else None

    def start(self, node_id: NodeId) -> None:
        node = self.nodes[node_id]
        if node.kernel is not None:
            return
        node.lives += 1
        self.say(f"{short(node.id)} starts, life {node.lives}")
        node.started_s = self.now
        node.syncing = None
        node.open = {}
        stored = self._boot(node)
        if stored is None:
            return
        node.kernel = Kernel(
            node.id,
            stored,
            node.machine,
            chance=random.Random(f"{self.seed} {node.id} {node.lives}"),
            now=node.clock(self.now),
            eligible=lambda peer: peer in self.nodes,
            settings=SETTINGS,
            vote_is_void=node.disk.vote_is_void,
            history=node.history(tuple(self.ids)) if self.asks else None,
        )
        self._wake_later(node)
        for other in self.up():
            if other is not node:
                self.after(self.chance.uniform(0, 0.05), self.connect, node.id, other.id)

    def crash(self, node_id: NodeId) -> None:
        """Power loss."""
        node = self.nodes[node_id]
        if node.kernel is None:
            return
        self.crashes += 1
        self.say(f"{short(node_id)} loses power{', while it writes' if node.syncing else ''}")
        self._lose_power(node)
        self._end(node_id)

    def _end(self, node_id: NodeId) -> None:
        """It is no more, and the others learn of it sooner or later."""
        node = self.nodes[node_id]
        node.kernel, node.syncing = None, None
        for other in self.ids:
            self.links.pop((node_id, other), None)
            if (other, node_id) in self.links:
                self.after(self.chance.choice([0.001, 0.01, 2.0]), self._notice, other, node_id)

    # --- links

    def connect(self, a: NodeId, b: NodeId) -> None:
        """A new connection, if one can be made; what was there before is over."""
        one, two = self.nodes[a], self.nodes[b]
        blocked = {(a, b), (b, a)} & self.cut
        if one.kernel is None or two.kernel is None or blocked:
            return
        self._connection += 1
        for here, there in ((a, b), (b, a)):
            self._notice(here, there)
            self.links[here, there] = self._connection
            self._call(self.nodes[here], "connected", there)

    def _notice(self, here: NodeId, there: NodeId) -> None:
        """`here` learns that its connection is over."""
        if self.links.pop((here, there), None) is not None:
            self._call(self.nodes[here], "disconnected", there)

    def sever(self, a: NodeId, b: NodeId) -> None:
        """The connection breaks, and both ends learn of it in their own time."""
        number = self.links.get((a, b))
        for here, there in ((a, b), (b, a)):
            delay_s = self.chance.choice([0.0, 0.0, 0.5, 2.0])
            self.after(delay_s, self._notice_that, here, there, number)

    def _notice_that(self, here: NodeId, there: NodeId, number: int | None) -> None:
        if number is not None and self.links.get((here, there)) == number:
            self._notice(here, there)

    def reconnect_all(self) -> None:
        """Dial whoever has no connection: what a transport does now and then."""
        for i, a in enumerate(self.ids):
            for b in self.ids[i + 1 :]:
                if self.links.get((a, b)) is None or self.links.get((a, b)) != self.links.get(
                    (b, a)
                ):
                    self.connect(a, b)

    def post(self, sender: Node, out: Outgoing) -> None:
        """Put a message on its way."""
        self.judge.leaves(sender.id, out, sender.disk.stored)
        here, there = sender.id, out.to
        number = self.links.get((here, there))
        if number is None:
            return
        self.messages += 1
        if self.loss and self.chance.random() < self.loss:
            return
        delay_s = self.chance.uniform(0.0005, 0.005)
        delay_s += self.slow_s.get((here, there), 0.0) * self.chance.random()
        arrival = max(self.now + delay_s, self._last_arrival.get((here, there), 0.0))
        self._last_arrival[here, there] = arrival
        data = encode(out.message)
        self.at(arrival, self._arrive, here, there, number, data)
        if (
            self.doubling
            and not isinstance(out.message, Forward)
            and self.chance.random() < self.doubling
        ):
            late_s = self.chance.uniform(0, 1.5)
            self.at(arrival + late_s, self._arrive, here, there, number, data)

    def _arrive(self, sender: NodeId, to: NodeId, number: int, data: bytes) -> None:
        node = self.nodes[to]
        current = self.links.get((to, sender)) == number
        stray = not current and self.strays and self.chance.random() < self.strays
        if node.kernel is None or (sender, to) in self.cut or not (current or stray):
            return
        message = decode(data)
        if stray and isinstance(message, Forward):
            return
        self._call(node, "on_message", sender, message)
        self.album.overheard(sender, to, message)

    # --- driving

    def _call(self, node: Node, method: str, *args: Any) -> None:
        """Call into a kernel, then let it do what is due."""
        if node.kernel is None:
            return
        try:
            getattr(node.kernel, method)(*args, node.clock(self.now))
        except (Nonsense, NotEligible) as error:
            self.judge.violation("a sound node's message was refused", node.id, args[:1], error)
        except CoreStopped as error:
            self.judge.violation("a kernel stopped", node.id, str(error))
            return
        self.turn(node)

    def turn(self, node: Node) -> None:
        """What a driver does, in the order of `interface.py`."""
        kernel = node.kernel
        if kernel is None:
            return
        clock = node.clock(self.now)
        try:
            for _ in range(1000):
                if kernel.next_wake() <= clock:
                    self.steps += 1
                    kernel.step(clock)
                    if self.judge.looked_at(node.id, kernel):
                        self.say(f"{short(node.id)} leads term {kernel.stock.term}")
                if node.syncing is not None:
                    break
                outbox = kernel.take_outbox()
                for out in outbox.early:
                    self.post(node, out)
                if (arrived := self._take_in(node, outbox)) is not None:
                    wait_s = self.chance.uniform(0, 0.3)
                    self.after(wait_s, self._arrived, node, node.lives, arrived)
                self._tell_outcomes(node, outbox)
                if outbox.must_sync:
                    node.syncing = outbox
                    sync_s = self.chance.uniform(0.0002, 0.002) + node.disk.slow_s
                    self.after(sync_s, self._synced, node, node.lives, outbox)
                else:
                    self._post_the_rest(node, outbox)
                if kernel.next_wake() > clock:
                    break
            else:
                self.judge.violation("a kernel never rests", node.id, kernel.status())
        except CoreStopped as error:
            self.judge.violation("a kernel stopped", node.id, str(error))
            return
        if kernel.checked is Checked.BEHIND:
            begin_anew(self, node)
        self._wake_later(node)

    def _synced(self, node: Node, life: int, outbox: Outbox) -> None:
        if node.lives != life or node.kernel is None or node.syncing is not outbox:
            return
        if not self._write(node, outbox):
            return
        node.syncing = None
        node.kernel.stored()
        if self.chance.random() < 0.02:
            self.judge.same_log(node.id, node.kernel, node.disk.stored)
        self._post_the_rest(node, outbox)
        self.turn(node)

    def _post_the_rest(self, node: Node, outbox: Outbox) -> None:
        for out in outbox.late:
            self.post(node, out)
        for wanted in outbox.parts:
            if wanted.point in node.disk.shelf.durable:
                self.post(node, Outgoing(wanted.to, node.disk.shelf.read(wanted)))
            elif node.kernel is not None and wanted.point in node.kernel.snapshots_in_use():
                # While the disk was waited for its follower may have come to want another one.
                self.judge.violation("a snapshot went while it was sent", node.id, wanted.point)

    def _wake_later(self, node: Node) -> None:
        if node.kernel is None:
            return
        wake = node.kernel.next_wake()
        at = self.now if wake == -math.inf else (wake - node.offset_s) / node.speed + 1e-9
        if at < math.inf and at != node.wake_at:
            node.wake_at = at
            self.at(at, self._wake, node, node.lives, at)

    def _wake(self, node: Node, life: int, at: float) -> None:
        if node.lives == life and node.wake_at == at:
            node.wake_at = math.inf
            self.turn(node)

    # --- clients

    def propose(self, node: Node, timeout_s: float = 3.0) -> None:
        if node.kernel is None:
            return
        self.proposed += 1
        command = b"%d" % self.proposed + b"." * self.chance.choice([0, 20, 200])
        number = node.kernel.propose(command, node.clock(self.now), timeout_s)
        node.open[number] = ("proposal", command, self.now)
        self._call_off_later(node, number, timeout_s)
        self.turn(node)

    def read(self, node: Node, timeout_s: float = 3.0) -> None:
        if node.kernel is None:
            return
        self.asked += 1
        number = node.kernel.read_index(node.clock(self.now), timeout_s)
        node.open[number] = ("read", self.judge.newest_acknowledged, self.now)
        self._call_off_later(node, number, timeout_s)
        self.turn(node)

    def _call_off_later(self, node: Node, number: int, timeout_s: float) -> None:
        slow_clock_and_slow_disk_s = 0.02 * timeout_s + 2.0
        self.after(
            timeout_s + slow_clock_and_slow_disk_s, self._must_be_settled, node, node.lives, number
        )

    def _must_be_settled(self, node: Node, life: int, number: int) -> None:
        if node.lives == life and node.kernel is not None and number in node.open:
            self.judge.violation("no outcome in time", node.id, node.open[number])

    def _tell_outcomes(self, node: Node, outbox: Outbox) -> None:
        for outcome in outbox.outcomes:
            opened = node.open.pop(outcome.id, None)
            if opened is None:
                continue  # a change of voters
            _, what, _ = opened
            self.judge.outcome(node.id, what, outcome)

    # --- snapshots

    def snapshot(self, node: Node) -> None:
        """Take one; it is durable a while later, and only then the log is cut."""
        kernel = node.kernel
        taken = kernel.take_snapshot() if kernel is not None else None
        if taken is not None:
            self.snapshots += 1
            self.say(f"{short(node.id)} takes a snapshot at {taken.point.index}")
            self.after(self.chance.uniform(0, 0.3), self._snapshot_stored, node, node.lives, taken)

    def _snapshot_stored(self, node: Node, life: int, taken: Taken) -> None:
        if node.lives == life and node.kernel is not None:
            self._call(node, "compact", node.disk.shelf.save(taken))
            node.disk.compact(node.kernel.snapshots_in_use())

    def _arrived(self, node: Node, life: int, snapshot: Snapshot) -> None:
        """A leader's snapshot is durable, and its state is built while other things happen."""
        if node.lives == life and node.kernel is not None:
            for _ in node.kernel.prepare(snapshot, node.disk.shelf.state(snapshot.point)):
                pass
            wait_s = self.chance.uniform(0, 0.3)
            self.after(wait_s, self._built, node, life, snapshot)

    def _built(self, node: Node, life: int, snapshot: Snapshot) -> None:
        if node.lives == life and node.kernel is not None:
            self.installed += 1
            self._call(node, "install", snapshot)
