"""Looking after a journal that is not open: what state it is in, and what may be done about it.

For `meshd record check|repair`, which hold the data directory's lock.  Nothing here ever removes
what may have been acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

from meshd.consensus.entries import Ballot, Point
from meshd.consensus.journal.errors import (
    JournalDamaged,
    JournalForeign,
    JournalNewer,
    JournalUnusable,
)
from meshd.consensus.journal.journal import open_journal
from meshd.consensus.journal.segments import Owner, segment_name
from meshd.consensus.journal.snapshots import Snapshots
from meshd.consensus.journal.survey import Cut, look_into, scan_file, survey
from meshd.ports import Disk, Entropy

_REJOIN = (
    "Nothing was changed: to cut it off might take away what this node has acknowledged. If other "
    "voters are in order, set this journal aside (`meshd record repair --set-aside`) and start "
    "the node: it joins anew as a learner, with a fresh copy of the record, and gets its vote back "
    "from the leader. If this was the only voter, restore a backup (`meshd record restore`)."
)


class Verdict(StrEnum):
    """What is to be thought of a journal."""

    NONE = "none"
    """There is no journal yet."""
    SOUND = "sound"
    UNFINISHED = "unfinished"
    """A crash left what was never acknowledged; the next start, or `repair`, removes it."""
    DAMAGED = "damaged"
    FOREIGN = "foreign"
    NEWER = "newer"


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file of a journal."""

    name: str
    size_bytes: int
    what: str
    """What is in it."""
    problem: str = ""
    """Empty if it is in order, or if what is wrong with it does not matter."""


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` found."""

    verdict: Verdict
    summary: str
    """Sentences: what is wrong, and what to do."""
    files: tuple[FileRow, ...]
    cut: Cut | None = None
    """What would be cut off."""
    leftovers: tuple[str, ...] = ()
    """Files that would be deleted."""
    ballot: Ballot | None = None
    """None, as those below, if the journal cannot be used."""
    base: Point | None = None
    last_index: int | None = None


@dataclass(frozen=True, slots=True)
class Repair:
    """What `repair` did."""

    done: tuple[str, ...]
    """Sentences; empty if there was nothing to do, or if it was refused."""
    refused: str | None = None
    """Why nothing was done, and what to do instead."""


def check(disk: Disk, folder: PurePath, owner: Owner) -> Report:
    """Read a journal whole, changing nothing.  Raises DiskFailed."""
    snapshots = Snapshots(disk, folder, owner.mesh)
    files = _rows(disk, folder, snapshots)
    try:
        found = survey(disk, folder, owner, snapshots)
    except JournalUnusable as error:
        return Report(_VERDICTS[type(error)], str(error), files)
    if found.last is None:
        return Report(Verdict.NONE, f"There is no journal in {folder}.", files)
    leftovers = (*found.folder.aside, *found.obsolete)
    verdict, summary = Verdict.SOUND, "The journal is in order."
    if found.cut or leftovers:
        verdict = Verdict.UNFINISHED
        summary = (
            "The journal is in order but for what a crash left; nothing of it was acknowledged. "
            "The next start of this node removes it, as does `meshd record repair`."
        )
    cursor = found.state.cursor
    return Report(
        verdict=verdict,
        summary=summary,
        files=files,
        cut=found.cut,
        leftovers=leftovers,
        ballot=cursor.ballot,
        base=cursor.base,
        last_index=cursor.last_index,
    )


def repair(disk: Disk, folder: PurePath, owner: Owner, entropy: Entropy) -> Repair:
    """Remove what a crash left, and nothing else.  Raises DiskFailed."""
    report = check(disk, folder, owner)
    if report.verdict in (Verdict.NONE, Verdict.SOUND):
        return Repair(())
    if report.verdict is Verdict.DAMAGED:
        return Repair((), f"{report.summary} {_REJOIN}")
    if report.verdict is not Verdict.UNFINISHED:
        return Repair((), report.summary)
    opened = open_journal(disk, folder, owner, entropy)
    opened.journal.close()
    done = [f"{opened.cut}; they were cut off."] if opened.cut else []
    return Repair(
        (*done, *(f"{folder / name} was left over and is deleted." for name in opened.swept))
    )


def set_aside(disk: Disk, folder: PurePath) -> PurePath:
    """Give a journal that cannot be used another name, so that the node begins a fresh one.

    Returns where it is now.  A node that had a vote must not use it before the others say what it
    has promised.  Raises DiskFailed.
    """
    taken = set(disk.names(folder.parent))
    number = next(n for n in range(1, len(taken) + 2) if f"{folder.name}.aside-{n}" not in taken)
    target = folder.with_name(f"{folder.name}.aside-{number}")
    disk.rename(folder, target)
    return target


_VERDICTS: dict[type[JournalUnusable], Verdict] = {
    JournalDamaged: Verdict.DAMAGED,
    JournalForeign: Verdict.FOREIGN,
    JournalNewer: Verdict.NEWER,
}


def _rows(disk: Disk, folder: PurePath, snapshots: Snapshots) -> tuple[FileRow, ...]:
    found = look_into(disk, folder)
    rows = [_segment_row(disk, folder, n, is_last=n == found.segments[-1]) for n in found.segments]
    for index in found.snapshots:
        path = snapshots.path(index)
        what, problem = f"state after entry {index}", ""
        try:
            snapshots.check(index)
        except JournalUnusable as error:
            problem = error.what
        rows.append(FileRow(path.name, disk.size(path) or 0, what, problem))
    return tuple(rows)


def _segment_row(disk: Disk, folder: PurePath, first: int, *, is_last: bool) -> FileRow:
    name = segment_name(first)
    size = disk.size(folder / name) or 0
    try:
        scan = scan_file(disk, folder, first)
    except JournalUnusable as error:
        return FileRow(name, size, "", error.what)
    what = f"blocks {first} to {scan.next_number - 1}" if scan.blocks else "no blocks yet"
    flaw = scan.flaw
    if flaw is None or (flaw.is_torn and is_last):
        return FileRow(name, size, what)
    return FileRow(name, size, what, f"at byte {flaw.offset}, {flaw.reason}")
