"""What may be done to a stopped node's record: never by accident what cannot be undone."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePath

import pytest

from meshd.consensus.entries import EntryKind
from meshd.consensus.journal import Verdict, check
from meshd.consensus.journal.blocks import crc32c
from meshd.consensus.kernel import Kernel
from meshd.consensus.replay import base_of, last_of
from meshd.errors import DiskFailed, Refused
from meshd.ids import NodeId
from meshd.ledger.examination import read_stored, voters_of
from meshd.ledger.machine import RecordMachine
from meshd.ledger.place import erase
from meshd.ledger.remedies import put_aside, restore, tidy
from meshd.record.commands import Entry as CommandEntry
from meshd.record.commands_registry import Admit, NodeFields
from meshd.record.node_rows import RemovedRow
from meshd.testing.disk import MemoryDisk, PowerLost
from tests.joins import NOW_UNIX_S, make_key
from tests.unit.ledger.journals import CA, FOUNDING, HISTORY, ME, OTHERS, Kept, alias, found

ALL = (ME, *OTHERS)


def verdict(kept: Kept) -> Verdict:
    return check(kept.disk, kept.place.folder, kept.place.owner).verdict


def refused(kept: Kept, why: str, call: object, *args: object, **more: object) -> None:
    """It says so, and has changed nothing."""
    before = kept.contents()
    with pytest.raises(Refused, match=why):
        call(*args, **more)  # type: ignore[operator]
    assert kept.contents() == before


def started(kept: Kept) -> Kernel:
    """The kernel that the next start of the node has, after its first step."""
    kernel = Kernel(
        kept.place.me,
        read_stored(kept.disk, kept.place),
        RecordMachine(),
        chance=random.Random(1),
        now=10.0,
        eligible=lambda node: True,
    )
    for now in (11.0, 12.0):
        kernel.step(now)
        if kernel.take_outbox().must_sync:
            kernel.stored()
    return kernel


# ---------------------------------------------------------------- repair


def test_what_a_crash_left_is_removed() -> None:
    kept = Kept().write(*HISTORY)
    data = kept.disk.read(kept.segment()) or b""
    kept.disk.write(kept.segment(), data + bytes(700), private=True)
    assert "cut off" in tidy(kept.patient())[0]
    assert verdict(kept) is Verdict.SOUND
    assert tidy(kept.patient()) == ["There is nothing to repair."]


def test_damage_is_not_cut_off() -> None:
    kept = Kept().write(*HISTORY).damage()
    refused(kept, "--set-aside", tidy, kept.patient())


# ---------------------------------------------------------------- setting aside


@pytest.mark.parametrize("damaged", [True, False])
def test_one_of_several_voters_is_set_aside_and_its_vote_is_void(damaged: bool) -> None:
    kept = Kept().write(*FOUNDING, voters=ALL).write(alias("x", 1))
    if damaged:
        kept.damage()
    done = put_aside(kept.patient(founder=False))
    assert f"{CA.mesh}.aside-1" in done[0]
    assert OTHERS[0].node[:6] in done[1]
    assert verdict(kept) is Verdict.NONE
    assert kept.disk.size(kept.place.void_mark) is not None
    assert kept.disk.names(kept.place.folder.with_name(kept.place.aside(kept.disk)[0]))


def test_one_that_follows_is_set_aside_too() -> None:
    kept = Kept(node=OTHERS[0]).write(found(), voters=(ME,))
    assert "Start this node" in put_aside(kept.patient(founder=False))[1]


def test_a_sole_voters_is_the_record_and_stays() -> None:
    kept = Kept().write(*HISTORY)
    refused(kept, "--lose-the-record", put_aside, kept.patient())


def test_a_sole_voters_that_is_damaged_stays_too() -> None:
    kept = Kept().write(*FOUNDING).write(alias("x", 1)).damage()
    refused(kept, "only one with a vote", put_aside, kept.patient())


def test_giving_the_record_up_begins_an_empty_one_beyond_all_terms_of_the_former() -> None:
    kept = Kept().write(*HISTORY, term=9)
    done = put_aside(kept.patient(), lose_the_record=True)
    assert "empty record" in done[1]
    stored = read_stored(kept.disk, kept.place)
    assert voters_of(stored) == (kept.place.me,)
    assert [entry.kind for entry in stored.entries] == [EntryKind.VOTERS]
    assert stored.entries[0].term == stored.ballot.term > NOW_UNIX_S
    assert started(kept).status().ready
    assert len(kept.place.aside(kept.disk)) == 1


def test_a_record_that_others_have_votes_in_is_not_given_up() -> None:
    kept = Kept().write(*HISTORY, voters=ALL)
    refused(kept, "leave --lose", put_aside, kept.patient(), lose_the_record=True)
    put_aside(kept.patient())
    refused(kept, "leave --lose", put_aside, kept.patient(), lose_the_record=True)


def test_a_sole_voter_that_is_not_the_founder_begins_nothing_when_it_gives_the_record_up() -> None:
    kept = Kept(node=OTHERS[0]).write(found(), voters=(OTHERS[0],), founded=False)
    done = put_aside(kept.patient(founder=False), lose_the_record=True)
    assert "Restore a backup here" in done[1]
    assert verdict(kept) is Verdict.NONE
    assert kept.disk.size(kept.place.void_mark) is not None
    refused(kept, "nothing to set", put_aside, kept.patient(founder=False), lose_the_record=True)


def test_the_founder_restores_when_the_only_vote_was_with_another_node() -> None:
    backup = Kept().write(*HISTORY).backup((OTHERS[0],))
    kept = Kept().write(*HISTORY, voters=(OTHERS[0],))
    put_aside(kept.patient())
    refused(kept, "--voters-are-gone", restore, kept.patient(), backup)
    restore(kept.patient(), backup, voters_are_gone=True)
    assert started(kept).status().ready


def test_where_nobody_can_tell_who_votes_it_says_what_that_means() -> None:
    kept = Kept().write(*HISTORY)
    kept.disk.write(kept.segment(), b"nothing of a header is left", private=True)
    assert "cannot be read any more" in put_aside(kept.patient())[1]
    assert kept.disk.size(kept.place.void_mark) is not None
    put_aside(kept.patient(), lose_the_record=True)  # now a person has decided
    assert started(kept).status().ready
    assert kept.disk.size(kept.place.void_mark) is None


def test_there_is_nothing_to_set_aside_in_a_new_node() -> None:
    kept = Kept()
    refused(kept, "nothing to set aside", put_aside, kept.patient())


def test_a_later_meshds_journal_stays() -> None:
    kept = Kept().write(*HISTORY)
    data = kept.disk.read(kept.segment()) or b""
    later = data[:8] + b"\x00\x02" + data[10:]
    end = 12 + int.from_bytes(data[10:12], "big")
    later = later[:end] + crc32c(later[:end]).to_bytes(4, "big") + later[end + 4 :]
    kept.disk.write(kept.segment(), later, private=True)
    refused(kept, "later meshd", put_aside, kept.patient())


def test_leaving_the_mesh_erases_what_was_set_aside() -> None:
    kept = Kept().write(*HISTORY, voters=ALL)
    put_aside(kept.patient())
    kept.write(*FOUNDING)
    erase(kept.disk, kept.place)
    assert kept.contents() == {}


# ---------------------------------------------------------------- restoring


def test_a_restored_record_is_gone_on_from() -> None:
    backup = Kept().write(*HISTORY).backup()
    fresh = Kept().write(*FOUNDING)
    done = restore(fresh.patient(), backup)
    assert "with 1 member and 0 open jobs" in done[0]
    kernel = started(fresh)
    assert kernel.status().ready
    assert kernel.status().applied > backup.point.index
    stored = read_stored(fresh.disk, fresh.place)
    assert stored.snapshot is not None
    assert stored.snapshot.voters == (fresh.place.me,)
    assert fresh.state().settings.aliases() == {"x": "m", "y": "m"}
    fresh.write(alias("z", 3), term=stored.ballot.term + 1)
    assert "z" in fresh.state().settings.aliases()


def test_it_is_restored_where_there_is_no_journal_at_all() -> None:
    backup = Kept().write(*HISTORY).backup()
    empty = Kept()
    restore(empty.patient(), backup)
    assert empty.state().digest() == backup.state.digest()
    assert empty.disk.size(empty.place.founded_mark) is not None


def test_no_place_of_the_restored_log_has_a_name_that_the_former_one_used() -> None:
    kept = Kept().write(*HISTORY, term=7)
    backup = kept.backup()
    fresh = Kept().write(*FOUNDING, term=3)
    restore(fresh.patient(now_unix_s=0.0), backup)  # a clock that is wrong
    stored = read_stored(fresh.disk, fresh.place)
    assert base_of(stored).term == stored.ballot.term > 7 + 2**20 - 1
    assert base_of(stored).index == last_of(stored).index == backup.point.index


def test_the_journal_that_was_there_is_kept() -> None:
    backup = Kept().write(*HISTORY).backup()
    fresh = Kept().write(*FOUNDING)
    assert f"{CA.mesh}.aside-1" in restore(fresh.patient(), backup)[1]


@pytest.mark.parametrize("what", ["command", "snapshot", "voters", "nonsense"])
def test_a_record_with_a_history_is_not_replaced(what: str) -> None:
    backup = Kept().write(*HISTORY).backup()
    kept = Kept().write(*FOUNDING)
    match what:
        case "command":
            kept.write(alias("x", 1))
        case "snapshot":
            kept.snapshot()
        case "voters":
            kept.write(voters=ALL)
        case _:
            kept.write(b"nonsense")
    refused(kept, "has a record with a history", restore, kept.patient(), backup)


def test_a_damaged_journal_is_not_replaced_unseen() -> None:
    backup = Kept().write(*HISTORY).backup()
    kept = Kept().write(*FOUNDING).damage()
    refused(kept, "set aside|Set it aside", restore, kept.patient(), backup)


def test_another_meshs_backup_is_refused() -> None:
    other = make_key("other ca").public
    backup = Kept(ca=other).write(found(ca=other)).backup()
    kept = Kept().write(*FOUNDING)
    refused(kept, "of the mesh", restore, kept.patient(), backup)


def two_members() -> Kept:
    other = NodeFields(key=OTHERS[0].der, name="b")
    admitted = CommandEntry(Admit(node=other), client=ME.node, epoch=1, seq=3)
    return Kept().write(*HISTORY, admitted)


def test_another_than_the_founder_restores_when_that_is_gone() -> None:
    backup = two_members().backup()
    kept = Kept(node=OTHERS[0]).write(*HISTORY, voters=(ME,), founded=False)
    refused(kept, "a history", restore, kept.patient(founder=False), backup)
    put_aside(kept.patient(founder=False))
    refused(kept, "--voters-are-gone", restore, kept.patient(founder=False), backup)
    done = restore(kept.patient(founder=False), backup, voters_are_gone=True)
    assert any("does not have the CA's key" in sentence for sentence in done)
    assert started(kept).status().voters == (kept.place.me,)
    assert kept.disk.size(kept.place.void_mark) is None
    assert kept.state().digest() == backup.state.digest()
    assert kept.disk.size(kept.place.founded_mark) is not None  # should it lose its journal now


def test_a_node_that_came_after_the_backup_does_not_restore_it() -> None:
    backup = Kept().write(*HISTORY).backup()
    kept = Kept(node=OTHERS[0])
    refused(kept, "not in the backup.*at one of a$", restore, kept.patient(founder=False), backup)


def test_where_others_had_votes_a_person_has_to_say_that_they_are_gone() -> None:
    backup = Kept().write(*HISTORY).backup(ALL)
    kept = Kept().write(*FOUNDING)
    refused(kept, "--voters-are-gone", restore, kept.patient(), backup)
    restore(kept.patient(), backup, voters_are_gone=True)
    assert started(kept).status().voters == (kept.place.me,)


def test_votes_that_others_got_after_the_backup_count_too() -> None:
    backup = Kept().write(*HISTORY).backup()
    kept = Kept().write(*HISTORY, voters=ALL)
    put_aside(kept.patient())
    refused(kept, "--voters-are-gone", restore, kept.patient(), backup)


def test_a_founder_that_the_backup_says_was_removed_cannot_restore_it() -> None:
    backup = Kept().write(*HISTORY).backup()
    kept = Kept()
    kept.place = replace(kept.place, me=NodeId(OTHERS[0].node))
    gone = RemovedRow(id=kept.place.me, removed_unix_ms=1)
    backup.state.nodes._removed.put(gone)  # as if it had been
    refused(kept, "taken out of the mesh", restore, kept.patient(), backup)


@pytest.mark.parametrize("seed", range(40))
def test_cut_anywhere_there_is_the_old_record_or_the_new_or_a_founder_that_knows_it_has_none(
    seed: int,
) -> None:
    backup = Kept().write(*HISTORY).backup()
    chance = random.Random(seed)
    disk = MemoryDisk(chance=chance)
    fresh = Kept(disk).write(*FOUNDING)
    before = fresh.state().digest()
    disk.release()
    left = chance.randrange(30)

    def step(what: str, path: PurePath) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise PowerLost

    disk.on_step = step
    with suppress(PowerLost):
        restore(fresh.patient(), backup)
    disk.on_step = None
    disk.lose_power()
    if verdict(fresh) is Verdict.NONE:
        assert disk.size(fresh.place.founded_mark) is not None
    else:
        assert fresh.state().digest() in (before, backup.state.digest())
    if fresh.state().digest() != backup.state.digest():
        restore(fresh.patient(), backup)  # it can be tried again
    assert fresh.state().digest() == backup.state.digest()


def test_a_disk_that_fails_leaves_what_there_was() -> None:
    backup = Kept().write(*HISTORY).backup()
    kept = Kept().write(*FOUNDING)
    assert isinstance(kept.disk, MemoryDisk)
    kept.disk.broken = "no space left on the disk"
    with pytest.raises(DiskFailed):
        restore(kept.patient(), backup)
    kept.disk.broken = None
    assert verdict(kept) is Verdict.SOUND
