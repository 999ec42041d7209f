"""Commands against a real control socket: what they send, what they show, how they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from meshd.control import (
    ApproveOrder,
    Done,
    LeaveOrder,
    NodeOrder,
    PendingRow,
    Problem,
    RecordReport,
    StatusReport,
    TokenMade,
    TokenOrder,
    VoteOrder,
    VoterRow,
    VotesDecided,
)
from meshd.machine.clock import SystemClock

from .conftest import Typed, type_here
from .daemon import NODES, FakeDaemon, report


def test_a_healthy_mesh_is_shown_and_ends_with_0(daemon: FakeDaemon, type_in: Typed) -> None:
    done = type_in("status")
    assert done.exit_code == 0
    assert done.stdout.startswith("studio serves http://127.0.0.1:11435\n")
    for name in ("attic", "Anns-MacBook-Pro-16.local", "studio", "box", "ollama 0.9.3"):
        assert name in done.stdout


def test_a_degraded_mesh_says_why_and_ends_with_1(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["GET /control/status"] = report(problems=["box does not answer."])
    done = type_in("status")
    assert done.exit_code == 1
    assert "! box does not answer." in done.stdout
    assert type_in("status", "--json").exit_code == 1


def test_a_note_is_shown_and_is_no_trouble(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["GET /control/status"] = report(notes=["it was not checked"])
    done = type_in("status")
    assert done.exit_code == 0
    assert "it was not checked" in done.stdout


def test_the_status_as_json_is_the_report_as_it_is(daemon: FakeDaemon, type_in: Typed) -> None:
    done = type_in("status", "--json")
    assert msgspec.json.decode(done.stdout, type=StatusReport) == report()


def test_fields_of_a_newer_daemon_are_ignored(daemon: FakeDaemon, type_in: Typed) -> None:
    newer = json.loads(msgspec.json.encode(report()))
    newer["moon"] = {"phase": 1}
    daemon.answers["GET /control/status"] = json.dumps(newer).encode()
    assert type_in("status").exit_code == 0


@pytest.mark.parametrize("command", ["status", "nodes", "models", "approve", "stop", "drain"])
def test_without_a_daemon_it_says_how_to_start_one(
    command: str, type_in: Typed, data_dir: Path
) -> None:
    done = type_in(command)
    assert done.exit_code == 2
    assert done.stderr == (
        f"meshd: no meshd is running for {data_dir}; "
        f"start it with: meshd start --data-dir {data_dir}\n"
    )
    assert done.stdout == ""


def test_a_socket_that_a_killed_daemon_left_is_no_daemon(
    daemon: FakeDaemon, type_in: Typed, data_dir: Path
) -> None:
    pass_on = data_dir / "meshd.sock"
    pass_on.rename(data_dir / "kept.sock")
    pass_on.write_bytes(b"")
    assert type_in("status").exit_code == 2
    pass_on.unlink()
    (data_dir / "kept.sock").rename(pass_on)


def test_what_the_daemon_refuses_is_told_in_its_own_words(
    daemon: FakeDaemon, type_in: Typed
) -> None:
    daemon.answers["POST /control/leave"] = Problem("it alone holds the key")
    done = type_in("leave")
    assert done.exit_code == 1
    assert done.stderr == "meshd: it alone holds the key\n"


@pytest.mark.parametrize("answer", [b"", b"<html>", b'{"version": 3}', b"[]"])
def test_an_answer_that_is_not_understood_is_no_traceback(
    answer: bytes, daemon: FakeDaemon, type_in: Typed
) -> None:
    daemon.answers["GET /control/status"] = answer
    done = type_in("status")
    assert done.exit_code == 1
    assert "restart the daemon so that both are of one version" in done.stderr


def test_nodes_and_models_are_listed(daemon: FakeDaemon, type_in: Typed) -> None:
    nodes = type_in("nodes").stdout
    assert "studio can let newcomers in" in nodes
    assert "Labels: studio (gpu)" in nodes
    assert "meshd remove NAME" in nodes, "box does not answer"
    assert len(json.loads(type_in("nodes", "--json").stdout)) == len(NODES)
    models = type_in("models").stdout
    assert "studio*, attic" in models
    assert "qwen2.5-coder:32b-instruct-q4_K_M: not the same model on every node" in models
    assert json.loads(type_in("models", "--json").stdout)[0]["name"] == "llama3.2:3b"


def test_a_token_is_alone_on_stdout_and_not_in_the_line_to_type(
    daemon: FakeDaemon, type_in: Typed
) -> None:
    token = "mesh1-abcdef-123456.s3cret"
    daemon.answers["POST /control/token"] = TokenMade(
        token, SystemClock().wall() + 7200, 2, ["192.168.1.20:11436", "studio.local:11436"]
    )
    done = type_in("token", "create", "--ttl", "2h", "--uses", "2")
    assert done.stdout == token + "\n"
    assert "s3cret" not in done.stderr
    assert "Good for 2 machines and 2 hours." in done.stderr
    assert "    meshd start --join 192.168.1.20 --token -\n" in done.stderr
    assert "    meshd start --join 192.168.1.20 --token-file FILE\n" in done.stderr
    what, body = daemon.orders[-1]
    assert what == "POST /control/token"
    assert msgspec.json.decode(body, type=TokenOrder) == TokenOrder(7200.0, 2)


def test_a_port_of_its_own_is_in_the_line_to_type(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["POST /control/token"] = TokenMade("mesh1-x", 0.0, 1, ["10.0.0.1:4000"])
    assert "--join 10.0.0.1:4000 " in type_in("token", "create").stderr


@pytest.mark.parametrize("ttl", ["", "x", "2", "-1h", "1y", "0s", "1e9h", "400d"])
def test_a_ttl_that_is_none_is_a_usage_error(ttl: str, daemon: FakeDaemon, type_in: Typed) -> None:
    done = type_in("token", "create", "--ttl", ttl)
    assert done.exit_code == 2
    assert "--ttl" in done.stderr
    assert daemon.orders == []


def test_approve_takes_the_digits_as_they_stand_on_the_screen(
    daemon: FakeDaemon, type_in: Typed
) -> None:
    daemon.answers["POST /control/approve"] = Done("attic may join")
    for words in (["123456"], ["123", "456"], ["123-456"]):
        done = type_in("approve", *words)
        assert (done.exit_code, done.stdout) == (0, "attic may join\n")
        assert msgspec.json.decode(daemon.orders[-1][1], type=ApproveOrder).digits == "123456"
    for words in (["12345"], ["abcdef"], ["1234567"], ["١٢٣٤٥٦"]):
        assert type_in("approve", *words).exit_code == 2


def test_approve_without_digits_lists_who_waits(daemon: FakeDaemon, type_in: Typed) -> None:
    assert type_in("approve").stdout == "Nobody waits to be let in.\n"
    daemon.answers["GET /control/pending"] = [PendingRow("123456", "attic", "10.0.0.7", 12.0)]
    shown = type_in("approve").stdout
    assert "123 456" in shown
    assert "attic" in shown
    assert json.loads(type_in("approve", "--json").stdout)[0]["digits"] == "123456"


def test_drain_names_a_node_or_this_one(daemon: FakeDaemon, type_in: Typed) -> None:
    type_in("drain")
    type_in("undrain", "attic")
    orders = [(what, msgspec.json.decode(body, type=NodeOrder)) for what, body in daemon.orders]
    assert orders == [
        ("POST /control/drain", NodeOrder("")),
        ("POST /control/undrain", NodeOrder("attic")),
    ]


def test_stop_ends_when_the_daemon_has_ended(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["GET /control/status"] = report(pid=2**22 - 1)
    done = type_in("stop")
    assert done.exit_code == 0
    assert done.stdout == f"meshd has stopped (pid {2**22 - 1})\n"
    assert daemon.orders[-1][0] == "POST /control/stop"


def test_stop_need_not_wait(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["GET /control/status"] = report(pid=1)
    daemon.answers["POST /control/stop"] = Done("stopping")
    assert type_in("stop", "--no-wait").stdout == "stopping\n"


def test_the_daemon_is_found_by_flag_variable_and_config(
    daemon: FakeDaemon, data_dir: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type_here("status", "--data-dir", str(data_dir)).exit_code == 0
    assert type_here("status").exit_code == 2
    file = home / "config" / "meshd" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'data_dir = "{data_dir}"\n')
    assert type_here("status").exit_code == 0
    file.write_text("wrong = 1\n")
    done = type_here("status")
    assert (done.exit_code, done.stderr) == (2, f'meshd: {file}:1: unknown key "wrong"\n')
    monkeypatch.setenv("MESHD_DATA_DIR", str(data_dir))
    assert type_here("status").exit_code == 0, "a config that is not needed is not read"


def test_a_data_directory_may_be_written_in_any_way(
    daemon: FakeDaemon, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(data_dir)
    monkeypatch.chdir(tmp_path)
    for way in ("data", "./x/../data", "link"):
        assert type_here("status", "--data-dir", way).exit_code == 0


def test_a_reader_that_goes_away_is_no_error(daemon: FakeDaemon, data_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "meshd.cli.main", "status", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_watching_goes_on_until_it_is_interrupted(daemon: FakeDaemon, data_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "meshd.cli.main", "status", "--watch", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        shown = 0
        while shown < 2:
            shown += process.stdout.readline().startswith("studio serves")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ""


def test_watching_ends_when_the_daemon_does(daemon: FakeDaemon, data_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "meshd.cli.main", "status", "--watch", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (data_dir / "meshd.sock").rename(data_dir / "kept.sock")
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            (data_dir / "kept.sock").rename(data_dir / "meshd.sock")
    assert process.returncode == 2
    assert "no meshd is running" in errors


def record_with(*votes: str) -> RecordReport:
    rows = [
        VoterRow(id=n, name=n, part="votes" if n in votes else "follows", state="answers")
        for n in ("attic", "box", "mini", "studio")
    ]
    return RecordReport(
        problem="", leader="attic", term=1, last=9, commit=9, applied=9, digest="00", sync_ms=0.1,
        members=4, voters=rows,
    )  # fmt: skip


def test_a_promotion_says_what_comes_and_waits_until_it_is_so(
    daemon: FakeDaemon, type_in: Typed
) -> None:
    wanted = ["attic", "box", "studio"]
    daemon.answers["POST /control/voters"] = VotesDecided(
        message="studio will get a vote and mini will lose it", voters=wanted, done=False
    )
    daemon.answers["GET /control/record"] = record_with(*wanted)
    done = type_in("voters", "promote", "studio")
    assert done.exit_code == 0
    assert "studio will get a vote" in done.stdout
    assert "Done. Votes: attic, box, studio" in done.stdout
    sent = msgspec.json.decode(daemon.orders[0][1], type=VoteOrder)
    assert sent == VoteOrder("studio", "always")


def test_a_demotion_that_is_refused_says_why(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["POST /control/voters"] = Problem("Nobody could take the vote of box")
    refused = type_in("voters", "demote", "box")
    assert refused.exit_code == 1
    assert "Nobody could take the vote of box" in refused.stderr


def test_the_voters_are_shown_with_what_was_decided_and_whose_vote_is_void(
    daemon: FakeDaemon, type_in: Typed
) -> None:
    report = record_with("attic", "box", "mini")
    attic, box, mini, studio = report.voters
    decided = [
        msgspec.structs.replace(attic, vote="always"),
        msgspec.structs.replace(box, void=True),
        mini,
        msgspec.structs.replace(studio, vote="never"),
    ]
    daemon.answers["GET /control/record"] = msgspec.structs.replace(report, voters=decided)
    shown = type_in("voters").stdout
    assert "votes (promoted)" in shown
    assert "vote is void" in shown
    assert "follows (demoted)" in shown
    assert "box lost what it had promised" in shown


def test_a_mesh_is_ended_only_when_somebody_says_so(daemon: FakeDaemon, type_in: Typed) -> None:
    refused = type_in("leave", "--destroy-mesh")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert daemon.orders == []
    assert type_in("leave", "--destroy-mesh", "--yes").exit_code == 0
    assert msgspec.json.decode(daemon.orders[0][1], type=LeaveOrder) == LeaveOrder(destroy=True)
