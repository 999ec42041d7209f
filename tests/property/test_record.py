"""The record under any commands: what always holds, and what must be the same everywhere."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from meshd.record.commands import Malformed, UnknownCommand, decode
from meshd.record.events import (
    JobClaimed,
    JobFinished,
    JobForgotten,
    JobReturned,
    NodeAdmitted,
    NodeRemoved,
)
from meshd.record.frozen import StateDamaged, StateUnknown
from meshd.record.job_rows import JobState
from meshd.record.members import MemberList, body_of, read_body
from meshd.record.results import Code
from meshd.record.state import RecordState
from meshd.record.view import member_list
from meshd.wire.codec import pack, unpack
from tests.property.record_world import World, small_bounds, story

RANDOMS = st.randoms(use_true_random=False)


class Record(RuleBasedStateMachine):
    """One node applies all; another is restored from the first one's state now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds = small_bounds()
        self.bounds.__enter__()
        self.fences: dict[int, int] = {}
        """What a leader knows from events alone: which jobs are held, under which fence."""
        self.lists: dict[int, MemberList] = {}
        """The member lists so far, by their numbers."""

    def teardown(self) -> None:
        self.bounds.__exit__()

    @initialize(random=RANDOMS)
    def begin(self, random: Random) -> None:
        self.world = World(random)
        self.twin = RecordState()
        for data in self.world.begin():
            self.step(data)

    @rule(random=RANDOMS)
    def any_command(self, random: Random) -> None:
        self.world.random = random
        for _ in range(5):
            self.step(self.world.next())
            self.look_at_the_member_list()
        self.world.state.check()

    @rule()
    def restart_from_a_snapshot(self) -> None:
        frozen = self.world.state.freeze()
        self.twin = RecordState()
        self.twin.restore(frozen)
        self.twin.check()

    @rule()
    def capture_and_go_on(self) -> None:
        """What comes later does not show in what was captured."""
        frozen, before = self.world.state.capture(), self.world.state.freeze()
        for _ in range(5):
            self.step(self.world.next())
        assert frozen.to_bytes() == before

    def step(self, data: bytes) -> None:
        state = self.world.state
        before = digests(state)
        result = self.world.apply(data)
        assert self.twin.apply(state.index, data) == result
        events = state.take_events()
        assert self.twin.take_events() == events
        assert self.twin.digest() == state.digest()
        assert pack(unpack(result, max_bytes=1 << 20)) == result
        code = Code(msgspec.msgpack.decode(result)[0])
        if code is not Code.OK:
            assert digests(state) == before
            assert not events
        self.follow(events)

    def look_at_the_member_list(self) -> None:
        """It is sound, and another one has another, higher number."""
        members = member_list(self.world.state)
        assert self.lists.setdefault(members.version, members) == members
        assert members.version == max(self.lists)
        assert read_body(body_of(members)) == members

    def follow(self, events: list[Any]) -> None:
        """Events alone tell who has which job, as a leader has to know."""
        live = self.world.state.jobs.live
        for event in events:
            match event:
                case JobClaimed(job=job, fence=fence):
                    assert job not in self.fences
                    assert fence == event.index
                    self.fences[job] = fence
                case JobReturned(job=job, fence=fence):
                    assert self.fences.pop(job) == fence
                case JobFinished(row=row, fence=fence):
                    # A last attempt ends job and claim at once.
                    assert self.fences.pop(row.id, fence) == fence
                    assert event.state >= JobState.DONE
                case JobForgotten(job=job):
                    assert live.get(job) is None
        held = {row.id: row.claim.fence for row in live.claims() if row.claim is not None}
        assert held == self.fences


def digests(state: RecordState) -> dict[str, int]:
    """Of all tables but those in which a session remembers a refusal."""
    return {
        name: table.hash_sum()
        for name, table in state._tables.items()
        if name not in ("sessions", "results")
    }


TestRecord = Record.TestCase
TestRecord.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


# --- the same everywhere


def test_equal_commands_give_equal_bytes_however_a_process_hashes_text() -> None:
    code = "from tests.property.record_world import story; print(story(7, 400))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "4711")
    ]
    assert len(outputs[0]) > 50_000
    assert outputs[0] == outputs[1] == story(7, 400) + "\n"


def test_a_story_is_eventful() -> None:
    """So that the tests above do not hold because nothing ever happens."""
    with small_bounds():
        world = World(Random(5))
        codes: Counter[Code] = Counter()
        events: Counter[type] = Counter()
        states: Counter[JobState] = Counter()
        for data in [*world.begin()]:
            world.apply(data)
        for _ in range(4000):
            result = world.apply(world.next())
            codes[Code(msgspec.msgpack.decode(result)[0])] += 1
            for event in world.state.take_events():
                events[type(event)] += 1
                if isinstance(event, JobFinished):
                    states[event.state] += 1
    assert states.keys() >= {JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.DEAD}
    assert events[JobClaimed] > 100
    assert events[JobReturned] > 20
    assert events[JobForgotten] > 5
    assert events[NodeRemoved] > 0
    assert events[NodeAdmitted] > 0
    missing = set(Code) - codes.keys()
    assert missing <= {
        Code.MALFORMED, Code.TOO_LARGE, Code.NOT_ENABLED, Code.NOT_FOUNDED, Code.BAD_KEY,
        Code.FOUNDED_ALREADY, Code.GENERATION_TAKEN, Code.TOKEN_USED, Code.TOKEN_EXPIRED,
    }, missing  # fmt: skip


# --- bytes that nobody meant


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_are_refused_as_none(data: bytes) -> None:
    with contextlib.suppress(Malformed, UnknownCommand):
        decode(data)


@given(RANDOMS, st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_command_is_refused_or_is_another(random: Random, at: int, flip: int) -> None:
    world = World(random)
    for data in world.begin():
        world.apply(data)
    damaged = bytearray(world.next())
    damaged[at % len(damaged)] ^= flip
    before = world.state.freeze()
    try:
        world.apply(bytes(damaged))
    except UnknownCommand:
        assert world.state.freeze() == before
    world.state.check()


@given(RANDOMS, st.integers(0, 100_000), st.integers(1, 255))
def test_a_damaged_state_is_never_restored(random: Random, at: int, flip: int) -> None:
    world = World(random)
    for data in world.begin():
        world.apply(data)
    frozen = bytearray(world.state.freeze())
    frozen[at % len(frozen)] ^= flip
    state = RecordState()
    try:
        state.restore(bytes(frozen))
    except (StateDamaged, StateUnknown):
        assert not state.nodes.is_founded
    else:
        # Only the index of the last command is not under the hash.
        assert state.digest() == world.state.digest()
