"""Hazards of changing voters: each shown on stock pysyncobj, then absent from the kernel."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from meshd import limits
from meshd.consensus.entries import Append, Ballot, Entry, EntryKind
from meshd.consensus.messages import AppendEntries, AskVote, PreVote, VoteAnswer
from meshd.consensus.outcomes import Committed, Refused, Why
from meshd.consensus.voter_list import pack_voters, parse_voters
from meshd.errors import ProtocolError
from meshd.ids import NodeId
from tests.unit.consensus.kernel_rig import Mesh, ids, node_id
from tests.unit.consensus.stock_rig import StockMesh, inside, rows


def with_learners(joiners: str = "de") -> Mesh:
    """`a` leads b and c; the joiners have learnt the log."""
    mesh = Mesh("abc", joiners)
    mesh.elect("a")
    mesh.kernel("a").set_learners(ids(joiners), mesh.now)
    mesh.settle(4)
    assert mesh.kernel(joiners[0]).log.last == mesh.kernel("a").log.last
    return mesh


def change(mesh: Mesh, names: str, at: str = "a") -> int:
    return mesh.kernel(at).change_voters(ids(names), mesh.now, 3.0)


def refusal(mesh: Mesh, number: int, at: str = "a") -> str:
    """The text of the refusal, which must have come at once."""
    mesh[at].flush()
    outcome = mesh[at].outcomes[number]
    assert isinstance(outcome, Refused)
    assert outcome.why is Why.DENIED
    return outcome.text


# --- H2: two changes at a time


def test_h2_stock_takes_two_changes_at_a_time() -> None:
    stock = StockMesh(dynamicMembershipChange=True)
    stock.elect("a")
    stock.settle(5)
    stock.cut("a", "bc")  # so that nothing can be committed any more
    stock.nodes["a"].addNodeToCluster(stock.node("d"))
    stock.nodes["a"].addNodeToCluster(stock.node("e"))
    stock.nodes["a"]._onTick(0)
    assert sorted(node.id for node in stock.nodes["a"].otherNodes) == ["b", "c", "d", "e"]


def test_h2_a_second_change_waits_for_the_first_to_be_committed() -> None:
    mesh = with_learners()
    first = change(mesh, "abcd")
    second = change(mesh, "abce")  # in the same moment: both pass the first look
    mesh["a"].turn()
    assert isinstance(mesh["a"].outcomes[second], Refused)
    assert "another change" in refusal(mesh, change(mesh, "abc"))
    assert mesh.kernel("a").status().voters == ids("abcd")
    mesh.deliver()
    assert isinstance(mesh["a"].outcomes[first], Committed)
    third = change(mesh, "abcde")
    mesh["a"].turn()
    mesh.deliver()
    assert isinstance(mesh["a"].outcomes[third], Committed)


def test_no_change_before_the_leader_committed_an_entry_of_its_own() -> None:
    """Ongaro's correction of 2015: a change of an earlier leader may still be about."""
    mesh = Mesh()
    mesh.now += 10
    for _ in range(2):  # a pre-vote, and a vote
        mesh["a"].turn()
        mesh.deliver(lambda sender, to, message: isinstance(message, AppendEntries))
    assert mesh.leads("a")
    assert "own term" in refusal(mesh, change(mesh, "ab"))
    mesh.settle(2)
    number = change(mesh, "ab")
    mesh.settle(1)
    assert isinstance(mesh["a"].outcomes[number], Committed)


def test_voters_change_one_at_a_time() -> None:
    mesh = with_learners()
    assert "one at a time" in refusal(mesh, change(mesh, "abcde"))
    assert "one at a time" in refusal(mesh, change(mesh, "abd"))
    assert "one at a time" in refusal(mesh, change(mesh, "abc"))


def test_a_leader_does_not_remove_itself() -> None:
    mesh = with_learners()
    assert "itself" in refusal(mesh, change(mesh, "bc"))


def test_only_a_leader_changes_voters() -> None:
    mesh = with_learners()
    assert "only the leader" in refusal(mesh, change(mesh, "ab", at="b"), at="b")


# --- who may become a voter


def test_nobody_becomes_a_voter_who_did_not_learn_the_log() -> None:
    mesh = Mesh("abc", "d")
    mesh.elect("a")
    assert "no learner" in refusal(mesh, change(mesh, "abcd"))


def test_nobody_becomes_a_voter_who_does_not_answer() -> None:
    mesh = with_learners("d")
    mesh.cut("d", "abc")
    assert "does not answer" in refusal(mesh, change(mesh, "abcd"))


def test_nobody_becomes_a_voter_who_is_silent() -> None:
    mesh = with_learners("d")
    for _ in range(12):
        mesh.tick()
        mesh.deliver(lambda sender, to, message: "d" in (sender, to))
    assert "does not answer" in refusal(mesh, change(mesh, "abcd"))


def test_nobody_becomes_a_voter_who_is_far_behind() -> None:
    mesh = Mesh("a", "d")
    mesh["a"].turn()
    mesh.kernel("a").set_learners(ids("d"), mesh.now)
    mesh.settle(2)
    for n in range(1200):
        mesh.propose("a", b"%d" % n)
    mesh["a"].turn()
    assert "behind" in refusal(mesh, change(mesh, "ad"))
    mesh.settle(3)
    change(mesh, "ad")
    mesh.settle(2)
    assert mesh.kernel("d").status().voters == ids("ad")


def test_a_learner_has_no_vote_and_does_not_count() -> None:
    mesh = with_learners("de")
    mesh.cut("a", "bc")
    number = mesh.propose("a", b"not by learners")
    mesh.settle(3, "ade")
    assert number not in mesh["a"].outcomes
    assert mesh.kernel("d").log.last == mesh.kernel("a").log.last  # though they have it
    mesh.settle(30, "de")
    assert mesh.kernel("d").status().role == "follower"


def test_learners_are_few_and_no_voters() -> None:
    mesh = with_learners("d")
    many = [NodeId(f"{chr(97 + n % 26)}{chr(103 + n // 26)}" * 13) for n in range(100)]
    mesh.kernel("a").set_learners(many, mesh.now)
    assert mesh.kernel("a").status().learners == tuple(many[: limits.RAFT_LEARNERS])
    mesh.kernel("a").set_learners(ids("abd"), mesh.now)
    assert mesh.kernel("a").status().learners == ids("d")
    mesh.kernel("a").set_learners((), mesh.now)
    assert set(mesh.kernel("a").status().peers) == set(ids("bc"))


def test_growing_from_one_to_three_serves_all_the_while() -> None:
    mesh = Mesh("a", "bc")
    mesh["a"].turn()
    mesh.commit("a", b"one")
    for voters in ("ab", "abc"):
        mesh.kernel("a").set_learners(ids(voters[-1]), mesh.now)
        mesh.settle(3)
        number = change(mesh, voters)
        mesh.settle(2)
        assert isinstance(mesh["a"].outcomes[number], Committed)
        mesh.commit("a", voters.encode())
    mesh.settle(1)
    assert mesh["c"].machine.commands == [b"one", b"ab", b"abc"]
    mesh.cut("a", "bc")
    mesh.settle(60)
    assert mesh.leads("b") or mesh.leads("c")


def test_a_joiner_votes_before_it_knows_that_it_is_a_voter() -> None:
    """Otherwise two voters that grow to four are stuck when one of the old ones is lost."""
    mesh = Mesh("abc", "d")
    mesh.now += 10
    mesh.hand("b", "d", AskVote(term=5, last_index=3, last_term=1, transfer=False))
    mesh["d"].flush()
    assert [m.granted for m in mesh.take(VoteAnswer)] == [True]


def test_a_joiner_begins_no_election() -> None:
    mesh = Mesh("abc", "d")
    mesh.settle(100, "d")
    campaigns = [
        m for sender, _, m in mesh.log if sender == "d" and isinstance(m, (PreVote, AskVote))
    ]
    assert campaigns == []
    assert mesh.kernel("d").status().role == "follower"


def test_a_voter_that_was_removed_disturbs_nobody() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.cut("c", "ab")  # it does not hear that it is removed
    number = change(mesh, "ab")
    mesh.settle(2)
    assert isinstance(mesh["a"].outcomes[number], Committed)
    term = mesh.kernel("a").status().term
    mesh.heal("c", "ab")
    mesh.settle(60)
    assert mesh.leads("a")
    assert mesh.kernel("a").status().term == term


def test_a_voter_that_came_back_follows_a_leader_that_it_does_not_know() -> None:
    """Removed, away while the others changed, and added again: its own list is of long ago."""
    mesh = Mesh("abc", "d")
    mesh.elect("a")
    mesh.cut("c", "abd")
    change(mesh, "ab")
    mesh.settle(2)
    mesh.kernel("a").set_learners(ids("d"), mesh.now)
    mesh.settle(3)
    change(mesh, "abd")
    mesh.settle(3)
    mesh.elect("d")  # of whom c has never heard
    mesh.kernel("d").set_learners(ids("c"), mesh.now)
    mesh.heal("c", "abd")
    mesh.settle(4)
    number = change(mesh, "abcd", at="d")
    mesh.settle(3)
    assert isinstance(mesh["d"].outcomes[number], Committed)
    assert mesh.kernel("c").status().leader == node_id("d")
    assert mesh.kernel("c").status().voters == ids("abcd")


# --- H12, H13, H19: the list in force is that of the log


def test_h12_stock_forgets_a_change_that_is_in_its_log(tmp_path: Path) -> None:
    stock = StockMesh()
    for name in "abc":
        stock.start(name, "abc", journalFile=str(tmp_path / name), dynamicMembershipChange=True)
    stock.relink()
    stock.elect("a")
    stock.nodes["a"].addNodeToCluster(stock.node("d"))
    stock.tick("a")
    stock.tick("a")
    stock.deliver()
    inside(stock.nodes["b"], "raftLog").flush()
    assert sorted(node.id for node in stock.nodes["b"].otherNodes) == ["a", "c", "d"]
    again = stock.start("b", "abc", journalFile=str(tmp_path / "b"), dynamicMembershipChange=True)
    again._onTick(0)
    assert any(payload[:1] == b"\x02" for payload, _, _ in rows(again))
    assert sorted(node.id for node in again.otherNodes) == ["a", "c"]


def test_h12_a_change_that_is_in_the_log_is_in_force_after_a_restart() -> None:
    mesh = with_learners("d")
    mesh.cut("a", "c")
    change(mesh, "abcd")
    mesh["a"].turn()
    mesh.deliver(lambda sender, to, message: sender == "b")  # b stores it, and nobody knows
    assert mesh.kernel("b").status().commit < mesh.kernel("b").log.last.index
    mesh.restart("b")
    assert mesh.kernel("b").status().voters == ids("abcd")


def test_a_change_that_was_cut_from_the_log_is_not_in_force() -> None:
    mesh = with_learners("d")
    mesh.cut("a", "bcd")
    change(mesh, "ab")
    mesh["a"].turn()
    assert mesh.kernel("a").status().voters == ids("ab")
    mesh.elect("b")
    mesh.heal("a", "bcd")
    mesh.settle(3)
    assert mesh.kernel("a").status().voters == ids("abc")


def test_h13_stocks_snapshot_holds_voters_that_were_never_committed(tmp_path: Path) -> None:
    stock = StockMesh()
    dump = tmp_path / "dump"
    stock.start("a", "abc", fullDumpFile=str(dump), useFork=False, dynamicMembershipChange=True)
    stock.relink()
    stock.elect("a")
    for n in range(5):
        stock.propose("a", b"%d" % n)
    stock.settle(4)
    stock.cut("a", "bc")
    stock.nodes["a"].addNodeToCluster(stock.node("d"))
    stock.nodes["a"]._onTick(0)
    stock.nodes["a"].forceLogCompaction()
    stock.nodes["a"]._onTick(0)
    text = gzip.decompress(dump.read_bytes())
    assert b"X\x01\x00\x00\x00d" in text  # d, which is in no committed list
    assert stock.nodes["a"].raftCommitIndex < rows(stock.nodes["a"])[-1][1]


def test_h13_a_snapshot_holds_the_voters_of_its_place() -> None:
    mesh = with_learners("d")
    mesh.commit("a", b"one")
    mesh.cut("a", "bcd")
    change(mesh, "ab")
    mesh["a"].turn()
    assert mesh.kernel("a").status().voters == ids("ab")
    taken = mesh["a"].snap()
    assert taken.voters == ids("abc")
    mesh.restart("a")
    assert mesh.kernel("a").status().voters == ids("ab")  # still in the log, after the snapshot


def test_h19_stock_nodes_with_different_lists_differ_for_ever() -> None:
    stock = StockMesh(dynamicMembershipChange=True)
    stock.start("c", "ac", dynamicMembershipChange=True)  # nobody told it of b
    stock.relink()
    stock.elect("a")
    stock.nodes["a"].addNodeToCluster(stock.node("d"))
    stock.settle(6)
    lists = {
        name: sorted({name, *(node.id for node in stock.nodes[name].otherNodes)}) for name in "ac"
    }
    assert lists == {"a": ["a", "b", "c", "d"], "c": ["a", "c", "d"]}


def test_h19_every_node_has_its_list_from_the_log() -> None:
    mesh = Mesh("ab", "c")
    assert mesh.kernel("c").status().voters == ()
    mesh.elect("a")
    mesh.kernel("a").set_learners(ids("c"), mesh.now)
    mesh.settle(3)
    assert mesh.kernel("c").status().voters == ids("ab")
    change(mesh, "abc")
    mesh.settle(3)
    assert {mesh.kernel(name).status().voters for name in "abc"} == {ids("abc")}


def test_a_founded_log_begins_with_its_voters() -> None:
    stored = Mesh("ab")["a"].stored
    assert stored.ballot == Ballot(term=1)
    assert stored.entries == (Entry(1, 1, EntryKind.VOTERS, pack_voters(ids("ba"))),)
    assert Append(stored.entries)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc0", b"\x90", pack_voters([node_id("a")])[:-1],
        pack_voters(ids("ab")).replace(b"a", b"z"), pack_voters(ids("abcdefgh")),
        b"\x91\xa1a", b"\x80",
    ],
)  # fmt: skip
def test_a_list_of_voters_out_of_form_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_voters(data)
