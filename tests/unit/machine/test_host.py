"""Limits, names, other processes, the service manager."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from meshd.machine import host


def test_this_machine_has_a_short_name() -> None:
    assert host.host_name()
    assert "." not in host.host_name()


def test_the_limit_of_open_files_is_raised_and_never_lowered() -> None:
    code = (
        "import resource\n"
        "from meshd.machine.host import raise_open_files_limit\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))\n"
        "print(raise_open_files_limit(300), raise_open_files_limit(100))\n"
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 300:
        pytest.skip("this machine allows fewer than 300 open files")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "300 300\n"


def test_a_process_that_ends_is_waited_for() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert not host.wait_until_gone(child.pid, 0.0)
        child.communicate(b"\n")
    assert host.wait_until_gone(child.pid, 60.0)


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told(
    abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if abstract and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's")
    name = f"@meshd-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        host.tell_service_manager("READY=1")
        manager.settimeout(60)
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "nonsense", "/nowhere/at/all"])
def test_without_a_service_manager_nothing_happens(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    open_before = psutil.Process().num_fds()
    host.tell_service_manager("READY=1")
    assert psutil.Process().num_fds() == open_before, "no socket is left behind"


def test_garbage_in_cycles_is_collected_and_what_was_there_is_not_looked_at() -> None:
    code = (
        "import gc, weakref\n"
        "from meshd.machine.host import settle_garbage\n"
        "class Cycle: pass\n"
        "settle_garbage()\n"
        "cycle = Cycle(); cycle.own = cycle; gone = weakref.ref(cycle); del cycle\n"
        "made = 0\n"
        "keep = []\n"
        "while gone() and made < 1_000_000:\n"
        "    keep.append([]); made += 1\n"
        "print(made, gc.get_freeze_count() > 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    made, frozen = done.stdout.split()
    assert int(made) < 100_000
    assert frozen == "True"
