"""Several scenarios, one after the other, each on a mesh of its own."""

from __future__ import annotations

import signal
import traceback
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from meshd.cli.shell import UsageError, leaves_of
from meshd.errors import MeshdError
from meshd.testing.daemons import DaemonFailed
from meshd.testing.engines import EngineFailed
from meshd_chaos.feasible import as_far_as_possible, impossible_faults, why_untestable
from meshd_chaos.local_stage import local_stage
from meshd_chaos.progress import Progress
from meshd_chaos.records import NotTested, Run, RunSet
from meshd_chaos.run import Runner
from meshd_chaos.scenario import Scenario
from meshd_chaos.stage import Stage
from meshd_chaos.target import Target, target_stage

_SENTENCES: Final = (MeshdError, DaemonFailed, EngineFailed)
"""Errors whose text tells the reader all."""


class Campaign(msgspec.Struct, frozen=True, kw_only=True):
    """What one command asks for."""

    scenarios: tuple[Scenario, ...]
    seed: int
    rate_per_s: float
    duration_s: float
    """Of each."""
    target: Target | None = None
    """A mesh that exists; None: each scenario has one of its own."""
    flags: tuple[str, ...] = ()
    """The words that said on which mesh, for whoever wants to have a run again; no secrets."""


class NoRun(Exception):
    """A scenario could not be run; the text says why, and may end with a log."""


class Untestable(NoRun):
    """None of its faults can be injected on this machine: a run would test nothing."""


class Came(msgspec.Struct, frozen=True, kw_only=True):
    """What a campaign came to."""

    runs: RunSet
    had_no_mesh: bool = False
    """A scenario that this machine allows could not be run all the same."""
    was_interrupted: bool = False
    """Somebody pressed Ctrl-C; then the rest was left out."""


def run_all(campaign: Campaign) -> Came:
    """Each scenario in turn.  Raises UsageError if nothing can be run as it was asked for."""
    runs: list[Run] = []
    not_run: list[NotTested] = []
    had_no_mesh = was_interrupted = False
    impossible = {} if campaign.target else impossible_faults(campaign.scenarios)
    with Progress(len(campaign.scenarios), campaign.seed) as progress:
        for scenario in campaign.scenarios:
            progress.begins(scenario)
            try:
                done, was_interrupted = _run_one(campaign, scenario, impossible, progress)
            except (NoRun, UsageError) as error:
                if isinstance(error, UsageError) and not runs:
                    raise
                had_no_mesh |= not isinstance(error, Untestable)
                progress.failed(str(error))
                why = str(error).partition("\n")[0]
                not_run.append(NotTested(name=scenario.name, why=why))
                continue
            if done is not None:
                runs.append(done)
                progress.over(done)
            if was_interrupted:
                break
    came = RunSet(runs=tuple(runs), not_run=tuple(not_run))
    return Came(runs=came, had_no_mesh=had_no_mesh, was_interrupted=was_interrupted)


def _run_one(
    campaign: Campaign, scenario: Scenario, impossible: Mapping[str, str], progress: Progress
) -> tuple[Run | None, bool]:
    """The run, if it began, and whether it was interrupted.  Raises NoRun, UsageError."""
    if why := why_untestable(scenario, impossible):
        raise Untestable(why)
    seed, duration_s = campaign.seed, campaign.duration_s
    scenario = as_far_as_possible(scenario, impossible, seed=seed, duration_s=duration_s)
    try:
        return trio.run(_run, campaign, scenario, progress)
    except KeyboardInterrupt:  # before anybody listened to it, or after
        return None, True
    except BaseExceptionGroup as group:
        # A run is a tree of tasks; what ended it may come wrapped once per level.
        leaves = [leaf for leaf in leaves_of(group) if not isinstance(leaf, trio.Cancelled)]
        if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
            return None, True
        raise _why(leaves) from group
    except (
        Exception
    ) as error:  # the other scenarios are run all the same, and this one's end is told
        raise _why([error]) from error


def _why(errors: Sequence[BaseException]) -> NoRun | UsageError:
    """Of the errors that ended a run, the one to tell: what the harness itself did wrong first."""
    for error in errors:
        if not isinstance(error, _SENTENCES):
            where = "".join(traceback.format_exception(error))
            return NoRun(f"the harness itself failed: {error!r}\n{where}")
    for error in errors:
        if isinstance(error, UsageError):
            return UsageError(str(error))
    return NoRun(str(errors[0]))


async def _run(
    campaign: Campaign, scenario: Scenario, progress: Progress
) -> tuple[Run | None, bool]:
    """One run; None: it was interrupted before it began."""
    desk = _Desk()
    done: Run | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.watch)
        progress.starts(is_local=campaign.target is None)
        with desk.starting:
            async with _stage(campaign, scenario) as stage:
                desk.runner = runner = Runner(
                    scenario,
                    stage,
                    seed=campaign.seed,
                    rate_per_s=campaign.rate_per_s,
                    duration_s=campaign.duration_s,
                    say=progress.say,
                )
                nursery.start_soon(progress.watch, runner)
                done = msgspec.structs.replace(
                    await runner.run(), given_as=scenario.given_as, flags=campaign.flags
                )
        nursery.cancel_scope.cancel()
    return done, desk.was_interrupted


@asynccontextmanager
async def _stage(campaign: Campaign, scenario: Scenario) -> AsyncIterator[Stage]:
    if campaign.target is None:
        async with local_stage(scenario.mesh, campaign.seed) as local:
            yield local
    else:
        async with target_stage(campaign.target, scenario.workload.tokens, campaign.seed) as there:
            yield there


class _Desk:
    """Hears Ctrl-C: the first ends the run in order, the second at once."""

    def __init__(self) -> None:
        self.runner: Runner | None = None
        self.starting = trio.CancelScope()
        self.was_interrupted = False

    async def watch(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                if self.runner is None or self.was_interrupted:
                    self.starting.cancel()
                else:
                    self.runner.interrupt()
                self.was_interrupted = True
