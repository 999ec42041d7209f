"""Recording, saving, merging."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshd.testing.checker import (
    Claim,
    Expire,
    Granted,
    History,
    HistoryError,
    JobHistory,
    JobOperation,
    Ok,
    Phase,
    Read,
    Refused,
    Seen,
    Submit,
    by_subject,
    load,
)
from meshd.testing.checker.__main__ import main
from meshd.testing.checker.registers import Held, RegisterHistory, RegisterOperation, Write, Wrote
from meshd.testing.checker.registers import Read as Look


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def recorded() -> JobHistory:
    clock = Clock()
    history: JobHistory = History(clock)
    with history.operation("c", "j", Submit("q")) as told:
        clock.now_s = 1.5
        told(Ok())
    with history.operation("w", "j", Claim("a")):
        clock.now_s = 3.0
    with history.operation("l", "j", Expire(5)) as told:
        told(Ok(Phase.QUEUED))
    with history.operation("c", "j", Read()) as told:
        told(Seen(Phase.CLAIMED, 2, "a", ""))
    with history.operation("w", "j", Claim("b")) as told:
        told(Refused("it is claimed"))
    return history


def test_what_is_told_ends_an_operation_and_what_is_not_leaves_it_open() -> None:
    accept, claim, *_ = recorded().operations
    assert (accept.called_ns, accept.returned_ns, accept.result) == (0, 1_500_000_000, Ok())
    assert claim.is_open
    assert claim.result is None
    assert accept.before(claim)
    assert not claim.before(accept)


def test_an_exception_leaves_it_open_and_goes_on() -> None:
    history: JobHistory = History()
    with pytest.raises(TimeoutError), history.operation("c", "j", Submit("q")):
        raise TimeoutError
    assert [operation.is_open for operation in history.operations] == [True]


def test_one_instant_of_virtual_time_keeps_its_order() -> None:
    history: JobHistory = History(lambda: 7.0)
    first = history.called("c", "j", Submit("q"))
    history.returned(first, Ok())
    history.called("c", "j", Read())
    one, other = history.operations
    assert one.before(other)
    assert other.called_ns - one.called_ns == 2


def test_a_clock_that_is_set_back_does_not_turn_the_order_round() -> None:
    clock = Clock()
    clock.now_s = 9.0
    history: JobHistory = History(clock)
    number = history.called("c", "j", Submit("q"))
    clock.now_s = 1.0
    history.returned(number, Ok())
    (operation,) = history.operations
    assert operation.returned_ns == operation.called_ns + 1


def test_what_did_nothing_is_withdrawn() -> None:
    history: JobHistory = History()
    history.withdraw(history.called("c", "j", Submit("q")))
    assert history.operations == []


def test_only_the_answer_may_say_what_it_was_about() -> None:
    history: JobHistory = History()
    number = history.called("w", "", Claim("a"))
    history.returned(number, Granted(3), subject="j")
    assert [operation.subject for operation in history.operations] == ["j"]
    with pytest.raises(HistoryError, match="about nothing"):
        history.returned(history.called("w", "", Claim("a")), Granted(3))


def test_nothing_is_answered_twice() -> None:
    history: JobHistory = History()
    number = history.called("c", "j", Submit("q"))
    history.returned(number, Ok())
    with pytest.raises(HistoryError, match="answered twice"):
        history.returned(number, Ok())


def test_an_open_operation_about_nobody_knows_what_goes_everywhere() -> None:
    history: JobHistory = History()
    for job in ("j", "k"):
        history.returned(history.called("c", job, Submit("q")), Ok())
    history.called("w", "", Claim("a"))
    apart = by_subject(history.operations)
    assert {job: len(own) for job, own in apart.items()} == {"j": 2, "k": 2}


def test_a_saved_history_is_the_same_when_loaded(tmp_path: Path) -> None:
    history = recorded()
    history.save(tmp_path / "jobs.jsonl")
    assert load(tmp_path / "jobs.jsonl", JobOperation) == history.operations
    registers: RegisterHistory = History()
    registers.returned(registers.called("c", "x", Write(3)), Wrote())
    registers.returned(registers.called("c", "x", Look()), Held("three"))
    registers.save(tmp_path / "registers.jsonl")
    assert load(tmp_path / "registers.jsonl", RegisterOperation) == registers.operations


def test_histories_of_several_programs_are_one_by_their_clock(tmp_path: Path) -> None:
    one, other, both = Clock(), Clock(), History[object, object]()
    first: JobHistory = History(one)
    second: JobHistory = History(other)
    late = first.called("c", "j", Submit("q"))
    one.now_s = 5.0
    first.returned(late, Ok())
    other.now_s = 2.0
    second.called("w", "j", Claim("a"))
    for history in (first, second):
        both.merge(history.operations)  # type: ignore[arg-type]
    assert [operation.client for operation in both.operations] == ["c", "w"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "truncated"),
        ('{"client": "c"}', "missing required field `subject`"),
        (
            '{"client":"c","subject":"j","action":{"does":"dance"},"called_ns":1}',
            "Invalid value 'dance'",
        ),
        (
            '{"client":"c","subject":"j","action":{"does":"read"},"called_ns":5,"returned_ns":4,'
            '"result":{"was":"ok"}}',
            "answered before it was asked",
        ),
        (
            '{"client":"c","subject":"j","action":{"does":"read"},"called_ns":5,"returned_ns":6}',
            "neither open nor answered",
        ),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "jobs.jsonl"
    recorded().save(path)
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(HistoryError) as raised:
        load(path, JobOperation)
    assert "line 7" in str(raised.value)
    assert why in str(raised.value)


def test_files_are_checked_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history: JobHistory = History()
    with history.operation("c", "j", Submit("q")) as told:
        told(Ok())
    history.save(tmp_path / "one")
    assert main([str(tmp_path / "one")]) == 0
    assert capsys.readouterr().out == "ok: 1 operations ordered\n"
    with history.operation("c", "j", Read()) as told:
        told(Seen(Phase.DONE))
    history.save(tmp_path / "two")
    assert main([str(tmp_path / "two")]) == 1
    assert "not linearizable: job j: no order of these" in capsys.readouterr().out
    assert main([str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
