"""API keys: what is shown, what is kept, what is valid."""

from __future__ import annotations

import json
import re
from pathlib import PurePath
from typing import Any

import pytest

from meshd import limits
from meshd.api.keys import KeyStore
from meshd.errors import Refused
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy

PATH = PurePath("/data/api-keys.json")


class Clock:
    """A wall clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        raise NotImplementedError

    def suspended_s(self) -> float:
        raise NotImplementedError


def store(disk: MemoryDisk, seed: int = 1) -> KeyStore:
    return KeyStore(disk, PATH, SeededEntropy(seed), Clock())


def test_a_key_is_shown_once_and_is_valid_from_then_on() -> None:
    disk = MemoryDisk()
    keys = store(disk)
    row, shown = keys.create("laptop")
    assert re.fullmatch(r"mk-[a-z2-7]{8}-[a-z2-7]{52}", shown)
    assert keys.check(shown.encode()) == row.id
    assert store(disk, seed=2).check(shown.encode()) == row.id
    assert (row.name, row.created_unix_s) == ("laptop", 1_700_000_000.0)


def test_only_a_hash_is_kept_in_a_private_file() -> None:
    disk = MemoryDisk()
    row, shown = store(disk).create("laptop")
    secret = shown.rpartition("-")[2]
    assert secret.encode() not in disk.files[PATH]
    assert PATH in disk.private
    assert secret not in repr(row)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1],
        lambda key: key[:-1] + (b"b" if key.endswith(b"a") else b"a"),
        lambda key: key + b"a",
        lambda key: key + b"\n",
        lambda key: key.upper(),
        lambda key: b"mk-aaaaaaaa-" + key[12:],
        lambda key: b"",
        lambda key: b"\xff" * 64,
        lambda key: b"mk-" + b"a" * 100_000,
    ],
)
def test_anything_else_is_not_valid(change: Any) -> None:
    keys = store(MemoryDisk())
    _, shown = keys.create("laptop")
    assert keys.check(change(shown.encode())) is None


def test_nothing_is_valid_where_there_are_no_keys() -> None:
    assert store(MemoryDisk()).check(b"mk-aaaaaaaa-" + b"a" * 52) is None


def test_keys_are_listed_oldest_first() -> None:
    clock = Clock()
    keys = KeyStore(MemoryDisk(), PATH, SeededEntropy(1), clock)
    keys.create("b")
    clock.now += 1
    keys.create("a")
    assert [row.name for row in keys.list()] == ["b", "a"]
    assert len(keys) == 2


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_revoked_key_is_not_valid_any_more(by: str) -> None:
    disk = MemoryDisk()
    keys = store(disk)
    row, shown = keys.create("laptop")
    other, other_shown = keys.create("phone")
    assert keys.revoke(getattr(row, by)) == row
    for known in (keys, store(disk)):
        assert known.check(shown.encode()) is None
        assert known.check(other_shown.encode()) == other.id
    with pytest.raises(Refused, match="no key has the id or name"):
        keys.revoke(row.id)


@pytest.mark.parametrize("name", ["", "  ", "x" * (limits.NAME_CHARS + 1), "a\nb", "laptop"])
def test_names_are_short_printable_and_different(name: str) -> None:
    keys = store(MemoryDisk())
    keys.create("laptop")
    with pytest.raises(Refused):
        keys.create(name)
    assert len(keys) == 1


def test_there_is_an_end_to_how_many_there_are() -> None:
    keys = store(MemoryDisk())
    for number in range(limits.API_KEYS):
        keys.create(f"key {number}")
    with pytest.raises(Refused, match="already"):
        keys.create("one more")


def test_a_running_daemon_sees_what_another_process_changed() -> None:
    disk = MemoryDisk()
    daemon, tool = store(disk), store(disk, seed=2)
    row, shown = tool.create("laptop")
    assert daemon.check(shown.encode()) is None
    daemon.reload()
    assert daemon.check(shown.encode()) == row.id
    disk.delete(PATH)
    daemon.reload()
    assert daemon.check(shown.encode()) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"version":1}', b'{"version":2,"keys":[]}', b"\xff", b"[" * 10_000],
)
def test_a_file_that_cannot_be_read_is_refused_and_what_was_known_stays(content: bytes) -> None:
    disk = MemoryDisk()
    keys = store(disk)
    row, shown = keys.create("laptop")
    disk.write(PATH, content, private=True)
    with pytest.raises(Refused, match=r"api-keys\.json"):
        keys.reload()
    assert keys.check(shown.encode()) == row.id
    with pytest.raises(Refused):
        store(disk)


def test_a_key_that_could_not_be_written_is_not_valid() -> None:
    disk = MemoryDisk()
    keys = store(disk)
    disk.broken = "the disk reports an error"
    with pytest.raises(OSError, match="reports an error"):
        keys.create("laptop")
    assert len(keys) == 0


def test_the_file_is_json_that_a_person_can_read() -> None:
    disk = MemoryDisk()
    row, _ = store(disk).create("laptop")
    assert json.loads(disk.files[PATH]) == {
        "version": 1,
        "keys": [
            {
                "id": row.id,
                "name": "laptop",
                "sha256": row.sha256,
                "created_unix_s": 1_700_000_000.0,
            }
        ],
    }
