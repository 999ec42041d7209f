"""Can the simulation of whole nodes fail?  Break one thing at a time, and see what its judge says.

python -m tests.sim.simulation_mutants [NAME ...]
"""

from __future__ import annotations

import sys
from typing import Final

import pytest

from meshd.api.answering import _StreamingSink
from meshd.jobs.keyed_run import KeyedRun
from meshd.record.jobs import Jobs
from meshd.relay.splice import Splice
from meshd.testing.simulation.run import simulate
from tests.sim.raft_mutants import Mutant, apply_mutant

MUTANTS: Final = {
    "a delta is delivered twice": Mutant(
        Splice,
        "take",
        (("    return items", "    return [*items, *items] if self._tokens == 7 else items"),),
    ),
    "a stream that fails just ends": Mutant(
        _StreamingSink, "fail", (("self._encoder.error(failure)", 'b""'),)
    ),
    "a stream does not end": Mutant(
        _StreamingSink, "finish", (("self._finish(data)", "trio.sleep_forever()"),)
    ),
    "an answer is not made its key's": Mutant(KeyedRun, "seal", (("await self._say(\n", "(\n"),)),
    "an old fence is obeyed": Mutant(
        Jobs, "_held", (("row.claim is None or row.claim.fence != fence", "row.claim is None"),)
    ),
}
"""Replaced words of the daemon's own code."""


def noticed(name: str, seed: int) -> list[str]:
    """What the judge says of a seed that ran with this mutant."""
    mutant = MUTANTS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mutant.owner, mutant.method, getattr(mutant.owner, mutant.method))
        apply_mutant(mutant)
        return simulate(seed).violations


def main() -> int:
    missed = 0
    for name in sys.argv[1:] or MUTANTS:
        said = next((said for seed in range(100, 120) if (said := noticed(name, seed))), [])
        missed += not said
        print(f"{name}\n    {said[0][:300] if said else 'noticed by nobody'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
