"""`meshd-chaos run` as users have it: a mesh is broken, Ctrl-C ends it, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec
import psutil
import pytest

from meshd_chaos.records import RunSet

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None, reason="the bundled engine is not installed"
)

SCENARIO = """
name = "twice"
about = "Engines die, as soon as somebody is answered."
[mesh]
nodes = 3
models = 2
copies = 2
[workload]
modes = { streamed = 3, whole = 1, keyed = 1, queued = 1 }
[[fault]]
name = "kill-backend"
target = "holder"
every_s = 3
for_s = 1
"""
BROKEN = "(-9)"
"""What is said when the first fault is in force."""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that would take ten minutes."""
    file = tmp_path / "twice.toml"
    file.write_text(SCENARIO)
    command = [sys.executable, "-m", "meshd_chaos.cli", "run", "--scenario", str(file), "--json"]
    command += ["--duration", "600", "--rate", "3", "--seed", "7"]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    yield process
    process.kill()
    process.wait()


@pytest.mark.timeout(110)
def test_ctrl_c_in_the_middle_heals_prints_what_there_is_and_leaves_no_process(
    command: subprocess.Popen[str],
) -> None:
    assert command.stderr is not None
    assert command.stdout is not None
    for line in command.stderr:
        if BROKEN in line:
            break
    started = psutil.Process(command.pid).children(recursive=True)
    rest = threading.Thread(target=command.stderr.read)
    rest.start()
    assert len(started) >= 3 + 4 - 2, "daemons and engines, but for those that were just killed"
    command.send_signal(signal.SIGINT)
    printed = command.stdout.read()
    rest.join()
    (run,) = msgspec.json.decode(printed, type=RunSet).runs
    assert command.wait() == (1 if run.violations else 130)
    assert (run.scenario, run.seed, len(run.nodes)) == ("twice", 7, 3)
    assert run.faults[0].name == "kill-backend"
    assert run.faults[0].ended_at_s is not None
    assert run.tally.tries == len(run.answers) >= run.tally.sent > 0
    assert (run.tally.doubled, run.tally.wrong) == (0, 0)
    assert json.loads(printed)["version"] == 1
    gone, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    assert len(gone) == len(started)
