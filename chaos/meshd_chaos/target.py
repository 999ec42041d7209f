"""A mesh that exists already, as the stage of a run: asked, and broken only as far as allowed.

What an undisturbed answer says is not known there, so it is asked for before anything is broken:
once through each of two entries, at temperature 0.  If those differ, texts cannot be compared, and
the run says so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Final

import httpx
import msgspec
import trio

from meshd.cli.shell import UsageError
from meshd.control import StatusReport
from meshd.errors import MeshdError
from meshd.testing.checker import Mode
from meshd_chaos.excuses import Places
from meshd_chaos.nemeses import CannotInject
from meshd_chaos.records import NotTested
from meshd_chaos.scenario import Expect, Scenario
from meshd_chaos.schedule import Step
from meshd_chaos.stage import Injected
from meshd_chaos.transcript import Transcript, error_of
from meshd_chaos.workload import PATHS, Planned, body_of

REFERENCE_S: Final = 300.0
"""For one undisturbed answer; its model may have to be loaded first."""
COMMAND_S: Final = 60.0
ANSWER_S: Final = 5.0
"""For a node to say that it is there."""
LENGTHS: Final = 3
"""Different lengths of answers: each needs an undisturbed one to be compared with."""
PROMPT: Final = "Name the months of the year, and say a sentence about each."
_LOOK_S: Final = 0.5


class TargetFailed(MeshdError):
    """That mesh does not answer as it should before anything was done to it."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What the user said of it."""

    urls: tuple[str, ...]
    models: tuple[str, ...]
    api_key: str = ""
    with_jobs: bool = False
    """Also requests that the mesh writes down: with a key, and queued."""
    with_faults: bool = False
    pids: Mapping[str, int] = {}
    """Daemons on this machine that may be frozen, by the node's name."""
    kills: Mapping[str, str] = {}
    """Commands that kill a node's daemon, wherever it runs."""
    starts: Mapping[str, str] = {}
    """Commands that start it again."""


class TargetStage:
    """Clients' view of somebody's mesh."""

    def __init__(self, target: Target, entries: Mapping[str, str]) -> None:
        self._target, self._entries = target, dict(entries)
        self._texts: dict[tuple[str, str, int], tuple[str, str | None]] = {}
        self._lengths: list[int] = []
        self._differs: list[NotTested] = []
        self._undo: dict[int, tuple[str, str]] = {}
        """(kind, node) of what is in force, or about to be, by the step."""
        self._doubtful: set[str] = set()
        """Nodes that answered after a command to kill them had failed: they may die later."""

    @property
    def models(self) -> tuple[str, ...]:
        return self._target.models

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self._entries)

    @property
    def headers(self) -> Mapping[str, str]:
        key = self._target.api_key
        return {"authorization": f"Bearer {key}"} if key else {}

    def entries(self) -> Mapping[str, str]:
        return self._entries

    def prompt(self, request: str) -> str:
        return PROMPT

    def fit(self, requests: Sequence[Planned]) -> list[Planned]:
        """The same with lengths that an undisturbed answer is known for."""

        def nearest(tokens: int) -> int:
            return min(self._lengths, key=lambda length: abs(length - tokens))

        return [msgspec.structs.replace(one, tokens=nearest(one.tokens)) for one in requests]

    def expected(self, planned: Planned) -> tuple[str | None, str | None]:
        return self._texts.get((planned.dialect, planned.model, planned.tokens), (None, None))

    async def places(self) -> Places:
        return Places(holders={}, voters=[])

    def not_tested(self, names: set[str]) -> list[NotTested]:
        found = list(self._differs)
        for name in sorted(names):
            if not self._target.with_faults:
                why = "faults are made on an existing mesh only with --faults"
            elif name == "freeze":
                why = "" if self._target.pids else "it needs --pid NODE=PID"
            elif name == "kill":
                kills, starts = self._target.kills, self._target.starts
                why = "" if set(kills) & set(starts) else "it needs --kill and --start NODE=COMMAND"
            else:
                why = "it cannot be made from outside of a mesh"
            if why:
                found.append(NotTested(name=name, why=why))
        return found

    # ---------------------------------------------------------------- before the run

    async def learn(self, http: httpx.AsyncClient, tokens: tuple[int, int], seed: int) -> None:
        """Ask for the undisturbed answers.  Raises TargetFailed."""
        shortest, longest = tokens
        self._lengths = sorted({shortest, (shortest + longest) // 2, longest})[:LENGTHS]
        urls = list(self._entries.values())
        for dialect in ("openai", "ollama"):
            for model in self.models:
                for length in self._lengths:
                    asked = _reference(dialect, model, length)
                    first = await self._ask(http, urls[0], asked, seed)
                    if first == await self._ask(http, urls[-1], asked, seed):
                        self._texts[dialect, model, length] = first
                    else:
                        why = f"{model} does not give {length} tokens twice alike at temperature 0"
                        self._differs.append(NotTested(name=f"the text of {model}", why=why))

    async def _ask(
        self, http: httpx.AsyncClient, url: str, asked: Planned, seed: int
    ) -> tuple[str, str | None]:
        path, body = PATHS[asked.dialect], body_of(asked, self.prompt(asked.name))
        try:
            answer = await http.post(url + path, json=body, headers=self.headers)
        except httpx.HTTPError as error:
            raise TargetFailed(f"{url} did not answer for {asked.model}: {error!r}") from None
        if answer.status_code != 200:
            said = error_of(answer.content)
            raise TargetFailed(f"{url} answered {answer.status_code} for {asked.model}: {said}")
        said_now = Transcript(asked.dialect, 0.0)
        said_now.body(answer.content, 0.0)
        return said_now.text, said_now.finish

    # ---------------------------------------------------------------- faults

    async def inject(self, step: Step) -> Injected:
        kind, chance = step.fault.name, Random(step.seed)
        busy = {node for _, node in self._undo.values()}
        able = self._target.pids if kind == "freeze" else self._killable()
        free = sorted(set(able) - busy)
        if not free:
            raise CannotInject("no node is left that may be hit")
        node = chance.choice(free)
        self._undo[id(step)] = (kind, node)
        try:
            did = await self._kill(node) if kind == "kill" else self._freeze(node)
        except CannotInject:
            del self._undo[id(step)]
            raise
        return Injected(nodes=(node,), did=did)

    def _freeze(self, node: str) -> str:
        _signal(self._target.pids[node], signal.SIGSTOP, node)
        return f"stopped {node}'s daemon (SIGSTOP)"

    async def _kill(self, node: str) -> str:
        """A command that fails, or does not end, may have killed it before: what counts is whether
        the node answers.  Raises CannotInject."""
        did = f"killed {node}'s daemon by the command given"
        try:
            await _command(self._target.kills[node])
        except CannotInject as error:
            if await self._answers(node):
                self._doubtful.add(node)
                raise
            return f"{did}, although {error}"
        return did

    async def heal(self, step: Step) -> None:
        kind, node = self._undo.pop(id(step))
        if kind == "freeze":
            _signal(self._target.pids[node], signal.SIGCONT, node)
        else:
            await _command(self._target.starts[node])

    def _killable(self) -> set[str]:
        return set(self._target.kills) & set(self._target.starts)

    async def whole_again(self, timeout_s: float) -> list[str]:
        """Until every entry answers."""
        for node in self._doubtful:
            if not await self._answers(node):
                with suppress(CannotInject):  # if it is not there then, that is told below
                    await _command(self._target.starts[node])
        away = list(self._entries)
        with trio.move_on_after(timeout_s):
            while True:
                away = [name for name in self._entries if not await self._answers(name)]
                if not away:
                    break
                await trio.sleep(_LOOK_S)
        return [f"{name} ({self._entries[name]}) does not answer after the faults" for name in away]

    async def _answers(self, node: str) -> bool:
        async with httpx.AsyncClient(timeout=ANSWER_S, trust_env=False) as http:
            with suppress(httpx.HTTPError):
                url = f"{self._entries[node]}/v1/models"
                return (await http.get(url, headers=self.headers)).status_code == 200
        return False

    def notes(self, *, keep: bool) -> list[str]:
        return []

    async def statuses(self) -> Mapping[str, StatusReport]:
        return {}


@asynccontextmanager
async def target_stage(
    target: Target, tokens: tuple[int, int], seed: int
) -> AsyncIterator[TargetStage]:
    """Look at it, and learn what its answers say.  Raises TargetFailed, UsageError."""
    async with httpx.AsyncClient(timeout=REFERENCE_S, trust_env=False) as http:
        entries: dict[str, str] = {}
        for url in target.urls:
            name = await _name(http, url, target.api_key)
            entries[name if name not in entries else url] = url
        unknown = {*target.pids, *target.kills, *target.starts} - set(entries)
        if unknown:
            raise UsageError(
                f"no node is called {', '.join(sorted(unknown))}; those at the URLs given are "
                f"{', '.join(entries)}"
            )
        stage = TargetStage(target, entries)
        await stage.learn(http, tokens, seed)
    yield stage


def for_target(scenario: Scenario, target: Target) -> Scenario:
    """The scenario as far as it can be had there: nothing is written, nothing is expected."""
    mix = scenario.workload
    if not target.with_jobs:
        kept = {"streamed": mix.modes.get("streamed", 0), "whole": mix.modes.get("whole", 0)}
        modes = kept if sum(kept.values()) else {"streamed": 1}
        mix = msgspec.structs.replace(mix, modes=modes)
    expect = Expect(excuses=scenario.expect.excuses, faults=0)
    return msgspec.structs.replace(scenario, workload=mix, expect=expect)


async def _name(http: httpx.AsyncClient, url: str, api_key: str) -> str:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        answer = await http.get(f"{url}/v1/models", headers=headers, timeout=10.0)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TargetFailed(f"{url} cannot be asked: {str(error) or repr(error)}") from None
    if answer.status_code != 200:
        said = error_of(answer.content)
        raise TargetFailed(f"{url} answered {answer.status_code}: {said}")
    name = answer.headers.get("x-meshd-node")
    if not name:
        raise TargetFailed(f"{url} answers, and is no node of a meshd mesh")
    return str(name)


def _reference(dialect: str, model: str, tokens: int) -> Planned:
    asked = {
        "name": "reference",
        "at_s": 0.0,
        "mode": Mode.WHOLE,
        "dialect": dialect,
        "streamed": False,
        "model": model,
        "tokens": tokens,
        "seed": 0,
    }
    return msgspec.convert(asked, Planned)


def _signal(pid: int, number: signal.Signals, node: str) -> None:
    try:
        os.kill(pid, number)
    except OSError as error:
        raise CannotInject(f"process {pid} of {node}: {error.strerror}") from None


async def _command(line: str) -> None:
    """Run what the user gave, in a shell.  Raises CannotInject."""
    with trio.move_on_after(COMMAND_S) as scope:
        done = await trio.run_process(["/bin/sh", "-c", line], check=False, capture_stderr=True)
        if done.returncode:
            why = done.stderr.decode("utf-8", "replace").strip()[-200:]
            raise CannotInject(f"{line!r} ended with {done.returncode}: {why}")
    if scope.cancelled_caught:
        raise CannotInject(f"{line!r} did not end within {COMMAND_S:.0f} s")
