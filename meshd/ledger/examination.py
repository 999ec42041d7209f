"""What is in a node's journal, and what is wrong with it.  Changes nothing; no daemon is needed.

For `meshd record check`, and for the commands that must know before they change anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from meshd.consensus.entries import Append, Ballot, EntryKind, Stored, Truncate
from meshd.consensus.journal import JournalUnusable, Report, Snapshots, Verdict, check
from meshd.consensus.journal.segments import segment_name
from meshd.consensus.journal.survey import block_records, look_into, scan_file, survey
from meshd.consensus.replay import base_of, last_of
from meshd.consensus.voter_list import parse_voters
from meshd.errors import MeshdError, ProtocolError
from meshd.ids import NodeId, short
from meshd.ledger.place import Place
from meshd.ports import Disk
from meshd.record import results
from meshd.record.commands import Malformed, decode
from meshd.record.results import RecordRefused
from meshd.record.state import RecordState

LOOKS = 5
"""At a journal that a daemon writes to meanwhile: what is read at different moments may not fit."""


class FileReport(msgspec.Struct, frozen=True):
    """A file of the journal."""

    name: str
    size_bytes: int
    what: str
    problem: str = ""


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.  `meshd record check --json` prints it: fields may be added."""

    mesh: str
    node: str
    folder: str
    verdict: str
    """none | sound | unfinished | damaged | foreign | newer: the journal's files."""
    problems: list[str]
    """What is wrong, as sentences that say what to do; empty: nothing."""
    notes: list[str]
    """What else a person should know."""
    files: list[FileReport]
    aside: list[str]
    """Journals that were set aside, beside this one."""
    vote_is_void: bool
    """Set aside, and the others have not given a vote anew."""
    term: int | None = None
    """None, as what follows, if the files cannot be read."""
    base: int | None = None
    """Up to this entry a snapshot stands for the log."""
    last: int | None = None
    voters: list[str] | None = None
    """Node ids, by the newest list that is here."""
    applied: int | None = None
    """The entry up to which the commands were carried out, for what follows."""
    digest: str = ""
    """Of that state: the same on every node that has applied as much."""
    members: int = 0
    jobs: int = 0
    commands: dict[str, int] = {}
    """By kind: those after the snapshot."""
    refused: int = 0
    """Of them refused by the record, which is no fault."""


def examine(
    disk: Disk, place: Place, *, running: bool = False, commit: int | None = None
) -> Examination:
    """Read all of it.  `running`: a daemon writes to it, and knows that it is held by a majority
    up to `commit`.  Raises DiskFailed.
    """
    for _ in range(LOOKS - 1):
        before = _sizes(disk, place)
        found = _look(disk, place, running, commit)
        if not found.problems or _sizes(disk, place) == before:
            return found
    return _look(disk, place, running, commit)


def _sizes(disk: Disk, place: Place) -> list[tuple[str, int | None]]:
    return [(name, disk.size(place.folder / name)) for name in disk.names(place.folder)]


def _look(disk: Disk, place: Place, running: bool, commit: int | None) -> Examination:
    report = check(disk, place.folder, place.owner)
    about = Examination(
        mesh=place.mesh,
        node=place.me,
        folder=str(place.folder),
        verdict=report.verdict.value,
        problems=[],
        notes=[],
        files=[FileReport(r.name, r.size_bytes, r.what, r.problem) for r in report.files],
        aside=place.aside(disk),
        vote_is_void=disk.size(place.void_mark) is not None,
    )
    if about.vote_is_void:
        about.notes.append(
            "A journal of this node was lost or set aside: it has no vote until the others have "
            "taken the one that it had, which they do when it runs."
        )
    match report.verdict:
        case Verdict.NONE:
            return _without(disk, place, about)
        case Verdict.SOUND | Verdict.UNFINISHED:
            if report.verdict is Verdict.UNFINISHED and not running:
                about.notes.append(_unfinished(report))
            return _with_contents(disk, place, about, running, commit)
    about.problems.append(report.summary)
    return about


def _without(disk: Disk, place: Place, about: Examination) -> Examination:
    if disk.size(place.founded_mark) is not None:
        about.problems.append(
            f"This node founded the record, and there is no journal in {place.folder}. Start it: "
            "it gets the record from the other nodes that keep it. If there is none, restore a "
            "backup (`meshd record restore`)."
        )
    else:
        about.notes.append("This node has no journal yet; it makes one when it is started.")
    return about


def _unfinished(report: Report) -> str:
    what = [f"{report.cut}."] if report.cut is not None else []
    if report.leftovers:
        what.append(f"Left over: {', '.join(report.leftovers)}.")
    return " ".join([report.summary, *what])


# ---------------------------------------------------------------- what is in it


def read_stored(disk: Disk, place: Place) -> Stored:
    """The log as the journal has it.  Raises JournalUnusable, DiskFailed."""
    return survey(disk, place.folder, place.owner, snapshots_of(disk, place)).stored


def voters_of(stored: Stored) -> tuple[NodeId, ...]:
    """Those of the newest list in a log; empty if there is none."""
    for entry in reversed(stored.entries):
        if entry.kind is EntryKind.VOTERS:
            return parse_voters(entry.data)
    return stored.snapshot.voters if stored.snapshot is not None else ()


def snapshots_of(disk: Disk, place: Place) -> Snapshots:
    """Those of the journal there."""
    return Snapshots(disk, place.folder, place.mesh)


def _with_contents(
    disk: Disk, place: Place, about: Examination, running: bool, commit: int | None
) -> Examination:
    snapshots = snapshots_of(disk, place)
    try:
        stored = survey(disk, place.folder, place.owner, snapshots).stored
        voters = voters_of(stored)
    except MeshdError as error:  # it changed under our eyes, or holds a list of voters that is none
        about.problems.append(str(error))
        return about
    last, sole = last_of(stored).index, voters == (place.me,)
    until = min(last, commit) if commit is not None and not sole else last
    about = msgspec.structs.replace(
        about, term=stored.ballot.term, base=base_of(stored).index, last=last, voters=list(voters)
    )
    if until < last:
        about.notes.append(
            f"The last {last - until} entries are on their way to a majority, and are left out."
        )
    elif not running and voters and not sole:
        about.notes.append(
            "Whether the last entries are held by a majority, and so part of the record, is known "
            "to the voters together and not to one journal; all of them are counted in here."
        )
    if running and commit is None:
        about.notes.append("The daemon did not say how much of it is held by a majority.")
    return _carried_out(stored, snapshots, until, place, about)


def _carried_out(
    stored: Stored, snapshots: Snapshots, until: int, place: Place, about: Examination
) -> Examination:
    state, kinds, refused, malformed = RecordState(), Counter[str](), 0, 0
    try:
        if stored.snapshot is not None:
            for _ in state.restoring(snapshots.state(stored.snapshot.point)):
                pass
        for entry in stored.entries:
            if entry.index > until or entry.kind is not EntryKind.COMMAND:
                continue
            result = state.apply(entry.index, entry.data)
            try:
                kinds[type(decode(entry.data).body).__name__] += 1
                results.read(result)
            except Malformed:
                malformed += 1
            except RecordRefused:
                refused += 1
        state.check()
    except MeshdError as error:
        about.problems.append(f"The record in the journal cannot be read here: {error}")
    except AssertionError as error:
        about.problems.append(
            "The record in the journal contradicts itself, which no command may bring about: "
            f"please report it ({error or 'no details'})."
        )
    if malformed:
        about.notes.append(
            f"Of the entries {malformed} hold no command in form, which every node refuses alike."
        )
    _judge(state, place, about)
    return msgspec.structs.replace(
        about,
        applied=until,
        digest=state.digest().hex(),
        members=len(state.nodes.rows()),
        jobs=len(state.jobs.live),
        commands=dict(sorted(kinds.items())),
        refused=refused,
    )


def _judge(state: RecordState, place: Place, about: Examination) -> None:
    """Whether it is this mesh's and this node's."""
    if not state.nodes.is_founded:
        if not about.problems:
            about.notes.append("The record is not founded in what is here.")
    elif state.nodes.mesh.mesh != place.mesh:
        about.problems.append(
            f"The record in it is of the mesh {short(state.nodes.mesh.mesh)}, and this node is in "
            f"{short(place.mesh)}: somebody put another node's files here. Set it aside with "
            "`meshd record repair --set-aside`."
        )
    elif state.nodes.is_removed(place.me):
        about.notes.append("By the record this node was taken out of the mesh.")


# ---------------------------------------------------------------- what is left of a bad one


class Remains(msgspec.Struct, frozen=True):
    """What can still be read of a journal in which something is wrong: perhaps not the newest."""

    voters: tuple[NodeId, ...] | None
    """None: no list was found."""
    term: int
    """The latest that was seen; 0: none."""


def remains(disk: Disk, place: Place) -> Remains:
    """Look through all files for lists of voters and terms, skipping what is bad.

    Raises DiskFailed.
    """
    terms, lists = [0], dict[int, Sequence[NodeId]]()
    folder = look_into(disk, place.folder)
    for first in folder.segments:
        try:
            scan = scan_file(disk, place.folder, first)
            if scan.header.owner != place.owner:
                continue
            terms.append(scan.header.cursor.ballot.term)
            path = place.folder / segment_name(first)
            for block in scan.blocks:
                for record in block_records(path, block):
                    match record:
                        case Ballot(term=term):
                            terms.append(term)
                        case Truncate(first_index=index):
                            lists = {at: voters for at, voters in lists.items() if at < index}
                        case Append(entries=entries):
                            terms.append(entries[-1].term)
                            lists |= {
                                entry.index: parse_voters(entry.data)
                                for entry in entries
                                if entry.kind is EntryKind.VOTERS
                            }
        except (JournalUnusable, ProtocolError):
            continue
    for index in folder.snapshots:
        try:
            snapshot = snapshots_of(disk, place).check(index)
        except JournalUnusable:
            continue
        terms.append(snapshot.point.term)
        lists.setdefault(index, snapshot.voters)
    voters = tuple(lists[max(lists)]) if lists else None
    return Remains(voters, max(terms))
