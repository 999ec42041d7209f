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
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from meshd import control
from meshd.consensus.entries import Append, Entry, EntryKind, Record
from meshd.consensus.voter_list import founding_records
from meshd.ids import NodeId
from meshd.machine.disk import FileDisk
from meshd.record import commands
from meshd.record.commands_jobs import Accept, Complete, KeyFields, RequestFields
from meshd.record.commands_registry import Command, Found, Started
from meshd.record.job_rows import job_id
from meshd.testing.daemons import Daemon, joined
from tests.bench.accepting import CLIENTS, accepted
from tests.bench.keeper import UNIX_MS, Spec
from tests.bench.keepers import Keepers, Process, keepers, write_journal
from tests.bench.tools import free_port, python_module

COMMANDS = 1500
WIDTH = 100
FLOW_S = 5.0
KILLS = 20
IDLE_NODES = 5
IDLE_S = 20.0
LOGGED = 100_000
BATCH = 500
SYNCS = 300
SYNCED_BYTES = 512
SETTLE_S = 1.0


@dataclass(frozen=True)
class Row:
    """One number, or a median with its 99th percentile."""

    what: str
    unit: str
    value: float
    p99: float | None = None
    goal: str = ""
    met: bool | None = None
    note: str = ""


def percentile(values: Iterable[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * share) - 1)]


def latency(what: str, took: Sequence[float], goal: float | None = None, unit: str = "ms") -> Row:
    p50 = statistics.median(took)
    return Row(
        what,
        unit,
        p50,
        percentile(took, 0.99),
        f"p50 <= {goal:g}" if goal is not None else "",
        None if goal is None else p50 <= goal,
        f"{len(took)} times",
    )


def rate(what: str, done: dict[str, Any], goal: float | None = None) -> Row:
    per_s = done["count"] / done["took_s"]
    return Row(
        what,
        "/s",
        per_s,
        None,
        f">= {goal:,.0f}" if goal is not None else "",
        None if goal is None else per_s >= goal,
    )


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
        time.sleep(SETTLE_S)
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
        time.sleep(IDLE_S)
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


# --- restart


def restarts(folder: Path) -> list[Row]:
    """From starting the process to the first command that it accepts, as its only voter."""
    what = f"restart after {LOGGED:,} commands"
    with keepers(folder, "a", voters="", started=False) as made:
        write_journal(made.specs["a"], founding_records([NodeId(made.specs["a"].node)]))
        write_journal(made.specs["a"], *_logged(made.specs["a"], LOGGED))
        took_s = _restart(made)
        rows = [Row(f"{what}, without a snapshot", "s", took_s)]
        end = time.monotonic() + 60
        while made["a"].ask("status")["first"] == 0 and time.monotonic() < end:
            made["a"].ask("one_by_one", count=100, seconds=5)  # the snapshot comes beside it
        made["a"].ask("in_flight", width=WIDTH, seconds=0.3)  # some thousands behind it
        made["a"].kill()
        took_s = _restart(made)
        rows.append(Row(what, "s", took_s, None, "<= 2", took_s <= 2))
    return rows


def _restart(made: Keepers) -> float:
    begun = time.monotonic()
    made.start("a")
    return float(made["a"].ask("accept")["at"]) - begun


def _logged(spec: Spec, count: int) -> list[list[Record]]:
    """A founded record, and keyed requests that were accepted and are done."""
    node = NodeId(spec.node)
    bare: list[Command] = [
        Found(
            mesh=spec.mesh,
            mesh_name="bench",
            ca_key=spec.ca_key_der,
            node=spec.members[0].fields(),
            unix_ms=UNIX_MS,
            gossip_key=1,
        ),
        Started(node=node, generation=1, boot=bytes(16)),
    ]
    first = 2 + len(bare)
    entries = [_entry(2 + at, commands.Entry(command)) for at, command in enumerate(bare)]
    digest = bytes(32)
    for place in range(count):
        index = first + place
        body: Command
        if place % 2 == 0:
            key = KeyFields(scope="local", key=f"key-{place:032d}", fingerprint=digest)
            request = RequestFields(digest=digest, size_bytes=40, inline=bytes(40))
            body = Accept(key=key, request=request, lease_ms=15_000)
        else:
            fence = index - 1
            body = Complete(
                job=job_id(fence), fence=fence, digest=digest, size_bytes=40, inline=bytes(40)
            )
        number = place + 1
        entry = commands.Entry(body, client=node, epoch=1, seq=number, ack_below=number)
        entries.append(_entry(index, entry))
    return [[Append(tuple(entries[at : at + BATCH]))] for at in range(0, len(entries), BATCH)]


def _entry(index: int, command: commands.Entry) -> Entry:
    return Entry(index=index, term=1, kind=EntryKind.COMMAND, data=commands.encode(command))


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


def table(rows: Sequence[Row]) -> Table:
    shown = Table(title="the record: 3 voters, loopback, mutual TLS, each commit synced")
    shown.add_column("", no_wrap=True)
    for title in ("p50 or value", "p99"):
        shown.add_column(title, justify="right", no_wrap=True)
    for title in ("unit", "goal", "", "note"):
        shown.add_column(title, no_wrap=True)
    for row in rows:
        shown.add_row(
            row.what,
            _number(row.value),
            "" if row.p99 is None else _number(row.p99),
            row.unit,
            row.goal,
            {True: "met", False: "MISSED", None: ""}[row.met],
            row.note,
        )
    return shown


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


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
