"""Linearizable reads by read-index."""

from __future__ import annotations

from meshd.consensus.messages import AppendAnswer, AppendEntries, ReadAnswer, ReadAsk
from meshd.consensus.outcomes import Readable, Refused, Why
from tests.unit.consensus.kernel_rig import Mesh
from tests.unit.consensus.stock_rig import StockMesh


def ask(mesh: Mesh, who: str, timeout_s: float = 3.0) -> int:
    number = mesh.kernel(who).read_index(mesh.now, timeout_s)
    mesh[who].turn()
    return number


def test_a_read_sees_what_was_acknowledged_and_writes_nothing() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.commit("a", b"one")
    for who in "abc":
        index = mesh.kernel("a").status().commit
        records = {name: len(host.synced_records) for name, host in mesh.hosts.items()}
        number = ask(mesh, who)
        mesh.deliver()
        assert mesh[who].outcomes[number] == Readable(number, index)
        assert mesh[who].machine.commands == [b"one"]
        assert records == {name: len(host.synced_records) for name, host in mesh.hosts.items()}


def test_stock_has_no_such_read() -> None:
    """A deposed leader's state is what it is; nothing in it says so."""
    stock = StockMesh()
    stock.elect("a")
    stock.cut("a", "bc")
    stock.elect("b", among="bc")
    stock.propose("b", b"newer")
    stock.settle(3, "bc")
    stock.tick("a")
    assert stock.nodes["a"]._isLeader()
    assert stock.applied["a"] == []


def test_a_deposed_leader_answers_no_read() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.cuts |= {frozenset("ab"), frozenset("ac")}  # it has not noticed
    for name in "bc":
        mesh.kernel(name).elections._heard_at = -1e9
        mesh.kernel(name).stock.deadline = mesh.now + (0 if name == "b" else 9)
    for _ in range(3):
        mesh["b"].turn()
        mesh.deliver()
    assert mesh.leads("a")
    assert mesh.leads("b")
    number = ask(mesh, "a", timeout_s=0.5)
    mesh.settle(6, "a")
    assert isinstance(mesh["a"].outcomes[number], Refused)


def test_answers_to_earlier_questions_confirm_no_read() -> None:
    """A majority must have answered a question that was asked after the read."""
    mesh = Mesh()
    mesh.elect("a")
    mesh.tick("a")  # a heartbeat is under way
    answers = []
    for sender, to, message in list(mesh.queue):
        mesh.hand(sender, to, message)
        mesh[to].flush()
        answers += mesh.take(AppendAnswer, sender=to)
    mesh.queue.clear()
    number = ask(mesh, "a")
    for answer in answers:
        for peer in "bc":
            mesh.hand(peer, "a", answer)
    mesh["a"].turn()
    assert number not in mesh["a"].outcomes
    mesh.deliver()
    mesh.settle(2)
    assert isinstance(mesh["a"].outcomes[number], Readable)


def test_a_leader_that_has_committed_nothing_of_its_own_answers_no_read() -> None:
    """It does not know yet what its predecessors committed."""
    mesh = Mesh()
    mesh.now += 10
    for _ in range(2):
        mesh["a"].turn()
        mesh.deliver(lambda sender, to, message: isinstance(message, AppendEntries))
    assert mesh.leads("a")
    number = ask(mesh, "a")
    mesh.hand("b", "a", AppendAnswer(  # it is followed, and its no-op is not stored anywhere else
        term=mesh.kernel("a").status().term, round=mesh.kernel("a").sending.round, ok=True,
        index=1, rejected=0,
    ))  # fmt: skip
    mesh["a"].turn()
    assert not mesh.kernel("a").status().ready
    assert number not in mesh["a"].outcomes
    mesh.settle(3)
    assert isinstance(mesh["a"].outcomes[number], Readable)


def test_a_read_waits_until_so_much_is_applied_here() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.cuts.add(frozenset("ac"))
    mesh.commit("a", b"one")
    mesh.cuts.clear()
    number = ask(mesh, "c")
    mesh.deliver(lambda sender, to, message: to == "c" and isinstance(message, AppendEntries))
    assert number not in mesh["c"].outcomes
    assert mesh["c"].machine.commands == []
    mesh.settle(3)
    assert isinstance(mesh["c"].outcomes[number], Readable)
    assert mesh["c"].machine.commands == [b"one"]


def test_reads_of_one_moment_share_a_question() -> None:
    mesh = Mesh()
    mesh.elect("a")
    numbers = [mesh.kernel("a").read_index(mesh.now, 3.0) for _ in range(100)]
    before = len(mesh.log)
    mesh["a"].turn()
    mesh.deliver()
    assert all(isinstance(mesh["a"].outcomes[number], Readable) for number in numbers)
    assert len(mesh.log) - before == 4


def test_a_read_without_a_leader_is_refused_in_time() -> None:
    mesh = Mesh()
    number = ask(mesh, "a", timeout_s=0.5)
    mesh.settle(6, "a")
    assert mesh["a"].outcomes[number] == Refused(number, Why.NO_LEADER)


def test_a_read_goes_to_the_next_leader_when_the_first_is_lost() -> None:
    mesh = Mesh()
    mesh.elect("a")
    number = ask(mesh, "c", timeout_s=60.0)
    assert mesh.take(ReadAsk)
    mesh.cut("a", "bc")
    mesh.settle(60, "bc")
    assert isinstance(mesh["c"].outcomes[number], Readable)


def test_a_node_that_does_not_lead_says_so() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.hand("c", "b", ReadAsk(7))
    mesh["b"].turn()
    assert mesh.take(ReadAnswer) == [ReadAnswer(7, None)]


def test_who_says_that_it_does_not_lead_is_not_asked_again_at_once() -> None:
    """Else question and answer go to and fro as fast as the link takes them."""
    mesh = Mesh()
    mesh.elect("a")
    number = ask(mesh, "c")
    [question] = mesh.take(ReadAsk, sender="c")
    for _ in range(5):  # and it may arrive more than once
        mesh.hand("a", "c", ReadAnswer(question.id, None))
        mesh["c"].turn()
    assert mesh.take(ReadAsk, sender="c") == []
    mesh.tick("c", dt=mesh.settings.heartbeat_s)
    mesh.deliver()
    assert isinstance(mesh["c"].outcomes[number], Readable)


def test_a_leader_that_steps_down_sends_its_readers_on() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.hand("c", "a", ReadAsk(7))
    mesh.hand("b", "a", AppendAnswer(
        term=mesh.kernel("a").status().term + 1, round=0, ok=False, index=0, rejected=0
    ))  # fmt: skip
    mesh["a"].turn()
    assert mesh.take(ReadAnswer) == [ReadAnswer(7, None)]


def test_a_sole_voter_reads_at_once() -> None:
    mesh = Mesh("a")
    mesh["a"].turn()
    number = ask(mesh, "a")
    assert isinstance(mesh["a"].outcomes[number], Readable)
