"""What the tests of the command line share: a home of their own, and a way to type commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import typer.testing

from meshd.cli.main import app

from .daemon import FakeDaemon, fake_daemon

Typed = Callable[..., typer.testing.Result]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with nothing in it, so that no test sees this machine's own meshd."""
    for name in [name for name in os.environ if name.startswith("MESHD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("CONFIG", "STATE", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / "home" / name.lower()))
    monkeypatch.setenv("MESHD_RUNTIME_DIR", str(tmp_path / "run"))
    yield tmp_path / "home"
    structlog.reset_defaults()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def daemon(data_dir: Path) -> Iterator[FakeDaemon]:
    with fake_daemon(data_dir) as daemon:
        yield daemon


@pytest.fixture
def type_in(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Run a command in this process, on the test's data directory."""
    monkeypatch.setenv("MESHD_DATA_DIR", str(data_dir))

    return type_here


def type_here(*words: str, stdin: str = "") -> typer.testing.Result:
    """Run a command in this process: a process of its own takes a second to start."""
    return typer.testing.CliRunner().invoke(app, list(words), input=stdin, prog_name="meshd")


def run_meshd(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the real command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "meshd.cli.main", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
