"""Where things are, by default and with a data directory of one's own."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from meshd.machine.places import platform_places
from meshd.paths import SOCKET_PATH_BYTES, Places, resolve

LINUX = Places(
    config=PurePath("/home/ann/.config/meshd"),
    state=PurePath("/home/ann/.local/state/meshd"),
    runtime=PurePath("/run/user/1000/meshd"),
    log=PurePath("/home/ann/.local/state/meshd/log"),
    fallback_runtime=PurePath("/tmp/meshd-1000"),
)


def test_by_default_things_are_where_the_platform_wants_them() -> None:
    assert dict(resolve(LINUX).rows()) == {
        "config": "/home/ann/.config/meshd/config.toml",
        "data": "/home/ann/.local/state/meshd",
        "socket": "/run/user/1000/meshd/meshd.sock",
        "claims": "/run/user/1000/meshd/claims",
        "keys": "/home/ann/.local/state/meshd/api-keys.json",
        "lock": "/home/ann/.local/state/meshd/lock",
        "log": "/home/ann/.local/state/meshd/log/meshd.log",
    }


def test_a_data_directory_holds_everything_but_the_claims() -> None:
    assert dict(resolve(LINUX, data_dir=PurePath("/srv/a")).rows()) == {
        "config": "/srv/a/config.toml",
        "data": "/srv/a",
        "socket": "/srv/a/meshd.sock",
        "claims": "/run/user/1000/meshd/claims",
        "keys": "/srv/a/api-keys.json",
        "lock": "/srv/a/lock",
        "log": "/srv/a/meshd.log",
    }


def test_naming_the_platforms_own_data_directory_changes_nothing() -> None:
    assert resolve(LINUX, data_dir=LINUX.state) == resolve(LINUX)


def test_a_config_file_that_was_named_is_used() -> None:
    config = PurePath("/etc/meshd.toml")
    assert resolve(LINUX, config=config).config == config
    assert resolve(LINUX, config=config, data_dir=PurePath("/srv/a")).config == config


def test_a_config_file_can_move_the_data_and_stays_where_it_is() -> None:
    moved = resolve(LINUX, data_dir=PurePath("/srv/a"), config=resolve(LINUX).config)
    assert moved.config == resolve(LINUX).config
    assert moved.socket == PurePath("/srv/a/meshd.sock")


def test_a_socket_whose_path_would_be_too_long_is_in_the_runtime_directory() -> None:
    deep = PurePath("/srv") / ("d" * 90)
    socket = resolve(LINUX, data_dir=deep).socket
    assert socket.parent == LINUX.runtime
    assert socket == resolve(LINUX, data_dir=deep).socket
    assert socket != resolve(LINUX, data_dir=deep / "x").socket
    assert resolve(LINUX, data_dir=PurePath("/srv") / ("d" * 84)).socket.parent != LINUX.runtime


def test_a_path_is_measured_in_bytes() -> None:
    assert resolve(LINUX, data_dir=PurePath("/srv") / ("é" * 50)).socket.parent == LINUX.runtime


def test_a_runtime_directory_that_is_too_long_itself_is_avoided() -> None:
    places = Places(
        LINUX.config,
        LINUX.state,
        PurePath("/r" + "x" * 98),
        LINUX.log,
        LINUX.fallback_runtime,
    )
    for data_dir in (None, PurePath("/srv") / ("d" * 90)):
        socket = resolve(places, data_dir=data_dir).socket
        assert socket.parent == LINUX.fallback_runtime
        assert len(bytes(socket)) <= SOCKET_PATH_BYTES


def test_the_platform_is_asked_and_one_variable_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    places = platform_places({"MESHD_RUNTIME_DIR": str(tmp_path / "run")})
    assert places.config == tmp_path / "config" / "meshd"
    assert places.state == tmp_path / "state" / "meshd"
    assert places.runtime == tmp_path / "run"


def test_without_a_runtime_directory_of_its_own_a_user_still_gets_one(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert platform_places({}).runtime.is_absolute()
    assert not list(recwarn)
