"""`meshd-chaos` without a mesh: what it says of wrong input, and of a mesh that cannot be had."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from typer.testing import CliRunner, Result

from meshd_chaos import campaign, cli
from meshd_chaos.mesh import MeshFailed
from meshd_chaos.records import RunSet


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
        (("--nodes", "1"), "--nodes"),
    ],
)
def test_wrong_input_is_named_and_ends_with_2(arguments: tuple[str, ...], says: str) -> None:
    ended = meshd_chaos("run", *arguments)
    assert ended.exit_code == 2
    assert says in ended.output
    assert "Traceback" not in ended.output


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


def test_a_mistake_of_the_harness_in_one_scenario_does_not_lose_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @asynccontextmanager
    async def stage(*_: object) -> AsyncIterator[None]:
        raise OSError("no such port")
        yield

    monkeypatch.setattr(campaign, "local_stage", stage)
    monkeypatch.setattr(cli, "why_no_llama", lambda: "")
    ended = meshd_chaos("run", "-s", "mix", "-s", "lossy")
    assert ended.exit_code == cli.NOT_RUN
    assert "not tested mix: the harness itself failed: OSError('no such port')" in ended.output
    assert "not tested lossy: the harness itself failed" in ended.output
