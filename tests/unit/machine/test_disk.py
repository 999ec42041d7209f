"""Both disks keep the port's promises; the real one also against other processes and full disks."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from meshd.errors import DiskFailed, MeshdError
from meshd.machine.disk import FileDisk
from meshd.ports import Disk
from meshd.testing.disk import MemoryDisk


@pytest.fixture(params=[FileDisk, MemoryDisk])
def disk(request: pytest.FixtureRequest) -> Disk:
    made: Disk = request.param()
    return made


def test_what_was_written_is_read(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "list"
    assert disk.read(path) is None
    disk.write(path, b"one", private=True)
    disk.write(path, b"two", private=True)
    assert disk.read(path) == b"two"


def test_what_was_added_is_at_the_end(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "new" / "log"
    disk.append(path, b"one\n")
    disk.append(path, b"two\n")
    assert disk.read(path) == b"one\ntwo\n"


def test_what_was_deleted_is_gone_and_may_be_deleted_again(disk: Disk, tmp_path: Path) -> None:
    disk.write(tmp_path / "x", b"", private=False)
    disk.delete(tmp_path / "x")
    disk.delete(tmp_path / "x")
    assert disk.read(tmp_path / "x") is None


def test_a_lock_is_held_until_it_is_given_up(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "data" / "lock"
    assert disk.lock(path) is None
    assert disk.lock(path) is not None
    assert disk.lock(tmp_path / "other") is None
    disk.unlock(path)
    disk.unlock(path)
    assert disk.lock(path) is None


def test_private_files_are_private_and_leave_nothing_beside_them(tmp_path: Path) -> None:
    disk = FileDisk()
    path = tmp_path / "keys" / "node.key"
    disk.write(path, b"x", private=True)
    disk.write(path.with_name("list"), b"x", private=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["list", "node.key"]


def test_a_private_file_is_never_open_to_others_even_if_it_was_before(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    FileDisk().write(path, b"new", private=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_on_the_medium_before_the_name_points_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object) -> object:
            if name == "fsync" and isinstance(args[0], int):
                is_folder = stat.S_ISDIR(os.fstat(args[0]).st_mode)
                calls.append("fsync folder" if is_folder else "fsync file")
            else:
                calls.append(name)
            return call(*args)

        return wrapper

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "fsync", noted("fsync", os.fsync))
    monkeypatch.setattr(os, "rename", noted("rename", os.rename))
    FileDisk().write(tmp_path / "x", b"x", private=True)
    assert calls == ["fsync file", "rename", "fsync folder"]


def run_apart(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: limits and locks belong to processes."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_holder_of_a_lock_is_named_to_another_process(tmp_path: Path) -> None:
    disk = FileDisk()
    assert disk.lock(tmp_path / "lock") is None
    code = """
        import sys
        from pathlib import Path
        from meshd.machine.disk import FileDisk
        print(FileDisk().lock(Path(sys.argv[1])))
    """
    assert run_apart(code, str(tmp_path / "lock")).stdout.strip() == str(os.getpid())
    disk.unlock(tmp_path / "lock")
    assert run_apart(code, str(tmp_path / "lock")).stdout.strip() == "None"
    assert disk.lock(tmp_path / "lock") is None, "a process that ended still holds its lock"


def test_the_file_of_a_lock_that_nobody_holds_can_be_taken_away(tmp_path: Path) -> None:
    one, two, path = FileDisk(), FileDisk(), tmp_path / "8080.claim"
    assert one.lock(path) is None
    for disk in (one, two):
        assert not disk.remove_unlocked(path)
    assert two.lock(path) == os.getpid()
    one.unlock(path)
    assert path.exists()
    assert two.remove_unlocked(path)
    assert not path.exists()
    assert two.remove_unlocked(path), "it is gone already"
    assert two.lock(path) is None
    assert one.lock(path) == os.getpid()


def test_who_waits_with_an_open_file_for_a_lock_does_not_get_one_that_was_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its opening and its locking, somebody takes the file away; and a third comes."""
    late, sweeper, third, path = FileDisk(), FileDisk(), FileDisk(), tmp_path / "8080.claim"
    late.lock(path)
    late.unlock(path)
    real_open, interfere = os.open, [True]

    def opened(*args: object, **named: object) -> int:
        descriptor = real_open(*args, **named)  # type: ignore[arg-type]
        if args[0] == path and interfere:
            interfere.clear()
            assert sweeper.remove_unlocked(path)
            assert third.lock(path) is None
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    assert late.lock(path) == os.getpid(), "the third has it"
    third.unlock(path)
    assert late.lock(path) is None
    assert third.lock(path) == os.getpid()


def test_a_lock_does_not_pass_to_child_processes(tmp_path: Path) -> None:
    disk = FileDisk()
    disk.lock(tmp_path / "lock")
    code = "print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        disk.unlock(tmp_path / "lock")
        assert FileDisk().lock(tmp_path / "lock") is None
        child.communicate(b"\n")


def test_a_file_over_the_size_limit_says_so_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"old")
    done = run_apart(
        """
        import resource, sys
        from pathlib import Path
        from meshd.errors import DiskFailed
        from meshd.machine.disk import FileDisk
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
        try:
            FileDisk().write(Path(sys.argv[1]), b"x" * 4096, private=True)
        except DiskFailed as error:
            print(error)
        """,
        str(path),
    )
    assert done.stdout.strip() == (
        f"cannot write {path}: the system limits the size of files (ulimit -f) "
        "(what was in it is unchanged)"
    ), done.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_says_so_and_leaves_the_old_file(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "meshd-test", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small disk may be mounted here: {error}")
    try:
        path = tmp_path / "list"
        path.write_bytes(b"old")
        with pytest.raises(DiskFailed, match="the disk is full; free some space") as caught:
            FileDisk().write(path, b"x" * 256 * 1024, private=True)
        assert caught.value.errno == errno.ENOSPC
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_errors_are_sentences_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MeshdError, match=r"/file/x: something on the way to it is not a folder"):
        FileDisk().read(tmp_path / "file" / "x")
    with pytest.raises(OSError, match=r"cannot write .*: it is a folder"):
        FileDisk().write(tmp_path, b"", private=True)


def test_a_folder_that_others_may_write_into_is_refused(tmp_path: Path) -> None:
    FileDisk().folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "a").chmod(0o777)
    with pytest.raises(DiskFailed, match=r"others may write into .*: type chmod go-w"):
        FileDisk().folder(tmp_path / "a")


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    if tmp_path.stat().st_uid == 0:
        os.chown(tmp_path, 12345, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(DiskFailed, match="belongs to another user"):
        FileDisk().folder(tmp_path)


def test_memory_that_is_full_keeps_the_old_file() -> None:
    disk = MemoryDisk(capacity_bytes=10)
    disk.write(Path("/a"), b"12345678", private=True)
    with pytest.raises(DiskFailed, match="the disk is full"):
        disk.write(Path("/b"), b"123", private=True)
    disk.write(Path("/a"), b"1234567890", private=True)
    assert disk.files == {Path("/a"): b"1234567890"}


def test_a_power_loss_takes_what_was_only_appended() -> None:
    disk = MemoryDisk()
    disk.write(Path("/list"), b"safe", private=True)
    disk.append(Path("/list"), b"12345678")
    disk.append(Path("/log"), b"12345678")
    disk.lock(Path("/lock"))
    disk.lose_power(kept_of_appends=0.5)
    assert disk.files == {Path("/list"): b"safe1234", Path("/log"): b"1234"}
    assert disk.lock(Path("/lock")) is None
    disk.append(Path("/log"), b"5")
    disk.lose_power()
    assert disk.files == {Path("/list"): b"safe1234", Path("/log"): b"1234"}


def test_a_broken_disk_fails_every_call() -> None:
    disk = MemoryDisk()
    disk.broken = "the disk reports an error"
    with pytest.raises(DiskFailed, match="cannot read /a: the disk reports an error"):
        disk.read(Path("/a"))
