"""A node's life: founding, joining, leaving, stopping, dying, coming back."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pexpect
import pytest

from meshd.control import StatusReport
from meshd.testing.daemons import Daemon, DaemonFailed, Gguf, joined
from meshd.testing.models import expected_text


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def daemon(cleanup: ExitStack, folder: Path, name: str, **more: object) -> Daemon:
    made = Daemon(folder / name, name, **more)  # type: ignore[arg-type]
    cleanup.callback(made.close)
    return made


def meshd(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshd.cli.main", *arguments]
    command += ["--data-dir", str(folder)] if folder else []
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def states(status: StatusReport) -> dict[str, str]:
    return {node.name: node.state for node in status.nodes}


def test_a_second_start_is_refused_with_the_pid_of_the_first(
    tmp_path: Path, cleanup: ExitStack
) -> None:
    first = daemon(cleanup, tmp_path, "a").start()
    again = meshd("start", folder=first.folder)
    assert again.returncode == 1
    assert first.process is not None
    assert f"pid {first.process.pid}" in again.stderr


def test_a_stopped_node_stays_a_member_and_comes_back_without_a_token(
    tmp_path: Path, cleanup: ExitStack
) -> None:
    a, b = daemon(cleanup, tmp_path, "a").start(), daemon(cleanup, tmp_path, "b")
    joined(a, [b])
    assert b.stop() == 0
    a.wait_until(lambda s: states(s)["b"] in ("left", "failed"), "b is seen to be away")
    b.join = b.token = ""
    b.start()
    a.wait_until(lambda s: states(s)["b"] == "alive", "b is back")
    assert {n.name for n in b.status().nodes} == {"a", "b"}


def test_a_killed_node_comes_back_as_itself(tmp_path: Path, cleanup: ExitStack) -> None:
    a, b = daemon(cleanup, tmp_path, "a").start(), daemon(cleanup, tmp_path, "b")
    joined(a, [b])
    was = b.status().node.id
    b.kill()
    b.join = b.token = ""
    b.start()
    assert b.status().node.id == was
    a.wait_until(lambda s: states(s)["b"] == "alive", "b is back")


def test_a_founder_that_comes_back_is_found_by_the_others(
    tmp_path: Path, cleanup: ExitStack
) -> None:
    a, b = daemon(cleanup, tmp_path, "a").start(), daemon(cleanup, tmp_path, "b")
    joined(a, [b])

    def makes_tokens() -> bool:
        """The link, and the record that comes over it, may be a moment behind gossip."""
        try:
            return b.create_token().startswith("mesh1-")
        except DaemonFailed:
            return False

    b.wait_until(lambda _: makes_tokens(), "the record is there")
    a.kill()
    with pytest.raises(
        DaemonFailed, match="a, which alone has a vote"
    ):  # of two nodes it has the vote
        b.create_token()
    port = a.peer_address.rpartition(":")[2]
    a.flags = ["--port", port]
    a.start()
    b.wait_until(lambda s: states(s)["a"] == "alive" and makes_tokens(), "a is back")


def test_a_voter_leaves_for_good_and_its_vote_and_the_ca_stay_with_the_mesh(
    tmp_path: Path, cleanup: ExitStack
) -> None:
    a, b = daemon(cleanup, tmp_path, "a").start(), daemon(cleanup, tmp_path, "b")
    joined(a, [b])
    left = meshd("leave", folder=a.folder)  # the founder, which alone has a vote
    assert left.returncode == 0, left.stderr
    assert a.process is not None
    assert a.process.wait(20) == 0
    b.wait_until(lambda s: set(states(s)) == {"b"}, "a is off the list")
    c = daemon(cleanup, tmp_path, "c")
    joined(b, [c])  # b has the CA's key, and a vote to write it down with

    a.start()
    assert set(states(a.status())) == {"a"}, "it founds a mesh of its own"
    refused = meshd("leave", folder=a.folder)
    assert refused.returncode == 1
    assert "--destroy-mesh" in refused.stderr
    ended = meshd("leave", "--destroy-mesh", "--yes", folder=a.folder)
    assert ended.returncode == 0, ended.stderr
    assert a.process.wait(20) == 0


@pytest.mark.parametrize("fault", ["wrong", "used", "expired", "other mesh", "mistyped"])
def test_a_token_that_does_not_admit_says_why(
    fault: str, tmp_path: Path, cleanup: ExitStack
) -> None:
    a, b = daemon(cleanup, tmp_path, "a").start(), daemon(cleanup, tmp_path, "b")
    token = a.create_token()
    words = fault
    if fault == "wrong":
        words = "wrong"
        other = daemon(cleanup, tmp_path, "c").start()
        # The right mesh and the form of a token, but none that this mesh gave out.
        from meshd.identity import Token, parse_token

        token = Token(parse_token(token).ca, "aaaaaaaa", bytes(16)).text()
        other.close()
    elif fault == "used":
        joined(a, [daemon(cleanup, tmp_path, "first")])
        first = daemon(cleanup, tmp_path, "second", join=a.peer_address, token=token)
        first.start()
    elif fault == "expired":
        made = meshd("token", "create", "--ttl", "1s", folder=a.folder)
        token = next(w for w in made.stdout.split() if w.startswith("mesh1-"))
        a.wait_until(lambda s: s.uptime_s > 0, "it runs")
        import time

        time.sleep(1.1)  # the token's own lifetime, of a second, has to pass
    elif fault == "other mesh":
        other = daemon(cleanup, tmp_path, "c").start()
        token = other.create_token()
        words = "mesh"
    else:
        token = token[:-1] + ("a" if token[-1] != "a" else "b")
    b.join, b.token = a.peer_address, token
    with pytest.raises(DaemonFailed, match=words):
        b.start()
    assert token not in b.log_text()
    assert "Traceback" not in b.log_text()
    assert "b" not in states(a.status())


def test_a_join_at_the_port_for_clients_says_which_port_it_is_not(
    tmp_path: Path, cleanup: ExitStack
) -> None:
    a, b = daemon(cleanup, tmp_path, "a").start(), daemon(cleanup, tmp_path, "b")
    b.join, b.token = a.api_url.removeprefix("http://"), a.create_token()
    with pytest.raises(DaemonFailed, match="is not meshd's mesh port"):
        b.start()
    assert "TLS" not in b.log_text()


def test_pairing_without_a_terminal_is_refused_before_anybody_is_asked(
    tmp_path: Path, cleanup: ExitStack
) -> None:
    b = daemon(cleanup, tmp_path, "b", join="127.0.0.1:9")
    with pytest.raises(DaemonFailed, match="--token-file FILE"):
        b.start()


def test_a_member_that_is_told_to_join_another_mesh_says_that_it_does_not(
    tmp_path: Path, cleanup: ExitStack
) -> None:
    a, b = daemon(cleanup, tmp_path, "a").start(), daemon(cleanup, tmp_path, "b")
    joined(a, [b])
    assert b.stop() == 0
    b.join, b.token = "10.9.9.9", ""
    b.start()
    assert "--join 10.9.9.9 is ignored" in b.log_text()
    assert "with 2 members" in b.log_text()
    assert set(states(b.status())) == {"a", "b"}


def at_a_terminal(b: Daemon, a: Daemon, cleanup: ExitStack) -> tuple[pexpect.spawn, str]:
    """`meshd start --join` by a person, and the six digits on that screen."""
    b.write_config()
    newcomer = pexpect.spawn(
        sys.executable,
        ["-m", "meshd.cli.main", "start", "--data-dir", str(b.folder), "--join", a.peer_address],
        timeout=30,
        encoding="utf-8",
    )
    cleanup.callback(lambda: newcomer.close(force=True))
    newcomer.expect(r"(\d{3}) (\d{3})")
    assert newcomer.match
    return newcomer, newcomer.match[1] + newcomer.match[2]


def test_pairing_asks_at_both_ends(tmp_path: Path, cleanup: ExitStack) -> None:
    a = daemon(cleanup, tmp_path, "a").start()
    newcomer, shown = at_a_terminal(daemon(cleanup, tmp_path, "b"), a, cleanup)
    listed = meshd("approve", folder=a.folder)
    assert shown[:3] in listed.stdout
    assert "b" not in states(a.status())
    newcomer.sendline("y")
    approved = meshd("approve", shown, folder=a.folder)
    assert approved.returncode == 0, approved.stderr
    a.wait_until(lambda s: states(s).get("b") == "alive", "b was let in")
    newcomer.kill(signal.SIGTERM)
    newcomer.expect(pexpect.EOF)


def test_wrong_digits_admit_nobody(tmp_path: Path, cleanup: ExitStack) -> None:
    a = daemon(cleanup, tmp_path, "a").start()
    newcomer, shown = at_a_terminal(daemon(cleanup, tmp_path, "b"), a, cleanup)
    digits = f"{(int(shown) + 1) % 1_000_000:06}"
    newcomer.sendline("y")
    assert meshd("approve", digits, folder=a.folder).returncode == 1
    newcomer.expect(pexpect.EOF)
    assert "b" not in states(a.status())


def test_a_drained_node_gets_no_requests_until_it_is_undrained(
    models: Path, tmp_path: Path, cleanup: ExitStack
) -> None:
    gguf = Gguf(models / "counter.gguf", "m")
    a = daemon(cleanup, tmp_path, "a", ggufs=[gguf]).start()
    b = daemon(cleanup, tmp_path, "b", ggufs=[gguf])
    joined(a, [b])
    for each in (a, b):
        each.wait_until(lambda s: all(n.models == 1 for n in s.nodes), "both offer it")
    assert meshd("drain", "b", folder=b.folder).returncode == 0
    a.wait_until(lambda s: any(n.name == "b" and n.drained for n in s.nodes), "b is drained")
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    for entry in (a, b):
        for _ in range(4):
            answer = httpx.post(f"{entry.api_url}/v1/chat/completions", json=body, timeout=30)
            assert answer.headers["x-meshd-node"] == "a"
            text = answer.json()["choices"][0]["message"]["content"]
            assert text.strip() == expected_text(max_tokens=2).strip()
    assert meshd("undrain", "b", folder=a.folder).returncode == 0
    a.wait_until(lambda s: not any(n.drained for n in s.nodes), "b is back in use")
