"""Hazards of compaction and snapshots: each shown on stock pysyncobj, then absent from ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshd.consensus.entries import Point, Rebase, Snapshot
from meshd.consensus.interface import CallerMistake
from meshd.consensus.replay import replay
from tests.unit.consensus.kernel_rig import (
    SMALL,
    Mesh,
    behind,
    ids,
    node_id,
    resized,
)
from tests.unit.consensus.stock_rig import StockMesh, inside, rows, stock_modules


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
