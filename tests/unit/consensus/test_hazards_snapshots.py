"""Hazards of compaction and snapshots: each shown on stock pysyncobj, then absent from ours."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshd import limits
from meshd.consensus.entries import Point, Rebase, Snapshot
from meshd.consensus.interface import CallerMistake, CoreStopped, Nonsense, Settings
from meshd.consensus.messages import AppendAnswer, AppendEntries, SnapshotAnswer, SnapshotPart
from meshd.consensus.replay import replay
from meshd.consensus.snapshot_parts import Taken
from tests.unit.consensus.kernel_rig import SETTINGS, Host, Mesh, ids, node_id
from tests.unit.consensus.stock_rig import StockMesh, inside, rows, stock_modules

SMALL = {"trailing": 0, "chunk_bytes": 16}


def resized(**sizes: int) -> Settings:
    return msgspec.structs.replace(SETTINGS, **sizes)


def behind(commands: int = 40, **sizes: int) -> Mesh:
    """`a` leads, has compacted its log, and `c` has nothing of it."""
    mesh = Mesh(settings=resized(**{**SMALL, **sizes}))
    mesh.elect("a")
    mesh.cut("c", "ab")
    mesh.commit("a", *[b"command %d" % n for n in range(commands)])
    mesh["a"].snap()
    return mesh


def whole(host: Host, snapshot: Snapshot | Taken, term: int) -> SnapshotPart:
    """All of a snapshot in one part, as a leader of that term may send it."""
    shelf = host.shelf
    data = shelf.states[(shelf.save(snapshot) if isinstance(snapshot, Taken) else snapshot).point]
    return SnapshotPart(
        term=term, round=1, index=snapshot.point.index, snapshot_term=snapshot.point.term,
        voters=snapshot.voters, size=len(data), offset=0, data=data, crc32=zlib.crc32(data),
    )  # fmt: skip


def made_up(data: bytes, *, index: int = 90, size: int | None = None) -> SnapshotPart:
    """A part of a snapshot that nobody took."""
    return SnapshotPart(
        term=99, round=1, index=index, snapshot_term=3, voters=ids("abc"),
        size=len(data) if size is None else size, offset=0, data=data, crc32=zlib.crc32(data),
    )  # fmt: skip


# --- H10, H11: crashes in the middle of a compaction


class PowerLoss(Exception):
    """The machine stops here."""


def test_h10_stock_loses_the_log_when_it_dies_while_compacting(tmp_path: Path) -> None:
    journal_class = stock_modules().journal.FileJournal
    journal = journal_class(str(tmp_path / "journal"))
    for index in range(1, 2001):
        journal.add(b"\0cmd", index, 1)
    add, added = journal.add, []

    def add_until_the_power_fails(*entry: Any) -> None:
        added.append(entry)
        if len(added) == 100:
            raise PowerLoss
        add(*entry)

    journal.add = add_until_the_power_fails
    with pytest.raises(PowerLoss):
        journal.deleteEntriesTo(500)
    assert len(journal_class(str(tmp_path / "journal"))) == 99  # of 1,500 that were to stay


def test_h10_every_beginning_of_the_records_is_a_whole_log() -> None:
    mesh = behind(commands=20)
    mesh.heal("c", "ab")
    mesh.settle(4)
    mesh.commit("a", *[b"after %d" % n for n in range(5)])
    mesh["a"].snap()
    for host in mesh.hosts.values():
        assert any(isinstance(record, Rebase) for record in host.synced_records) or host.name == "b"
    host = mesh["a"]
    founded = Mesh()["a"].stored
    snapshots = [
        Snapshot(point=record.point, voters=ids("abc"), size_bytes=0)
        for record in host.synced_records
        if isinstance(record, Rebase)
    ]
    ends = set()
    for count in range(len(host.synced_records) + 1):
        stored = replay(founded, host.synced_records[:count], snapshots)
        ends.add(max((e.index for e in stored.entries), default=0))
    assert max(ends) == host.kernel.log.last.index


def test_h11_stock_loses_its_tail_when_it_dies_after_the_dump(tmp_path: Path) -> None:
    conf = {
        "journalFile": str(tmp_path / "j"),
        "fullDumpFile": str(tmp_path / "d"),
        "useFork": False,
    }
    stock = StockMesh("a", **conf)
    stock.elect("a")
    for n in range(50):
        stock.propose("a", b"c%d" % n)
    stock.settle(4)
    stock.nodes["a"].forceLogCompaction()
    stock.nodes["a"]._onTick(0)  # the dump is written; the journal is cut in the next tick only
    journal = inside(stock.nodes["a"], "raftLog")
    _, last, term = rows(stock.nodes["a"])[-1]
    for index in range(last + 1, last + 31):
        journal.add(b"\0acknowledged to a leader", index, term)
    journal.flush()
    again = stock.start("a", "abc", **conf)
    assert len(rows(again)) > 80
    again._onTick(0)
    assert len(rows(again)) == 2


def test_h11_a_tail_behind_a_snapshot_stays() -> None:
    """The snapshot is on disk, and the crash came before the record that names it."""
    mesh = behind(commands=20, trailing=4096)
    host = mesh["b"]
    mesh.cuts |= {frozenset("ab")}
    taken = host.kernel.take_snapshot()
    assert taken is not None
    mesh.cuts.clear()
    mesh.commit("a", *[b"after %d" % n for n in range(5)])
    host.snapshot = host.shelf.save(taken)  # durable, and `compact` was not called
    last = host.kernel.log.last
    mesh.restart("b")
    assert mesh.kernel("b").log.last == last
    assert mesh.kernel("b").status().first == taken.point.index


# --- snapshots to followers


def test_stock_sends_a_whole_dump_in_one_go(tmp_path: Path) -> None:
    stock = StockMesh()
    stock.start("a", "abc", fullDumpFile=str(tmp_path / "d"), useFork=False,
                logCompactionBatchSize=64)  # fmt: skip
    stock.relink()
    stock.elect("a")
    stock.cut("a", "c")
    for n in range(500):
        stock.propose("a", b"%d" % n)
    stock.settle(4)
    stock.nodes["a"].some_state = [f"state {n}" for n in range(2000)]
    stock.nodes["a"].forceLogCompaction()
    stock.settle(3)
    stock.heal("a", "c")
    stock.tick("a")
    assert sum("serialized" in m for _, to, m in stock.queue if to == "c") > 50


def test_a_snapshot_goes_in_parts_that_wait_for_answers() -> None:
    mesh = behind()
    mesh.heal("c", "ab")
    most = 0
    for _ in range(400):
        mesh.tick(dt=0.02)
        waiting = [m for _, to, m in mesh.queue if to == "c" and isinstance(m, SnapshotPart)]
        most = max(most, sum(len(part.data) for part in waiting))
        for _ in range(2):
            if mesh.queue:
                sender, to, message = mesh.queue.popleft()
                mesh.hand(sender, to, message)
                mesh[to].turn()
    assert 0 < most <= 4 * 16
    assert mesh["c"].machine.commands == mesh["a"].machine.commands


def test_a_follower_far_behind_gets_the_snapshot_and_what_follows_it() -> None:
    mesh = behind()
    mesh.commit("a", b"after")
    mesh.heal("c", "ab")
    mesh.settle(6)
    assert mesh["c"].machine.commands == mesh["a"].machine.commands
    assert mesh["c"].stored.snapshot == mesh["a"].snapshot
    mesh.restart("c")
    mesh.settle(3)
    assert mesh["c"].machine.commands == mesh["a"].machine.commands


def test_a_snapshot_of_nothing_is_installed_too() -> None:
    mesh = Mesh("a", "d", settings=resized(**SMALL))
    mesh["a"].turn()
    mesh["a"].snap()
    assert mesh["a"].snapshot is not None
    assert mesh["a"].snapshot.size_bytes == 0
    mesh.kernel("a").set_learners(ids("d"), mesh.now)
    mesh.settle(4)
    assert mesh.kernel("d").status().voters == ids("a")
    assert mesh.kernel("d").log.last == mesh.kernel("a").log.last


def test_the_answer_to_a_snapshot_claims_the_snapshot_and_no_tail() -> None:
    """The snapshot's place is in the follower's log, but what follows it there was not compared."""
    mesh = Mesh(settings=resized(**SMALL))
    mesh.elect("a")
    mesh.commit("a", *[b"%d" % n for n in range(9)])  # c has these, and does not know it
    common = mesh.kernel("b").take_snapshot()
    assert common is not None
    mesh.cut("a", "bc")
    mesh.elect("b")
    mesh.cut("b", "c")
    mesh.kernel("c").stock._commit = mesh.kernel("c").log.committed = common.point.index - 1
    term = mesh.kernel("c").status().term
    last = mesh.kernel("c").log.last
    mesh.hand("b", "c", AppendEntries(  # a tail that a lost leader's successor never had
        term=term, round=1, prev_index=last.index, prev_term=last.term, commit=0,
        entries=((term, b"\0tail"),) * 5,
    ))  # fmt: skip
    mesh["c"].flush()
    mesh.heal("a", "c")
    mesh.queue.clear()
    mesh.hand("a", "c", whole(mesh["b"], common, term + 1))
    mesh["c"].flush()
    [answer] = mesh.take(AppendAnswer, sender="c", to="a")
    assert mesh.kernel("c").log.last.index == last.index + 5
    assert (answer.ok, answer.index) == (True, common.point.index)


def test_what_follows_the_snapshots_place_in_the_log_stays() -> None:
    mesh = behind(commands=20)
    mesh.heal("c", "ab")
    mesh.settle(5)
    mesh.commit("a", *[b"more %d" % n for n in range(5)])
    taken = mesh["a"].snapshot
    host = mesh["c"]
    last = host.kernel.log.last
    assert taken is not None
    host.kernel.stock._commit = taken.point.index - 1  # as if no leader had told it more
    host.kernel.log.committed = taken.point.index - 1
    mesh.hand("a", "c", whole(mesh["a"], taken, mesh.kernel("a").status().term))
    host.flush()
    assert host.kernel.snapshots.current == taken
    assert host.kernel.log.last == last


def test_an_older_snapshot_is_not_installed() -> None:
    mesh = behind(commands=20)
    old = mesh["a"].snapshot
    assert old is not None
    mesh.heal("c", "ab")
    mesh.settle(5)
    mesh.commit("a", b"newer")
    mesh.settle(1)
    applied = mesh.kernel("c").status().applied
    tried, records = mesh["c"].machine.tried, list(mesh["c"].synced_records)
    mesh.queue.clear()
    mesh.hand("a", "c", whole(mesh["a"], old, mesh.kernel("a").status().term))
    mesh["c"].turn()
    assert mesh.kernel("c").status().applied == applied
    assert mesh["c"].machine.commands[-1] == b"newer"
    assert (mesh["c"].machine.tried, mesh["c"].synced_records) == (tried, records)
    [answer] = mesh.take(AppendAnswer, sender="c")
    assert (answer.ok, answer.index) == (True, applied)


def test_a_part_whose_checksum_is_wrong_is_refused() -> None:
    mesh = behind()
    before = mesh.kernel("c").status()
    with pytest.raises(Nonsense, match="checksum"):
        mesh.hand("a", "c", SnapshotPart(
            term=99, round=1, index=20, snapshot_term=3, voters=ids("abc"), size=100, offset=0,
            data=b"chunk", crc32=1,
        ))  # fmt: skip
    assert mesh.kernel("c").status() == before


def test_a_state_that_cannot_be_restored_ends_the_core_before_anything_is_stored() -> None:
    mesh = behind()
    stored = mesh["c"].stored
    mesh.hand("a", "c", made_up(b"broken"))
    with pytest.raises(CoreStopped, match="did not take the snapshot"):
        mesh["c"].flush()
    with pytest.raises(CoreStopped):
        mesh["c"].flush()
    assert msgspec.structs.replace(mesh["c"].stored, ballot=stored.ballot) == stored


def test_a_state_that_is_damaged_is_given_up_and_sent_again() -> None:
    mesh = behind()
    mesh.heal("c", "ab")
    point = next(iter(mesh["a"].shelf.states))
    sound, mesh["a"].shelf.states[point] = mesh["a"].shelf.states[point], b"damaged" + b" " * 800
    mesh["c"].machine.prepare = refusing(mesh["c"].machine.prepare)  # type: ignore[method-assign]
    mesh.settle(3)
    assert mesh["c"].machine.commands == []
    assert mesh.kernel("c").status().applied < point.index
    mesh["a"].shelf.states[point] = sound
    mesh.settle(20)
    assert mesh["c"].machine.commands == mesh["a"].machine.commands


def refusing(prepare: Any) -> Any:
    """Until the state is one that does not say that it is damaged."""

    def checked(state: Any) -> Any:
        data = b"".join(state)
        return prepare([b"damaged" if data.startswith(b"damaged") else data])

    return checked


def test_while_a_state_is_built_the_node_follows_and_what_overtakes_it_stands() -> None:
    mesh = behind(commands=20, trailing=100)
    host, snapshot = mesh["c"], mesh["a"].snapshot
    assert snapshot is not None
    state = mesh["a"].shelf.states[snapshot.point]
    mesh.hand("a", "c", whole(mesh["a"], snapshot, mesh.kernel("a").status().term))
    host.kernel.take_outbox()  # the last piece is handed out, and takes its time on the disk
    host.kernel.stored()
    building = host.kernel.prepare(snapshot, [state])
    next(building)
    mesh.heal("c", "ab")
    mesh.settle(4)
    mesh.commit("a", b"newer")
    mesh.settle(1)
    assert host.machine.commands == mesh["a"].machine.commands
    for _ in building:
        pass
    host.kernel.install(snapshot, mesh.now)
    host.flush()
    assert host.machine.commands == mesh["a"].machine.commands
    assert host.kernel.snapshots.current is None


def test_while_a_state_is_built_no_other_snapshot_is_begun() -> None:
    mesh = behind()
    mesh.heal("c", "ab")
    kernel = mesh.kernel("c")
    mesh.hand("a", "c", made_up(b"whole"))
    mesh.hand("a", "c", made_up(b"another", index=95, size=100))
    kernel.disconnected(node_id("a"), mesh.now)
    mesh.hand("b", "c", made_up(b"whole"))
    outbox = kernel.take_outbox()
    assert [piece.data for piece in outbox.pieces] == [b"whole"]
    held = [out.message.held for out in outbox.late if isinstance(out.message, SnapshotAnswer)]
    assert held[-1] == 5
    kernel.stored()
    kernel.abandon(mesh.now)
    mesh.hand("b", "c", made_up(b"another", index=95, size=100))
    assert [piece.data for piece in kernel.take_outbox().pieces] == [b"another"]


def test_pieces_wait_for_the_disk_within_a_bound() -> None:
    mesh = behind()
    for n in range(100):
        part = msgspec.structs.replace(made_up(b"x" * 10, size=10_000), offset=10 * n)
        mesh.hand("a", "c", part)
    pieces = mesh.kernel("c").take_outbox().pieces
    assert len(pieces) == limits.RAFT_CHUNKS_IN_FLIGHT
    assert sum(len(piece.data) for piece in pieces) == 10 * limits.RAFT_CHUNKS_IN_FLIGHT


def test_a_snapshot_that_is_being_sent_stays_in_use() -> None:
    mesh = behind(trailing=0)
    first = mesh["a"].snapshot
    assert first is not None
    mesh.heal("c", "ab")
    mesh.tick()
    mesh.deliver(lambda sender, to, message: isinstance(message, SnapshotPart))
    mesh.propose("a", b"more")
    mesh["a"].turn()
    mesh.deliver(lambda sender, to, message: to == "c")
    second = mesh["a"].snap()
    assert mesh.kernel("a").snapshots_in_use() == {first.point, second.point}
    mesh.settle(20)
    assert mesh.kernel("a").snapshots_in_use() == {second.point}


def test_a_lost_part_is_sent_again() -> None:
    mesh = behind()
    mesh.heal("c", "ab")
    lost = [2]

    def drop(sender: str, to: str, message: Any) -> bool:
        if isinstance(message, SnapshotPart) and message.data and lost[0]:
            lost[0] -= 1
            return True
        return False

    for _ in range(20):
        mesh.tick()
        mesh.deliver(drop)
    assert mesh["c"].machine.commands == mesh["a"].machine.commands


def test_parts_are_not_repeated_into_a_link_that_is_merely_slow() -> None:
    """A link that stands still for a minute gets each part again a few times, not 600 times."""
    mesh = behind()
    mesh.heal("c", "ab")
    sent = 0
    for _ in range(600):
        mesh.tick("ab")
        sent += sum(len(part.data) for part in mesh.take(SnapshotPart, to="c"))
        mesh.deliver()
        mesh.kernel("a").stock.answered[mesh.kernel("a").peer(node_id("b"))] = mesh.now
    assert sent <= 7 * 4 * 16


def test_answers_about_bytes_that_were_never_sent_are_nonsense() -> None:
    mesh = behind()
    mesh.heal("c", "ab")
    mesh.tick()
    mesh.deliver(lambda sender, to, message: isinstance(message, SnapshotPart))
    status = mesh.kernel("a").status()
    assert status.peers[node_id("c")].mode == "snapshot"
    assert mesh["a"].snapshot is not None
    with pytest.raises(Nonsense):
        mesh.hand("c", "a", SnapshotAnswer(
            term=status.term, round=1, index=mesh["a"].snapshot.point.index, held=10**6
        ))  # fmt: skip


# --- one's own


def test_a_follower_a_little_behind_needs_no_snapshot() -> None:
    mesh = behind(commands=20, trailing=100)
    mesh.heal("c", "ab")
    mesh.settle(3)
    assert mesh["c"].machine.commands == mesh["a"].machine.commands
    assert mesh["c"].snapshot is None


def test_a_place_before_the_followers_floor_is_found_at_once() -> None:
    """The follower compacted more than the leader, and what it compacted the leader has."""
    mesh = Mesh(settings=resized(trailing=0))
    mesh.elect("a")
    mesh.commit("a", *[b"%d" % n for n in range(20)])
    mesh.settle(1)
    mesh["c"].snap()
    mesh.elect("b")
    mesh.kernel("b").sending.progress[mesh.kernel("b").peer(node_id("c"))].start_over(2)
    mesh.settle(3)
    assert mesh.kernel("b").status().peers[node_id("c")].match == mesh.kernel("b").log.last.index


def test_there_is_no_snapshot_of_nothing_new() -> None:
    mesh = behind()
    assert mesh.kernel("a").take_snapshot() is None
    mesh.commit("a", b"new")
    assert mesh.kernel("a").take_snapshot() is not None


def test_a_snapshot_of_another_log_is_refused() -> None:
    mesh = behind()
    mesh.commit("a", b"one more")
    last = mesh.kernel("a").log.last
    for point in (Point(last.term, last.index + 1), Point(last.term + 1, last.index)):
        with pytest.raises(CallerMistake):
            mesh.kernel("a").compact(Snapshot(point, ids("abc"), 0), mesh.now)


def test_a_snapshot_that_was_overtaken_changes_nothing() -> None:
    mesh = Mesh("a", settings=resized(**SMALL))
    mesh["a"].turn()
    mesh.commit("a", b"one")
    early = mesh.kernel("a").take_snapshot()
    mesh.commit("a", b"two")
    late = mesh["a"].snap()
    assert early is not None
    mesh.kernel("a").compact(mesh["a"].shelf.save(early), mesh.now)
    assert mesh.kernel("a").snapshots.current == late


def test_a_restart_begins_at_the_snapshot() -> None:
    mesh = behind()
    mesh.commit("a", b"after")
    mesh.restart("a")
    assert mesh["a"].machine.commands == [b"command %d" % n for n in range(40)]
    mesh.elect("b")
    mesh.settle(3)
    assert mesh["a"].machine.commands[-1] == b"after"
