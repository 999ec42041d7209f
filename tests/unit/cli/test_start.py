"""`meshd start` up to the node: it takes the data directory, decides, and hands over."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from meshd.config import Config, Sources, load
from meshd.errors import Refused
from meshd.machine.disk import FileDisk
from meshd.paths import Paths
from meshd.ports import Ports

from .conftest import Typed, run_meshd


class Handed:
    """What a node was handed."""

    ports: Ports
    config: Config
    paths: Paths
    screen: Any
    token: str | None
    environment: dict[str, str]


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> Iterator[Handed]:
    """Stand in for the node: keep what it gets, and return."""
    kept = Handed()

    async def run_node(
        ports: Ports, config: Config, paths: Paths, *, screen: Any, token: str | None
    ) -> None:
        await trio.lowlevel.checkpoint()
        kept.ports, kept.config, kept.paths = ports, config, paths
        kept.screen, kept.token, kept.environment = screen, token, dict(os.environ)

    node = types.ModuleType("meshd.node")
    node.run_node = run_node  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "meshd.node", node)
    yield kept
    if hasattr(kept, "ports"):
        kept.ports.disk.unlock(kept.paths.lock)


def test_a_node_is_handed_what_was_decided(
    handed: Handed,
    type_in: Typed,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    done = type_in(
        *("start", "--name", "attic", "--port", "0", "--no-detect", "--no-mdns"),
        *("--backend", "http://a:1", "--backend", "b:2", "--gguf", "m.gguf"),
    )
    assert done.exit_code == 0, done.output
    config = handed.config
    assert (config.name, config.port, config.detect, config.mdns) == ("attic", 0, False, False)
    assert [backend.url for backend in config.backends] == ["http://a:1", "http://b:2"]
    assert config.ggufs[0].path == tmp_path / "m.gguf"
    assert handed.paths.data == data_dir
    assert handed.token is None


def test_the_first_start_leaves_a_private_home_and_a_config_to_edit(
    handed: Handed, type_in: Typed, data_dir: Path
) -> None:
    assert type_in("start").exit_code == 0
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert load(Sources((data_dir / "config.toml").read_text())) == Config()
    (data_dir / "config.toml").write_text("port = 1\n")
    handed.ports.disk.unlock(handed.paths.lock)
    assert type_in("start").exit_code == 0
    assert (data_dir / "config.toml").read_text() == "port = 1\n"
    assert handed.config.port == 1


def test_a_second_start_is_refused_with_the_pid_of_the_first(data_dir: Path) -> None:
    disk = FileDisk()
    assert disk.lock(data_dir / "lock") is None
    done = run_meshd("start", "--data-dir", str(data_dir))
    assert done.returncode == 1
    assert (
        f"meshd: meshd (pid {os.getpid()}) is running on {data_dir} already; "
        f"stop it with `meshd stop --data-dir {data_dir}`"
    ) in done.stderr


@pytest.mark.parametrize("way", ["flag", "prompt", "file", "variable", "variable file"])
def test_the_token_comes_from_where_it_was_put(
    way: str, handed: Handed, type_in: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "mesh1-abc-def.s3cret"
    (tmp_path / "token").write_text(token + "\n")
    words, stdin = ["start", "--join", "studio"], ""
    if way == "flag":
        words += ["--token", token]
    elif way == "prompt":
        words, stdin = [*words, "--token", "-"], token + "\n"
    elif way == "file":
        words += ["--token-file", str(tmp_path / "token")]
    elif way == "variable":
        monkeypatch.setenv("MESHD_TOKEN", token)
    else:
        monkeypatch.setenv("MESHD_TOKEN_FILE", str(tmp_path / "token"))
    done = type_in(*words, stdin=stdin)
    assert done.exit_code == 0, done.output
    assert handed.token == token
    assert handed.config.join == "studio"
    assert "s3cret" not in done.output
    assert "MESHD_TOKEN" not in handed.environment, "engines would inherit it"


def test_other_machines_are_let_in_with_a_key_or_on_request_only(
    handed: Handed, type_in: Typed, data_dir: Path
) -> None:
    refused = type_in("start", "--listen", "0.0.0.0")
    assert refused.exit_code == 2
    assert "make one with: meshd key create NAME --data-dir" in refused.stderr
    assert type_in("key", "create").exit_code == 0
    assert type_in("start", "--listen", "0.0.0.0").exit_code == 0
    (data_dir / "api-keys.json").unlink()
    handed.ports.disk.unlock(handed.paths.lock)
    (data_dir / "config.toml").write_text('listen = "0.0.0.0"\nrequire_key = false\n')
    assert type_in("start").exit_code == 0


def test_a_model_file_that_is_not_there_is_named(type_in: Typed, data_dir: Path) -> None:
    done = type_in("start", "--gguf", "/nowhere/a.gguf", "--gguf", "/nowhere/b.gguf")
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "meshd: there is no model file /nowhere/a.gguf, or no right to read it",
        "meshd: there is no model file /nowhere/b.gguf, or no right to read it",
    ]
    assert not data_dir.exists()


def test_looking_around_for_a_mesh_needs_mdns(type_in: Typed, data_dir: Path) -> None:
    done = type_in("start", "--join", "auto", "--no-mdns")
    assert done.exit_code == 2
    assert "--join auto needs mDNS" in done.stderr


def test_a_file_that_is_no_model_is_named(type_in: Typed, tmp_path: Path, data_dir: Path) -> None:
    bad = tmp_path / "notes.gguf"
    bad.write_text("to do: download the model")
    done = type_in("start", "--gguf", str(bad))
    assert done.exit_code == 2
    assert f"meshd: {bad} is not a GGUF model file" in done.stderr
    assert not data_dir.exists()


def test_a_key_of_an_engine_is_read_from_its_file(
    handed: Handed, type_in: Typed, data_dir: Path
) -> None:
    data_dir.mkdir(mode=0o700)
    text = '[[backend]]\nurl = "http://a"\napi_key_file = "engine.key"\n'
    (data_dir / "config.toml").write_text(text)
    missing = type_in("start")
    assert missing.exit_code == 2
    assert f"there is no file {data_dir}/engine.key" in missing.stderr
    (data_dir / "engine.key").write_text("sk-1\n")
    assert type_in("start").exit_code == 0
    assert handed.config.backends[0].api_key == "sk-1"


def test_what_a_node_refuses_is_told_without_a_traceback(
    type_in: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_node(*_: object, **__: object) -> None:
        async with trio.open_nursery():
            raise Refused("the token has expired; make a new one")

    node = types.ModuleType("meshd.node")
    node.run_node = run_node  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "meshd.node", node)
    done = type_in("start", "--join", "studio", "--token", "mesh1-x")
    assert done.exit_code == 1
    assert "meshd: the token has expired; make a new one\n" in done.stderr
    assert "Traceback" not in done.output


def test_an_interrupt_before_the_node_listens_ends_quietly(data_dir: Path) -> None:
    code = (
        "import sys, types, trio\n"
        "async def run_node(*_, **__):\n"
        "    print('up', flush=True)\n"
        "    await trio.sleep_forever()\n"
        "sys.modules['meshd.node'] = node = types.ModuleType('meshd.node')\n"
        "node.run_node = run_node\n"
        "from meshd.cli.main import main\n"
        "main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "start", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
