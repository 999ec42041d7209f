"""The frozen state: what was frozen comes back, and nothing else is taken for it."""

from __future__ import annotations

import pytest

from meshd.record.commands_registry import CreateToken, Remove, SetAlias
from meshd.record.frozen import Head, StateDamaged, StateUnknown, read_head
from meshd.record.state import RecordState
from meshd.record.table import PART_ROWS, Row, Table, encode_row
from tests.unit.record.logs import HOUR_MS, Log, id_of


def busy() -> Log:
    log = Log("mini", "studio")
    for number in range(20):
        log.by("mini", SetAlias(alias=f"alias {number}", model="m"), ack_below=0)
    log.by("attic", CreateToken(id="abcdefgh", key=bytes(32), ttl_ms=HOUR_MS, uses=2))
    log.by("attic", Remove(node=id_of("studio"), gossip_key=2))
    log.tick(5 * HOUR_MS)
    return log


def thawed(data: bytes) -> RecordState:
    state = RecordState()
    state.restore(data)
    return state


def test_a_state_that_was_frozen_and_restored_is_the_same() -> None:
    log = busy()
    data = log.state.freeze()
    again = thawed(data)
    again.check()
    assert again.freeze() == data
    assert again.digest() == log.state.digest()
    assert again.index == log.index
    command = log.entries[-2]
    assert again.apply(log.index + 1, command) == log.state.apply(log.index + 1, command)


def test_a_capture_does_not_see_what_comes_after_it() -> None:
    log = busy()
    frozen, before = log.state.capture(), log.state.freeze()
    parts = frozen.parts()
    first = next(parts)
    for number in range(100):
        log.by("mini", SetAlias(alias=f"alias {number}", model="n"), ack_below=0)
    log.by("attic", Remove(node=id_of("mini"), gossip_key=3))
    assert first + b"".join(parts) == before
    assert log.state.freeze() != before
    log.state.check()


def test_a_state_is_read_in_steps_and_stays_what_it_was_until_the_last() -> None:
    log = busy()
    state = RecordState()
    steps = state.restoring([log.state.freeze()])
    for _ in steps:
        assert not state.nodes.is_founded
    assert state.nodes.is_founded


def test_a_damaged_state_is_never_used() -> None:
    data = busy().state.freeze()
    state = RecordState()
    empty = state.freeze()
    for cut in (0, 3, 50, len(data) // 2, len(data) - 1):
        with pytest.raises(StateDamaged):
            state.restore(data[:cut])
    for at in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[at] ^= 0x01
        with pytest.raises((StateDamaged, StateUnknown)):
            state.restore(bytes(flipped))
    assert state.freeze() == empty


def test_a_state_that_lost_its_last_part_is_found() -> None:
    data = busy().state.freeze()
    last = 0
    while (end := last + 4 + int.from_bytes(data[last : last + 4], "big")) < len(data):
        last = end
    with pytest.raises(StateDamaged, match="rows instead of"):
        thawed(data[:last])


@pytest.mark.parametrize("later", [{"form": 2}, {"feature": 2}, {"form": 2, "what": "ever"}])
def test_a_state_of_a_later_version_is_named_as_that(later: dict[str, object]) -> None:
    head = {"form": 1, "feature": 1, "index": 1, "digest": bytes(32), "rows": 0} | later
    payload = encode_row(head)
    with pytest.raises(StateUnknown, match="later version"):
        thawed(len(payload).to_bytes(4, "big") + payload)


def test_the_head_tells_what_a_snapshot_is_of() -> None:
    log = busy()
    head = read_head(log.state.freeze())
    assert isinstance(head, Head)
    assert (head.index, head.digest) == (log.index, log.state.digest())


# --- tables


class _Row(Row, frozen=True):
    id: int
    text: str = ""


def table(parts: int = 4) -> Table[int, _Row]:
    return Table("t", _Row, lambda row: row.id, parts=parts, part_of=lambda key: key % parts)


def test_the_hash_of_a_table_depends_on_its_rows_alone() -> None:
    one, other = table(), table()
    for number in range(1000):
        one.put(_Row(id=number))
    for number in reversed(range(2000)):
        other.put(_Row(id=number, text="first"))
    for number in range(2000):
        if number % 3:
            other.put(_Row(id=number))
            other.hash_sum()
    for number in range(2000):
        if not number % 3:
            other.put(_Row(id=number))
        if number >= 1000:
            other.drop(number)
    assert one.hash_sum() == other.hash_sum()
    assert list(one.capture().packed()) == list(other.capture().packed())
    one.put(_Row(id=7, text="changed"))
    assert one.hash_sum() != other.hash_sum()
    one.check()
    other.check()


def test_parts_are_small_and_in_order() -> None:
    many = table(2)
    for number in reversed(range(3 * PART_ROWS)):
        many.put(_Row(id=number))
    assert len(list(many.capture().packed())) == 4
    assert [row.id for row in many.rows()] == list(range(3 * PART_ROWS))


def test_only_the_part_that_changes_is_copied() -> None:
    t = table()
    for number in range(8):
        t.put(_Row(id=number))
    before = list(t._parts)
    t.capture()
    t.put(_Row(id=1, text="new"))
    assert [new is old for new, old in zip(t._parts, before, strict=True)] == [
        True, False, True, True,
    ]  # fmt: skip
    assert before[1][1].text == ""
