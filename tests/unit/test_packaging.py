"""The service units start something that there is, in the way that their comments say."""

from __future__ import annotations

import configparser
import plistlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.testing

from meshd.cli.main import app
from meshd.limits import DRAIN_S
from meshd.settings import OTHER_VARIABLES

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "packaging" / "systemd").glob("*.service"))
PLIST = ROOT / "packaging" / "launchd" / "org.meshd.daemon.plist"
PAGES = [ROOT / "README.md", *sorted((ROOT / "packaging").glob("*.md"))]


def help_of(*words: str) -> str:
    return typer.testing.CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"}).output


def check_command(command: list[str]) -> None:
    assert command[0].endswith("/bin/meshd")
    assert command[1] == "start"
    for word in command[2:]:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", help_of("start")), word


def unit(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_systemd_unit_starts_meshd_and_lets_it_drain(path: Path) -> None:
    service = unit(path)["Service"]
    check_command(service["ExecStart"].split())
    assert float(service["TimeoutStopSec"]) > DRAIN_S
    assert service["KillMode"] == "mixed"
    variable = service.get("Environment", "").partition("=")[0]
    assert variable in ("", *(name for name, _ in OTHER_VARIABLES))


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_itself_takes_the_unit(path: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    text = re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", path.read_text())
    copy = tmp_path / "meshd.service"
    copy.write_text(text.replace("User=meshd", "User=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "meshd.service" in line] == []


def test_the_launch_daemon_starts_meshd_and_lets_it_drain() -> None:
    job = plistlib.loads(PLIST.read_bytes())
    check_command(job["ProgramArguments"])
    assert job["Label"] == PLIST.stem
    assert job["ExitTimeOut"] > DRAIN_S
    assert job["UserName"] == "YOU"
    assert job["ProcessType"] == "Interactive"
    assert PLIST.read_text().split("<plist")[1].count("YOU") == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_commands_flags_and_files_that_there_are(page: Path) -> None:
    text = page.read_text()
    commands = re.findall(
        r"(?:^|`|sudo |-u meshd )meshd ([a-z]+(?: [a-z][a-z-]+)?)([^`\n#]*)", text, re.M
    )
    assert commands or page.name == "config.md"
    for words, rest in commands:
        first = words.split()[0]
        shown = help_of(first)
        assert "No such command" not in shown, words
        if first in ("token", "key", "config", "record", "jobs"):
            shown = help_of(*words.split())
            assert "No such command" not in shown, words
        for flag in re.findall(r"--[a-z-]+", rest):
            assert flag in shown, f"{words}: {flag}"
    for link in re.findall(r"\]\(([^):]+)\)", text):
        assert (page.parent / link).exists(), link
