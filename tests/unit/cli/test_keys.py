"""`meshd key`: made, listed and taken back, with and without a daemon."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from pathlib import Path

from msgspec.structs import replace

from meshd.apikeys import ApiKeys
from meshd.control import Done, KeyRow, Problem
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


def test_a_running_daemon_is_told_the_hash_and_not_the_key(
    daemon: FakeDaemon, type_in: Typed, data_dir: Path
) -> None:
    daemon.answers["POST /control/keys"] = Done("")
    daemon.answers["POST /control/keys/revoke"] = Done("key 0123 opens nothing any more")
    daemon.answers["GET /control/keys"] = [KeyRow("01234567", "phone", 0.0)]
    made = type_in("key", "create", "laptop")
    key = made.stdout.strip()
    assert "Every node of the mesh takes it." in made.stderr
    assert "phone" in type_in("key", "list").stdout
    assert type_in("key", "revoke", "0123").stdout == "key 0123 opens nothing any more\n"
    (create, order), (revoke, which) = daemon.orders
    assert (create, revoke) == ("POST /control/keys", "POST /control/keys/revoke")
    assert hashlib.sha256(key.encode()).hexdigest() == json.loads(order)["sha256"]
    assert key.removeprefix("sk-meshd-") not in order.decode()
    assert json.loads(which) == {"which": "0123"}
    assert not (data_dir / "api-keys.json").exists()


def test_a_key_that_the_daemon_refuses_is_not_shown(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["POST /control/keys"] = Problem("2 of its 3 voters are needed. Away: attic.")
    done = type_in("key", "create", "laptop")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "Away: attic" in done.stderr


def test_without_a_daemon_a_key_of_the_mesh_cannot_be_taken_back(
    type_in: Typed, data_dir: Path
) -> None:
    type_in("key", "create", "laptop")
    (entry,) = keys_in(data_dir).keys
    recorded = ApiKeys((replace(entry, on_record=True),))
    FileDisk().write(data_dir / "api-keys.json", recorded.dump(), private=True)
    done = type_in("key", "revoke", "laptop")
    assert done.exit_code == 1
    assert "opens every node of the mesh" in done.stderr
    assert "meshd start" in done.stderr
    assert keys_in(data_dir).keys == recorded.keys


def test_keys_are_not_changed_beside_a_daemon_that_starts(type_in: Typed, data_dir: Path) -> None:
    disk = FileDisk()
    assert disk.lock(data_dir / "lock") is None
    done = type_in("key", "create")
    assert done.exit_code == 1
    assert "another command is changing the keys" in done.stderr
    assert keys_in(data_dir).keys == ()


def test_a_file_that_is_no_list_of_keys_is_left_alone(type_in: Typed, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "api-keys.json").write_text("{broken")
    for words in (["create"], ["list"], ["revoke", "x"]):
        done = type_in("key", *words)
        assert done.exit_code == 2
        assert f"{data_dir}/api-keys.json is not a list of API keys" in done.stderr
    assert (data_dir / "api-keys.json").read_text() == "{broken"
