"""The measured tables of the docs come from a file of runs, not from somebody's typing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from meshd.testing.checker import Seam
from meshd_chaos.measured import main
from meshd_chaos.records import NotTested, RunSet
from meshd_chaos.report.markdown import BEGIN, END, measured
from tests.unit.chaos.made_up_runs import a_run, an_answer, faults, went_on


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """What `--json` printed of two runs of one scenario and one of another."""
    kills = [a_run([went_on(), an_answer("r2")], faults=faults(2)) for _ in range(2)]
    pause = a_run([an_answer()], scenario="pause", faults=faults(1))
    file = tmp_path / "runs.json"
    file.write_bytes(msgspec.json.encode(RunSet(runs=(*kills, pause))))
    return file


def test_runs_of_one_scenario_are_one_row_and_all_are_summed(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(saved)]) == 0
    printed = capsys.readouterr().out
    assert "| kill-holder | 2 | 4 | 4 | 4 | 4 | 0 | 0 | 0 | 0 | 0 | 2 | 200 ms |" in printed
    assert "| **all** | 3 | 5 | 5 | 5 | 5 |" in printed
    assert "(2026-05-04; meshd 0.1.0 on Linux 6.1, 2 cores, Python 3.11.7, 5 nodes.)" in printed


def test_how_soon_a_client_asks_again_is_no_gap_of_the_mesh() -> None:
    repeated = an_answer("r9", key="k", seams=(Seam(way="repeat", at_s=2.0, gap_s=9.0),))
    text = measured(RunSet(runs=(a_run([went_on(), repeated]),)))
    assert "| kill-holder | 1 | 0 | 2 | 2 | 2 | 0 | 0 | 0 | 0 | 0 | 2 | 200 ms | 200 ms |" in text
    assert "| asked again by the client, with its key | 1 | 9.00 s |" in text


def test_what_went_on_over_another_link_has_a_line_of_its_own_and_no_gap() -> None:
    runs = [msgspec.structs.replace(a_run([went_on()]), resumed=count) for count in (2, 3)]
    text = measured(RunSet(runs=tuple(runs)))
    assert "| the same run, over another link | 5 |  |  |  |  |" in text
    assert "over another link" not in measured(RunSet(runs=(a_run([went_on()]),)))


def test_the_tables_replace_those_between_the_marks_and_nothing_else(
    saved: Path, tmp_path: Path
) -> None:
    document = tmp_path / "doc.md"
    document.write_text(f"before\n{BEGIN}\nstale words\n{END}\nafter\n")
    assert main([str(saved), "--into", str(document)]) == 0
    once = document.read_text()
    assert once.startswith("before\n")
    assert once.endswith(f"{END}\nafter\n")
    assert "kill-holder" in once
    assert "stale words" not in once
    assert main([str(saved), "--into", str(document)]) == 0
    assert document.read_text() == once


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"{", "is not what"), (b'{"runs": 3}', "is not what"), (b"\xff", "is not what")],
)
def test_a_file_that_holds_no_runs_is_named(
    content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runs.json"
    file.write_bytes(content)
    assert main([str(file)]) == 2
    told = capsys.readouterr().err
    assert str(file) in told
    assert says in told


def test_a_file_that_is_not_there_and_a_document_without_marks_are_named(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.json")]) == 2
    assert "none.json cannot be read" in capsys.readouterr().err
    document = tmp_path / "doc.md"
    document.write_text("nothing\n")
    assert main([str(saved), "--into", str(document)]) == 2
    assert "has no place for the tables" in capsys.readouterr().err
    assert document.read_text() == "nothing\n"


def test_what_was_not_tested_and_what_must_not_be_are_said_and_break_no_table() -> None:
    run = a_run(
        [an_answer()],
        scenario="a|b",
        not_tested=[NotTested(name="full-disk", why="No disk\nto fill.")],
        more_violations=["lost: request r1\n    evidence"],
    )
    text = measured(RunSet(runs=(run,)))
    assert "| a\\|b | 1 |" in text
    assert "- **not tested**: a\\|b: full-disk: No disk to fill." in text
    assert "- **must not be**: a\\|b, seed 7: lost: request r1\n" in text
