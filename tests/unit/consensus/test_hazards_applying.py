"""Hazards of commands: each shown on stock pysyncobj, then absent from the kernel."""

from __future__ import annotations

import pickle  # to write what stock pysyncobj runs, and the kernel must not (hazard H9)
from pathlib import Path
from typing import Any

import pytest

from meshd import limits
from meshd.consensus.entries import EntryKind
from meshd.consensus.interface import CoreStopped
from meshd.consensus.messages import (
    AppendEntries,
    Forward,
    ForwardAnswer,
    ReadAnswer,
    decode,
    encode,
)
from meshd.consensus.outcomes import Committed, Refused, Unknown, Why
from meshd.errors import ProtocolError
from tests.unit.consensus.kernel_rig import Mesh, resized
from tests.unit.consensus.stock_rig import StockMesh, rows, set_inside


def led(mesh: Mesh) -> Mesh:
    mesh.elect("a")
    return mesh


# --- H7, H8: an entry that this node cannot apply


def test_h7_stock_skips_an_entry_and_applies_the_next_ones_again() -> None:
    stock = StockMesh()
    stock.elect("a")
    stock.settle(3)
    version = stock.modules.syncobj._COMMAND_TYPE.VERSION
    stock.nodes["a"]._applyCommand(pickle.dumps(7, 2), None, version)
    for n in range(3):
        stock.propose("a", b"c%d" % n)
    stock.settle(9)
    assert stock.applied["b"] == [b"c0", b"c1", b"c2", b"c2"]


def test_h7_a_kind_of_entry_that_is_not_known_does_not_come_in() -> None:
    word = AppendEntries(
        term=9, round=1, prev_index=1, prev_term=1, commit=2, entries=((9, b"\x03version"),)
    )
    with pytest.raises(ProtocolError):
        decode(encode(word))


@pytest.mark.parametrize("at", ["a", "b"])
def test_h7_what_every_node_would_stop_at_does_not_get_into_the_log(at: str) -> None:
    mesh = led(Mesh())
    last = mesh.kernel("a").log.last
    number = mesh.propose(at, b"later")
    mesh.settle(2)
    outcome = mesh[at].outcomes[number]
    assert isinstance(outcome, Refused)
    assert (outcome.why, mesh.kernel("a").log.last) == (Why.DENIED, last)
    mesh.commit(at, b"sound")


def test_h7_the_leader_refuses_it_too_whatever_its_follower_knows() -> None:
    mesh = led(Mesh())
    mesh["b"].machine.why_not = lambda command: None  # type: ignore[method-assign]
    number = mesh.propose("b", b"later")
    mesh.settle(2)
    assert mesh["b"].outcomes[number] == Refused(number, Why.DENIED)
    mesh.commit("b", b"sound")


def test_h8_stock_tries_an_entry_that_fails_for_ever() -> None:
    stock = StockMesh("a")
    tried = []

    def fail(name: str, command: bytes) -> int:
        tried.append(command)
        raise ValueError("this command cannot be applied")

    stock.apply = fail  # type: ignore[method-assign]
    stock.elect("a")
    stock.propose("a", b"poison")
    for _ in range(10):
        try:
            stock.tick("a")
        except ValueError:
            continue
    assert len(tried) >= 8


def test_h8_an_entry_that_fails_is_tried_once_and_ends_the_core() -> None:
    mesh = led(Mesh("a"))
    mesh.propose("a", b"poison")
    with pytest.raises(CoreStopped, match="cannot be applied"):
        mesh["a"].turn()
    kernel, now = mesh.kernel("a"), mesh.now
    for call in (
        lambda: kernel.step(now),
        lambda: kernel.propose(b"x", now, 1.0),
        lambda: kernel.read_index(now, 1.0),
        lambda: kernel.take_outbox(),
        lambda: kernel.take_snapshot(),
        lambda: kernel.connected(mesh["a"].id, now),
    ):
        with pytest.raises(CoreStopped, match="cannot be applied"):
            call()
    assert kernel.next_wake() > 1e9
    assert mesh["a"].machine.tried == 1


# --- H9: pickle


class Proof:
    """Unpickling this touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_h9_stock_runs_what_the_network_sends(tmp_path: Path) -> None:
    stock = StockMesh()  # dynamicMembershipChange is off, and the wire is msgpack
    stock.elect("a")
    command = b"\x02" + pickle.dumps(Proof(tmp_path / "proof"), 2)
    stock.hand("b", "a", {"type": "apply_command", "command": command})
    with pytest.raises(Exception):  # noqa: B017, PT011
        stock.settle(4)
    assert (tmp_path / "proof").exists()


def test_h9_a_pickle_is_a_command_like_any_other(tmp_path: Path) -> None:
    mesh = led(Mesh())
    evil = pickle.dumps(Proof(tmp_path / "proof"), 2)
    mesh.hand("b", "a", Forward(id=1, commands=(b"\x02" + evil,)))
    mesh["a"].turn()
    mesh.deliver()
    assert mesh["a"].machine.commands == [b"\x02" + evil]
    term = mesh.kernel("a").status().term
    list_of_voters = AppendEntries(
        term=term, round=1, prev_index=1, prev_term=1, commit=2,
        entries=((term, bytes([EntryKind.VOTERS]) + evil),),
    )  # fmt: skip
    with pytest.raises(ProtocolError):
        decode(encode(list_of_voters))
    assert not (tmp_path / "proof").exists()


# --- H14: outcomes


def test_h14_stock_never_says_what_became_of_a_command() -> None:
    stock = StockMesh()
    stock.elect("a")
    stock.cut("a", "bc")
    got = stock.propose("a", b"lost")
    for _ in range(100):
        stock.tick("a")
        stock.no_elections()
    assert got == []
    assert not stock.nodes["a"]._isLeader()


def test_h14_a_leader_that_is_cut_off_does_not_know() -> None:
    mesh = led(Mesh())
    mesh.cut("a", "bc")
    number = mesh.propose("a", b"lost", timeout_s=3.0)
    mesh.settle(31, "a")
    assert mesh["a"].outcomes[number] == Unknown(number, Why.TIMED_OUT)


def test_h14_what_was_never_handed_on_is_refused() -> None:
    mesh = Mesh()
    number = mesh.propose("a", b"nobody leads", timeout_s=0.5)
    mesh.settle(6, "a")
    assert mesh["a"].outcomes[number] == Refused(number, Why.NO_LEADER)


def test_h14_a_follower_whose_leader_goes_does_not_know() -> None:
    mesh = led(Mesh())
    number = mesh.propose("b", b"on its way", timeout_s=60)
    mesh["b"].turn()
    mesh.cut("a", "bc")
    mesh["b"].turn()
    assert mesh["b"].outcomes[number] == Unknown(number, Why.LEADER_LOST)


def test_h14_a_command_that_was_overwritten_is_refused() -> None:
    mesh = led(Mesh())
    mesh.cut("a", "bc")
    number = mesh.propose("a", b"lost", timeout_s=60)
    mesh["a"].turn()
    mesh.elect("b")
    mesh.commit("b", b"kept", b"kept too")
    mesh.heal("a", "bc")
    mesh.settle(3)
    assert mesh["a"].outcomes[number] == Refused(number, Why.OVERWRITTEN)
    assert mesh["a"].machine.commands == [b"kept", b"kept too"]


def test_h14_a_command_whose_place_a_snapshot_took_is_not_known() -> None:
    mesh = led(Mesh(settings=resized(trailing=0)))
    mesh.cut("a", "bc")
    number = mesh.propose("a", b"lost", timeout_s=60)
    mesh["a"].turn()
    mesh.elect("b")
    mesh.commit("b", *[b"%d" % n for n in range(9)])
    mesh["b"].snap()
    mesh.heal("a", "bc")
    mesh.settle(4)
    assert mesh["a"].outcomes[number] == Unknown(number, Why.SKIPPED)


def test_a_command_of_a_follower_is_told_when_it_is_applied_there() -> None:
    mesh = led(Mesh())
    number = mesh.propose("b", b"forwarded")
    mesh["b"].turn()
    mesh.deliver()
    assert mesh["b"].outcomes[number] == Committed(number, 3, b"1 at 3")


def test_waiting_for_lost_answers_costs_no_memory() -> None:
    mesh = led(Mesh())
    for n in range(300):
        mesh.propose("b", b"%d" % n, timeout_s=0.5)
        mesh["b"].turn()
        mesh.take(Forward)
        if n % 20 == 0:
            mesh.settle(6)
    assert len(mesh.kernel("b").stock.waiting_reply) < 150


# --- H15: no step is long


def test_h15_stock_takes_and_applies_everything_in_one_step() -> None:
    stock = StockMesh("a")
    stock.elect("a")
    for n in range(5000):
        stock.propose("a", b"%d" % n)
    stock.tick("a")
    assert rows(stock.nodes["a"])[-1][1] > 5000
    stock.tick("a")
    assert len(stock.applied["a"]) == 5000


def test_h15_a_step_takes_and_applies_a_bounded_number() -> None:
    mesh = led(Mesh("a"))
    kernel, host = mesh.kernel("a"), mesh["a"]
    for n in range(5000):
        mesh.propose("a", b"%d" % n)
    previous = (kernel.log.last.index, len(host.machine.commands))
    steps = 0
    while kernel.next_wake() <= mesh.now:
        kernel.step(mesh.now)
        host.flush()
        now_is = (kernel.log.last.index, len(host.machine.commands))
        assert all(b - a <= limits.RAFT_PER_STEP for a, b in zip(previous, now_is, strict=True))
        previous, steps = now_is, steps + 1
    assert len(host.machine.commands) == 5000
    assert steps < 2 * 5000 / limits.RAFT_PER_STEP + 5


def test_a_follower_applies_in_bounded_steps_too() -> None:
    mesh = led(Mesh(settings=resized(per_step=4)))
    mesh.cut("b", "ac")
    mesh.commit("a", *[b"%d" % n for n in range(50)])
    mesh.heal("b", "ac")
    kernel = mesh.kernel("b")
    mesh.tick("a")
    applied = kernel.status().applied
    while mesh.queue or kernel.next_wake() <= mesh.now:
        if mesh.queue:
            sender, to, message = mesh.queue.popleft()
            mesh.hand(sender, to, message)
        else:
            kernel.step(mesh.now)
        mesh["b"].flush()
        mesh["a"].turn()
        assert kernel.status().applied - applied <= 4
        applied = kernel.status().applied
    assert len(mesh["b"].machine.commands) == 50


def test_a_full_queue_is_a_definite_no() -> None:
    mesh = Mesh(settings=resized(queue=10))
    numbers = [mesh.propose("a", b"x") for _ in range(12)]
    mesh["a"].flush()
    assert [number in mesh["a"].outcomes for number in numbers] == [False] * 10 + [True] * 2
    assert mesh["a"].outcomes[numbers[-1]] == Refused(numbers[-1], Why.QUEUE_FULL)


def test_a_queue_is_full_by_bytes_too() -> None:
    mesh = Mesh(settings=resized(queue_bytes=1000))
    numbers = [mesh.propose("a", b"x" * 400) for _ in range(3)]
    mesh["a"].flush()
    assert list(mesh["a"].outcomes) == numbers[2:]


def test_a_leader_whose_queue_is_full_says_so_to_others() -> None:
    mesh = led(Mesh(settings=resized(queue=5)))
    for n in range(7):
        mesh.hand("b", "a", Forward(id=n + 1, commands=(b"x",)))
    mesh["a"].flush()
    assert [(a.error > 0, a.count) for a in mesh.take(ForwardAnswer)] == [(True, 2)]


def test_a_log_that_cannot_be_committed_does_not_grow_for_ever() -> None:
    mesh = led(Mesh(settings=resized(uncommitted_bytes=5000, per_step=1)))
    mesh.cuts |= {frozenset("ab"), frozenset("ac")}
    for _ in range(100):
        mesh.propose("a", b"x" * 500)
        mesh["a"].turn()
    kernel = mesh.kernel("a")
    assert kernel.log.bytes_between(kernel.status().commit, kernel.log.last.index) <= 5600
    assert kernel.status().queued == 100 - 10


# --- H18: ids of an earlier life


def test_h18_stock_takes_an_answer_to_its_previous_life() -> None:
    stock = StockMesh()
    stock.elect("a")
    stock.propose("b", b"of the first life")
    stock.tick("b")
    stock.deliver()
    stock.tick("a")
    [answer] = [m for _, to, m in stock.queue if m["type"] == "apply_command_response"]
    stock.queue.clear()
    stock.start("b", "abc")
    stock.relink()
    set_inside(stock.nodes["b"], "raftLeader", stock.node("a"))
    got = stock.propose("b", b"of the second life")
    stock.tick("b")
    stock.queue.clear()  # it never arrives anywhere
    stock.hand("a", "b", answer)
    stock.settle(6, "abc")
    assert got == [(1, 0)]  # "success"
    assert stock.applied["a"] == [b"of the first life"]


def test_h18_an_answer_to_a_previous_life_is_no_answer() -> None:
    mesh = led(Mesh())
    mesh.propose("b", b"of the first life")
    mesh["b"].turn()
    sender, to, message = mesh.queue.popleft()
    mesh.hand(sender, to, message)
    mesh["a"].turn()
    [answer] = mesh.take(ForwardAnswer)
    mesh.restart("b")
    mesh.settle(2)
    number = mesh.propose("b", b"of the second life", timeout_s=0.5)
    mesh["b"].turn()
    mesh.queue.clear()
    mesh.hand("a", "b", answer)
    mesh.settle(6)
    assert mesh["b"].outcomes[number] == Unknown(number, Why.TIMED_OUT)


def test_h18_an_answer_to_a_read_of_a_previous_life_is_no_answer() -> None:
    mesh = led(Mesh())
    mesh.kernel("b").read_index(mesh.now, 3.0)
    mesh["b"].turn()
    while not (answers := mesh.take(ReadAnswer)):
        sender, to, message = mesh.queue.popleft()
        mesh.hand(sender, to, message)
        mesh[to].turn()
    mesh.restart("b")
    mesh.settle(2)
    mesh.commit("a", b"newer")
    number = mesh.kernel("b").read_index(mesh.now, 3.0)
    mesh["b"].turn()
    mesh.queue.clear()
    mesh.hand("a", "b", answers[0])
    mesh["b"].turn()
    assert number not in mesh["b"].outcomes
