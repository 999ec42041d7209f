"""A daemon on its own machine: other ports, taken engines, full disks, bad files, ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from meshd.testing.daemons import Daemon, DaemonFailed, Gguf, joined
from tests.e2e.attackers import ask
from tests.e2e.test_record import record

SLOW = {
    "model": "long",
    "messages": [{"role": "user", "content": "count"}],
    "stream": True,
    "max_tokens": 15_000,
    "temperature": 0,
}


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def daemon(cleanup: ExitStack, folder: Path, name: str, **more: object) -> Daemon:
    made = Daemon(folder / name, name, **more)  # type: ignore[arg-type]
    cleanup.callback(made.close)
    return made


def meshd(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshd.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def engines_of(daemon: Daemon) -> list[psutil.Process]:
    assert daemon.process is not None
    found = psutil.Process(daemon.process.pid).children(recursive=True)
    assert found, "it has an engine"
    return found


def gone(processes: list[psutil.Process], within_s: float = 10) -> bool:
    return not psutil.wait_procs(processes, timeout=within_s)[1]


# ---------------------------------------------------------------- other ports


def test_members_that_come_back_on_other_ports_are_found(
    models: Path, tmp_path: Path, cleanup: ExitStack
) -> None:
    """First a member, then the founder; each time the one that stayed follows."""
    counter = models / "counter.gguf"
    a = daemon(cleanup, tmp_path, "a", ggufs=[Gguf(counter, "only-a")]).start()
    b = daemon(cleanup, tmp_path, "b", ggufs=[Gguf(counter, "only-b")])
    joined(a, [b])
    b.join = b.token = ""
    for moved, other in ((b, a), (a, b)):
        port = moved.status().peer_port
        assert moved.stop() == 0
        moved.start()
        assert moved.status().peer_port != port, "the port is a new one"
        here = f":{moved.status().peer_port}"
        for daemon_ in (moved, other):
            daemon_.wait_until(
                lambda s: s.models == 2 and all(n.state in ("self", "alive") for n in s.nodes),
                "they see each other and all models",
            )
        names = {n.name: n.addresses[0] for n in other.status().nodes}
        assert names[moved.name].endswith(here)
        assert ask(other, f"only-{moved.name}")
        assert ask(moved, f"only-{other.name}")


# ---------------------------------------------------------------- engines that are somebody's


def test_an_engine_belongs_to_one_daemon_of_a_machine_and_a_meshd_is_no_engine(
    models: Path, tmp_path: Path, cleanup: ExitStack
) -> None:
    a = daemon(cleanup, tmp_path, "a", ggufs=[Gguf(models / "counter.gguf", "m")]).start()
    engine = a.status().backends[0].url
    first = daemon(cleanup, tmp_path, "first", backends=[engine]).start()
    second = daemon(cleanup, tmp_path, "second", backends=[engine, a.api_url]).start()
    assert first.process is not None
    assert [row.state for row in first.status().backends] == ["serving"]
    states = {row.url: row.state for row in second.status().backends}
    assert states[engine].startswith("refused:")
    assert f"pid {first.process.pid}" in states[engine]
    assert states[a.api_url].startswith("refused:")
    assert "meshd" in states[a.api_url]
    assert second.status().models == 0
    assert any(engine in problem for problem in second.status().problems)
    first.kill()
    second.wait_until(lambda s: s.models == 1, "it takes the engine over")


# ---------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; skips, with the reason, where mounting is not allowed."""
    folder = tmp_path / "small"
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "meshd-test", str(folder)]
    try:
        said = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if said.returncode:
        pytest.skip(f"mounting is not allowed here: {said.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_founder_with_a_full_disk_admits_nobody_says_so_and_goes_on_serving(
    models: Path, small_disk: Path, tmp_path: Path, cleanup: ExitStack
) -> None:
    a = Daemon(small_disk, "a", ggufs=[Gguf(models / "counter.gguf", "m")])
    cleanup.callback(a.close)
    a.start()
    b = daemon(cleanup, tmp_path, "b")
    joined(a, [b])
    token = a.create_token()
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(512)):
            pass
    newcomer = daemon(cleanup, tmp_path, "c", join=a.peer_address, token=token)
    with pytest.raises(DaemonFailed, match="could not write to its disk"):
        newcomer.start()
    with ThreadPoolExecutor() as pool:  # together: each tries for as long as orders may take
        at_a = pool.submit(many_tokens, a)
        a.wait_until(lambda _: bool(record(a).problem), "what was open has no room left either")
        at_b = pool.submit(many_tokens, b)
        drained = meshd("drain", "b", "--data-dir", str(b.folder))
        for refused, why in ((at_a, "isk is full"), (at_b, "record")):
            with pytest.raises(DaemonFailed, match=why):
                refused.result()
    assert drained.returncode == 1
    assert "Traceback" not in drained.stderr
    assert {n.name for n in a.status().nodes} >= {"a", "b"}
    for entry in (a, b):
        assert ask(entry)
    ballast.unlink()
    a.wait_until(lambda _: makes_tokens(a), "the record is tried anew", 90.0)
    newcomer.start()
    a.wait_until(lambda s: {n.name for n in s.nodes} == {"a", "b", "c"}, "c is in after all")


def many_tokens(daemon: Daemon) -> list[str]:
    """More of them than there may be a little room for."""
    return [daemon.create_token() for _ in range(64)]


def makes_tokens(daemon: Daemon) -> bool:
    with suppress(DaemonFailed):
        return daemon.create_token() != ""
    return False


# ---------------------------------------------------------------- bad files

CORRUPT = {
    "node.key": "backup",
    "mesh.json": "backup",
    "generation": "Delete it",
    "*/node.crt": "backup",
    "*/ca.crt": "backup",
    "*/ca.key": "backup",
    "*/keyring.json": "backup",
    "*/members": "backup",
    "api-keys.json": "delete it",
}
"""The file, and what its sentence advises."""


@pytest.fixture(scope="module")
def used_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A founder's data directory, with everything in it."""
    folder = tmp_path_factory.mktemp("used") / "a"
    with Daemon(folder, "a") as a:
        a.create_token()
        assert meshd("key", "create", "laptop", "--data-dir", str(folder)).returncode == 0
        assert a.stop() == 0
    return folder


def start_on_corrupt(job: tuple[Path, Path, str, bytes | None]) -> tuple[str, int, str]:
    """`meshd start` on a copy in which one file is garbage (or empty, or gone)."""
    source, folder, name, content = job
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.sock", "daemon.log"))
    (path,) = folder.glob(name)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    try:
        ended = meshd("start", "--data-dir", str(folder), timeout_s=40)
    except subprocess.TimeoutExpired as error:
        return path.name, 0, f"it runs: {error.stderr!r}"
    return path.name, ended.returncode, ended.stderr


def test_damaged_files_are_named_with_what_to_do_and_nothing_starts_on_them(
    used_folder: Path, tmp_path: Path
) -> None:
    jobs = [
        (used_folder, tmp_path / f"{number}{kind}", name, content)
        for number, name in enumerate(CORRUPT)
        for kind, content in (("garbage", b"\x00\xffgarbage{"), ("empty", b""))
        if content or name in ("node.key", "mesh.json", "*/members")
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for job, (name, code, said) in zip(jobs, pool.map(start_on_corrupt, jobs), strict=True):
            assert code == (2 if name == "api-keys.json" else 1), (job[2], job[3], code, said)
            assert name in said, said
            assert CORRUPT[job[2]] in said, said
            assert "Traceback" not in said, said


def test_what_can_be_done_without_is_done_without(used_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(used_folder, folder, ignore=shutil.ignore_patterns("*.sock", "daemon.log"))
    (folder / "peers.json").write_bytes(b"{garbage")
    (folder / "generation").unlink()
    (folder / "meshd.sock").touch()
    with pytest.raises(DaemonFailed, match="is not a socket"):
        Daemon(folder, "a").start()
    (folder / "meshd.sock").unlink()
    with Daemon(folder, "a") as a:
        assert a.create_token()


# ---------------------------------------------------------------- wrong words


def test_wrong_words_end_with_2_and_are_named(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('name = "a"\n\napi_prot = 1\n\n[limits]\nbody_bytes = "many"\n')
    base = ["start", "--data-dir", str(tmp_path)]
    for arguments, words in (
        (base, ["api_prot", f"{config}:3"]),
        (base, ["limits.body_bytes", f"{config}:6"]),
        ([*base, "--config", str(tmp_path / "none.toml")], ["none.toml"]),
        ([*base, "--prot", "1"], ["--prot"]),
        ([*base, "--port", "70000", "--config", "/dev/null"], ["port"]),
        ([*base, "--token", "x", "--config", "/dev/null"], ["--join"]),
        (["status", "--data-dir", str(tmp_path)], ["meshd start"]),
    ):
        said = meshd(*arguments)
        assert said.returncode == 2, (arguments, said.stderr)
        for word in words:
            assert word in said.stderr, (arguments, said.stderr)
        assert "Traceback" not in said.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path, cleanup: ExitStack) -> None:
    a = daemon(cleanup, tmp_path, "a").start()
    for flag, port in (
        ("--port", a.status().peer_port),
        ("--api-port", int(a.api_url.rpartition(":")[2])),
    ):
        b = daemon(cleanup, tmp_path, f"b{flag}", flags=[flag, str(port)])
        with pytest.raises(DaemonFailed, match=rf"{port} is in use"):
            b.start()
        assert "Traceback" not in b.log_text()


# ---------------------------------------------------------------- ends


@pytest.fixture
def streaming(models: Path, tmp_path: Path, cleanup: ExitStack) -> Daemon:
    return daemon(cleanup, tmp_path, "a", ggufs=[Gguf(models / "long.gguf", "long", 1, 20_000)])


def lines_of(daemon: Daemon, cleanup: ExitStack) -> Iterator[str]:
    """A long answer, the first piece of which is here."""
    response = cleanup.enter_context(
        httpx.stream("POST", f"{daemon.api_url}/v1/chat/completions", json=SLOW, timeout=60)
    )
    lines = response.iter_lines()
    assert next(lines)
    return lines


def test_stop_lets_an_answer_end_and_takes_the_engine_with_it(
    models: Path, tmp_path: Path, cleanup: ExitStack
) -> None:
    a = daemon(cleanup, tmp_path, "a", ggufs=[Gguf(models / "counter.gguf", "m")]).start()
    engines = engines_of(a)
    body = {**SLOW, "model": "m"}
    with httpx.stream("POST", f"{a.api_url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        assert next(lines)
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(meshd, "stop", "--data-dir", str(a.folder))
            assert "data: [DONE]" in list(lines)
            assert a.process is not None
            assert a.process.wait(20) == 0
            assert stopping.result().returncode == 0, stopping.result().stderr
    assert gone(engines)


def test_a_second_signal_does_not_wait_for_the_answer(
    streaming: Daemon, cleanup: ExitStack
) -> None:
    a = streaming.start()
    engines = engines_of(a)
    lines = lines_of(a, cleanup)
    assert a.process is not None
    a.process.send_signal(signal.SIGTERM)
    while "Stopping" not in a.log_text():
        assert next(lines) is not None
    began = time.monotonic()
    a.process.send_signal(signal.SIGTERM)
    assert a.process.wait(20) == 130
    assert time.monotonic() - began < 10
    assert "Traceback" not in a.log_text()
    assert gone(engines)


def test_kill_leaves_no_engine_behind_and_the_next_start_works(
    streaming: Daemon, cleanup: ExitStack
) -> None:
    a = streaming.start()
    engines = engines_of(a)
    lines_of(a, cleanup)
    a.kill()
    assert gone(engines)
    a.start()
    assert a.status().models == 1
