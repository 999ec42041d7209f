"""How segments and snapshots are decoded and encoded (proto/journal.md)."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from meshd.consensus.entries import (
    Append,
    Ballot,
    Entry,
    EntryKind,
    Point,
    Rebase,
    Record,
    Truncate,
)
from meshd.consensus.journal import JournalUnusable, Owner, Snapshots
from meshd.consensus.journal.records import decode_records, encode_records
from meshd.consensus.journal.segments import Header, encode_segment, scan_segment
from meshd.consensus.journal.snapshot_file import read_head
from meshd.consensus.journal.state import Cursor
from meshd.errors import ProtocolError
from meshd.ids import MeshId, NodeId
from meshd.testing.disk import MemoryDisk
from tests.conformance.jsonform import from_json, to_json

FOLDER = PurePosixPath("/journal")


def read_segment(data: bytes, vector: dict[str, Any]) -> Any:
    try:
        scan = scan_segment(data)
    except ProtocolError as error:
        raise ProtocolError(f"A segment cannot be read: {error}.") from error
    if scan.flaw is not None and not scan.flaw.is_torn:
        raise ProtocolError(f"A segment is damaged: {scan.flaw.reason}.")
    header, cursor = scan.header, scan.header.cursor
    decoded: dict[str, Any] = {
        "header": {
            "mesh": header.owner.mesh,
            "node": header.owner.node,
            "first": header.first,
            "previous": header.previous,
            "salt": header.salt,
            "ballot": [cursor.ballot.term, cursor.ballot.voted_for],
            "base": [cursor.base.term, cursor.base.index],
            "last": cursor.last_index,
        },
        "blocks": [[_from_record(r) for r in decode_records(b.body)] for b in scan.blocks],
    }
    if scan.flaw is not None:
        decoded["cut"] = scan.end
    return to_json(decoded)


def write_segment(decoded: Any, vector: dict[str, Any]) -> bytes:
    given = from_json(decoded)
    head = given["header"]
    header = Header(
        owner=Owner(MeshId(head["mesh"]), NodeId(head["node"])),
        first=head["first"],
        previous=head["previous"],
        salt=head["salt"],
        cursor=Cursor(Ballot(*head["ballot"]), Point(*head["base"]), head["last"]),
    )
    bodies = [encode_records([_to_record(record) for record in block]) for block in given["blocks"]]
    return encode_segment(header, [body for (body,) in bodies])[0]


def _from_record(record: Record) -> dict[str, Any]:
    match record:
        case Append(entries):
            names = ("index", "term", "kind", "data")
            rows = [{name: getattr(entry, name) for name in names} for entry in entries]
            return {
                "record": "append",
                "entries": [row | {"kind": int(row["kind"])} for row in rows],
            }
        case Ballot(term, voted_for):
            return {"record": "ballot", "term": term, "voted_for": voted_for}
        case Truncate(first_index):
            return {"record": "truncate", "first_index": first_index}
        case Rebase(point, keep_after):
            return {
                "record": "rebase", "term": point.term, "index": point.index,
                "keep_after": keep_after,
            }  # fmt: skip


def _to_record(form: dict[str, Any]) -> Record:
    match form["record"]:
        case "append":
            rows = form["entries"]
            return Append(tuple(Entry(**row | {"kind": EntryKind(row["kind"])}) for row in rows))
        case "ballot":
            return Ballot(form["term"], form["voted_for"])
        case "truncate":
            return Truncate(form["first_index"])
        case _:
            return Rebase(Point(form["term"], form["index"]), form["keep_after"])


def read_snapshot(data: bytes, vector: dict[str, Any]) -> Any:
    head, _ = _head(data)
    disk = MemoryDisk()
    snapshots = Snapshots(disk, FOLDER, head.mesh)
    disk.write(snapshots.path(head.point.index), data, private=True)
    try:
        snapshot = snapshots.load(head.point)
    except JournalUnusable as error:
        raise ProtocolError(f"A snapshot cannot be read: {error.what}.") from error
    return to_json(
        {
            "mesh": head.mesh,
            "term": snapshot.point.term,
            "index": snapshot.point.index,
            "voters": snapshot.voters,
            "state": b"".join(snapshots.state(head.point)),
        }
    )


def _head(data: bytes) -> Any:
    try:
        return read_head(data)
    except ProtocolError as error:
        raise ProtocolError(f"A snapshot cannot be read: {error}.") from error


def write_snapshot(decoded: Any, vector: dict[str, Any]) -> bytes:
    given = from_json(decoded)
    disk = MemoryDisk()
    snapshots = Snapshots(disk, FOLDER, given["mesh"])
    point = Point(given["term"], given["index"])
    snapshots.save(point, given["voters"], [given["state"]])
    return bytes(disk.files[snapshots.path(point.index)])
