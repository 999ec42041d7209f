"""Samples of commands and states (proto/record.md), and a log with all that comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec

from meshd import limits
from meshd.record.commands import KINDS, Entry, encode
from meshd.record.commands_registry import Tick
from meshd.record.state import RecordState
from meshd.wire.codec import pack
from tests.conformance import record_forms
from tests.conformance.forms import Vector
from tests.conformance.samples.making import NODE, bad, good
from tests.property.record_world import World

SEED = 1
STEPS = 260
TICK = [1, "", 0, 0, 0, 18, {"unix_ms": 1}]


def story() -> Iterator[tuple[World, bytes, bytes]]:
    """A log with a bit of everything: after each command the world, the command, its result."""
    world = World(Random(SEED))
    first = world.begin()
    for number in range(len(first) + STEPS):
        command = first[number] if number < len(first) else world.next()
        yield world, command, world.apply(command)


def log() -> dict[str, Any]:
    """The document of vectors/transcripts/record.json."""
    steps = []
    for world, command, result in story():
        kind = KINDS[record_forms.read_command(command, {})["kind"]]
        digest = world.state.digest().hex()
        steps.append(
            {"kind": kind.__name__, "command": command.hex(), "result": result.hex(),
             "digest": digest}
        )  # fmt: skip
    return {
        "about": "A log of the record from index 1 on: each command's result, and the digest of "
        "the state after it; at the end the whole state (record.md).",
        "steps": steps,
        "state": world.state.freeze().hex(),
    }


def commands() -> list[Vector]:
    """The first of each kind in the log."""
    found: dict[int, Vector] = {}
    for _, data, _ in story():
        decoded = record_forms.read_command(data, {})
        kind = decoded["kind"]
        if kind not in found:
            found[kind] = good(KINDS[kind].__name__, "command", decoded)
    vectors = [found[kind] for kind in sorted(found)]
    tick = record_forms.read_command(encode(Entry(Tick(unix_ms=2**53 - 1))), {})
    return [*vectors, good("the last time there is", "command", tick)]


def bad_commands() -> list[Vector]:
    def refused(name: str, value: Any) -> Vector:
        return bad(name, "command", pack(value), "ProtocolError")

    def body(name: str, kind: int, fields: dict[str, Any]) -> Vector:
        return refused(name, [1, NODE, 1, 1, 0, kind, fields])

    request = {"digest": bytes(32), "size_bytes": 1}
    key = {"fingerprint": bytes(32), "key": "k", "scope": "local"}
    accept = {"key": key, "lease_ms": 15000, "request": request}
    return [
        bad("nothing", "command", b"", "ProtocolError"),
        refused("a map", {"version": 1}),
        refused("version 0", [0, *TICK[1:]]),
        refused("a later version", [2, *TICK[1:]]),
        refused("a kind that is not known", [*TICK[:5], 1023, {}]),
        refused("something after the body", [*TICK, 1]),
        refused("no body", TICK[:6]),
        refused("a client without a number", [1, NODE, 1, 0, 0, 18, {"unix_ms": 1}]),
        refused("a number without a client", [1, "", 0, 1, 0, 18, {"unix_ms": 1}]),
        refused("a client that is no node", [1, "studio", 1, 1, 0, 18, {"unix_ms": 1}]),
        body("Tick: a key that is not known", 18, {"unix_ms": 1, "zone": "utc"}),
        body("Tick: no time", 18, {}),
        body("Tick: a float", 18, {"unix_ms": 1.0}),
        body("Tick: before the epoch", 18, {"unix_ms": -1}),
        body("SetPolicy: a default that is written", 13, {"name": "x", "value": ""}),
        body("SetPolicy: a line feed", 13, {"name": "x", "value": "a\nb"}),
        body("Accept: a lease of a negative length", 32, accept | {"lease_ms": -15000}),
        body("Accept: a lease of a day", 32, accept | {"lease_ms": 86_400_000}),
        body("Accept: a key of no length", 32, accept | {"key": key | {"key": ""}}),
        body("Accept: a request that is too large for the log", 32,
             accept | {"request": request | {"inline": bytes(limits.INLINE_BYTES + 1)}}),
        body("Submit: a queue name of 10 kB", 33, {"queue": "q" * 10_000, "request": request}),
        body("Submit: a queue name with a slash", 33, {"queue": "a/b", "request": request}),
        body("Claim: no job has this id", 34, {"job": 1023, "lease_ms": 15000}),
        body("Trace: larger than a command may be", 21, {"rows": [bytes(limits.TRACE_BYTES)] * 2}),
        bad("not canonical", "command", pack(TICK).replace(b"\x12", b"\xcc\x12"),
            "ProtocolError"),
        bad("a key twice", "command",
            b"\x97\x01\xa0\x00\x00\x00\x12\x82" + b"\xa7unix_ms\x01" * 2, "ProtocolError"),
    ]  # fmt: skip


def states() -> list[Vector]:
    """Before the first command, and wherever a table of the log has its first row."""
    vectors = [good("before the first command", "state", read(RecordState().freeze()))]
    covered: set[str] = set()
    for world, _, _ in story():
        there = {name for name, table in world.state._tables.items() if len(table)}
        if there - covered and len(there) >= 6:
            covered |= there
            name = f"after {world.state.index} commands"
            vectors.append(good(name, "state", read(world.state.freeze())))
    while not (len(world.state.jobs.kept) and len(world.state.jobs.notices)):
        world.apply(world.next())
    name = f"after {world.state.index} commands, with a kept result and a notice"
    return [*vectors, good(name, "state", read(world.state.freeze()))]


def read(frozen: bytes) -> Any:
    return record_forms.read_state(frozen, {})


def bad_states() -> list[Vector]:
    world = World(Random(SEED))
    for data in world.begin():
        world.apply(data)
    frozen = world.state.freeze()
    head_size = int.from_bytes(frozen[:4], "big")
    head = msgspec.msgpack.decode(frozen[4 : 4 + head_size])
    rest = frozen[4 + head_size :]

    def with_head(name: str, **changes: Any) -> Vector:
        payload = pack(head | changes)
        return bad(name, "state", len(payload).to_bytes(4, "big") + payload + rest,
                   "ProtocolError")  # fmt: skip

    return [
        bad("nothing", "state", b"", "ProtocolError"),
        bad("cut", "state", frozen[:-1], "ProtocolError"),
        bad("without its end", "state", frozen[: len(frozen) // 2], "ProtocolError"),
        bad("a byte that was changed", "state", frozen.replace(b"mini", b"nini", 1),
            "ProtocolError"),
        with_head("another digest", digest=bytes(32)),
        with_head("another number of rows", rows=head["rows"] + 1),
        with_head("a later form", form=2),
        with_head("of a later version of commands", feature=2),
        with_head("a key that is not known", extra=1),
    ]  # fmt: skip
