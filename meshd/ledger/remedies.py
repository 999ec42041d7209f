"""What may be done to a node's part of the record while no daemon runs on it.

The caller holds the data directory's lock.  Each remedy refuses, with a sentence, where it could
take back what was acknowledged; what it did it says in sentences.

Terms of a log that is begun anew lie beyond all that the log before it can have used, so that no
node that still has entries of that one ever takes them for entries of this (equal index and term
mean equal logs): it refuses them, loudly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from meshd.consensus.entries import (
    Append,
    Ballot,
    Entry,
    EntryKind,
    Point,
    Rebase,
    Record,
    Stored,
)
from meshd.consensus.journal import JournalUnusable, Verdict, check, open_journal, repair, set_aside
from meshd.consensus.replay import last_of
from meshd.consensus.voter_list import pack_voters
from meshd.errors import Refused
from meshd.ids import NodeId, short
from meshd.ledger.backup import Backup
from meshd.ledger.examination import read_stored, remains, voters_of
from meshd.ledger.place import Place
from meshd.ports import Disk, Entropy
from meshd.record.commands import Malformed, UnknownCommand, decode
from meshd.record.commands_registry import Adopt, EndSession, Found, Started, Tick

_FOUNDING: Final = (Found, Adopt, Started, EndSession, Tick)
"""What a record that nobody has used yet may hold: its founder can write all of it again."""
_TERM_STRIDE: Final = 2**20
_LATEST_TERM: Final = 2**52

OTHERS_TOO: Final = (
    "Nodes that still have a copy of the former record do not follow this one: stop each, type "
    "`meshd record repair --set-aside` there, and start it."
)

_AT_THE_FOUNDER: Final = (
    "An empty record is begun only at the node that founded the mesh. Restore a backup here "
    "(`meshd record restore`), or at another node, and start this one after that."
)


_NO_CA_KEY: Final = (
    "By the backup this node does not have the CA's key: no machine can be let in until one that "
    "has it is back."
)


@dataclass(frozen=True, slots=True)
class Patient:
    """A node that is stopped, and what its remedies need."""

    disk: Disk
    place: Place
    entropy: Entropy
    now_unix_s: float
    founder: bool
    """It founded the mesh: it alone may begin an empty record."""
    name_of: Callable[[NodeId], str] = short


def tidy(of: Patient) -> list[str]:
    """`meshd record repair`: remove what a crash left.  Raises Refused, DiskFailed."""
    done = repair(of.disk, of.place.folder, of.place.owner, of.entropy)
    if done.refused is not None:
        raise Refused(done.refused)
    return list(done.done) or ["There is nothing to repair."]


# ---------------------------------------------------------------- setting aside


def put_aside(of: Patient, *, lose_the_record: bool = False) -> list[str]:
    """Give the journal another name, so that the node comes back as a learner with a fresh one.

    A sole voter's is the record itself: only with `lose_the_record`, and then an empty record is
    begun in its place.  Raises Refused, DiskFailed.
    """
    verdict = check(of.disk, of.place.folder, of.place.owner).verdict
    if verdict is Verdict.NEWER:
        raise Refused("A later meshd wrote this journal: update this one; nothing is wrong with it")
    known = _known(of, verdict)
    others = [voter for voter in known.voters or () if voter != of.place.me]
    if lose_the_record:
        return _lose(of, verdict, known, others)
    if verdict is Verdict.NONE:
        raise Refused(f"There is no journal in {of.place.folder}: nothing to set aside")
    if known.voters == (of.place.me,):
        raise Refused(
            "This node is the only one with a vote, so its journal is the record: jobs, tokens, "
            "API keys and what was set for all. Others may have a copy, but none of them can go "
            "on with it. To give the record up all the same and begin an empty one, add "
            "--lose-the-record (the journal is kept, under another name); a backup can be "
            "restored after that (`meshd record restore`)"
        )
    done = [_aside_and_void(of)]
    if others:
        names = ", ".join(of.name_of(node) for node in others)
        done.append(
            f"Votes are with {names} too. Start this node: it gets the record from them as one "
            "that has no vote, and may be given one again."
        )
    elif known.voters is None:
        done.append(
            "Who has a vote cannot be read any more; on another node, `meshd voters` tells. Start "
            "this node: it gets the record from them. If no other node has a vote, this was the "
            "record: restore a backup (`meshd record restore`), or begin an empty record "
            "(`meshd record repair --set-aside --lose-the-record`)."
        )
    else:
        done.append("Start this node: it gets the record from the others.")
    return done


def _aside_and_void(of: Patient) -> str:
    """The mark first: a journal that is gone without one is as if it had never promised a thing."""
    of.disk.write(of.place.void_mark, b"", private=True)
    return f"The journal is now {set_aside(of.disk, of.place.folder)}."


@dataclass(frozen=True, slots=True)
class _Known:
    """What the journal says, if it is in order; else what can be read of it.

    Where there is none: of those that were set aside.
    """

    voters: tuple[NodeId, ...] | None
    term: int
    last: int = 0
    stored: Stored | None = None


def _known(of: Patient, verdict: Verdict) -> _Known:
    if verdict is Verdict.NONE:
        aside = [of.place.folder.with_name(name) for name in of.place.aside(of.disk)]
        left = [remains(of.disk, replace(of.place, folder=folder)) for folder in aside]
        latest = max(left, key=lambda one: one.term, default=None)
        return _Known(None, 0) if latest is None else _Known(latest.voters, latest.term)
    if verdict in (Verdict.SOUND, Verdict.UNFINISHED):
        stored = read_stored(of.disk, of.place)
        return _Known(voters_of(stored), stored.ballot.term, last_of(stored).index, stored)
    found = remains(of.disk, of.place)
    return _Known(found.voters, found.term)


def _lose(of: Patient, verdict: Verdict, known: _Known, others: list[NodeId]) -> list[str]:
    if others:
        names = ", ".join(of.name_of(node) for node in others)
        raise Refused(
            f"{names} have a vote as well, so the record is not lost with this journal: leave "
            "--lose-the-record out, and this node gets it from them"
        )
    if not of.founder:
        if verdict is Verdict.NONE:
            raise Refused(f"There is no journal in {of.place.folder}: nothing to set aside")
        return [_aside_and_void(of), _AT_THE_FOUNDER]
    first = Entry(1, fresh_term(of, known.term), EntryKind.VOTERS, pack_voters([of.place.me]))
    where = _begin(of, (Ballot(first.term), Append((first,))))
    kept = [f"The journal is now {where}."] if where else []
    return [*kept, "The next start of this node begins an empty record.", OTHERS_TOO]


# ---------------------------------------------------------------- restoring


def restore(of: Patient, backup: Backup, *, voters_are_gone: bool = False) -> list[str]:
    """Begin a log whose base is a backup, with this node as its only voter.

    `backup` is of this mesh (`read_backup`).  Raises Refused with the reason, DiskFailed.
    """
    place = of.place
    if backup.mesh != place.mesh:
        raise Refused(
            f"The backup is of the mesh {short(backup.mesh)}, and this is {short(place.mesh)}"
        )
    if backup.state.nodes.is_removed(place.me):
        raise Refused("By the backup this node was taken out of the mesh: it cannot begin it anew")
    row = backup.state.nodes.get(place.me)
    if row is None:
        names = ", ".join(member.name for member in backup.state.nodes.rows())
        raise Refused(
            "This node is not in the backup: it came into the mesh later, so the record that is "
            f"restored would not know it. Restore it at one of {names}"
        )
    known = _require_no_history(of)
    had_votes = sorted({*backup.voters, *(known.voters or ())} - {place.me})
    if had_votes and not voters_are_gone:
        names = ", ".join(of.name_of(node) for node in had_votes)
        raise Refused(
            f"{names} had a vote too. If the majority of those that had one is still there, the "
            "record is not lost: start this node and it gets it from them. Only if they are gone "
            "for good, add --voters-are-gone"
        )
    term = fresh_term(of, max(known.term, backup.point.term))
    point = Point(term, max(known.last, backup.point.index))
    rebase = Rebase(point, keep_after=False)
    where = _begin(of, (Ballot(term), rebase), backup.frozen)
    state = backup.state
    return [
        f"The record is as it was at entry {backup.point.index:,} of the former one, with "
        f"{_count(len(state.nodes.rows()), 'member')} and "
        f"{_count(len(state.jobs.live), 'open job')}.",
        *([f"The journal that was there is now {where}."] if where else []),
        "What was written after the backup is not in it: API keys and tokens that were taken back "
        "since are good again, nodes that were taken out are in again, jobs that are done may be "
        "done again. Bodies and results that were too large for the record are not in a backup.",
        *([] if row.holds_ca else [_NO_CA_KEY]),
        OTHERS_TOO,
        "Restore it at this node alone: at a second one it would be a second record.",
    ]


def _count(number: int, one: str) -> str:
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def _require_no_history(of: Patient) -> _Known:
    """The journal, if there is one, holds nothing but the founding of a record."""
    verdict = check(of.disk, of.place.folder, of.place.owner).verdict
    if verdict not in (Verdict.NONE, Verdict.SOUND, Verdict.UNFINISHED):
        raise Refused(
            "The journal that is here cannot be used (`meshd record check` says why). Set it aside "
            "first (`meshd record repair --set-aside`)"
        )
    try:
        known = _known(of, verdict)
    except JournalUnusable as error:
        raise Refused(str(error)) from error
    if known.stored is not None and (why := _history(known.stored, of)) is not None:
        raise Refused(
            f"This node has a record with a history ({why}); a backup would take its place. If "
            "that is meant, set the journal aside first (`meshd record repair --set-aside`, with "
            "--lose-the-record where this node alone has a vote)"
        )
    return known


def _history(stored: Stored, of: Patient) -> str | None:
    """What there is in a log beyond its founding; None if nothing."""
    if stored.snapshot is not None:
        return f"a snapshot stands for its first {stored.snapshot.point.index:,} entries"
    others = [voter for voter in voters_of(stored) if voter != of.place.me]
    if others:
        return f"{', '.join(of.name_of(node) for node in others)} had a vote in it"
    for entry in stored.entries:
        if entry.kind is EntryKind.COMMAND:
            try:
                body = decode(entry.data).body
            except (Malformed, UnknownCommand):
                return f"entry {entry.index} is more than its founding"
            if not isinstance(body, _FOUNDING):
                return f"entry {entry.index} is {type(body).__name__}"
    return None


# ---------------------------------------------------------------- a log that begins anew


def fresh_term(of: Patient, known: int) -> int:
    """Later than any that a log of this mesh can have used, by what is known and by the clock.

    A term takes an election, and there is no more than one a second for long: the seconds of the
    clock are ahead of all of them.  Where the clock is wrong, a stride beyond what is known is.
    """
    ahead = max(known, int(of.now_unix_s)) + _TERM_STRIDE + of.entropy.randrange(_TERM_STRIDE)
    if ahead >= _LATEST_TERM:
        raise Refused("The terms of this log are too high to be true; it cannot be gone on from")
    return ahead


def _begin(of: Patient, records: tuple[Record, ...], state: bytes | None = None) -> str:
    """Put a journal with these records in place of the one that there is; where that is now.

    `state` is that of the snapshot to which the last of the records is a Rebase.

    Cut anywhere, there is the old journal, or none and the mark of a node that began the record
    (which then knows that it lost one, and waits), or the new one.
    """
    disk, place = of.disk, of.place
    for name in disk.names(place.draft):
        disk.delete(place.draft / name)
    opened = open_journal(disk, place.draft, place.owner, of.entropy)
    try:
        if state is not None:
            assert isinstance(records[-1], Rebase)
            opened.journal.snapshots.save(records[-1].point, [place.me], [state])
        opened.journal.write(records)
    finally:
        opened.journal.close()
    disk.write(place.founded_mark, b"", private=True)
    disk.delete(place.starts_mark)  # nothing was promised in the log that begins here
    where = str(set_aside(disk, place.folder)) if disk.names(place.folder) else ""
    disk.delete(place.void_mark)
    disk.rename(place.draft, place.folder)
    return where
