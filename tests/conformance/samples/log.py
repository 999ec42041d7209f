"""Samples of messages about the replicated log (proto/log.md)."""

from __future__ import annotations

import zlib
from typing import Any

from meshd import limits
from meshd.wire.codec import pack
from tests.conformance.forms import Vector
from tests.conformance.jsonform import from_json
from tests.conformance.samples.making import BIN, NODE, OTHER, bad, good

MOST = 2**53 - 1
EMPTY = {"$bin": ""}
COMMAND = {"$bin": "00" + "c0ffee"}
NOOP = {"$bin": "01"}
VOTERS = {"$bin": "02" + pack([NODE, OTHER]).hex()}
MANY = [letter * 26 for letter in "abcdefgh"]

APPEND = {
    "term": 7, "round": 12, "prev_index": 41, "prev_term": 6, "commit": 40,
    "entries": [[6, COMMAND], [7, NOOP], [7, VOTERS]],
}  # fmt: skip
PART: dict[str, Any] = {
    "term": 7, "round": 12, "index": 40, "snapshot_term": 6, "voters": [NODE, OTHER],
    "size": 10, "offset": 0, "data": BIN, "crc32": zlib.crc32(bytes.fromhex("00ff")), "stream": 0,
}  # fmt: skip
FEED: dict[str, Any] = {
    "stream": 5, "term": 7, "leader": OTHER, "prev_index": 41, "prev_term": 6,
    "entries": [[6, COMMAND], [7, NOOP], [7, VOTERS]],
}  # fmt: skip
RECALLED: dict[str, Any] = {
    "asked": 2**31, "generation": 1_790_000_000, "term": 7, "voted_term": 6, "match_term": 7,
    "index": 44, "list_term": 6, "list_index": 40, "voters": [NODE, OTHER],
}  # fmt: skip
ASK = {"term": 8, "last_index": 43, "last_term": 7}


def log_messages() -> list[Vector]:
    def message(name: str, number: int, body: dict[str, Any]) -> Vector:
        return good(name, "log", {"type": number, "body": body})

    return [
        message("PreVote", 1, ASK),
        message("PreVote with an empty log", 1, {"term": 1, "last_index": 0, "last_term": 0}),
        message("PreVoteAnswer, granted", 2, {"asked": 8, "granted": True, "term": 7}),
        message("PreVoteAnswer with a later term", 2, {"asked": 8, "granted": False, "term": 9}),
        message("AskVote", 3, ASK | {"transfer": False}),
        message("AskVote that the leader wants", 3, ASK | {"transfer": True}),
        message("AskVote with the largest integers", 3,
                {"term": MOST, "last_index": MOST, "last_term": MOST - 1, "transfer": False}),
        message("VoteAnswer", 4, {"term": 8, "granted": True}),
        message("AppendEntries: a heartbeat", 5, APPEND | {"entries": []}),
        message("AppendEntries: one of each kind", 5, APPEND),
        message("AppendEntries: the beginning of a log", 5, {
            "term": 1, "round": 1, "prev_index": 0, "prev_term": 0, "commit": 0,
            "entries": [[1, {"$bin": "02" + pack([NODE]).hex()}], [1, NOOP]]}),
        message("AppendEntries: commit beyond what is in it", 5, APPEND | {"commit": 2**40}),
        message("AppendEntries: as many voters as there may be", 5, APPEND | {
            "entries": [[7, {"$bin": "02" + pack(MANY[: limits.RAFT_VOTERS]).hex()}]]}),
        message("AppendEntries: an empty command", 5, APPEND | {"entries": [[7, {"$bin": "00"}]]}),
        message("AppendAnswer, equal", 6,
                {"term": 7, "round": 12, "ok": True, "index": 44, "rejected": 0}),
        message("AppendAnswer, it does not fit", 6,
                {"term": 7, "round": 12, "ok": False, "index": 38, "rejected": 41}),
        message("AppendAnswer to a leader of before", 6,
                {"term": 9, "round": 0, "ok": False, "index": 0, "rejected": 0}),
        message("SnapshotPart, the first", 7, PART),
        message("SnapshotPart, the last", 7, PART | {"offset": 8}),
        message("SnapshotPart of an empty state", 7, PART | {"size": 0, "data": EMPTY, "crc32": 0}),
        message("SnapshotPart that asks how much is there", 7,
                PART | {"offset": 4, "data": EMPTY, "crc32": 0}),
        message("SnapshotPart of a subscription", 7, PART | {"round": 0, "stream": 5}),
        message("SnapshotAnswer", 8,
                {"term": 7, "round": 12, "index": 40, "held": 2, "stream": 0}),
        message("SnapshotAnswer of a subscription", 8,
                {"term": 7, "round": 0, "index": 40, "held": 2, "stream": 5}),
        message("Recall", 18, {"asked": 2**31}),
        message("RecallAnswer", 19, RECALLED),
        message("RecallAnswer: never heard of", 19, {
            "asked": 1, "generation": 0, "term": 0, "voted_term": 0, "match_term": 0, "index": 0,
            "list_term": 0, "list_index": 0, "voters": []}),
        message("TimeoutNow", 9, {"term": 7}),
        message("Forward", 10, {"id": 2**52, "commands": [BIN]}),
        message("Forward of three, one of them empty", 10,
                {"id": 7, "commands": [BIN, EMPTY, BIN]}),
        message("ForwardAnswer, three in the log", 11,
                {"id": 2**52, "index": 45, "term": 7, "error": 0, "count": 3}),
        message("ForwardAnswer, refused", 11,
                {"id": 2**52, "index": 0, "term": 0, "error": 4, "count": 1}),
        message("ReadAsk", 12, {"id": 3}),
        message("ReadAnswer", 13, {"id": 3, "index": 45}),
        message("ReadAnswer: ask another", 13, {"id": 3, "index": None}),
        message("Follow", 14, {"stream": 5, "last_index": 43, "last_term": 7, "commit": 40}),
        message("Follow with an empty log", 14,
                {"stream": 5, "last_index": 0, "last_term": 0, "commit": 0}),
        message("Feed", 15, FEED),
        message("Feed: a sign of life of a voter without a leader", 15,
                FEED | {"leader": None, "entries": []}),
        message("Feed: the beginning of a log", 15, FEED | {
            "prev_index": 0, "prev_term": 0,
            "entries": [[1, {"$bin": "02" + pack([NODE]).hex()}], [1, NOOP]]}),
        message("FeedAnswer", 16, {"stream": 5, "index": 44}),
        message("FeedEnd: ask one of these", 17, {"stream": 5, "voters": [NODE, OTHER]}),
        message("FeedEnd: it is not wanted any more", 17, {"stream": 5, "voters": []}),
    ]  # fmt: skip


def bad_log_messages() -> list[Vector]:
    def raw(name: str, value: object) -> Vector:
        return bad(name, "log", pack(value), "ProtocolError")

    def append(name: str, **changes: Any) -> Vector:
        fields = from_json(APPEND | changes)
        return raw(f"AppendEntries: {name}", [5, *fields.values()])

    def feed(name: str, **changes: Any) -> Vector:
        return raw(f"Feed: {name}", [15, *from_json(FEED | changes).values()])

    def part(name: str, **changes: Any) -> Vector:
        return raw(f"SnapshotPart: {name}", [7, *from_json(PART | changes).values()])

    def entry(payload: bytes, term: int = 7) -> list[Any]:
        return [[term, {"$bin": payload.hex()}]]

    def voters(value: object) -> list[Any]:
        return entry(b"\x02" + pack(value))

    return [
        bad("no bytes", "log", b"", "ProtocolError"),
        bad("something behind it", "log", pack([9, 1]) + b"\x00", "ProtocolError"),
        bad("cut", "log", pack([10, 1, bytes(9)])[:-1], "ProtocolError"),
        raw("an empty array", []),
        raw("a map", {"term": 1}),
        raw("type 0", [0, 1]),
        raw("an unknown type", [255, 1]),
        raw("a type that is text", ["TimeoutNow", 1]),
        raw("TimeoutNow: a field too few", [9]),
        raw("TimeoutNow: a field too many", [9, 1, 1]),
        raw("TimeoutNow: a term below 0", [9, -1]),
        raw("TimeoutNow: a term of 2^53", [9, 2**53]),
        raw("TimeoutNow: a term as a float", [9, 1.0]),
        raw("TimeoutNow: nil", [9, None]),
        raw("VoteAnswer: 1 for true", [4, 8, 1]),
        raw("Forward: text for bytes", [10, 1, ["command"]]),
        raw("Forward: too large", [10, 1, [bytes(limits.RAFT_COMMAND_BYTES + 1)]]),
        raw("Forward: none", [10, 1, []]),
        raw("Forward: too many", [10, 1, [b""] * (limits.RAFT_FORWARDS + 1)]),
        raw("ForwardAnswer: to none", [11, 1, 0, 0, 0, 0]),
        raw("ForwardAnswer: an error of 256", [11, 1, 0, 0, 256, 1]),
        raw("ReadAsk: nil", [12, None]),
        raw("PreVote: entries of the term that it asks for", [1, 8, 43, 8]),
        raw("AskVote: entries of a later term", [3, 8, 43, 9, False]),
        append("terms that fall", entries=[[7, COMMAND], [6, COMMAND]]),
        append("a term before that of the entry before", entries=[[5, COMMAND]]),
        append("an entry of a later term than the leader's", entries=[[8, COMMAND]]),
        append("the entry before is of a later term", prev_term=8, entries=[]),
        append("a term before the first entry", prev_index=0),
        append("an empty payload", entries=[[7, EMPTY]]),
        append("a payload that is text", entries=[[7, "command"]]),
        append("an entry without a term", entries=[[COMMAND]]),
        append("an unknown kind", entries=entry(b"\x03")),
        append("an entry without meaning with data", entries=entry(b"\x01x")),
        append("voters that are no list", entries=voters({"a": NODE})),
        append("no voters", entries=voters([])),
        append("voters out of order", entries=voters([OTHER, NODE])),
        append("a voter twice", entries=voters([NODE, NODE])),
        append("a voter that is no node id", entries=voters(["A" * 26])),
        append("too many voters", entries=voters(MANY)),
        append("voters and something behind them",
               entries=entry(b"\x02" + pack([NODE]) + b"\x00")),
        part("no voters", voters=[]),
        part("voters out of order", voters=[OTHER, NODE]),
        part("too many voters", voters=MANY),
        part("a voter that is no node id", voters=["short"]),
        part("data past the end", offset=9),
        part("of no entry", index=0),
        part("of a later term than the leader's", snapshot_term=8),
        part("larger than a state may be", size=limits.RAFT_SNAPSHOT_BYTES + 1),
        part("a checksum of 33 bits", crc32=2**32),
        feed("terms that fall", entries=[[7, COMMAND], [6, COMMAND]]),
        feed("an entry of a later term than the sender's", entries=[[8, COMMAND]]),
        feed("a term before the first entry", prev_index=0),
        feed("a leader that is no node id", leader="short"),
        feed("no voters", entries=voters([])),
        raw("Follow: more committed than there is", [14, 5, 43, 7, 44]),
        raw("FeedAnswer: an index below 0", [16, 5, -1]),
        raw("FeedEnd: voters out of order", [17, 5, [OTHER, NODE]]),
        raw("FeedEnd: too many voters", [17, 5, MANY]),
    ]  # fmt: skip
