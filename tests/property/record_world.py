"""Any commands at a record: few names, so that they meet, and bounds that are soon reached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from meshd import limits
from meshd.record import commands_jobs as jobs
from meshd.record import commands_registry as registry
from meshd.record import schedule, table
from meshd.record.commands import Entry, encode
from meshd.record.commands_registry import Command, NodeFields
from meshd.record.job_rows import job_id
from meshd.record.state import RecordState
from tests.unit.record.logs import START_MS, boot, found, id_of, key_of

NAMES = ["attic", "mini", "studio", "laptop", "cellar"]
SMALL_LIMITS = {
    "JOBS_LIVE": 8, "JOBS_QUEUED": 5, "JOBS_DEAD": 2, "IDEMPOTENCY_KEYS": 5, "SWEEP_ROWS": 2,
    "SESSION_RESULTS": 6, "QUEUES": 2, "TOKENS": 2, "API_KEYS": 2, "ALIASES": 2, "POLICIES": 2,
    "MEMBERS": 4, "JOB_KEYS": 2, "RESULTS_KEPT": 2, "WEBHOOKS": 3, "JOB_ATTEMPTS_KEPT": 3,
    "CERTIFICATES_PER_NODE": 2,
}  # fmt: skip
SMALL_FOLD = 3


class small_bounds:
    """While it is entered, bounds are so small that any few commands run into them."""

    def __enter__(self) -> None:
        self._before: dict[str, Any] = {name: getattr(limits, name) for name in SMALL_LIMITS}
        self._fold, self._slack = table._FOLD_AT, schedule._SLACK
        for name, value in SMALL_LIMITS.items():
            setattr(limits, name, value)
        table._FOLD_AT = SMALL_FOLD  # type: ignore[misc]
        schedule._SLACK = 0

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            setattr(limits, name, value)
        table._FOLD_AT = self._fold  # type: ignore[misc]
        schedule._SLACK = self._slack


class World:
    """Makes the next command out of random choices and the state that there is."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.state = RecordState()
        self.generation = dict.fromkeys(NAMES, 0)
        self.seq = dict.fromkeys(NAMES, 0)
        self.life = dict.fromkeys(NAMES, 0)
        """A removed machine comes back with another key: as another node, by the same name."""
        self.sent: list[bytes] = []
        """All commands so far: any may come again."""

    def call(self, name: str) -> str:
        """What makes the key of the machine of that name, as it is now."""
        if self.state.nodes.is_removed(id_of(f"{name} {self.life[name]}")):
            self.life[name] += 1
            self.generation[name] = 0
        return f"{name} {self.life[name]}"

    def apply(self, data: bytes) -> bytes:
        self.sent.append(data)
        return self.state.apply(self.state.index + 1, data)

    def begin(self) -> list[bytes]:
        """The first commands: a mesh of three."""
        founder = NodeFields(key=key_of(self.call("attic")).der, name="attic")
        first = [encode(Entry(found(node=founder))), self.started("attic")]
        for name in ("mini", "studio"):
            admit = registry.Admit(node=NodeFields(key=key_of(self.call(name)).der, name=name))
            first += [self.entry("attic", admit), self.started(name)]
        return first

    def started(self, name: str) -> bytes:
        node = self.call(name)
        self.generation[name] += 1
        self.seq[name] = 0
        generation = self.generation[name]
        boot_id = boot(node, generation)
        return encode(
            Entry(registry.Started(node=id_of(node), generation=generation, boot=boot_id))
        )

    def entry(self, name: str, command: Command) -> bytes:
        """In that node's session, its next; with what is old confirmed, more or less."""
        self.seq[name] += 1
        seq = self.seq[name]
        ack_below = max(0, seq - self.random.choice([0, 1, 3, 9]))
        generation = max(1, self.generation[name])
        return encode(Entry(command, str(id_of(self.call(name))), generation, seq, ack_below))

    def next(self) -> bytes:
        """Any command, by anybody, or one that was sent before."""
        random = self.random
        if self.sent and random.random() < 0.1:
            return random.choice(self.sent)
        name = self.somebody()
        at_work = self.state.sessions.get(id_of(self.call(name))) is not None
        if random.random() < (0.02 if at_work else 0.5):
            return self.started(name)
        command = self.command()
        if type(command) in _WITHOUT_SESSION:
            return encode(Entry(command))
        return self.entry(name, command)

    def command(self) -> Command:
        return self.random.choice(MAKERS)(self)

    # --- small choices

    def somebody(self) -> str:
        """Mostly a member: others can do nothing."""
        members = [name for name in NAMES if self.state.nodes.get(id_of(self.call(name)))]
        return self.random.choice(members if self.random.random() < 0.9 else NAMES)

    def node(self) -> str:
        return id_of(self.call(self.somebody()))

    def fields(self) -> NodeFields:
        name = self.call(self.random.choice(NAMES))
        labels = tuple(self.random.sample(["gpu", "quiet"], self.random.randrange(3)))
        return NodeFields(key=key_of(name).der, name=self.random.choice(NAMES), labels=labels)

    def key(self) -> jobs.KeyFields:
        body = hashlib.sha256(self.random.choice("ab").encode()).digest()
        return jobs.KeyFields(scope="local", key=self.random.choice("xyzuvw"), fingerprint=body)

    def request(self) -> jobs.RequestFields:
        model = self.random.choice(["", "", "llama3"])
        return jobs.RequestFields(digest=bytes(32), size_bytes=2, inline=b"{}", model=model)

    def job(self) -> int:
        """One that lives or did, or one that never was."""
        known = [row.id for row in self.state.jobs.live.page(0, 10**9, lambda row: True)]
        known += [row.id for row in self.state.jobs.dead.rows()]
        return self.random.choice([*known, *known, job_id(self.random.randrange(1, 40))])

    def held(self) -> tuple[int, int]:
        """A job and a fence, often the right ones."""
        row = self.random.choice([*self.state.jobs.live.claims(), None, None])
        if row is not None and row.claim is not None and self.random.random() < 0.8:
            return row.id, row.claim.fence
        return self.job(), self.random.randrange(1, 40)

    def later(self) -> int:
        """A time around now; 0: none."""
        now = self.state.clock.now_unix_ms
        return self.random.choice([0, 0, now - 1, now + 1000, now + 60_000])


def _maker(kind: type[Command], **choices: Callable[[World], Any]) -> Callable[[World], Command]:
    return lambda world: kind(**{name: choose(world) for name, choose in choices.items()})


def _choice(*values: Any) -> Callable[[World], Any]:
    return lambda world: world.random.choice(values)


def _under_fence(kind: type[Command], **choices: Callable[[World], Any]) -> Any:
    def make(world: World) -> Command:
        job, fence = world.held()
        more = {name: choose(world) for name, choose in choices.items()}
        return kind(job=job, fence=fence, **more)

    return make


def _submit(world: World) -> Command:
    to = world.random.choice(
        [
            {},
            {},
            {},
            {"to_all": True},
            {"to_label": world.random.choice(["gpu", "loud"])},
            {"to_node": world.node()},
        ]
    )
    return jobs.Submit(
        queue=world.random.choice(["bots", "mail", "batch"]),
        request=world.request(),
        priority=world.random.randrange(-1, 2),
        not_before_unix_ms=world.later(),
        deadline_unix_ms=world.later(),
        max_attempts=world.random.randrange(1, 4),
        dedupe=world.random.choice(["", "", "d", "e"]),
        webhook="https://a.example/hook" if world.state.index % 3 == 0 else "",
        key=world.random.choice([None, world.key()]),
        **to,
    )


def _notified(world: World) -> Command:
    row = world.random.choice([*world.state.jobs.notices.rows(), None])
    given_up = world.random.choice(["", "status 500"])
    if row is None:
        return jobs.Notified(job=world.job(), end=1, given_up=given_up)
    return jobs.Notified(job=row.job, end=row.end, given_up=given_up)


def _tick(world: World) -> Command:
    ahead = world.random.choice([-5, 0, 1000, 60_000, 3_600_000, 3_600_001, 86_400_000])
    elapsed = world.random.choice([0, 0, 0, 5000, 86_400_000])
    return registry.Tick(unix_ms=world.state.clock.now_unix_ms + ahead, elapsed_ms=elapsed)


_LEASE = _choice(1000, 15_000)
_TOKEN = _choice("a" * 8, "b" * 8, "c" * 8)
_WITHOUT_SESSION = (
    registry.Tick, registry.ConfirmClock, registry.EndSession, registry.RaiseFeature,
    jobs.Expire, jobs.LetGo,
)  # fmt: skip
MAKERS: list[Callable[[World], Command]] = [
    *[_maker(jobs.Accept, key=World.key, request=World.request, lease_ms=_LEASE,
             max_attempts=_choice(1, 2, 3))] * 3,
    *[_submit] * 4,
    *[_maker(jobs.ClaimNext, queue=_choice("bots", "mail", "batch", ""), lease_ms=_LEASE,
             models=_choice((), ("llama3",)), most=_choice(1, 3))] * 4,
    _maker(jobs.Claim, job=World.job, lease_ms=_LEASE),
    _under_fence(jobs.Renew, lease_ms=_LEASE),
    _under_fence(jobs.Complete, digest=_choice(bytes(32)), size_bytes=_choice(0, 9000)),
    _under_fence(jobs.Fail, reason=_choice("no", ""), final=_choice(True, False, False),
                 pause_ms=_choice(0, 2000)),
    _under_fence(jobs.Release, pause_ms=_choice(0, 2000)),
    *[_under_fence(jobs.Expire)] * 2,
    _under_fence(jobs.Move, lease_ms=_LEASE),
    _maker(jobs.Cancel, job=World.job),
    _maker(jobs.Retry, job=World.job),
    _maker(jobs.LetGo, node=World.node),
    *[_tick] * 4,
    _maker(registry.ConfirmClock, unix_ms=lambda world: world.state.clock.row.held_unix_ms +
           world.state.index % 2 * 7_200_000),
    _maker(registry.EndSession, node=World.node, generation=_choice(1, 2)),
    _maker(registry.Admit, node=World.fields, token=_choice("", "a" * 8, "b" * 8)),
    _maker(registry.Admit, node=World.fields),
    _maker(registry.Adopt, nodes=lambda world: (world.fields(),),
           removed=lambda world: ((world.node(), START_MS),)),
    _maker(registry.Remove, node=World.node, gossip_key=_choice(1, 2)),
    _maker(registry.ChangeNode, node=World.node, name=_choice("mini", "attic"),
           drained=_choice(True, False), labels=_choice((), ("gpu",))),
    _maker(registry.Certify, node=World.node, serial=_choice(b"1", b"2", b"3"),
           not_after_unix_ms=_choice(START_MS)),
    _maker(registry.HoldCa, node=World.node, holds=_choice(True, True, False)),
    _maker(registry.RotateCa, node=World.node, generation=_choice(2, 3),
           ca_key=lambda world: key_of("another ca").der,
           certificate=lambda world: b"another ca", link=lambda world: b"by the first"),
    _maker(registry.RotateKeyring, gossip_key=_choice(7), generation=_choice(2, 3, 4)),
    _maker(registry.CreateToken, id=_TOKEN, key=_choice(bytes(32)), ttl_ms=_choice(1, 90_000),
           uses=_choice(1, 2)),
    _maker(registry.RevokeToken, id=_TOKEN),
    _maker(registry.SetAlias, alias=_choice("s", "m", "l"), model=_choice("", "llama3")),
    _maker(registry.SetPolicy, name=_choice("a", "b", "c"), value=_choice("", "on")),
    _maker(registry.AddApiKey, id=_choice("0" * 8, "1" * 8, "2" * 8), name=_choice("bot"),
           sha256=_choice(bytes(32), b"\1" * 32)),
    _maker(registry.RevokeApiKey, id=_choice("0" * 8, "1" * 8)),
    _maker(registry.RaiseFeature, version=_choice(1)),
    _maker(registry.Trace, rows=_choice((), (b"row",)), left_out=_choice(0, 2),
           number=lambda world: world.state.index // 16),
    _notified,
]  # fmt: skip


def story(seed: int, steps: int) -> str:
    """What a record says and becomes, in hex; it is frozen and restored on the way."""
    with small_bounds():
        world = World(Random(seed))
        said = b""
        for data in world.begin():
            said += world.apply(data)
        for step in range(steps):
            said += world.apply(world.next())
            if step % 97 == 96:
                frozen = world.state.freeze()
                world.state.restore(frozen)
        names = [type(event).__name__ for event in world.state.take_events()]
        total = RecordState()
        with_all = b"".join(world.sent)
        for index, data in enumerate(world.sent, 1):
            total.apply(index, data)
        assert total.freeze() == world.state.freeze()
    return msgspec.json.encode(
        [said.hex(), with_all.hex(), names, world.state.freeze().hex(), total.digest().hex()]
    ).decode()
