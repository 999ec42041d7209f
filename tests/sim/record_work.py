"""What clients ask of a simulated record, what workers do, and the leader's duties."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec

from meshd.consensus.outcomes import Committed, Outcome
from meshd.jobs.leases import HOLDER_STOPS_AT
from meshd.record import commands_jobs as jobs
from meshd.record import commands_registry as registry
from meshd.record.commands import Entry, encode
from meshd.record.commands_registry import Command, NodeFields
from meshd.record.job_rows import JobState, job_name
from meshd.record.results import Code
from meshd.testing.checker import History, JobHistory, Lapse, Read
from meshd.testing.checker.commands import action_of, seen, subject_of, tell
from tests.sim.record_judge import live_jobs
from tests.sim.record_sessions import PROPOSE_S, code_of
from tests.sim.record_world import CA, START_UNIX_S, RecordNode, RecordWorld, key_of

LEASE_MS = 2_000
REQUEST = jobs.RequestFields(digest=bytes(32), size_bytes=2, inline=b"{}")
CHAT = jobs.RequestFields(digest=bytes(32), size_bytes=300, path="/v1/chat/completions", model="m")
TICK_S = 2.0


@dataclass(slots=True)
class _Asked:
    """An operation without an answer yet."""

    number: int
    """In the history."""
    client: str
    epoch: int
    seq: int | None
    command: Command
    """In the record."""


@dataclass
class Work:
    """All clients of one world; what they were told is the history."""

    world: RecordWorld
    history: JobHistory = field(init=False)
    known: list[int] = field(default_factory=list)
    keys: dict[int, tuple[str, str]] = field(default_factory=dict)
    """By job."""
    wanted: dict[jobs.KeyFields, jobs.Accept] = field(default_factory=dict)
    """Keyed requests: their clients come again until they are answered."""
    open: dict[int, _Asked] = field(default_factory=dict)
    answered: int = 0

    def __post_init__(self) -> None:
        self.history = History(lambda: self.world.now)

    # --- asking

    def ask(self, node: RecordNode, command: Command, timeout_s: float = 4.0) -> None:
        """Have it carried out in the node's session, and note what its client learns."""
        action = action_of(command, node.id)
        number = (
            self.history.called(node.name, subject_of(command), action) if action is not None else 0
        )
        if isinstance(command, jobs.Accept):
            self.wanted[command.key] = command
        asked = _Asked(number, node.id, node.lives, None, command)
        if number:
            self.open[number] = asked
        asked.seq = node.session.execute(
            command, timeout_s, lambda result: self._told(node, asked, result)
        )
        if asked.seq is None and number:
            del self.open[number]
            self.history.withdraw(number)

    def _told(self, node: RecordNode, asked: _Asked, result: bytes | None) -> None:
        if result is None:
            self.world.sometimes("a client gives up")
            return
        assert asked.seq is not None
        self.answered += 1
        self.world.judge.told(asked.client, asked.epoch, asked.seq, result)
        if not asked.number:
            return
        del self.open[asked.number]
        tell(self.history, asked.number, asked.command, result)
        code, fields = msgspec.msgpack.decode(result)
        if code == Code.OK:
            self._learned(node, asked.command, fields)

    def _learned(self, node: RecordNode, command: Command, fields: dict[str, Any]) -> None:
        told = fields.get("jobs", [])
        if "job" in fields:
            told = range(fields["job"], fields["job"] + fields.get("jobs", 1))
        key = getattr(command, "key", None)
        for job in told:
            if job not in self.keys:
                self.known.append(job)
                self.keys[job] = ("", "")
            if key is not None:
                self.keys[job] = (key.scope, key.key)
            if "fence" in fields and "node" not in fields:
                self._given(node, job, fields["fence"])
        match command:
            case jobs.Complete() | jobs.Fail() | jobs.Release():
                node.held.pop(command.job, None)

    def _given(self, node: RecordNode, job: int, fence: int) -> None:
        """This node has it now: it goes on with it, forgets it, or is too slow."""
        node.held[job] = fence
        dice = self.world.chance.random()
        if dice < 0.1:
            self.world.sometimes("a holder forgets its job")
            return
        within_s = LEASE_MS / 1000 * (HOLDER_STOPS_AT if dice < 0.8 else 2.0)
        self.world.after_in(
            node, self.world.chance.uniform(0.02, within_s), self._go_on, node, job, fence
        )

    def _go_on(self, node: RecordNode, job: int, fence: int) -> None:
        dice = self.world.chance.random()
        digest = hashlib.sha256(f"{node.id} {fence}".encode()).digest()
        if dice < 0.25:
            self.ask(node, jobs.Renew(job=job, fence=fence, lease_ms=LEASE_MS))
            later_s = self.world.chance.uniform(0.1, 1.5)
            self.world.after_in(node, later_s, self._go_on, node, job, fence)
        elif dice < 0.8:
            self.ask(node, jobs.Complete(job=job, fence=fence, digest=digest, size_bytes=9))
        elif dice < 0.93:
            final = dice < 0.83
            self.ask(node, jobs.Fail(job=job, fence=fence, reason="no", final=final, pause_ms=100))
        elif dice < 0.96:
            self.ask(node, jobs.Move(job=job, fence=fence, lease_ms=LEASE_MS))
        else:
            self.ask(node, jobs.Release(job=job, fence=fence))

    # --- what comes to a client's mind

    def something(self) -> None:
        chance = self.world.chance
        up = self.world.up()
        if not up:
            return
        node = chance.choice(up)
        assert isinstance(node, RecordNode)
        for _ in range(chance.choice([1, 1, 1, 6])):
            self.ask(node, self._command(node), chance.choice([1.0, 4.0, 8.0]))

    def read(self) -> None:
        up = self.world.up()
        if not up or not self.known:
            return
        node = self.world.chance.choice(up)
        assert isinstance(node, RecordNode)
        job = self.world.chance.choice(self.known[-12:])
        number = self.history.called("reader " + node.name, job_name(job), Read())

        def look() -> None:
            what = seen(node.state, job, self.keys[job])
            if what is not None:
                self.history.returned(number, what)
            else:
                self.history.withdraw(number)

        self.world.look(node, look)

    def _command(self, node: RecordNode) -> Command:
        chance = self.world.chance
        dice = chance.random()
        if dice < 0.22 or not self.known:
            return self._submission(node)
        if dice < 0.37:
            return self._acceptance()
        if dice < 0.62:
            return jobs.ClaimNext(queue="bots", lease_ms=LEASE_MS, most=chance.randint(1, 2))
        if dice < 0.75:
            return self._registry(node)
        job = chance.choice(self.known[-12:])
        fence = node.held.get(job) or chance.choice([1, job, *node.held.values()])
        digest = hashlib.sha256(f"{node.id} {fence} late".encode()).digest()
        made: list[Command] = [
            jobs.Claim(job=job, lease_ms=LEASE_MS),
            jobs.Claim(job=job, lease_ms=LEASE_MS),
            jobs.Complete(job=job, fence=fence, digest=digest, size_bytes=9),
            jobs.Renew(job=job, fence=fence, lease_ms=LEASE_MS),
            jobs.Expire(job=job, fence=fence),
            jobs.Cancel(job=job),
            jobs.Retry(job=job),
        ]
        return chance.choice(made)

    def _submission(self, node: RecordNode) -> Command:
        chance = self.world.chance
        now_ms = node.state.clock.now_unix_ms
        key = self._key() if chance.random() < 0.2 else None
        deadline = now_ms + 5_000 if now_ms and chance.random() < 0.1 else 0
        if deadline:
            self.history.called("clock", "", Lapse())
        return jobs.Submit(
            queue="bots",
            request=REQUEST,
            max_attempts=chance.choice([1, 2, 5]),
            priority=chance.choice([0, 0, 1]),
            dedupe=chance.choice(["", "", "", "same"]),
            deadline_unix_ms=deadline,
            key=key,
        )

    def _acceptance(self) -> Command:
        again = list(self.wanted.values())
        if again and self.world.chance.random() < 0.3:
            return self.world.chance.choice(again)
        return jobs.Accept(key=self._key(), request=CHAT, lease_ms=LEASE_MS, max_attempts=3)

    def _key(self) -> jobs.KeyFields:
        chance = self.world.chance
        body = hashlib.sha256(chance.choice("aaaaab").encode()).digest()
        name = f"k{len(self.known) // 3 + chance.randrange(2)}"
        return jobs.KeyFields(scope="local", key=name, fingerprint=body)

    def _registry(self, node: RecordNode) -> Command:
        chance = self.world.chance
        guest = key_of(chance.randrange(20, 26))
        token = "".join(chance.choice("ab2") for _ in range(8))
        made: list[Command] = [
            registry.SetAlias(alias=f"a{chance.randrange(5)}", model=chance.choice(["m", "n", ""])),
            registry.CreateToken(id=token, key=bytes(32), ttl_ms=60_000, uses=1),
            registry.RevokeToken(id=token),
            registry.Admit(node=NodeFields(key=guest.der, name=f"guest-{guest.node[:4]}")),
            registry.Remove(node=guest.node, gossip_key=chance.randrange(1, 9)),
            registry.ChangeNode(node=node.id, priority=chance.randrange(3)),
        ]
        return chance.choice(made)

    # --- the leader's duties

    def duties(self) -> None:
        """Of whoever leads, or thinks so."""
        for node in self.world.up():
            assert isinstance(node, RecordNode)
            kernel = node.kernel
            if kernel is None or not kernel.is_ready:
                node.leads_in = -1
                continue
            if not node.state.nodes.is_founded:
                self._found(node)
                continue
            term, now = kernel.status().term, node.clock(self.world.now)
            if term != node.leads_in:
                node.leads_in = term
                node.leases.begin(node.state.jobs.live.claims(), now)
            self._adopt(node)
            for job, fence in node.leases.due(now):
                self._by_itself(node, jobs.Expire(job=job, fence=fence))
            self._tick(node)

    def _found(self, node: RecordNode) -> None:
        self._by_itself(
            node,
            registry.Found(
                mesh=CA.mesh, mesh_name="home", ca_key=CA.der, node=node.fields(),
                unix_ms=int(START_UNIX_S * 1000), gossip_key=1,
            ),
        )  # fmt: skip

    def _adopt(self, node: RecordNode) -> None:
        nodes = self.world.nodes.values()
        missing = tuple(n.fields() for n in nodes if node.state.nodes.get(n.id) is None)
        if missing and node.state.nodes.get(node.id) is not None:
            self.ask(node, registry.Adopt(nodes=missing))

    def _tick(self, node: RecordNode) -> None:
        wall_ms = int(node.wall_unix_s(self.world.now) * 1000)
        clock = node.state.clock
        if clock.row.held_unix_ms and self.world.chance.random() < 0.04:
            self.world.sometimes("a leap of the clock is confirmed")
            self._by_itself(node, registry.ConfirmClock(unix_ms=clock.row.held_unix_ms))
        elif (elapsed_s := node.clock(self.world.now) - node.clock_moved_at) > TICK_S:
            self._by_itself(node, registry.Tick(unix_ms=wall_ms, elapsed_ms=int(elapsed_s * 1000)))
            if wall_ms < clock.now_unix_ms:
                self.world.sometimes("clocks are set back")
            if clock.row.held_unix_ms:
                self.world.sometimes("a leap of the clock is held")

    def _by_itself(self, node: RecordNode, command: Command) -> None:
        """In no session: it does no harm twice."""
        action = action_of(command, node.id)
        number = (
            self.history.called(f"leader {node.name}", subject_of(command), action)
            if action is not None
            else 0
        )

        def answered(outcome: Outcome) -> None:
            if number and isinstance(outcome, Committed):
                if code_of(outcome.result) is Code.OK:
                    self.world.sometimes("a lease is ended by the leader")
                tell(self.history, number, command, outcome.result)

        self.world.propose_data(node, encode(Entry(command)), PROPOSE_S, answered)

    # --- the end

    def finish_up(self) -> None:
        """In peace: whatever was accepted is worked off, and whoever has a key comes again."""
        up = self.world.up()
        if not up:
            return
        node = self.world.chance.choice(up)
        assert isinstance(node, RecordNode)
        live = live_jobs(node.state)
        for row in live[:20]:
            if row.state is JobState.QUEUED:
                self.ask(node, jobs.ClaimNext(queue="bots", lease_ms=LEASE_MS, most=4))
                break
        waiting = {row.id for row in live if row.state is JobState.ACCEPTED}
        for key, command in self.wanted.items():
            known = node.state.jobs.keys.get(key.scope, key.key)
            if known is not None and known.job in waiting:
                self.ask(node, command)

    def ask_everywhere(self, timeout_s: float) -> None:
        """Every node that is in the record asks what changes nothing, and has to be answered."""
        for node in self.world.nodes.values():
            if node.state.nodes.get(node.id) is not None:
                over = jobs.Renew(job=self.known[-1], fence=1, lease_ms=LEASE_MS)
                self.ask(node, over, timeout_s)

    def what_lives(self, node: RecordNode) -> list[str]:
        """What was accepted and has not come to an end."""
        return [f"{job_name(row.id)} {row.state.name}" for row in live_jobs(node.state)]

    def close(self) -> None:
        """Nothing more happens: what was never answered is about the jobs that the record says.

        Only of those that name none, such as a claim of any job of a queue: else each would have to
        be tried with each job.
        """
        for asked in self.open.values():
            if subject_of(asked.command) or asked.seq is None:
                continue
            result = self.world.judge.by_number.get((asked.client, asked.epoch, asked.seq))
            scratch: JobHistory = History()
            if result is not None:
                action = action_of(asked.command, asked.client)
                assert action is not None
                tell(scratch, scratch.called("", "", action), asked.command, result)
            self.history.concerns(
                asked.number, [o.subject for o in scratch.operations if o.subject]
            )
