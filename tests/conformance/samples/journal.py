"""Samples of segments and snapshots (proto/journal.md)."""

from __future__ import annotations

from typing import Any

from meshd.consensus.entries import Append, Ballot, Entry, EntryKind
from meshd.consensus.journal.blocks import crc32c
from meshd.consensus.journal.records import encode_records
from meshd.consensus.journal.segments import Header, Owner, encode_header, encode_segment
from meshd.consensus.journal.state import Cursor
from meshd.ids import MeshId, NodeId
from tests.conformance.forms import FORMS
from tests.conformance.samples.making import BIN, MESH, NODE, OTHER, bad, good, readable

Record = dict[str, Any]

HEADER: dict[str, Any] = {
    "mesh": MESH, "node": NODE, "first": 1, "previous": 0, "salt": {"$bin": "0102030405060708"},
    "ballot": [0, None], "base": [0, 0], "last": 0,
}  # fmt: skip
LATER = HEADER | {
    "first": 3, "previous": 2**32 - 1, "ballot": [2**40, OTHER], "base": [3, 5], "last": 7,
}  # fmt: skip


def ballot(term: int, voted_for: str | None) -> Record:
    return {"record": "ballot", "term": term, "voted_for": voted_for}


def append(*entries: tuple[int, int, int, Any]) -> Record:
    names = ("index", "term", "kind", "data")
    rows = [dict(zip(names, entry, strict=True)) for entry in entries]
    return {"record": "append", "entries": rows}


def segment(*blocks: list[Record], header: dict[str, Any] = HEADER) -> dict[str, Any]:
    return {"header": header, "blocks": list(blocks)}


EVERY = segment(
    [ballot(1, None)],
    [ballot(1, NODE), append((1, 1, 1, {"$bin": ""}), (2, 1, 0, BIN))],
    [append((3, 1, 2, BIN))],
    [
        {"record": "truncate", "first_index": 2},
        append((2, 1, 0, BIN)),
        {"record": "rebase", "term": 1, "index": 2, "keep_after": True},
    ],
    [{"record": "rebase", "term": 2**63, "index": 2**53, "keep_after": False}],
)
TWO = segment([ballot(1, NODE)], [append((1, 1, 0, {"$bin": "ab" * 600}))])
SNAPSHOT = {
    "mesh": MESH, "term": 3, "index": 2**40, "voters": [NODE, OTHER], "state": {"$bin": "00ff" * 9},
}  # fmt: skip
MAKE_SEGMENT = FORMS["segment"].write
MAKE_SNAPSHOT = FORMS["snapshot"].write


def journals() -> list[dict[str, Any]]:
    two = MAKE_SEGMENT(TWO, {})
    one = MAKE_SEGMENT(segment(TWO["blocks"][0]), {})
    return [
        good("no blocks yet", "segment", segment()),
        good("every record", "segment", EVERY),
        good("a later one", "segment", segment([append((8, 2**40, 0, BIN))], header=LATER)),
        good("two blocks", "segment", TWO),
        _torn("the end of the last block is missing", two[:-1], len(one)),
        _torn("all of the last block but a byte is missing", two[: len(one) + 1], len(one)),
        _torn("a sector of it was not written", two[:512] + bytes(512) + two[1024:], len(one)),
        _torn("the file has grown and nothing was written", one + bytes(700), len(one)),
        good("a state", "snapshot", SNAPSHOT),
        good("no state and no voters", "snapshot",
             SNAPSHOT | {"voters": [], "state": {"$bin": ""}}),
    ]  # fmt: skip


def _torn(name: str, data: bytes, cut: int) -> dict[str, Any]:
    return readable(name, "segment", segment(TWO["blocks"][0]) | {"cut": cut}, data)


def bad_journals() -> list[dict[str, Any]]:
    two = MAKE_SEGMENT(TWO, {})
    one = len(MAKE_SEGMENT(segment(TWO["blocks"][0]), {}))
    none = len(MAKE_SEGMENT(segment(), {}))
    snapshot = MAKE_SNAPSHOT(SNAPSHOT, {})
    refused = "ProtocolError"
    return [
        bad("an empty file", "segment", b"", refused),
        bad("another magic", "segment", b"n" + two[1:], refused),
        bad("a header that is cut", "segment", two[: none - 1], refused),
        bad("a header with a wrong checksum", "segment", _flip(two, none - 1), refused),
        bad("a header with another version", "segment", _version(2), refused),
        bad("a header without a salt that long", "segment", _header(salt=b"1234567"), refused),
        bad("a header of a node that is none", "segment", _header(node="A" * 26), refused),
        bad("a bad block with a good one behind it", "segment", _flip(two, one - 1), refused),
        bad("a bad head with a good block behind it", "segment", _flip(two, none + 9), refused),
        bad("a torn block with a good one behind it", "segment", _torn_between(), refused),
        bad("a last block that is whole and wrong", "segment", _flip(two, len(two) - 99), refused),
        bad("something else behind the last block", "segment", two + b"\x01" * 64, refused),
        bad("a number left out", "segment", two[:none] + two[one:], refused),
        bad("a record of unknown type", "segment", _bodies(b"\x05"), refused),
        bad("an entry of unknown kind", "segment",
            _bodies(_first_entry()[:17] + b"\x09" + _first_entry()[18:]),
            refused),
        bad("a record that is cut", "segment", _bodies(_first_entry()[:-1]), refused),
        bad("an empty body", "segment", _bodies(b""), refused),
        bad("a state that is cut", "snapshot", snapshot[:-50] + snapshot[-40:], refused),
        bad("a wrong hash", "snapshot", _flip(snapshot, len(snapshot) - 1), refused),
        bad("a wrong bit in the state", "snapshot", _flip(snapshot, len(snapshot) - 45), refused),
        bad("a wrong bit in the voters", "snapshot", _flip(snapshot, snapshot.index(b"bbbb")),
            refused),
        bad("another magic", "snapshot", b"n" + snapshot[1:], refused),
        bad("another version", "snapshot", snapshot[:9] + b"\x02" + snapshot[10:], refused),
        bad("no trailer", "snapshot", snapshot[:-40], refused),
    ]  # fmt: skip


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _first_entry() -> bytes:
    (body,) = encode_records([Append((Entry(1, 1, EntryKind.COMMAND, b"x"),))])
    return body


def _header(*, salt: bytes = b"12345678", node: str = NODE) -> bytes:
    owner = Owner(MeshId(MESH), NodeId(node))
    return encode_header(Header(owner, 1, 0, salt, Cursor(Ballot())))[0]


def _version(number: int) -> bytes:
    head = _header()[:-4]
    head = head[:8] + number.to_bytes(2, "big") + head[10:]
    return head + crc32c(head).to_bytes(4, "big")


def _bodies(*bodies: bytes) -> bytes:
    owner = Owner(MeshId(MESH), NodeId(NODE))
    return encode_segment(Header(owner, 1, 0, b"12345678", Cursor()), bodies)[0]


def _torn_between() -> bytes:
    big = append((1, 1, 0, {"$bin": "ab" * 1500}))
    data = MAKE_SEGMENT(segment([big], [ballot(1, NODE)]), {})
    return data[:512] + bytes(512) + data[1024:]
