"""Commands: their form, and what no command may be."""

from __future__ import annotations

import msgspec
import pytest

from meshd import limits
from meshd.record.commands import Entry, Malformed, UnknownCommand, decode, encode, require_known
from meshd.record.commands_registry import ChangeNode, RaiseFeature, SetPolicy, Tick, Trace
from meshd.record.results import Code
from meshd.record.state import RecordState
from meshd.wire.codec import pack
from tests.unit.record.logs import START_MS, Log, code_of, id_of

TICK = pack([1, "", 0, 0, 0, 18, {"unix_ms": START_MS}])


def test_a_command_is_read_as_it_was_written() -> None:
    entry = Entry(Tick(unix_ms=START_MS))
    assert encode(entry) == TICK
    assert decode(TICK) == entry


def test_a_field_that_is_not_given_is_not_written() -> None:
    data = encode(Entry(ChangeNode(node=id_of("mini"), drained=False)))
    assert b"drained" in data
    assert b"labels" not in data
    read = decode(data).body
    assert isinstance(read, ChangeNode)
    assert read.drained is False
    assert read.labels is msgspec.UNSET


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "nothing"),
        (b"\x97", "a head alone"),
        (b"\xff" * 40, "no msgpack"),
        (pack({"version": 1}), "a map"),
        (pack([0, "", 0, 0, 0, 18, {"unix_ms": 1}]), "version 0"),
        (pack([200, "", 0, 0, 0, 18, {"unix_ms": 1}]), "a version of two bytes"),
        (pack([1, "", 0, 0, 0, 18]), "no body"),
        (pack([1, "", 0, 0, 0, 18, {"unix_ms": 1}, 1]), "more than a body"),
        (pack([1, "", 0, 0, 0, 18, {}]), "a field is missing"),
        (pack([1, "", 0, 0, 0, 18, {"unix_ms": 1, "zone": 1}]), "an unknown field"),
        (pack([1, "", 0, 0, 0, 18, {"unix_ms": -1}]), "a negative time"),
        (pack([1, "", 0, 0, 0, 18, {"unix_ms": 1.0}]), "a float"),
        (pack([1, "", 0, 0, 0, 18, {"unix_ms": 2**53}]), "a number too large for some languages"),
        (pack([1, "attic", 1, 1, 0, 18, {"unix_ms": 1}]), "a client that is no node"),
        (pack([1, "a" * 26, 1, 0, 0, 18, {"unix_ms": 1}]), "a session without a number"),
        (pack([1, "", 0, 1, 0, 18, {"unix_ms": 1}]), "a number without a session"),
        (pack([1, "", 0, 0, 0, 13, {"name": "x", "value": ""}]), "a default that is written"),
        (TICK + b"\0", "bytes after the end"),
        (TICK[:-8] + TICK[-1:], "cut in the middle"),
        (TICK.replace(b"\x12", b"\xcc\x12"), "a kind in a longer form than needed"),
        (b"\x97\x01\xa0\x00\x00\x00\x12\x82" + b"\xa7unix_ms\x01" * 2, "a key twice"),
        (b"\x97\x01\xa0\x00\x00\x00\x0d\x81\xa4name\xa1\xff", "text that is no UTF-8"),
        (b"\x97\x01\xa0\x00\x00\x00\x12" + b"\x91" * 5000, "nested without end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_command_is_refused_and_changes_nothing(data: bytes, why: str) -> None:
    with pytest.raises(Malformed):
        decode(data)
    log = Log()
    before = log.state.digest()
    assert code_of(log.apply(data)) is Code.MALFORMED
    assert log.state.digest() == before
    assert not log.events


def test_a_command_of_a_later_version_stops_the_applier_and_is_not_skipped() -> None:
    log = Log()
    before, index = log.state.freeze(), log.index
    for data in (
        pack([2, "what", "comes", {"then": 1}]),
        pack([1, "", 0, 0, 0, 1023, {}]),
        encode(Entry(RaiseFeature(version=2))),
    ):
        with pytest.raises(UnknownCommand, match="update"):
            log.state.apply(index + 1, data)
        assert log.state.freeze() == before


def test_what_would_stop_the_applier_is_known_before_it_is_let_in() -> None:
    for data in (
        pack([2, "what", "comes", {"then": 1}]),
        pack([1, "", 0, 0, 0, 1023, {}]),
        encode(Entry(RaiseFeature(version=2))),
    ):
        with pytest.raises(UnknownCommand, match="update"):
            require_known(data)
    for data in (b"", b"no command", TICK, pack([1, "", 0, 0, 0, 20, {"version": "two"}])):
        require_known(data)


def test_an_oversized_command_is_refused_before_it_is_looked_at() -> None:
    rows = tuple(bytes(limits.TRACE_BYTES) for _ in range(3))
    with pytest.raises(Malformed, match="over the limit"):
        encode(Entry(Trace(rows=rows)))
    log = Log()
    before = log.state.digest()
    oversized = pack([1, "", 0, 0, 0, 21, {"rows": list(rows)}])
    assert code_of(log.apply(oversized)) is Code.TOO_LARGE
    assert log.state.digest() == before


def test_nothing_but_the_founding_is_done_before_it() -> None:
    state = RecordState()
    assert code_of(state.apply(1, TICK)) is Code.NOT_FOUNDED
    setting = encode(Entry(SetPolicy(name="x", value="y")))
    assert code_of(state.apply(2, setting)) is Code.NO_SESSION


def test_commands_are_applied_in_order() -> None:
    log = Log()
    with pytest.raises(ValueError, match="in order"):
        log.state.apply(log.index, TICK)
