"""Can the record's simulation fail?  Break one thing at a time, and see which seed notices.

    python -m tests.sim.record_mutants [--seeds N] [NAME ...]

Each mutant is a few words of a reducer or of the journal replaced by others.  One that no seed
notices is printed as such, and the exit code is 1.  A reducer that depends on the order of hashes
is the same at every node of one process: that one is noticed by running a seed twice, in processes
with other hashes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from meshd.consensus.journal.journal import Journal
from meshd.record.jobs import Jobs
from meshd.record.live import LiveJobs
from meshd.record.sessions import Sessions
from meshd.record.table import Table
from tests.sim.raft_mutants import Mutant, apply_mutant

HASHES = "a reducer depends on the order of hashes"

MUTANTS = {
    "an old fence is obeyed": Mutant(
        Jobs, "_held", (("row.claim is None or row.claim.fence != fence", "row.claim is None"),)
    ),
    "a session forgets": Mutant(Sessions, "first_result", (("if row is not None:", "if False:"),)),
    "the journal does not sync": Mutant(Journal, "_write_block", (("self._file.sync()", "pass"),)),
    "a capture goes on changing": Mutant(
        Table, "capture", (("[True] * len(self._parts)", "[False] * len(self._parts)"),)
    ),
    HASHES: Mutant(LiveJobs, "best", (("min(ranks)[1]", "min(self._ready_now(), key=_by_hash)"),)),
}


def hash_order() -> None:
    """What the last mutant needs."""

    def ready_now(self: LiveJobs) -> list[int]:
        return [row.id for row in self._table.rows() if row.claim is None and row.queue]

    LiveJobs._ready_now = ready_now  # type: ignore[attr-defined]
    sys.modules[LiveJobs.__module__]._by_hash = lambda job: hash(str(job))  # type: ignore[attr-defined]


def seed_that_notices(name: str, seeds: int) -> str:
    """Run in a process of its own: what the first seed says that is broken, or nothing."""
    from tests.sim.record import simulate

    hash_order()
    apply_mutant(MUTANTS[name])
    for seed in range(seeds):
        try:
            violations = simulate(seed).violations
        except Exception as error:  # whatever it breaks, it is noticed
            return f"seed {seed}: {error!r}"
        if violations:
            return f"seed {seed}: {violations[0]}"
    return ""


def traces(name: str | None, seed: int) -> set[str]:
    """Of one seed in processes with different hashes."""
    found = set()
    for hashes in ("1", "2"):
        command = [sys.executable, "-m", "tests.sim.record_mutants", "--trace", str(seed)]
        run = subprocess.run(
            [*command, name] if name else command,
            env={**os.environ, "PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(run.stdout.strip())
    return found


def _print_trace(name: str | None, seed: int) -> None:
    from tests.sim.record import simulate

    if name is not None:
        hash_order()
        apply_mutant(MUTANTS[name])
    print(simulate(seed, trace=True).world.trace)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.sim.record_mutants")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--trace", type=int, default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.trace is not None:
        _print_trace(asked.names[0] if asked.names else None, asked.trace)
        return 0
    if len(asked.names) == 1 and os.environ.get("MESHD_RECORD_MUTANT"):
        print(seed_that_notices(asked.names[0], asked.seeds))
        return 0
    missed = 0
    for name in asked.names or MUTANTS:
        noticed = noticed_by(name, asked.seeds)
        missed += not noticed
        print(f"{name}\n    {noticed[:300] or 'noticed by nobody'}", flush=True)
    return 1 if missed else 0


def noticed_by(name: str, seeds: int) -> str:
    """How a mutant is noticed; "" if it is not."""
    if name == HASHES:
        differ = len(traces(name, 3)) > 1
        return "seed 3: other hashes, another trace" if differ else ""
    run = subprocess.run(
        [sys.executable, "-m", "tests.sim.record_mutants", "--seeds", str(seeds), name],
        env={**os.environ, "MESHD_RECORD_MUTANT": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return run.stdout.strip() or (run.stderr.strip().splitlines() or [""])[-1]


if __name__ == "__main__":
    sys.exit(main())
