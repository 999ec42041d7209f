"""Sessions: what is sent again takes effect once."""

from __future__ import annotations

from meshd import limits
from meshd.record.commands import Entry, encode
from meshd.record.commands_registry import (
    AddApiKey,
    CreateToken,
    EndSession,
    Remove,
    SetAlias,
    Started,
    Tick,
)
from meshd.record.events import NodeStarted
from meshd.record.results import Code, read
from tests.unit.record.logs import Log, boot, code_of, id_of

ALIAS = SetAlias(alias="small", model="llama3.2:3b")


def entry(name: str, seq: int, *, epoch: int = 1, ack_below: int = 0) -> bytes:
    """One that is refused the second time, so that doing it twice would show."""
    body = CreateToken(id=f"token{seq:03}".replace("0", "a").replace("1", "b"), key=bytes(32),
                       ttl_ms=1000, uses=1)  # fmt: skip
    return encode(Entry(body, str(id_of(name)), epoch, seq, ack_below))


def test_a_command_that_comes_again_is_answered_with_its_first_result() -> None:
    log = Log("mini")
    first = log.apply(entry("mini", 2))
    assert code_of(first) is Code.OK
    digest = log.state.digest()
    log.events.clear()
    assert log.apply(entry("mini", 2)) == first
    assert log.state.digest() == digest
    assert not log.events


def test_a_refusal_is_a_first_result_too() -> None:
    log = Log("mini")
    no_alias = Entry(SetAlias(alias="small"), str(id_of("mini")), 1, 2)
    first = log.apply(encode(no_alias))
    assert code_of(first) is Code.NOT_THERE
    log.by("attic", ALIAS)
    assert log.apply(encode(no_alias)) == first


def test_commands_of_a_session_may_arrive_in_any_order() -> None:
    log = Log("mini")
    results = {seq: log.apply(entry("mini", seq)) for seq in (3, 1, 2)}
    assert len(log.state.tokens.rows()) == 3
    for seq, result in results.items():
        assert log.apply(entry("mini", seq)) == result


def test_what_is_confirmed_is_forgotten() -> None:
    log = Log("mini")
    log.apply(entry("mini", 1))
    log.apply(entry("mini", 2))
    log.apply(entry("mini", 3, ack_below=2))
    assert code_of(log.apply(entry("mini", 1))) is Code.SEQ_FORGOTTEN
    assert code_of(log.apply(entry("mini", 2))) is Code.OK
    log.state.check()


def test_confirming_what_was_never_sent_is_refused() -> None:
    log = Log("mini")
    assert code_of(log.apply(entry("mini", 1, ack_below=2))) is Code.MALFORMED


def test_an_unknown_session_is_refused() -> None:
    log = Log()
    log.admit("mini")
    assert code_of(log.apply(entry("mini", 1))) is Code.NO_SESSION


def test_the_session_of_an_earlier_start_is_over() -> None:
    log = Log("mini")
    log.apply(entry("mini", 1))
    log.start("mini")
    assert code_of(log.apply(entry("mini", 1))) is Code.SESSION_OVER
    assert code_of(log.apply(entry("mini", 5, epoch=3))) is Code.SESSION_OVER
    assert code_of(log.apply(entry("mini", 5, epoch=2))) is Code.OK


def test_a_removed_node_can_do_nothing_more() -> None:
    log = Log("mini")
    log.apply(entry("mini", 1))
    log.by("attic", Remove(node=id_of("mini"), gossip_key=2))
    assert code_of(log.apply(entry("mini", 1))) is Code.NO_SESSION
    assert code_of(log.apply(entry("mini", 2))) is Code.NO_SESSION
    again = Started(node=id_of("mini"), generation=2, boot=boot("mini", 2))
    assert code_of(log.raw(again)) is Code.REMOVED
    log.state.check()


def test_a_node_that_removes_itself_is_answered() -> None:
    log = Log("mini")
    log.by("mini", Remove(node=id_of("mini"), gossip_key=2))
    log.state.check()


def test_a_start_that_is_said_twice_opens_one_session() -> None:
    log = Log()
    log.admit("mini")
    started = Started(node=id_of("mini"), generation=4, boot=boot("mini"))
    first = log.raw(started)
    log.apply(entry("mini", 1, epoch=4))
    assert log.raw(started) == first
    assert code_of(log.apply(entry("mini", 1, epoch=4))) is Code.OK
    assert len(log.state.tokens.rows()) == 1
    assert len(log.happened(NodeStarted)) == 1


def test_two_processes_under_one_number_are_told_apart() -> None:
    """A copied data directory: the second to start must not speak in the first one's session."""
    log = Log("mini")
    copy = Started(node=id_of("mini"), generation=1, boot=b"another process!")
    assert code_of(log.raw(copy)) is Code.GENERATION_TAKEN


def test_a_start_with_an_older_number_is_refused() -> None:
    log = Log("mini")
    log.start("mini", 7)
    old = Started(node=id_of("mini"), generation=6, boot=boot("mini", 6))
    assert code_of(log.raw(old)) is Code.OLD_GENERATION


def test_a_session_that_was_ended_does_not_come_back() -> None:
    """Its numbers are used up: one of them could be on its way still."""
    log = Log("mini")
    log.apply(entry("mini", 1))
    log.do(EndSession(node=id_of("mini"), generation=1))
    log.do(EndSession(node=id_of("mini"), generation=1))
    assert code_of(log.apply(entry("mini", 1))) is Code.NO_SESSION
    again = Started(node=id_of("mini"), generation=1, boot=boot("mini"))
    assert code_of(log.raw(again)) is Code.OLD_GENERATION
    log.start("mini", 2)
    log.do(EndSession(node=id_of("mini"), generation=1))
    assert code_of(log.apply(entry("mini", 1, epoch=2))) is Code.EXISTS
    log.state.check()


def test_results_that_wait_to_be_confirmed_are_bounded() -> None:
    log = Log("mini")
    mini = str(id_of("mini"))
    for seq in range(1, limits.SESSION_RESULTS + 1):
        log.apply(encode(Entry(Tick(unix_ms=0), mini, 1, seq)))
    over = limits.SESSION_RESULTS + 1
    assert code_of(log.apply(encode(Entry(Tick(unix_ms=0), mini, 1, over)))) is Code.SESSION_FULL
    log.state.check()
    assert read(log.apply(encode(Entry(Tick(unix_ms=0), mini, 1, over, over))))
    log.state.check()


def test_a_number_that_leaps_costs_nothing() -> None:
    log = Log("mini")
    far = 2**53 - 1
    key = AddApiKey(id="00000001", name="bot", sha256=bytes(32))
    log.apply(encode(Entry(key, str(id_of("mini")), 1, far, far)))
    log.state.check()
