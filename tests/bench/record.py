"""`python -m tests.bench.record [--json] [--kills N]`: what the record costs, as a table or JSON.

Three voters as processes of their own on this machine, each commit synced to disk, each link mutual
TLS: `keeper.py` hosts the ledger that a daemon hosts.  What an idle mesh costs is measured on real
daemons.  pysyncobj as it comes is in the same table.

Numbers are of this machine at this moment, and of a disk that all voters share; the price of one
sync, measured in the same run, is the floor under every commit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import psutil
from rich.console import Console

from meshd import control
from meshd.machine.disk import FileDisk
from meshd.testing.daemons import Daemon, joined
from tests.bench.accepting import CLIENTS, accepted
from tests.bench.keepers import Keepers, Process, keepers
from tests.bench.restarts import restarts
from tests.bench.rows import Row, latency, percentile, rate, table
from tests.bench.tools import free_port, python_module

COMMANDS = 1500
WIDTH = 100
FLOW_S = 5.0
KILLS = 20
IDLE_NODES = 5
IDLE_S = 20.0
SYNCS = 300
SYNCED_BYTES = 512
SETTLE_S = 1.0


# --- the disk


def one_sync(folder: Path, what: str = "one sync of this disk: the floor") -> Row:
    """What an append and its sync cost in that folder while nothing else goes on here."""
    file = FileDisk().create(folder / f"probe{time.monotonic_ns()}")
    took = []
    for _ in range(SYNCS):
        begun = time.perf_counter()
        file.append(bytes(SYNCED_BYTES))
        file.sync()
        took.append((time.perf_counter() - begun) * 1000)
    file.close()
    return latency(what, took)


# --- commits and reads


def commits(folder: Path) -> list[Row]:
    with keepers(folder) as made:
        leader = made.leader()
        time.sleep(SETTLE_S)  # the election is over, and what it left to write is not measured
        follower = made.others(leader)[0]
        for name in (leader, follower):  # opens its session, and warms up
            made[name].ask("one_by_one", count=50, seconds=10)
        rows = [
            latency("commit, one at a time, at the leader", _one_by_one(made[leader]), 2.5),
            latency("the same through a follower", _one_by_one(made[follower]), 3.5),
            rate(f"commits, {WIDTH} in flight, at the leader", _flow(made[leader]), 12_000),
            rate("the same through a follower", _flow(made[follower]), 12_000),
            # Rented disks have a budget of syncs, and slow down tenfold when it is spent.
            one_sync(folder, "one sync of this disk, right after that"),
            latency("linearizable read, at the leader", _reads(made[leader]), 1.5),
            latency("the same through a follower", _reads(made[follower]), 1.5),
        ]
        made.until_equal()
    return rows


def _one_by_one(process: Process) -> list[float]:
    took: list[float] = process.ask("one_by_one", count=COMMANDS, seconds=15.0)["took_ms"]
    return took


def _flow(process: Process) -> dict[str, Any]:
    return process.ask("in_flight", width=WIDTH, seconds=FLOW_S)


def _reads(process: Process) -> list[float]:
    took: list[float] = process.ask("reads", count=COMMANDS)["took_ms"]
    return took


# --- losing the leader


def losses(folder: Path, kills: int) -> list[Row]:
    with keepers(folder) as made:
        killed = [_lose(made, number, _kill) for number in range(kills)]
        frozen = [_lose(made, number, _freeze) for number in range(max(3, kills // 2))]
        made.until_equal()
    return [
        _loss("leader killed -9, to the next acceptance", killed, p50=0.3, p99=1.5),
        _loss("leader silent (SIGSTOP), to the same", frozen, p50=None, p99=3.0),
    ]


def _lose(made: Keepers, number: int, how: Callable[[Keepers, str], float]) -> float:
    """One leader less, until another takes a command at one of the others; then it is back."""
    leader = made.leader()
    other = made.others(leader)[number % 2]
    made[other].ask("one_by_one", count=20, seconds=10)
    lost_at = how(made, leader)
    took = made[other].ask("accept")["at"] - lost_at
    if made[leader].child is not None and made[leader].child.poll() is None:
        made[leader].thaw()
    else:
        made.start(leader)
    return float(took)


def _kill(made: Keepers, leader: str) -> float:
    return made[leader].kill()


def _freeze(made: Keepers, leader: str) -> float:
    return made[leader].freeze()


def _loss(what: str, took: Sequence[float], *, p50: float | None, p99: float) -> Row:
    median, high = statistics.median(took), percentile(took, 0.99)
    return Row(
        what,
        "s",
        median,
        high,
        (f"p50 <= {p50:g}, " if p50 else "") + f"p99 <= {p99:g}",
        high <= p99 and (p50 is None or median <= p50),
        f"{len(took)} times",
    )


# --- over HTTP


def acceptance(folder: Path) -> list[Row]:
    """A job put in with a key, at real daemons: from the request to its 201."""
    rows = []
    for where, one, many in accepted(folder):
        p50, p99 = one.p50_us / 1000, one.p99_us / 1000
        note = f"{one.errors + many.errors} errors" if one.errors + many.errors else ""
        rows.append(
            Row(f"keyed acceptance, HTTP, {where}", "ms", p50, p99, "p50 <= 5", p50 <= 5, note)
        )
        rate = many.requests_per_s
        what = f"the same, {CLIENTS} clients"
        rows.append(Row(what, "/s", rate, None, ">= 3,000", rate >= 3000, note))
    return rows


# --- idle


def idle(folder: Path) -> list[Row]:
    """Five real daemons with nothing to do, by their part in the record."""
    with ExitStack() as stack:
        founder = Daemon(folder / "0", "n0")
        stack.callback(founder.close)
        founder.start()
        others = [Daemon(folder / str(n), f"n{n}") for n in range(1, IDLE_NODES)]
        for daemon in others:
            stack.callback(daemon.close)
        everyone = joined(founder, others)
        founder.wait_until(lambda status: len(voters(founder)) == 3, "there are three voters", 60)
        time.sleep(12)  # the voters are looked after every ten seconds, members every few
        processes = [psutil.Process(d.process.pid) for d in everyone if d.process is not None]
        before = [sum(p.cpu_times()[:2]) for p in processes]
        time.sleep(IDLE_S)  # the stretch that is measured
        after = [sum(p.cpu_times()[:2]) for p in processes]
        parts = {row.name: row.part for row in report(founder).voters}
    costs: dict[str, list[float]] = {}
    for daemon, old, new in zip(everyone, before, after, strict=True):
        costs.setdefault(parts[daemon.name], []).append((new - old) / IDLE_S * 100)
    goals = {"leads": ("leader", 1.5), "votes": ("voter", 0.8), "follows": ("other", 0.5)}
    return [
        Row(
            f"idle, five nodes: {goals[part][0]}",
            "% core",
            statistics.mean(cost),
            None,
            f"<= {goals[part][1]:g}",
            statistics.mean(cost) <= goals[part][1],
            f"the daemon, {IDLE_S:.0f} s",
        )
        for part, cost in sorted(costs.items(), key=lambda item: list(goals).index(item[0]))
    ]


def report(daemon: Daemon) -> control.RecordReport:
    """What `meshd record status --json` prints."""
    return msgspec.json.decode(daemon.order("GET", "/control/record"), type=control.RecordReport)


def voters(daemon: Daemon) -> list[str]:
    return [row.name for row in report(daemon).voters if row.part in ("leads", "votes")]


# --- pysyncobj as it comes


def stock(folder: Path) -> list[Row]:
    ports = [str(free_port()) for _ in range(3)]
    with ExitStack() as stack:
        made: dict[str, Process] = {}
        for own in ports:
            others = [port for port in ports if port != own]
            command = python_module("tests.bench.stock_keeper", str(folder / own), own, *others)
            process = made[f"127.0.0.1:{own}"] = Process(command, folder / f"{own}.log")
            stack.callback(process.close)
            process.start()
        leader = _stock_leader(made)
        follower = next(process for process in made.values() if process is not leader)
        return [
            latency("stock pysyncobj: commit, at the leader", _few(leader)),
            latency("stock: the same through a follower", _few(follower)),
            rate(f"stock: {WIDTH} in flight, at the leader", _flow(leader)),
            rate("stock: the same through a follower", _flow(follower)),
        ]


def _few(process: Process) -> list[float]:
    took: list[float] = process.ask("one_by_one", count=COMMANDS, seconds=FLOW_S)["took_ms"]
    return took


def _stock_leader(made: dict[str, Process]) -> Process:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        seen = [process.ask("status") for process in made.values()]
        leaders = {status["leader"] for status in seen}
        if len(leaders) == 1 and None not in leaders and all(s["ready"] for s in seen):
            return made[leaders.pop()]
        time.sleep(0.05)
    raise RuntimeError(f"stock pysyncobj has no leader: {seen}")


# --- all of it


def ratios(rows: Sequence[Row]) -> list[Row]:
    """Ours against stock, of the same run."""
    by_name = {row.what: row for row in rows}
    pairs = (
        ("commit, one at a time, at the leader", "stock pysyncobj: commit, at the leader"),
        (f"commits, {WIDTH} in flight, at the leader", f"stock: {WIDTH} in flight, at the leader"),
    )
    made = []
    for ours, theirs in pairs:
        if ours in by_name and theirs in by_name:
            mine, other = by_name[ours].value, by_name[theirs].value
            faster = other / mine if by_name[ours].unit == "ms" else mine / other
            made.append(Row(f"{ours}: stock is behind by", "x", faster))
    return made


PARTS: dict[str, Callable[[Path, int], list[Row]]] = {
    "sync": lambda folder, kills: [one_sync(folder)],
    "commits": lambda folder, kills: commits(folder),
    "losses": losses,
    "http": lambda folder, kills: acceptance(folder),
    "idle": lambda folder, kills: idle(folder),
    "restarts": lambda folder, kills: restarts(folder),
    "stock": lambda folder, kills: stock(folder),
}


def run(parts: Sequence[str], kills: int, where: str | None) -> list[Row]:
    rows: list[Row] = []
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="meshd-bench-", dir=where) as folder:
            rows += PARTS[part](Path(folder), kills)
    return rows + ratios(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.record")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--kills", type=int, default=KILLS, help="how often the leader is lost")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", help="where the journals lie (default: that of tempfile)")
    options = parser.parse_args()
    machine = {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1m": os.getloadavg()[0],
    }
    rows = run(options.only, options.kills, options.folder)
    if options.json:
        print(json.dumps({"machine": machine, "record": [asdict(row) for row in rows]}, indent=1))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()))
    console.print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
