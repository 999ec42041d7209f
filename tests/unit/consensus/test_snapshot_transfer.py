"""Snapshots to followers: in parts, checked, repeated when lost, refused when they cannot be."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import pytest

from meshd import limits
from meshd.consensus.entries import Snapshot
from meshd.consensus.interface import CoreStopped, Nonsense
from meshd.consensus.messages import AppendAnswer, AppendEntries, SnapshotAnswer, SnapshotPart
from meshd.consensus.snapshot_parts import Taken
from tests.unit.consensus.kernel_rig import (
    SMALL,
    Host,
    Mesh,
    behind,
    ids,
    node_id,
    resized,
)


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
