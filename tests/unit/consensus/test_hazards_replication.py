"""Hazards of replication: each shown on stock pysyncobj, then absent from the kernel."""

from __future__ import annotations

import functools
import zlib
from typing import Any

import pytest

from meshd import limits
from meshd.consensus.interface import CommandTooLarge, Nonsense
from meshd.consensus.messages import AppendAnswer, AppendEntries, SnapshotPart
from meshd.consensus.outcomes import Committed
from tests.unit.consensus.kernel_rig import Mesh, node_id, resized
from tests.unit.consensus.stock_rig import StockMesh, inside, rows, stock_modules


def led(mesh: Mesh, who: str = "a") -> Mesh:
    mesh.elect(who)
    return mesh


# --- H1: a word that names no place in the log moves the commit index


def test_h1_stock_commits_entries_that_nobody_compared() -> None:
    stock = StockMesh()
    stock.elect("a")
    stock.cut("a", "bc")
    got = stock.propose("a", b"never committed")
    stock.tick("a")
    stock.elect("b", among="bc")
    for n in range(20):
        stock.propose("b", b"x%d" % n)
    stock.settle(4, "bc")
    stock.hand("b", "a", {
        "type": "append_entries", "term": stock.nodes["b"].raftCurrentTerm,
        "commit_index": stock.nodes["b"].raftCommitIndex, "serialized": (b"chunk", True, False),
    })  # fmt: skip
    stock.tick("a")
    assert got == [(1, 0)]  # the client was told "success"
    assert b"never committed" in stock.applied["a"]
    assert b"never committed" not in stock.applied["b"]


def test_h1_a_part_of_a_snapshot_commits_nothing() -> None:
    mesh = led(Mesh())
    mesh.cut("a", "bc")
    lost = mesh.propose("a", b"never committed")
    mesh["a"].turn()
    mesh.elect("b")
    mesh.commit("b", *[b"x%d" % n for n in range(20)])
    before = mesh.kernel("a").status().commit
    part = SnapshotPart(
        term=mesh.kernel("b").status().term, round=1, index=20, snapshot_term=3,
        voters=mesh.kernel("b").status().voters, size=100, offset=0, data=b"chunk",
        crc32=zlib.crc32(b"chunk"),
    )  # fmt: skip
    mesh.hand("b", "a", part)
    mesh["a"].turn()
    assert mesh.kernel("a").status().commit == before
    assert lost not in mesh["a"].outcomes
    assert b"never committed" not in mesh["a"].machine.commands


# --- H3: an answer of an earlier leadership


def test_h3_stock_believes_an_answer_to_its_earlier_leadership() -> None:
    stock = StockMesh()
    stock.elect("a")
    stock.elect("b")
    stock.elect("a")
    real = rows(stock.nodes["b"])[-1][1]
    late = {"type": "next_node_idx", "next_node_idx": 9, "reset": False, "success": True}
    stock.hand("b", "a", late)
    assert inside(stock.nodes["a"], "raftMatchIndex")[stock.node("b")] == 8 > real


def test_h3_an_answer_of_an_earlier_term_counts_for_nothing() -> None:
    mesh = led(Mesh())
    for who in "ba":
        mesh.elect(who)
    before = mesh.kernel("a").status()
    late = AppendAnswer(term=before.term - 2, round=1, ok=True, index=before.last, rejected=0)
    mesh.cut("b", "ac")
    mesh.heal("b", "ac")  # what b has is asked anew
    mesh.hand("b", "a", late)
    assert mesh.kernel("a").status().peers[node_id("b")].match == 0


def test_h3_an_answer_of_a_later_term_ends_a_leadership() -> None:
    mesh = led(Mesh())
    term = mesh.kernel("a").status().term
    mesh.hand("b", "a", AppendAnswer(term=term + 1, round=0, ok=False, index=0, rejected=0))
    assert mesh.kernel("a").status().role == "follower"
    assert mesh.kernel("a").status().term == term + 1


def test_an_answer_about_entries_that_were_never_sent_is_nonsense() -> None:
    mesh = led(Mesh())
    status = mesh.kernel("a").status()
    for answer in (
        AppendAnswer(term=status.term, round=0, ok=True, index=status.last + 1, rejected=0),
        AppendAnswer(term=status.term, round=0, ok=False, index=0, rejected=status.last + 1),
        AppendAnswer(term=status.term, round=10_000, ok=True, index=0, rejected=0),
    ):
        with pytest.raises(Nonsense):
            mesh.hand("b", "a", answer)
    assert mesh.kernel("a").status() == status


# --- H4: what was acknowledged is taken back


def test_h4_stock_takes_back_what_it_acknowledged() -> None:
    stock = StockMesh()
    stock.elect("a")
    stock.cut("a", "c")
    stock.settle(2, "ab")
    first: list[Any] = []
    got = [stock.propose("a", b"one")]
    for _ in range(3):
        stock.tick("a")
        first += [m for _, to, m in stock.queue if to == "b" and m.get("entries")]
        stock.deliver()
    got.append(stock.propose("a", b"two"))
    stock.settle(3, "ab")
    assert [answers[0][1] for answers in got] == [0, 0]  # both were acknowledged to their clients
    stock.hand("a", "b", first[0])  # the same leader, the same term, an older message
    assert [payload[1:] for payload, _, _ in rows(stock.nodes["b"])][-1] == b"one"


def test_h4_an_older_message_takes_nothing_back() -> None:
    mesh = led(Mesh())
    mesh.cut("a", "c")
    mesh.commit("a", b"one")
    appended = [m for _, to, m in mesh.log if to == "b" and isinstance(m, AppendEntries)]
    first = [m for m in appended if m.entries][-1]
    mesh.commit("a", b"two")
    before = mesh.kernel("b").log[:]
    mesh.hand("a", "b", first)
    mesh["b"].turn()
    assert mesh.kernel("b").log[:] == before
    assert mesh["b"].stored.entries[-1].data == b"two"


def test_h4_commit_goes_no_further_than_what_was_compared() -> None:
    """A follower's own tail is not committed by a heartbeat that names an earlier place."""
    mesh = led(Mesh())
    mesh.cut("a", "bc")
    for n in range(5):
        mesh.propose("a", b"tail %d" % n)
    mesh["a"].turn()
    tail = mesh.kernel("a").log.last.index
    mesh.elect("b")
    term = mesh.kernel("b").status().term
    heartbeat = AppendEntries(
        term=term, round=1, prev_index=2, prev_term=mesh.kernel("a").log.term_at(2) or 0,
        commit=tail, entries=(),
    )  # fmt: skip
    mesh.hand("b", "a", heartbeat)
    assert mesh.kernel("a").status().commit == 2
    assert mesh.kernel("a").log.last.index == tail  # and nothing was cut either


def test_an_answer_claims_no_tail_that_was_not_compared() -> None:
    """The heartbeat names place 2: the answer says 2, though the log is longer."""
    mesh = led(Mesh())
    mesh.cut("a", "bc")
    mesh.propose("a", b"tail")
    mesh["a"].turn()
    mesh.elect("b")
    heartbeat = AppendEntries(
        term=mesh.kernel("b").status().term, round=1, prev_index=2,
        prev_term=mesh.kernel("a").log.term_at(2) or 0, commit=0, entries=(),
    )  # fmt: skip
    mesh.heal("a", "bc")
    mesh.queue.clear()
    mesh.hand("b", "a", heartbeat)
    mesh["a"].flush()
    [answer] = mesh.take(AppendAnswer, sender="a")
    assert (answer.ok, answer.index) == (True, 2)


def test_a_leader_that_would_undo_what_is_committed_is_refused() -> None:
    mesh = led(Mesh())
    mesh.commit("a", b"one", b"two")
    status, log = mesh.kernel("b").status(), mesh.kernel("b").log[:]
    lie_about_term = AppendEntries(
        term=status.term + 5, round=1, prev_index=status.commit, prev_term=status.term + 4,
        commit=0, entries=(),
    )  # fmt: skip
    changed = AppendEntries(
        term=status.term + 5, round=1, prev_index=status.commit - 1, prev_term=status.term,
        commit=0, entries=((status.term + 5, b"\0other"),),
    )  # fmt: skip
    for message in (lie_about_term, changed):
        with pytest.raises(Nonsense):
            mesh.hand("c", "b", message)
    assert (mesh.kernel("b").status(), mesh.kernel("b").log[:]) == (status, log)


def test_two_leaders_in_one_term_are_refused() -> None:
    mesh = led(Mesh())
    status = mesh.kernel("b").status()
    word = AppendEntries(term=status.term, round=1, prev_index=0, prev_term=0, commit=0, entries=())
    for to in "ab":
        with pytest.raises(Nonsense):
            mesh.hand("c", to, word)
    assert mesh.kernel("b").status() == status


# --- H16: large commands


def test_h16_stock_pickles_a_command_as_large_as_a_batch() -> None:
    stock = StockMesh(appendEntriesBatchSizeBytes=64)
    stock.elect("a")
    stock.propose("a", b"x" * 300)
    stock.tick("a")
    stock.tick("a")
    large = [m for _, _, m in stock.queue if "transmission" in m]
    assert large
    assert large[0]["data"][:1] == b"\x80"  # a pickle begins so


def test_h16_the_largest_command_goes_as_it_is_and_larger_ones_do_not() -> None:
    mesh = led(Mesh(settings=resized(batch_bytes=64)))
    largest = b"x" * limits.RAFT_COMMAND_BYTES
    mesh.commit("a", largest)
    mesh.settle(1)
    assert mesh["c"].machine.commands == [largest]
    with pytest.raises(CommandTooLarge):
        mesh.propose("a", largest + b"x")


# --- H17: a follower that differs


def diverged_stock() -> StockMesh:
    stock = StockMesh(appendEntriesBatchSizeBytes=64)
    stock.elect("a")
    stock.cut("a", "bc")
    for n in range(40):
        stock.propose("a", b"lost %d" % n)
    stock.tick("a")
    stock.elect("b", among="bc")
    for n in range(60):
        stock.propose("b", b"kept %d" % n)
    stock.settle(4, "bc")
    stock.elect("c", among="bc")
    stock.heal("a", "bc")
    return stock


def test_h17_stock_never_brings_a_follower_that_differs_back() -> None:
    """A minute and more: each refusal's one step back is undone by the next message under way."""
    stock = diverged_stock()
    stock.settle(600)
    assert stock.nodes["c"].raftCommitIndex > 60
    assert stock.nodes["c"]._isLeader()
    assert rows(stock.nodes["a"])[-1][0] == b"\0lost 39"


def test_h17_a_follower_that_differs_converges_in_a_few_round_trips() -> None:
    mesh = led(Mesh(settings=resized(batch_bytes=64)))
    mesh.cut("a", "bc")
    for n in range(40):
        mesh.propose("a", b"lost %d" % n)
    mesh["a"].turn()
    mesh.elect("b")
    mesh.commit("b", *[b"kept %d" % n for n in range(60)])
    mesh.elect("c")
    mesh.heal("a", "bc")
    refused_before = sum(isinstance(m, AppendAnswer) and not m.ok for _, _, m in mesh.log)
    mesh.settle(3)
    refused = sum(isinstance(m, AppendAnswer) and not m.ok for _, _, m in mesh.log)
    assert mesh["a"].machine.commands == mesh["b"].machine.commands
    assert refused - refused_before <= 4


def test_h17_a_refusal_of_an_earlier_message_moves_nothing() -> None:
    """Several messages were under way when the first refusal came: the others are no news."""
    mesh = led(Mesh())
    mesh.cut("c", "ab")
    mesh.commit("a", *[b"%d" % n for n in range(30)])
    mesh.heal("c", "ab")
    mesh.tick("a")
    kernel = mesh.kernel("a")
    progress = kernel.sending.progress[kernel.peer(node_id("c"))]
    probe = progress.next - 1
    term = kernel.status().term
    mesh.hand("c", "a", AppendAnswer(term=term, round=0, ok=False, index=3, rejected=probe))
    assert progress.next == 4
    mesh.hand("c", "a", AppendAnswer(term=term, round=0, ok=False, index=20, rejected=21))
    assert progress.next == 4


# --- H20: messages of an earlier connection


class Connection:
    """In the place of a stock TCP connection."""

    def setOnMessageReceivedCallback(self, callback: Any) -> None:
        self.received = callback


def test_h20_stock_listens_to_a_connection_that_was_replaced() -> None:
    modules = stock_modules()
    transport = object.__new__(modules.transport.TCPTransport)
    node = modules.node.Node("b")
    got: list[str] = []
    transport._syncObj = type("Plain", (), {"encryptor": None})
    transport._nodeAddrToNode = {"b": node}
    transport._unknownConnections = set()
    transport._connections = {}
    transport._onNodeConnectedCallback = lambda node: None
    transport._onMessageReceivedCallback = lambda node, message: got.append(message)
    old, new = Connection(), Connection()
    transport._onIncomingMessageReceived(old, "b")
    transport._onIncomingMessageReceived(new, "b")
    new.received("said later")
    old.received("said earlier")
    assert got == ["said later", "said earlier"]


def test_h20_whatever_comes_late_from_an_earlier_connection_changes_nothing() -> None:
    """All that was ever sent, once more, oldest last: nothing acknowledged is lost."""
    mesh = led(Mesh())
    mesh.commit("a", b"one", b"two")
    mesh.elect("b")
    mesh.commit("b", b"three")
    mesh.settle(1)
    logs = {name: host.kernel.log[:] for name, host in mesh.hosts.items()}
    commits = {name: host.kernel.status().commit for name, host in mesh.hosts.items()}
    for sender, to, message in reversed(list(mesh.log)):
        mesh.hand(sender, to, message)
        mesh[to].flush()
    for name, host in mesh.hosts.items():
        assert host.kernel.log[:] == logs[name]
        assert host.kernel.status().commit == commits[name]
    mesh.queue.clear()
    mesh.settle(30)
    leader = next(n for n in "abc" if mesh.kernel(n).status().role == "leader")
    mesh.commit(leader, b"four")


# --- what a leader sends


def test_nothing_is_said_that_nobody_asked_for() -> None:
    """An acknowledgement is no reason for another empty message."""
    mesh = led(Mesh())
    mesh.commit("a", b"one")
    before = len(mesh.log)
    mesh.tick()
    mesh.deliver()
    kinds = [type(m) for _, _, m in list(mesh.log)[before:]]
    assert sorted(kinds, key=str) == sorted([AppendEntries, AppendAnswer] * 2, key=str)


def test_a_follower_that_does_not_answer_costs_a_window_and_no_more() -> None:
    settings = resized(window_bytes=4096, batch_bytes=512)
    mesh = led(Mesh(settings=settings))
    to_c: list[AppendEntries] = []
    silent = functools.partial(lost_to_c, to_c)
    for n in range(40):
        mesh.propose("a", b"x" * 500)
        mesh["a"].turn()
        mesh.deliver(silent)
        if n % 10 == 0:
            mesh.tick()
            mesh.deliver(silent)
    sent = sum(len(payload) for message in to_c for _, payload in message.entries)
    assert sent <= 4096 + 512
    assert mesh.kernel("a").status().peers[node_id("c")].in_flight_bytes == sent
    mesh.settle(3)  # it answers again
    assert mesh["c"].machine.commands == mesh["a"].machine.commands


def lost_to_c(to_c: list[AppendEntries], sender: str, to: str, message: Any) -> bool:
    if to == "c" and isinstance(message, AppendEntries):
        to_c.append(message)
    return "c" in (sender, to)


def test_a_lost_message_is_noticed_by_the_next_heartbeat() -> None:
    mesh = led(Mesh())
    number = mesh.propose("a", b"lost on the way")
    mesh["a"].turn()
    mesh.take(AppendEntries)
    mesh.settle(3)
    assert isinstance(mesh["a"].outcomes[number], Committed)
    assert mesh["c"].machine.commands == [b"lost on the way"]
