"""Processes of a run: whose a connection is, and that none outlives its harness."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

import meshd_chaos
from meshd_chaos import addresses
from meshd_chaos.addresses import HOST, Diallers, bound_pair, free_port
from meshd_chaos.clocks import Clocks
from meshd_chaos.disks import allow_writes, why_no_limits
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


WRITER = """
import sys
for line in sys.stdin:
    try:
        with open(sys.argv[1], "w") as file:
            file.write(line)
        print("written", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


@pytest.mark.skipif(bool(why_no_limits()), reason=why_no_limits())
def test_a_process_that_may_not_write_fails_to_until_it_may_again(tmp_path: Path) -> None:
    with conversation(WRITER, str(tmp_path / "file")) as (process, ask):
        assert ask() == "written"
        allow_writes(process.pid, False)
        assert ask() == "OSError"
        assert (tmp_path / "file").read_text() == ""
        allow_writes(process.pid, True)
        assert ask() == "written"


TELLER = """
import sys, time
for line in sys.stdin:
    print(time.time(), time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
"""


def test_a_clock_that_is_set_wrong_is_wrong_at_once_and_timers_do_not_notice(
    tmp_path: Path,
) -> None:
    clocks = Clocks(tmp_path)
    if clocks.problem:
        pytest.skip(clocks.problem)
    with conversation(TELLER, environment=clocks.environment("anna")) as (_, ask):

        def told() -> tuple[float, float]:
            """How far its two clocks are ahead of ours, to the nearest 10 s."""
            wall, monotonic = map(float, ask().split())
            return round(wall - time.time(), -1), round(monotonic - time.monotonic(), -1)

        assert told() == (0, 0)
        for ahead_s in (-300.5, 86_400.25):
            clocks.set("anna", ahead_s)
            assert told() == (round(ahead_s, -1), 0)
        clocks.set("anna", 0)
        assert told() == (0, 0)


@contextmanager
def conversation(
    code: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    """A Python that answers each line with a line."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said, heard = process.stdin, process.stdout

        def ask() -> str:
            said.write("now\n")
            said.flush()
            return heard.readline().strip()

        try:
            yield process, ask
        finally:
            process.kill()


def test_a_port_that_somebody_takes_in_between_is_left_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        ports = iter([taken.getsockname()[1], free_port()])
        monkeypatch.setattr(addresses, "free_port", lambda: next(ports))
        listener, datagrams = bound_pair()
        with listener, datagrams:
            assert listener.getsockname() == datagrams.getsockname()
            assert listener.getsockname() != taken.getsockname()
