"""`meshd record check`: what it says of journals of every kind, changing none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshd.ids import MeshId
from meshd.ledger.examination import Examination, examine
from meshd.testing.disk import MemoryDisk
from tests.joins import make_key
from tests.unit.ledger.journals import CA, FOUNDING, HISTORY, ME, OTHERS, Kept, found


def examined(kept: Kept, *, running: bool = False, commit: int | None = None) -> Examination:
    before = kept.contents()
    report = examine(kept.disk, kept.place, running=running, commit=commit)
    assert kept.contents() == before
    return report


def test_a_sound_journal_is_told_with_what_is_in_it() -> None:
    kept = Kept().write(*HISTORY)
    report = examined(kept)
    assert (report.verdict, report.problems, report.notes) == ("sound", [], [])
    assert report.commands == {"Found": 1, "SetAlias": 2, "Started": 1}
    assert (report.last, report.applied, report.term, report.base) == (6, 6, 1, 0)
    assert report.voters == [ME.node]
    assert report.digest == kept.state().digest().hex()
    assert (report.members, report.jobs, report.refused) == (1, 0, 0)
    assert len(report.files) == 1


def test_what_a_snapshot_stands_for_is_part_of_the_state() -> None:
    kept = Kept().write(*HISTORY)
    digest = examined(kept).digest
    report = examined(kept.snapshot())
    assert (report.base, report.digest, report.commands) == (6, digest, {})


def test_commands_that_the_record_refused_are_no_fault() -> None:
    report = examined(Kept().write(*FOUNDING, found()))
    assert (report.refused, report.problems) == (1, [])


def test_bytes_that_are_no_command_are_counted() -> None:
    report = examined(Kept().write(*FOUNDING, b"\x97\x01nonsense"))
    assert "1 hold no command in form" in report.notes[0]


def test_a_command_of_a_later_version_cannot_be_judged_here() -> None:
    report = examined(Kept().write(*FOUNDING, b"\x97\x02whatever it will be"))
    assert "update it" in report.problems[0]


def test_a_node_that_is_new_has_no_journal_yet() -> None:
    report = examined(Kept())
    assert (report.verdict, report.problems) == ("none", [])
    assert "makes one when it is started" in report.notes[0]


def test_a_founder_without_a_journal_has_lost_one() -> None:
    kept = Kept()
    kept.disk.write(kept.place.founded_mark, b"", private=True)
    assert "gets the record from the other nodes" in examined(kept).problems[0]


def test_what_a_crash_left_is_no_fault() -> None:
    kept = Kept().write(*HISTORY)
    data = kept.disk.read(kept.segment()) or b""
    kept.disk.write(kept.segment(), data[:-3], private=True)
    report = examined(kept)
    assert (report.verdict, report.problems) == ("unfinished", [])
    assert "nothing of it was acknowledged" in report.notes[0]


def test_damage_is_told_with_the_file_and_with_what_to_do() -> None:
    report = examined(Kept().write(*HISTORY).damage())
    assert report.verdict == "damaged"
    assert "record repair" in report.problems[0]
    assert any(file.problem for file in report.files)
    assert report.last is None


def test_another_nodes_journal_is_told_as_such() -> None:
    kept = Kept().write(*HISTORY)
    kept.place = replace(kept.place, me=OTHERS[0].node)
    assert examined(kept).verdict == "foreign"


def test_the_record_of_another_mesh_in_this_meshs_journal_is_told() -> None:
    other = make_key("another ca").public
    report = examined(Kept().write(found(ca=other)))
    assert "somebody put another node's files here" in report.problems[0]
    assert MeshId(CA.mesh) == report.mesh


def test_entries_that_may_not_be_held_by_a_majority_are_left_out_or_told() -> None:
    kept = Kept().write(*HISTORY, voters=(ME, *OTHERS))
    assert "known to the voters together" in examined(kept).notes[0]
    report = examined(kept, running=True, commit=5)
    assert report.notes == ["The last 1 entries are on their way to a majority, and are left out."]
    assert report.applied == 5
    assert report.commands["SetAlias"] == 1
    assert examined(kept, running=True, commit=6).digest == kept.state().digest().hex()


def test_journals_that_were_set_aside_and_a_void_vote_are_told() -> None:
    kept = Kept().write(*HISTORY, voters=(ME, *OTHERS))
    kept.disk.rename(kept.place.folder, kept.place.folder.with_name(f"{CA.mesh}.aside-1"))
    kept.disk.write(kept.place.void_mark, b"", private=True)
    report = examined(kept)
    assert report.aside == [f"{CA.mesh}.aside-1"]
    assert report.vote_is_void
    assert "has no vote until" in report.notes[0]


def test_a_journal_that_is_written_meanwhile_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = Kept().write(*HISTORY)
    assert isinstance(kept.disk, MemoryDisk)
    whole = bytes(kept.disk.files[kept.segment()])
    flipped = whole[:-1] + bytes([whole[-1] ^ 1]) + b"\0"
    kept.disk.write(kept.segment(), flipped, private=True)
    names, asked = kept.disk.names, []

    def names_then_written(folder: object) -> list[str]:
        asked.append(folder)
        if len(asked) == 4:  # between two looks
            kept.disk.write(kept.segment(), whole, private=True)
        return names(folder)  # type: ignore[arg-type]

    monkeypatch.setattr(kept.disk, "names", names_then_written)
    assert examine(kept.disk, kept.place, running=True, commit=6).verdict == "sound"
