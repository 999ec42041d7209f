"""Backups: read back whole or refused with the reason."""

from __future__ import annotations

import hashlib

import pytest

from meshd.consensus.entries import Point
from meshd.consensus.journal.snapshot_file import SnapshotHead, encode_head
from meshd.ids import MeshId, NodeId
from meshd.ledger.backup import BackupUnusable, pieces, read_backup
from meshd.record.state import RecordState
from tests.joins import make_key
from tests.unit.ledger.journals import CA, HISTORY, ME, OTHERS, Kept, alias

MESH = MeshId(CA.mesh)
LAST = Point(1, 6)


@pytest.fixture
def data() -> bytes:
    return Kept().write(*HISTORY).backup_bytes()


def resealed(data: bytes) -> bytes:
    """With a checksum that is right, whatever else is not."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def made(state: RecordState, *, mesh: MeshId = MESH, point: Point = LAST) -> bytes:
    return b"".join(pieces(mesh, point, (NodeId(ME.node),), state.capture()))


def test_a_backup_is_read_as_it_was_made() -> None:
    kept = Kept().write(*HISTORY, voters=(ME, *OTHERS))
    backup = kept.backup((ME, *OTHERS))
    assert (backup.mesh, backup.point) == (MESH, Point(1, 6))
    assert backup.voters == tuple(sorted(key.node for key in (ME, *OTHERS)))
    assert backup.state.digest() == kept.state().digest()
    assert backup.frozen == kept.state().freeze()


def test_a_large_one_comes_in_pieces() -> None:
    kept = Kept().write(*HISTORY, *(alias(f"{n:0500}", n) for n in range(3, 1003)))
    state = kept.state()
    parts = list(pieces(MESH, Point(1, 9999), (NodeId(ME.node),), state.capture()))
    assert len(parts) > 3
    assert read_backup(b"".join(parts), MESH).state.digest() == state.digest()


def test_a_snapshot_of_a_journal_is_a_backup() -> None:
    kept = Kept().write(*HISTORY).snapshot()
    name = next(n for n in kept.disk.names(kept.place.folder) if n.endswith(".snapshot"))
    data = kept.disk.read(kept.place.folder / name) or b""
    assert read_backup(data, MESH).state.digest() == kept.state().digest()


def test_what_is_captured_is_of_its_moment() -> None:
    state = Kept().write(*HISTORY).state()
    digest, captured = state.digest(), state.capture()
    coming = pieces(MESH, Point(1, 6), (NodeId(ME.node),), captured)
    state.apply(7, b"nothing")
    assert read_backup(b"".join(coming)).state.digest() == digest


def test_one_of_another_mesh_is_refused(data: bytes) -> None:
    with pytest.raises(BackupUnusable, match="of the mesh"):
        read_backup(data, MeshId(make_key("other").public.mesh))


@pytest.mark.parametrize("at", [0, 5, 9, 12, 40, 100, 300, -60, -41, -33, -1])
def test_a_wrong_bit_anywhere_is_found(at: int, data: bytes) -> None:
    damaged = bytearray(data)
    damaged[at] ^= 1
    with pytest.raises(BackupUnusable):
        read_backup(bytes(damaged), MESH)


@pytest.mark.parametrize("size", [0, 1, 11, 12, 100, -1, -32, -40])
def test_one_that_is_cut_is_found(size: int, data: bytes) -> None:
    with pytest.raises(BackupUnusable):
        read_backup(data[:size], MESH)


def test_something_behind_its_end_is_found(data: bytes) -> None:
    with pytest.raises(BackupUnusable, match="not whole"):
        read_backup(data + b"\0", MESH)


def test_one_of_a_later_version_says_to_update(data: bytes) -> None:
    with pytest.raises(BackupUnusable, match="update this meshd"):
        read_backup(data[:9] + b"\x02" + data[10:], MESH)


def test_a_state_of_a_later_version_says_so(data: bytes) -> None:
    at = data.index(b"\xa4form\x01")
    later = data[: at + 5] + b"\x02" + data[at + 6 :]
    with pytest.raises(BackupUnusable, match="later version"):
        read_backup(resealed(later), MESH)


def test_a_state_that_is_not_the_one_that_was_frozen_is_found(data: bytes) -> None:
    at = data.index(b"\xa5alias\xa1x")
    other = data[: at + 7] + b"z" + data[at + 8 :]
    with pytest.raises(BackupUnusable, match="hash differs"):
        read_backup(resealed(other), MESH)


def test_an_empty_record_is_no_backup() -> None:
    with pytest.raises(BackupUnusable, match="not founded"):
        read_backup(made(RecordState()), MESH)


def test_a_head_that_does_not_fit_its_state_is_refused() -> None:
    state = Kept().write(*HISTORY).state()
    other = MeshId(make_key("other").public.mesh)
    for wrong, why in (
        (made(state, mesh=other), "another mesh than its head says"),
        (made(state, point=Point(1, 5)), "later place"),
        (made(state, point=Point(0, 6)), "no place"),
        (made(state, point=Point(2**60, 6)), "no place"),
    ):
        with pytest.raises(BackupUnusable, match=why):
            read_backup(wrong)


def test_a_head_that_fills_the_whole_beginning_is_none() -> None:
    head = encode_head(SnapshotHead(MESH, Point(1, 6), ()))
    with pytest.raises(BackupUnusable, match="not whole"):
        read_backup(head)
