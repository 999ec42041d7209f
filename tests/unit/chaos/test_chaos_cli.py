"""`meshd-chaos` without a mesh: what it says of wrong input, and of a mesh that cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from typer.testing import CliRunner, Result

from meshd.cli.shell import UsageError
from meshd_chaos import campaign, cli
from meshd_chaos.mesh import MeshFailed
from meshd_chaos.nemeses.disk import FullDisk
from meshd_chaos.records import Run, RunSet
from meshd_chaos.report.figures import command
from meshd_chaos.scenario import Scenario
from tests.unit.chaos.made_up_runs import a_run, an_answer

MINE = """
name = "mine"
about = "Mine."
[[fault]]
name = "kill"
every_s = 6
"""


def meshd_chaos(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


@pytest.fixture
def no_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meshes fail as they do: somewhere in a tree of tasks, several at a time."""

    async def fail(why: str) -> None:
        raise MeshFailed(why)

    @asynccontextmanager
    async def stage(*_: object) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, "ben did not come up\nand 200 lines of log")
            nursery.start_soon(fail, "ben did not come up\nand 200 lines of log")
            await trio.sleep_forever()
        yield

    monkeypatch.setattr(campaign, "local_stage", stage)
    monkeypatch.setattr(cli, "why_no_llama", lambda: "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--scenario", "nosuch"), "there is no scenario 'nosuch'"),
        (("--scenario", "missing.toml"), "missing.toml cannot be read"),
        (("--report", "/nonexistent/r.html"), "there is no folder /nonexistent"),
        (("--target", "http://127.0.0.1:1"), "--target needs --model"),
        (("--faults",), "--faults: only with --target"),
        (("--nodes", "1"), "--nodes 1: it must be from 2 to 16"),
        (("--seed", "9" * 30), "--seed 999"),
        (("--rate", "nan"), "--rate nan: it must be from 0.1 to 1000"),
        (("--duration", "inf"), "--duration inf: it must be from 1 to 86400"),
        (("--scenario", "x" * 300), "there is no scenario"),
        (("--target", "http://[::", "--model", "m"), "that is no URL"),
    ],
)
def test_wrong_input_is_named_and_ends_with_2(arguments: tuple[str, ...], says: str) -> None:
    ended = meshd_chaos("run", *arguments)
    assert ended.exit_code == 2
    assert says in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.usefixtures("no_mesh")
def test_a_report_that_cannot_be_written_is_told_before_anything_is_run(tmp_path: Path) -> None:
    ended = meshd_chaos("run", "--report", str(tmp_path))
    assert ended.exit_code == 2
    assert f"--report {tmp_path}: it cannot be written: Is a directory" in ended.output
    assert "not run" not in ended.output


def test_a_scenario_file_is_checked_with_the_line_of_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\nabout = "Mine."\n\n[[fault]]\nname = "kil"\nevery_s = 6\n')
    ended = meshd_chaos("check", str(file))
    assert ended.exit_code == 2
    assert "mine.toml:5: there is no fault 'kil'" in ended.output


def test_without_engines_nothing_is_started_and_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "why_no_llama", lambda: "xllamacpp is not installed")
    ended = meshd_chaos("run", "--scenario", "mix")
    assert ended.exit_code == cli.NOT_RUN
    assert "needs real engines, and xllamacpp is not installed" in ended.output


@pytest.mark.usefixtures("no_mesh")
def test_a_scenario_that_had_no_mesh_is_not_tested_and_the_others_are_tried(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    ended = meshd_chaos("run", "-s", "mix", "-s", "lossy", "--report", str(page))
    assert ended.exit_code == cli.NOT_RUN
    assert "not tested mix: ben did not come up" in ended.output
    assert "not tested lossy: ben did not come up" in ended.output
    assert "Nothing was run." in ended.output
    assert "Traceback" not in ended.output
    assert "200 lines of log" in ended.output  # once, when it happened
    assert "200 lines of log" not in page.read_text()


@pytest.mark.usefixtures("no_mesh")
def test_json_says_what_was_not_run() -> None:
    ended = meshd_chaos("run", "-s", "mix", "--json")
    runs = msgspec.json.decode(ended.stdout, type=RunSet)
    assert runs.runs == ()
    assert [(one.name, one.why) for one in runs.not_run] == [("mix", "ben did not come up")]


@pytest.fixture
def no_full_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FullDisk, "probe", classmethod(lambda _: "darwin sets no limits"))


@pytest.mark.usefixtures("no_mesh", "no_full_disks")
def test_a_scenario_whose_faults_this_machine_does_not_allow_starts_no_mesh() -> None:
    ended = meshd_chaos("run", "-s", "full-disk")
    assert ended.exit_code == cli.NOT_RUN
    assert "not tested full-disk: full-disk: darwin sets no limits" in ended.output
    assert "starting" not in ended.output
    assert "Nothing was run." in ended.output


@pytest.mark.usefixtures("no_full_disks")
def test_such_a_scenario_beside_others_that_held_is_listed_and_nothing_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = []

    async def run(_: object, scenario: Scenario, __: object) -> tuple[Run, bool]:
        ran.append(scenario.name)
        return a_run([an_answer()], scenario=scenario.name), False

    monkeypatch.setattr(campaign, "_run", run)
    monkeypatch.setattr(cli, "why_no_llama", lambda: "")
    ended = meshd_chaos("run", "-s", "full-disk", "-s", "mix")
    assert ran == ["mix"]
    assert "not tested full-disk: full-disk: darwin sets no limits" in ended.output
    assert "Every accepted request was answered" in ended.output
    assert ended.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "again"),
    [
        (("-s", "lossy"), "--scenario lossy"),
        (("-s", "lossy", "--nodes", "3"), "--scenario lossy --nodes 3"),
        (("-s", "FILE"), "--scenario FILE"),
        (
            ("-s", "lossy", "--target", "http://a", "--model", "m", "--api-key", "hush"),
            "--scenario lossy --target http://a --model m --api-key KEY",
        ),
    ],
)
def test_a_run_can_be_had_again_as_it_was_asked_for(
    arguments: tuple[str, ...],
    again: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    class Judged:
        def __init__(self, *_: object, **__: object) -> None:
            self.clients = None

        async def run(self) -> Run:
            return a_run([an_answer()])

    @asynccontextmanager
    async def stage(*_: object) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(campaign, "Runner", Judged)
    monkeypatch.setattr(campaign, "local_stage", stage)
    monkeypatch.setattr(campaign, "target_stage", stage)
    monkeypatch.setattr(cli, "why_no_llama", lambda: "")
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    asked = [str(file) if word == "FILE" else word for word in arguments]
    (run,) = msgspec.json.decode(meshd_chaos("run", *asked, "--json").stdout, type=RunSet).runs
    expected = again.replace("FILE", str(file))
    assert command(run) == f"meshd-chaos run {expected} --duration 60 --rate 20 --seed 7"


@asynccontextmanager
async def broken_stage(*_: object) -> AsyncIterator[None]:
    raise OSError("no such port")
    yield


def test_a_mistake_of_the_harness_in_one_scenario_does_not_lose_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(campaign, "local_stage", broken_stage)
    monkeypatch.setattr(cli, "why_no_llama", lambda: "")
    ended = meshd_chaos("run", "-s", "mix", "-s", "lossy")
    assert ended.exit_code == cli.NOT_RUN
    assert "not tested mix: the harness itself failed: OSError('no such port')" in ended.output
    assert "not tested lossy: the harness itself failed" in ended.output


def a_target(*more: str) -> tuple[str, ...]:
    return ("run", "--target", "http://127.0.0.1:9", "--model", "m", "--duration", "1", *more)


def test_a_target_that_does_not_answer_is_a_sentence_and_ends_with_3() -> None:
    ended = meshd_chaos(*a_target())
    assert ended.exit_code == cli.NOT_RUN
    assert "not tested mix: http://127.0.0.1:9 cannot be asked" in ended.output
    assert "Traceback" not in ended.output
    assert "the harness itself" not in ended.output


def test_a_node_that_the_target_does_not_have_is_wrong_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @asynccontextmanager
    async def stage(*_: object) -> AsyncIterator[None]:
        raise UsageError("no node is called nobody")
        yield

    monkeypatch.setattr(campaign, "target_stage", stage)
    ended = meshd_chaos(*a_target("--faults", "--pid", "nobody=4711"))
    assert ended.exit_code == 2
    assert "meshd-chaos: no node is called nobody" in ended.output
    assert "Traceback" not in ended.output


@pytest.fixture
def came(monkeypatch: pytest.MonkeyPatch) -> None:
    """One scenario was run, and all was well."""
    runs = RunSet(runs=(a_run([an_answer()]),))
    monkeypatch.setattr(cli, "run_all", lambda _: campaign.Came(runs=runs))
    monkeypatch.setattr(cli, "why_no_llama", lambda: "")


@pytest.mark.usefixtures("came")
def test_what_the_runs_came_to_is_printed_though_the_page_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fill_the_disk(_: RunSet) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr(cli, "render", fill_the_disk)
    ended = meshd_chaos("run", "--report", str(tmp_path / "r.html"))
    assert ended.exit_code == cli.NOT_RUN
    assert "Every accepted request was answered" in ended.output
    assert "No space left on device" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.usefixtures("came")
def test_the_page_is_written_though_the_table_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_: RunSet) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "table", fail)
    page = tmp_path / "r.html"
    ended = meshd_chaos("run", "--report", str(page))
    assert ended.exit_code == cli.NOT_RUN
    assert "the harness itself failed" in ended.output
    assert "Every accepted request was answered" in page.read_text()


def test_a_mistake_of_the_harness_never_ends_as_a_violation_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object) -> None:
        raise KeyError("seed")

    monkeypatch.setattr(cli, "run_all", fail)
    monkeypatch.setattr(cli, "why_no_llama", lambda: "")
    ended = meshd_chaos("run")
    assert ended.exit_code == cli.NOT_RUN
    assert "the harness itself failed, which says nothing of the mesh: KeyError" in ended.output
    assert "Traceback" in ended.output


def test_whoever_reads_no_further_does_not_make_it_a_violation() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "meshd_chaos.cli", *a_target()]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path}
    ended = subprocess.run(
        command, stdout=writes, stderr=writes, env=environment, check=False, timeout=60
    )
    os.close(writes)
    assert ended.returncode == cli.NOT_RUN
