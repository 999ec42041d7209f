"""Several scenarios, one after the other, each on a mesh of its own."""

from __future__ import annotations

import signal
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from meshd.cli.shell import UsageError, leaves_of
from meshd.errors import MeshdError
from meshd.testing.daemons import DaemonFailed
from meshd.testing.engines import EngineFailed
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


class NoRun(Exception):
    """A scenario could not be run; the text says why, and may end with a log."""


def run_all(campaign: Campaign) -> tuple[RunSet, bool]:
    """What each came to, and whether somebody pressed Ctrl-C; then the rest was left out.

    Raises UsageError if nothing can be run as it was asked for.
    """
    runs: list[Run] = []
    not_run: list[NotTested] = []
    was_interrupted = False
    with Progress(len(campaign.scenarios), campaign.seed) as progress:
        for scenario in campaign.scenarios:
            try:
                done, was_interrupted = _run_one(campaign, scenario, progress)
            except UsageError as error:
                if not runs:
                    raise
                done, why = None, str(error)
            except NoRun as error:
                done, why = None, str(error)
            else:
                why = ""
            if why:
                progress.failed(why)
                not_run.append(NotTested(name=scenario.name, why=why.partition("\n")[0]))
            if done is not None:
                runs.append(done)
                progress.over(done)
            if was_interrupted:
                break
    return RunSet(runs=tuple(runs), not_run=tuple(not_run)), was_interrupted


def _run_one(campaign: Campaign, scenario: Scenario, progress: Progress) -> tuple[Run | None, bool]:
    """Raises NoRun, UsageError."""
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
    except Exception as error:
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
        progress.starts(scenario, is_local=campaign.target is None)
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
                done = await runner.run()
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
