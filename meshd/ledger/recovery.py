"""`meshd recover`: one node goes on alone with its copy of the record.

For a mesh whose majority of voters is gone for good.  To the end of the node's log comes a list of
voters that names this node alone, in a term beyond all that the former voters can have used.  What
others have of that log stays as it is, so whoever has no more than this node follows it by itself.
What was acknowledged by the former voters and is not in this copy is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from meshd.consensus.entries import Append, Ballot, Entry, EntryKind, Stored
from meshd.consensus.journal import Verdict, check, open_journal
from meshd.consensus.replay import last_of
from meshd.consensus.voter_list import pack_voters
from meshd.errors import MeshdError, Refused
from meshd.ids import Address, NodeId, short
from meshd.ledger.examination import read_stored, snapshots_of, voters_of
from meshd.ledger.place import Place
from meshd.ledger.remedies import Patient, fresh_term
from meshd.ports import Disk
from meshd.record.state import RecordState


@dataclass(frozen=True, slots=True)
class Voter:
    """One that is given up."""

    node: NodeId
    name: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What is here, and what is given up."""

    stored: Stored
    voters: int
    """How many have a vote, this node counted if it is one of them."""
    has_vote: bool
    others: tuple[Voter, ...]
    names: dict[NodeId, str]
    has_ca_key: bool
    """By the record."""

    @property
    def last(self) -> int:
        """The end of the log here."""
        return last_of(self.stored).index

    def says(self, place: Place) -> list[str]:
        """What will be done and what may be lost, before it is done."""
        names = ", ".join(voter.name for voter in self.others)
        return [
            f"This node ({self.names.get(place.me) or short(place.me)}) will go on with the record "
            f"alone, from entry {self.last:,}, the last that it has. {names} "
            f"{'loses its vote' if len(self.others) == 1 else 'lose their votes'}.",
            f"What was acknowledged after entry {self.last:,} is lost: jobs, keys, tokens, "
            "members, also removals of members. Another node may have more: run `meshd record "
            "check` on each that is left, and recover the one whose log is longest.",
            "The voters that are given up must not come back with what they have: a majority of "
            "them would go on with a record of its own. Should one of them turn up, type `meshd "
            "record repair --set-aside` there before it is started.",
        ]


class Recovered(msgspec.Struct, frozen=True):
    """The mark that a recovered record keeps: what a person should know later."""

    unix_s: float
    last: int
    given_up: list[str]


def plan(of: Patient) -> Recovery:
    """Look at what there is to recover from.  Raises Refused where it is not the remedy."""
    verdict = check(of.disk, of.place.folder, of.place.owner).verdict
    if verdict is Verdict.NONE:
        raise Refused(
            f"There is no journal in {of.place.folder}: recover at a node that has a copy of the "
            "record (`meshd record check`)"
        )
    if verdict not in (Verdict.SOUND, Verdict.UNFINISHED):
        raise Refused(
            "The journal that is here cannot be used (`meshd record check` says why): recover at "
            "another node, or restore a backup (`meshd record restore`)"
        )
    try:
        stored = read_stored(of.disk, of.place)
        voters, state = voters_of(stored), _state(of.disk, of.place, stored)
    except MeshdError as error:
        raise Refused(f"The record in this journal cannot be read: {error}") from error
    if not voters or not state.nodes.is_founded:
        raise Refused("There is no record in the journal here yet: recover at a node that has one")
    if state.nodes.is_removed(of.place.me):
        raise Refused("By the record this node was taken out of the mesh: it cannot go on with it")
    is_void = of.disk.size(of.place.void_mark) is not None
    if voters == (of.place.me,) and not is_void:
        raise Refused("This node alone has a vote: start it, and the record goes on")
    return _recovery(of, stored, voters, state)


def recover(of: Patient, recovery: Recovery) -> list[str]:
    """Carry it out; what was done.  Raises Refused, DiskFailed."""
    place, stored = of.place, recovery.stored
    term = fresh_term(of, max(stored.ballot.term, last_of(stored).term))
    entry = Entry(recovery.last + 1, term, EntryKind.VOTERS, pack_voters([place.me]))
    given_up = [voter.name for voter in recovery.others]
    mark = Recovered(unix_s=of.now_unix_s, last=recovery.last, given_up=given_up)
    # The mark first: whoever looks at a record that was recovered must be able to know it.
    of.disk.write(place.recovered_mark, msgspec.json.encode(mark), private=True)
    opened = open_journal(of.disk, place.folder, place.owner, of.entropy)
    try:
        opened.journal.write((Ballot(term), Append((entry,))))
    finally:
        opened.journal.close()
    of.disk.delete(place.void_mark)  # nothing that it promised before is of that term
    done = [
        f"This node alone has a vote now; the record goes on after entry {recovery.last:,}. Start "
        "it, then the other nodes that are left: they follow by themselves.",
        "A node that says that it knows entries of the former record stays away from this one "
        "until `meshd record repair --set-aside` was typed there.",
    ]
    if not recovery.has_ca_key:
        done.append(
            "This node does not have the CA's key, so no machine can be let in until one that has "
            "it is back."
        )
    return done


def recovered(disk: Disk, place: Place) -> Recovered | None:
    """Whether and how the record was recovered at this node."""
    data = disk.read(place.recovered_mark)
    try:
        return None if data is None else msgspec.json.decode(data, type=Recovered)
    except msgspec.MsgspecError:
        return Recovered(unix_s=0.0, last=0, given_up=[])


def _recovery(
    of: Patient, stored: Stored, voters: tuple[NodeId, ...], state: RecordState
) -> Recovery:
    rows = {NodeId(row.id): row for row in state.nodes.rows()}
    names = {node: row.name for node, row in rows.items()}
    others = tuple(
        Voter(
            node,
            names.get(node) or of.name_of(node),
            tuple(Address(*pair) for pair in rows[node].addresses) if node in rows else (),
        )
        for node in voters
        if node != of.place.me
    )
    me = of.place.me
    return Recovery(
        stored, len(voters), me in voters, others, names, me in rows and rows[me].holds_ca
    )


def _state(disk: Disk, place: Place, stored: Stored) -> RecordState:
    """What all entries here come to, held by a majority or not."""
    state = RecordState()
    if stored.snapshot is not None:
        snapshots = snapshots_of(disk, place)
        for _ in state.restoring(snapshots.state(stored.snapshot.point)):
            pass
    for entry in stored.entries:
        if entry.kind is EntryKind.COMMAND:
            state.apply(entry.index, entry.data)
    return state
