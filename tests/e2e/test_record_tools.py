"""`meshd record check|repair|backup|restore` and `meshd recover` with real daemons."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx

from meshd.testing.daemons import Daemon, joined


def meshd(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshd.cli.main", *words]
    command += ["--data-dir", str(daemon.folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def told(daemon: Daemon, *words: str) -> str:
    """What it says, given that it succeeds."""
    done = meshd(daemon, *words)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def refused(daemon: Daemon, *words: str, code: int = 1, says_it: bool = False) -> str:
    """What it complains about; with `says_it`, what it said besides."""
    done = meshd(daemon, *words)
    assert done.returncode == code, done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout if says_it else done.stderr


def status(daemon: Daemon) -> str:
    return meshd(daemon, "record", "status").stdout


def submit(daemon: Daemon, payload: str) -> None:
    order = {"payload": payload, "queue": "bots"}
    httpx.post(f"{daemon.api_url}/mesh/v1/jobs", json=order, timeout=30).raise_for_status()


def jobs(daemon: Daemon) -> list[str]:
    """What is in the queue, as far as that node knows."""
    answer = httpx.get(f"{daemon.api_url}/mesh/v1/jobs?queue=bots", timeout=30)
    return [job["id"] for job in answer.raise_for_status().json()["jobs"]]


def wait_for_jobs(daemon: Daemon, number: int) -> None:
    daemon.wait_until(lambda _: len(jobs(daemon)) == number, f"it has {number} jobs")


def test_a_record_is_backed_up_lost_and_restored(tmp_path: Path) -> None:
    backup = tmp_path / "record.backup"
    with ExitStack() as stack:
        a, b = Daemon(tmp_path / "a", "a"), Daemon(tmp_path / "b", "b")
        stack.callback(b.close)
        stack.callback(a.close)
        a.start()
        joined(a, [b])
        submit(a, "before")
        assert "as of entry" in told(a, "record", "backup", str(backup))
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        submit(b, "after")
        wait_for_jobs(b, 2)
        assert "2 open jobs" in told(b, "record", "check")
        assert "is running" in refused(a, "record", "restore", str(backup))

        port = a.peer_address.rpartition(":")[2]
        assert a.stop() == 0
        assert b.stop() == 0
        assert "a history" in refused(a, "record", "restore", str(backup))
        assert "--lose-the-record" in refused(a, "record", "repair", "--set-aside")
        told(a, "record", "repair", "--set-aside", "--lose-the-record")
        assert "1 open job" in told(a, "record", "restore", str(backup))
        a.flags = ["--port", port]  # so that the other one finds it
        a.start()
        wait_for_jobs(a, 1)

        # The other node still has the former record, and is told what to do with it.
        told(b, "record", "repair", "--set-aside")
        b.join = b.token = ""
        b.start()
        wait_for_jobs(b, 1)
        submit(b, "anew")
        wait_for_jobs(a, 2)
        assert jobs(a) == jobs(b)


def test_a_record_is_restored_where_the_founder_is_gone(tmp_path: Path) -> None:
    backup = tmp_path / "record.backup"
    with ExitStack() as stack:
        a, b = Daemon(tmp_path / "a", "a"), Daemon(tmp_path / "b", "b")
        stack.callback(b.close)
        stack.callback(a.close)
        a.start()
        joined(a, [b])
        submit(a, "before")
        wait_for_jobs(b, 1)
        told(b, "record", "backup", str(backup))
        a.kill()
        assert b.stop() == 0
        told(b, "record", "repair", "--set-aside")
        assert "--voters-are-gone" in refused(b, "record", "restore", str(backup))
        told(b, "record", "restore", str(backup), "--voters-are-gone")
        b.join = b.token = ""
        b.start()
        wait_for_jobs(b, 1)
        submit(b, "anew")
        wait_for_jobs(b, 2)


def test_one_of_three_goes_on_when_the_other_two_are_gone_for_good(tmp_path: Path) -> None:
    with ExitStack() as stack:
        a, b, c = (Daemon(tmp_path / name, name) for name in "abc")
        for daemon in (a, b, c):
            stack.callback(daemon.close)
        a.start()
        joined(a, [b, c])
        c.wait_until(lambda _: told(c, "voters").count("votes") == 2, "three votes")
        submit(a, "before")
        wait_for_jobs(c, 1)
        for daemon in (a, b):
            daemon.kill()
            shutil.rmtree(daemon.folder)
        c.wait_until(
            lambda _: {"Away: a, b", "Away: b, a"} & set(re.findall(r"Away: ., .", status(c))),
            "it misses both",
        )
        assert c.stop() == 0

        assert "What was acknowledged after" in refused(c, "recover", code=2, says_it=True)
        flag = "--i-know-that-acknowledged-writes-may-be-lost"
        assert "alone has a vote" in told(c, "recover", flag, "--yes")
        c.join = c.token = ""
        c.start()
        submit(c, "after")
        wait_for_jobs(c, 2)
        assert "was recovered at this node" in told(c, "record", "status")
