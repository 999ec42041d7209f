"""The record on real processes, disks and links: who keeps it, and what outlives whom.

Jobs are written by `tests.bench.keeper`, which hosts the ledger as a daemon does.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from meshd.control import RecordReport
from meshd.testing.daemons import Daemon, joined
from tests.bench.keepers import Keepers, keepers

WITHIN_S = 30.0
KILLS = 4
WRITERS = 40
PAUSE_S = 0.3
ACKNOWLEDGED_BETWEEN = 100


def until(is_so: Callable[[], bool], what: str, poll_s: float = 0.03) -> None:
    """Wait for real processes; whether a test passes does not depend on how often is looked."""
    give_up_at = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"not within {WITHIN_S:.0f} s: {what}"
        time.sleep(poll_s)


# --- daemons


def record(daemon: Daemon) -> RecordReport:
    """What `meshd record status --json` prints there."""
    return msgspec.json.decode(daemon.order("GET", "/control/record"), type=RecordReport)


def voters(daemon: Daemon) -> set[str]:
    return {row.name for row in record(daemon).voters if row.part in ("leads", "votes")}


def agree(daemons: list[Daemon]) -> bool:
    """Whether all have applied the same, and none knows of more."""
    seen = [record(daemon) for daemon in daemons]
    return len(
        {(report.last, report.commit, report.applied, report.digest) for report in seen}
    ) == 1 and all(report.commit == report.last and not report.problem for report in seen)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Daemon]]:
    """Daemons a (the founder), b and c, all of which vote."""
    folder = tmp_path_factory.mktemp("record")
    daemons = {name: Daemon(folder / name, name) for name in "abc"}
    with ExitStack() as stack:
        for daemon in daemons.values():
            stack.callback(daemon.close)
        daemons["a"].start()
        joined(daemons["a"], [daemons["b"], daemons["c"]])
        everyone = list(daemons.values())
        until(lambda: all(voters(d) == set("abc") for d in everyone), "all three vote")
        until(lambda: agree(everyone), "they hold the same")
        yield daemons


def test_the_third_node_makes_three_voters_who_hold_the_same(three: dict[str, Daemon]) -> None:
    reports = {name: record(daemon) for name, daemon in three.items()}
    assert {report.leader for report in reports.values()} <= set("abc")
    assert [len(report.voters) for report in reports.values()] == [3, 3, 3]
    assert all(report.members == 3 for report in reports.values())
    assert all(report.sync_ms > 0 for report in reports.values())


def test_a_daemon_that_was_killed_comes_back_with_the_same_state(
    three: dict[str, Daemon],
) -> None:
    victim = next(d for name, d in three.items() if name != record(three["a"]).leader)
    before = record(victim)
    victim.kill()
    victim.join = victim.token = ""
    victim.start()
    until(lambda: agree(list(three.values())), "it has caught up")
    after = record(victim)
    assert after.applied >= before.applied
    assert voters(victim) == set("abc")


def test_a_silent_leader_is_replaced_and_follows_when_it_speaks_again(
    three: dict[str, Daemon],
) -> None:
    was = record(three["a"])
    frozen = three[was.leader]
    others = [daemon for daemon in three.values() if daemon is not frozen]
    assert frozen.process is not None
    os.kill(frozen.process.pid, signal.SIGSTOP)
    try:
        until(lambda: len({record(d).leader for d in others} - {was.leader, ""}) == 1, "a leader")
        until(lambda: not any(record(d).problem for d in others), "it can be written")
    finally:
        os.kill(frozen.process.pid, signal.SIGCONT)
    until(lambda: agree(list(three.values())), "all hold the same again")
    reports = [record(daemon) for daemon in three.values()]
    assert len({(report.leader, report.term) for report in reports}) == 1
    assert reports[0].leader != was.leader
    assert reports[0].term > was.term


# --- kills under load


def acknowledged(made: Keepers) -> list[str]:
    """All marks that any start of any node has said to be written."""
    return [mark for process in made.started for mark in process.acknowledged]


def until_more(made: Keepers, count: int) -> None:
    enough = len(acknowledged(made)) + count
    until(lambda: len(acknowledged(made)) >= enough, f"{count} more are written", poll_s=0.001)


def write(made: Keepers, name: str) -> None:
    """Let that node write without end, in bursts, under marks that no other start uses."""
    prefix = f"{name}{len(made.started)}"
    made[name].order("write_jobs", prefix=prefix, writers=WRITERS, pause_s=PAUSE_S)


def test_nothing_acknowledged_is_lost_or_doubled_when_leaders_are_killed_under_load(
    tmp_path: Path,
) -> None:
    with keepers(tmp_path) as made:
        made.leader()
        for name in "abc":
            write(made, name)
        for _ in range(KILLS):
            until_more(made, ACKNOWLEDGED_BETWEEN)
            leader = made.leader()
            until_more(made, 1)  # a burst is under way: much of it is written, and not answered
            made[leader].kill()
            made.start(leader)
            write(made, leader)
        for name in "abc":
            made[name].kill()
        told = acknowledged(made)
        assert len(told) >= KILLS * ACKNOWLEDGED_BETWEEN
        assert not [why for process in made.started for why in process.refused]

        made.start(*"abc")
        made.leader()
        jobs = [made[name].ask("jobs") for name in "abc"]
        made.until_equal()
    for seen in jobs:
        marks = seen["marks"]
        assert len(marks) == len(set(marks)), "a command took effect twice"
        assert set(told) <= set(marks), "an acknowledged command is lost"
