"""The journal on a real disk: modes of files, a full disk, and processes that are killed."""

from __future__ import annotations

import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from meshd.consensus.entries import Ballot, Stored
from meshd.consensus.journal import Journal, JournalFailed, Opened, open_journal, set_aside
from meshd.machine.disk import FileDisk
from meshd.testing.entropy import SeededEntropy
from tests.unit.consensus.journal_child import OWNER, SEGMENT_BYTES
from tests.unit.consensus.journal_rig import NODE, append, rebase, save, snapshot_of

ROOT = Path(__file__).parents[3]


def opened(folder: Path) -> Opened:
    return open_journal(FileDisk(), folder, OWNER, SeededEntropy(0), segment_bytes=SEGMENT_BYTES)


def test_a_journal_is_there_again_and_nobody_elses_business(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "journal"
    journal = opened(folder).journal
    journal.write([Ballot(1, NODE)])
    for n in range(1, 100):
        journal.write([append(n, n, data=bytes(200))])
    save(journal.snapshots, snapshot_of(50))
    journal.write([rebase(snapshot_of(50))])
    assert journal.compact()
    journal.close()
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    found = opened(folder)
    found.journal.close()
    assert found.stored == Stored(
        Ballot(1, NODE), snapshot_of(50), append(51, 99, data=bytes(200)).entries
    )
    assert set_aside(FileDisk(), folder) == tmp_path / "data" / "journal.aside-1"
    assert opened(folder).is_new


def fill(journal: Journal) -> None:
    for n in range(1, 1001):
        journal.write([append(n, n, data=bytes(1000))])


def test_a_full_disk_fails_the_write_and_loses_nothing_before_it(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "meshd-test", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small disk may be mounted here: {error}")
    try:
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(40_000))
        journal = opened(tmp_path / "journal").journal
        with pytest.raises(JournalFailed, match="the disk is full; free some space"):
            fill(journal)
        written = journal.cursor.last_index
        assert 10 < written < 1000
        with pytest.raises(JournalFailed, match="the disk is full"):
            journal.write([Ballot(1, NODE)])
        journal.close()
        ballast.unlink()
        again = opened(tmp_path / "journal")
        assert len(again.stored.entries) in (written, written + 1)
        again.journal.write([Ballot(1, NODE)])
        again.journal.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_what_a_killed_process_has_spoken_of_is_there(tmp_path: Path) -> None:
    chance = random.Random(5)
    spoken = 0
    for life in range(8):
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.consensus.journal_child", tmp_path / "j", str(life)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        for _ in range(chance.randint(1, 80)):
            spoken = int(child.stdout.readline())
        child.kill()
        rest = child.stdout.read().splitlines(keepends=True)
        spoken = max([spoken, *(int(line) for line in rest if line.endswith(b"\n"))])
        child.stdout.close()
        child.wait()
        found = opened(tmp_path / "j")
        snapshot, entries = found.stored.snapshot, found.stored.entries
        base = snapshot.point.index if snapshot else 0
        if snapshot:
            state = found.journal.snapshots.state(snapshot.point)
            assert b"".join(state) == b"state after %d" % base
        last = base + len(entries)
        assert spoken <= last <= spoken + 10
        assert entries == append(base + 1, last).entries
        found.journal.close()
