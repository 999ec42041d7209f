"""Can the checks fail?  Take one mending away at a time, and see who notices.

    python -m tests.sim.raft_mutants [--seeds N] [NAME ...]

Each mutant is a few words of the kernel replaced by others.  It is run on seeds of the simulation
until one is broken, and on the directed tests.  A mutant that neither notices is printed as such,
and the exit code is 1.  (`tests/sim/raft_mutants.py` is also the plugin that the directed tests run
with: `MESHD_RAFT_MUTANT=NAME pytest -p tests.sim.raft_mutants ...`.)
"""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

from meshd.consensus.applying import Applying
from meshd.consensus.configuration import Configuration
from meshd.consensus.elections import Elections
from meshd.consensus.following import Following
from meshd.consensus.handover import Handover
from meshd.consensus.kernel import Kernel
from meshd.consensus.kernel_log import Log
from meshd.consensus.kernel_stock import Stock
from meshd.consensus.proposals import Proposals
from meshd.consensus.reads import Reads
from meshd.consensus.receiving import Receiving
from meshd.consensus.rollback import Rollback
from meshd.consensus.sending import Sending
from meshd.consensus.serving import Serving
from meshd.consensus.snapshots import Snapshots
from tests.sim.raft import KINDS, simulate


@dataclass(frozen=True, slots=True)
class Mutant:
    owner: type
    method: str
    words: tuple[tuple[str, str], ...]
    """What is replaced, and by what."""
    kinds: tuple[str, ...] = ("three", "storm", "changing", "snapshots")
    """Where in the simulation it would show."""


FOLLOWING = ("followers", "snapshots")
CHANGING = ("changing", "growing", "storm_changing", "two")

MUTANTS = {
    # --- replication
    "h1: a part of a snapshot commits all": Mutant(
        Receiving, "on_leader_word",
        (("self._kernel.stock.commit, {}", "self._kernel.log.last.index, {}"),),
        ("snapshots", "storm"),
    ),
    "h3: answers of earlier terms count": Mutant(
        Sending, "answering",
        (("if term < kernel.stock.term or ", "if "), ("if round_ > self.round:", "if False:")),
    ),
    "h3: a later term in an answer is not heard": Mutant(
        Sending, "answering", (("kernel.adopt_term(term)", "pass"),),
    ),
    "h4: what is equal is cut": Mutant(
        Log, "compare", (("if equal:", "if False:"), ("rows[equal:]", "rows")),
    ),
    "h4: commit beyond what was compared": Mutant(
        Receiving, "on_append", (("min(message.commit, self._verified)", "message.commit"),),
    ),
    "the answer claims the whole log": Mutant(
        Receiving, "answer",
        (("index=self._verified if fits", "index=kernel.log.last.index if fits"),),
    ),
    "the answer to a snapshot claims the whole log": Mutant(
        Receiving, "installed", (("index=kernel.stock.commit", "index=kernel.log.last.index"),),
        ("snapshots", "storm"),
    ),
    "silence to leaders of earlier terms": Mutant(
        Receiving, "on_append", (("self.refuse_old_leader(peer)", "pass"),),
    ),
    "h17: refusals go back by one": Mutant(
        Receiving, "_may_match", (("return log.last.index\n", "pass\n"),
                                  ("while index > ", "while False and index > ")),
    ),
    "h17: older refusals count": Mutant(
        Sending, "_rejected", ((" and answer.rejected == progress.next - 1", ""),),
    ),
    "the floor is not known to be committed": Mutant(
        Log, "compare", (("if prev_index < self.floor:", "if False:"),), ("snapshots",),
    ),
    "no window": Mutant(
        Sending, "_stream", ((" and progress.in_flight_bytes < kernel.settings.window_bytes", ""),),
    ),
    # --- elections
    "h5: votes count twice": Mutant(
        Elections, "on_vote_answer", (("if peer not in self._voted:", "if True:"),),
        ("storm", "five"),
    ),
    "h6: anybody may speak": Mutant(
        Kernel, "on_message",
        (("peer == self.me or not (is_voter or self._eligible(peer))", "False"),),
    ),
    "no pre-vote": Mutant(
        Elections, "begin_step", (("self._ask_for_pre_votes()", "self.may_campaign = True"),),
    ),
    "no stickiness": Mutant(Elections, "on_ask_vote", (("if not sticky and ", "if "),)),
    "pre-votes against a leader that is heard": Mutant(
        Elections, "on_pre_vote", (("and not self._leader_is_well", ""),),
    ),
    "a refused pre-vote does not tell the term": Mutant(
        Elections, "on_pre_vote_answer", (("kernel.adopt_term(answer.term)", "pass"),),
    ),
    "votes are not stored": Mutant(
        Log, "setCurrentTerm", (("self._records.append(ballot)", "pass"),),
    ),
    "votes leave before they are stored": Mutant(
        Kernel, "take_outbox",
        (("outbox = Outbox(early", "early, late = early + late, ()\n    outbox = Outbox(early"),),
    ),
    "a leader's word leaves before its term is stored": Mutant(
        Kernel, "take_outbox", (("if not all(", "if False and not all("),), ("one", "growing"),
    ),
    "no word to take over waits for the log": Mutant(
        Handover, "step", (("and progress.match == kernel.log.last.index", ""),), ("handovers",),
    ),
    # --- disks that are put back
    "a journal that is behind is used": Mutant(
        Rollback, "on_answer", (("if why is not None and", "if False and"),), ("images",),
    ),
    "a later term that others heard does not count": Mutant(
        Rollback, "_lacks", (("if answer.term > ballot.term:", "if False:"),), ("images",),
    ),
    "entries that others heard of do not count": Mutant(
        Rollback, "_lacks", (("answer.index > last.index", "False"),), ("images",),
    ),
    "a vote that others got does not count": Mutant(
        Rollback, "_lacks", (("answer.voted_term == ballot.term > 0", "False"),), ("images",),
    ),
    "starts that others know of do not count": Mutant(
        Rollback, "_lacks", (("answer.generation > self._starts", "False"),), ("images",),
    ),
    "it promises before it has heard": Mutant(
        Rollback, "is_over",
        (("in (Checked.PASSED, Checked.UNANSWERED)", "is not Checked.BEHIND"),), ("images",),
    ),
    # --- commit
    "a leader counts what is not on its disk": Mutant(
        Stock, "_SyncObj__raftCommitIndex",
        (("index = min(index, self.kernel.log.durable)", "pass"),),
        ("one", "growing", "storm", "three"),
    ),
    "entries of earlier terms are committed by counting": Mutant(
        Stock, "_SyncObj__raftCommitIndex",
        (("if index < (self.noop_index or math.inf):", "if False:"),),
    ),
    # --- voters
    "h2: two changes at a time": Mutant(
        Configuration, "why_not", (("kernel.log.has_list_after(stock.commit)", "False"),), CHANGING,
    ),
    "a change before an entry of the own term": Mutant(
        Configuration, "why_not", (("if not kernel.is_ready:", "if False:"),), CHANGING,
    ),
    "h12: lists in the log are forgotten": Mutant(
        Log, "__init__", (("self._taken = self._durable", "self._taken = self._durable; "
                           "self._lists = self._lists[:1]"),), CHANGING,
    ),
    "h13: snapshots hold the voters of now": Mutant(
        Snapshots, "take", (("log.voters_at(applied)", "log.voters"),),
        (*CHANGING, "snapshots"),
    ),
    "more than one voter at a time": Mutant(
        Configuration, "why_not", (("if len(changed) != 1:", "if False:"),), CHANGING,
    ),
    "voters that do not answer are added": Mutant(
        Configuration, "_why_not_new", (("if node not in", "if False and node not in"),), CHANGING,
    ),
    # --- snapshots
    "an older snapshot is installed": Mutant(
        Snapshots, "install", ((" or index <= kernel.stock.commit:", ":"),),
        ("snapshots", "storm"),
    ),
    "what follows a snapshot is dropped": Mutant(
        Log, "install", (("keeps = self.term_at(point.index) == point.term", "keeps = False"),),
        ("snapshots", "storm"),
    ),
    # --- following without a vote
    "a follower is fed what is not committed": Mutant(
        Serving, "_entries_from", (("kernel.stock.commit - index + 1", "10**9"),), FOLLOWING,
    ),
    "a follower acknowledges before it is on disk": Mutant(
        Following, "_acknowledge", (("wire.tell(", "wire.tell_early("),), FOLLOWING,
    ),
    "what was lost on the way to a follower is passed over": Mutant(
        Following, "on_feed", (("if not compared.fits:", "if False:"),), FOLLOWING,
    ),
    "a follower's source is taken for the leader": Mutant(
        Receiving, "require_the_leader",
        ((" and stock.leader != self._kernel.following.source", ""),), (*CHANGING, "followers"),
    ),
    "a subscriber has no window": Mutant(
        Serving, "_has_room",
        (("subscriber.in_flight < limits.RAFT_FEEDS_IN_FLIGHT", "True"),
         ("size_bytes < self._kernel.settings.window_bytes", "True")), FOLLOWING,
    ),
    "a leader takes feeds": Mutant(
        Following, "is_from_source", ((" and not leads", ""),), (*FOLLOWING, "storm_changing"),
    ),
    # --- commands and reads
    "h8: a command that fails is left out": Mutant(
        Applying, "apply", (("raise CoreStopped(text) from error", "return b''"),),
    ),
    "h14: proposals have no deadline": Mutant(
        Proposals, "expire",
        (("if self._handed_over.pop(proposal):", "if True:\n            pass\n        elif 0:"),
         ("else:", "elif 0:")),
    ),
    "h15: a step takes all": Mutant(
        Proposals, "feed", (("self._kernel.settings.per_step", "10**9"),),
    ),
    "h18: ids begin anew": Mutant(
        Kernel, "__init__", (("<< 20", "* 0"),), ("storm", "three", "handovers"),
    ),
    "proposals go on while leadership is handed over": Mutant(
        Proposals, "_may_feed", (("kernel.handover.to is None and ", ""),), ("handovers",),
    ),
    "a read asks no new question": Mutant(Reads, "step", (("kernel.sending.new_round()", "pass"),)),
    "a read before an entry of the own term": Mutant(
        Reads, "step", (("elif self._fresh and kernel.is_ready:", "elif self._fresh:"),),
    ),
    "a read does not wait until it is applied": Mutant(
        Reads, "step", (("self._to_apply[0][0] <= kernel.stock.applied", "True"),),
    ),
}  # fmt: skip


def mutated_source(mutant: Mutant) -> str:
    """The method with its words replaced, all of which must be there."""
    found: Any = inspect.getattr_static(mutant.owner, mutant.method)
    function: Any = (found.fset or found.fget) if isinstance(found, property) else found
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in mutant.words:
        assert old in source, f"{mutant.owner.__name__}.{mutant.method} has no {old!r} any more"
        source = source.replace(old, new)
    return source


def apply_mutant(mutant: Mutant) -> None:
    """Replace the method, in this process, for good."""
    found: Any = inspect.getattr_static(mutant.owner, mutant.method)
    function: Any = (found.fset or found.fget) if isinstance(found, property) else found
    source = mutated_source(mutant)
    source = source[min(at for word in ("async def ", "def ") if (at := source.find(word)) >= 0) :]
    space: dict[str, Any] = {}
    source = f"from __future__ import annotations\n{source}"
    # Our own method's source with words of this file's table replaced: nothing from outside is run.
    exec(compile(source, mutant.method, "exec"), function.__globals__, space)
    del space["annotations"]
    [changed] = space.values()
    if isinstance(found, property):
        changed = property(found.fget, changed) if found.fset else property(changed)
    setattr(mutant.owner, mutant.method, changed)


if os.environ.get("MESHD_RAFT_MUTANT"):
    apply_mutant(MUTANTS[os.environ["MESHD_RAFT_MUTANT"]])


def seeds_that_notice(name: str, seeds: int) -> str:
    """Run in a process with the mutant: the first broken seed, or nothing."""
    kinds = MUTANTS[name].kinds
    for seed in range(seeds):
        kind = kinds[seed % len(kinds)]
        try:
            world = simulate(seed, kind)
        except Exception as error:
            return f"seed {seed} ({kind}): {error!r}"
        if world.judge.violations:
            return f"seed {seed} ({kind}): {world.judge.violations[0]}"
    return ""


def tests_that_notice(name: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tests.sim.raft_mutants", "--no-header",
         "tests/unit/consensus", "-k", "hazards or kernel or reads or following or rollback"],
        env={**os.environ, "MESHD_RAFT_MUTANT": name}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].partition("::")[2].partition(" - ")[0] if failed else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.sim.raft_mutants")
    parser.add_argument("names", nargs="*", help="parts of names; all without")
    parser.add_argument("--seeds", type=int, default=40)
    asked = parser.parse_args()
    mine = os.environ.get("MESHD_RAFT_MUTANT")
    if mine:
        print(seeds_that_notice(mine, asked.seeds))
        return 0
    missed = 0
    for name, mutant in MUTANTS.items():
        if asked.names and not any(part in name for part in asked.names):
            continue
        assert set(mutant.kinds) <= set(KINDS)
        run = subprocess.run(
            [sys.executable, "-m", "tests.sim.raft_mutants", "--seeds", str(asked.seeds)],
            env={**os.environ, "MESHD_RAFT_MUTANT": name}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        by_seeds = run.stdout.strip() or (run.stderr.strip().splitlines() or ["-"])[-1]
        by_tests = tests_that_notice(name)
        missed += by_seeds == "-" and not by_tests
        print(f"{name}\n    seeds: {by_seeds[:150]}\n    tests: {by_tests or '-'}", flush=True)
    print(f"{missed} noticed by nobody")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
