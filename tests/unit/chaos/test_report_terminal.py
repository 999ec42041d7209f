"""The same runs on a terminal of 80 columns."""

from __future__ import annotations

import io
import re

import msgspec
from rich.console import Console

from meshd.testing.checker import How
from meshd_chaos.excuses import REPEATED
from meshd_chaos.records import NotTested, Run, RunSet
from meshd_chaos.report import table
from tests.unit.chaos.made_up_runs import a_run, an_answer, faults, many, went_on


def shown(*runs: Run, width: int = 80) -> str:
    paper = io.StringIO()
    Console(file=paper, width=width, highlight=False).print(table(RunSet(runs=runs)))
    return paper.getvalue()


def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut() -> None:
    text = shown(
        a_run(many(12_000), scenario="partition-one-way-of-the-leader", faults=faults(30)),
        a_run(many(200, seed=2), scenario="pause"),
    )
    assert max(map(len, text.splitlines())) <= 80
    assert "12200" in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_a_run_that_held_says_so_and_how_its_answers_went_on() -> None:
    text = shown(a_run([went_on()], faults=faults(1)))
    assert "ok  kill-holder" in text
    assert "continued where it broke off" in text
    assert "Every accepted request was answered: once, whole, in order." in text


def test_a_violation_is_a_sentence_with_the_command_to_have_it_again() -> None:
    text = shown(a_run([an_answer(how=How.SILENT, ended_at_s=None, pieces=())]))
    assert "NO  kill-holder" in text
    assert "lost: request r1 was accepted and ended silent" in text
    assert "meshd-chaos run --scenario kill-holder --duration 60 --rate 20 --seed 7" in text
    assert "1 thing that must not be, in 1 of 1 run." in text


def test_what_was_not_tested_is_said_and_a_run_without_requests_is_not_ok() -> None:
    text = shown(a_run([], not_tested=[NotTested(name="full-disk", why="No disk to fill.")]))
    assert "not tested kill-holder: full-disk: No disk to fill." in text
    assert "ok " not in text


def test_faults_that_were_not_tested_for_one_reason_are_one_line() -> None:
    skipped = [NotTested(name=name, why="No.") for name in ("kill", "freeze", "kill")]
    skipped.append(NotTested(name="reset", why="Never."))
    text = shown(a_run([an_answer()], not_tested=skipped))
    assert "not tested kill-holder: kill (2 times), freeze: No." in text
    assert "not tested kill-holder: reset: Never." in text


def test_what_anyone_named_moves_no_cursor_and_is_no_markup() -> None:
    evil = "[red]\x1b[2J[/nope]"
    text = shown(a_run([], scenario=evil, not_tested=[NotTested(name=evil, why=evil)]))
    assert "\x1b" not in text
    assert "[red]" in text


def test_the_numbers_add_up_to_what_was_sent() -> None:
    keyed = {"how": How.BROKEN, "excuse": REPEATED, "pieces": (), "finish": None}
    left = an_answer("r2", how=How.LEFT, finish=None)
    text = shown(a_run([an_answer("r1", key="k", **keyed), an_answer("r1.2", key="k"), left]))
    assert "tries 3 for 2 requests: clients with a key asked again" in text
    assert "left 1 x the client went away" in text
    assert re.search(r"kill-holder +2 +1 ", text)


def test_no_runs_are_nothing() -> None:
    assert shown().strip() == "Nothing was run."


def test_what_a_reader_should_know_besides_is_told() -> None:
    run = msgspec.structs.replace(a_run([went_on()]), notes=("the machine was too busy",))
    assert "kill-holder: the machine was too busy" in shown(run)
