"""`meshd key`: made, listed and taken back, with and without a daemon."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

from meshd.apikeys import ApiKeys
from meshd.machine.disk import FileDisk

from .conftest import Typed
from .daemon import FakeDaemon


def keys_in(data_dir: Path) -> ApiKeys:
    return ApiKeys.parse(FileDisk().read(data_dir / "api-keys.json"), "")


def test_a_key_is_shown_once_and_then_only_listed(type_in: Typed, data_dir: Path) -> None:
    made = type_in("key", "create", "laptop")
    assert made.exit_code == 0
    key = made.stdout.strip()
    assert re.fullmatch(r"sk-meshd-[a-z2-7]{32}", key)
    assert key not in made.stderr
    (entry,) = keys_in(data_dir).keys
    assert keys_in(data_dir).check(key) == entry.id
    listed = type_in("key", "list").stdout
    assert entry.id in listed
    assert "laptop" in listed
    assert key not in listed + type_in("key", "list", "--json").stdout
    assert entry.sha256 not in type_in("key", "list", "--json").stdout


def test_a_name_is_for_one_key(type_in: Typed, data_dir: Path) -> None:
    assert type_in("key", "create", "lap").exit_code == 0
    again = type_in("key", "create", "lap")
    assert again.exit_code == 1
    assert "there is a key called 'lap' already" in again.stderr
    assert len(keys_in(data_dir).keys) == 1


def test_the_file_of_keys_is_private(type_in: Typed, data_dir: Path) -> None:
    type_in("key", "create")
    assert stat.S_IMODE((data_dir / "api-keys.json").stat().st_mode) == 0o600


def test_a_key_that_was_taken_back_opens_nothing(type_in: Typed, data_dir: Path) -> None:
    key = type_in("key", "create", "laptop").stdout.strip()
    done = type_in("key", "revoke", "laptop")
    assert done.exit_code == 0
    assert "(laptop) opens nothing any more" in done.stdout
    assert keys_in(data_dir).check(key) is None
    assert type_in("key", "revoke", "laptop").exit_code == 1
    assert "There are no API keys." in type_in("key", "list").stdout
    assert json.loads(type_in("key", "list", "--json").stdout) == []


def test_a_running_daemon_is_told(daemon: FakeDaemon, type_in: Typed) -> None:
    type_in("key", "create", "laptop")
    type_in("key", "revoke", "laptop")
    assert [what for what, _ in daemon.orders] == ["POST /control/keys/reload"] * 2


def test_two_commands_at_once_do_not_lose_a_key(type_in: Typed, data_dir: Path) -> None:
    disk = FileDisk()
    assert disk.lock(data_dir / "api-keys.lock") is None
    done = type_in("key", "create")
    assert done.exit_code == 1
    assert "another command is changing the keys" in done.stderr


def test_a_file_that_is_no_list_of_keys_is_left_alone(type_in: Typed, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "api-keys.json").write_text("{broken")
    for words in (["create"], ["list"], ["revoke", "x"]):
        done = type_in("key", *words)
        assert done.exit_code == 2
        assert f"{data_dir}/api-keys.json is not a list of API keys" in done.stderr
    assert (data_dir / "api-keys.json").read_text() == "{broken"
