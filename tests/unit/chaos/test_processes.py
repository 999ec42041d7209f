"""Processes of a run: whose a connection is, and that none outlives its harness."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import trio

import meshd_chaos
from meshd_chaos.addresses import HOST, Diallers, bound_pair, free_port
from meshd_chaos.guardian import Guardian

GUARD = Path(meshd_chaos.__file__).with_name("guard.py")
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(SLEEP, start_new_session=True)


def test_when_the_harness_dies_its_processes_and_its_folder_go_too(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    left, over = sleeper(), sleeper()
    try:
        with subprocess.Popen(
            [sys.executable, "-P", str(GUARD), str(folder)], stdin=subprocess.PIPE
        ) as guard:
            guard.communicate(f"+{left.pid}\n+{over.pid}\n-{over.pid}\n".encode(), timeout=30)
        assert left.wait(30) != 0
        assert over.poll() is None, "it was told that this one is none of its business any more"
        assert not folder.exists()
    finally:
        for process in (left, over):
            process.kill()
            process.wait()


def test_after_an_orderly_end_nothing_is_touched(tmp_path: Path) -> None:
    guardian = Guardian(tmp_path)
    process = sleeper()
    try:
        guardian.began(process.pid)
        guardian.close()
        assert process.poll() is None
        assert tmp_path.exists()
    finally:
        process.kill()
        process.wait()


async def test_whose_a_connection_is_tells_the_system_by_its_port() -> None:
    listener, datagrams = bound_pair()
    with listener, datagrams:
        diallers = Diallers(lambda: {"me": os.getpid()})
        async with await trio.open_tcp_stream(*listener.getsockname()[:2]) as stream:
            port = stream.socket.getsockname()[1]
            assert await diallers.whose(port) == "me"
            assert await Diallers(dict).whose(port) is None
        assert await diallers.whose(free_port()) is None


def test_a_pair_has_one_port_number_for_tcp_and_udp() -> None:
    first, second = bound_pair(), bound_pair()
    try:
        for tcp, udp in (first, second):
            assert tcp.getsockname() == udp.getsockname()
            assert tcp.getsockname()[0] == HOST
        assert first[0].getsockname() != second[0].getsockname()
    finally:
        for sock in (*first, *second):
            sock.close()
