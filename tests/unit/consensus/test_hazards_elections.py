"""Hazards of elections: each shown on stock pysyncobj, then absent from the kernel."""

from __future__ import annotations

import pytest

from meshd.consensus.interface import Nonsense, NotEligible, TransferRefused
from meshd.consensus.messages import (
    AppendAnswer,
    AppendEntries,
    AskVote,
    PreVote,
    PreVoteAnswer,
    TimeoutNow,
    VoteAnswer,
)
from tests.unit.consensus.kernel_rig import SETTINGS, Mesh, node_id
from tests.unit.consensus.stock_rig import StockMesh, rows, set_inside


def campaigning(names: str = "abcde") -> Mesh:
    """`a` has won a pre-vote and asked for votes; nobody has answered."""
    mesh = Mesh(names)
    term = mesh.kernel("a").status().term + 1
    for name in names[1:]:
        mesh.hand(name, "a", PreVoteAnswer(asked=term, granted=True, term=term - 1))
    mesh.now += 10
    mesh["a"].turn()
    for name in names[1:]:
        mesh.hand(name, "a", PreVoteAnswer(asked=term, granted=True, term=term - 1))
    mesh["a"].turn()
    assert mesh.kernel("a").status().role == "candidate"
    mesh.queue.clear()
    return mesh


# --- H5: votes


def test_h5_stock_leads_five_by_one_vote_that_came_twice() -> None:
    stock = StockMesh("abcde")
    stock.no_elections()
    set_inside(stock.nodes["a"], "raftElectionDeadline", 0)
    stock.tick("a")
    stock.queue.clear()
    vote = {"type": "response_vote", "term": stock.nodes["a"].raftCurrentTerm}
    stock.hand("b", "a", vote)
    stock.hand("b", "a", vote)
    assert stock.nodes["a"]._isLeader()


def test_h5_a_vote_that_comes_twice_is_one_vote() -> None:
    mesh = campaigning()
    vote = VoteAnswer(term=mesh.kernel("a").status().term, granted=True)
    mesh.hand("b", "a", vote)
    mesh.hand("b", "a", vote)
    mesh["a"].turn()
    assert mesh.kernel("a").status().role == "candidate"
    mesh.hand("c", "a", vote)
    assert mesh.leads("a")


def test_h5_a_vote_of_a_node_without_one_is_none() -> None:
    mesh = campaigning("abc")
    mesh2 = Mesh("abc", joiners="xyz")
    mesh2.hosts["a"] = mesh["a"]
    vote = VoteAnswer(term=mesh.kernel("a").status().term, granted=True)
    mesh.hosts["x"] = mesh2["x"]  # eligible, and no voter
    mesh.hand("x", "a", vote)
    assert mesh.kernel("a").status().role == "candidate"


def test_a_pre_vote_that_comes_twice_is_one() -> None:
    mesh = Mesh("abcde")
    term = mesh.kernel("a").status().term
    mesh.now += 10
    mesh["a"].turn()
    for _ in range(2):
        mesh.hand("b", "a", PreVoteAnswer(asked=term + 1, granted=True, term=term))
        mesh["a"].turn()
    assert mesh.kernel("a").status().role == "follower"


# --- H6: who may speak at all


def test_h6_stock_is_led_by_a_node_that_may_only_read() -> None:
    stock = StockMesh()
    stock.elect("a")
    _, index, term = rows(stock.nodes["b"])[-1]
    evil = stock.node("readonly-0")
    stock.nodes["b"]._SyncObj__onReadonlyNodeConnected(evil)
    stock.transports["b"]._onMessageReceived(evil, {
        "type": "append_entries", "term": 99, "commit_index": index + 1,
        "prevLogIdx": index, "prevLogTerm": term, "entries": [[b"\x00evil", index + 1, 99]],
    })  # fmt: skip
    stock.nodes["b"]._onTick(0)
    assert stock.applied["b"] == [b"evil"]
    assert stock.nodes["b"]._getLeader() == evil


@pytest.mark.parametrize(
    "message",
    [
        AppendEntries(
            term=99, round=1, prev_index=1, prev_term=1, commit=2, entries=((99, b"\0evil"),)
        ),
        AskVote(term=99, last_index=99, last_term=98, transfer=True),
        AppendAnswer(term=99, round=0, ok=False, index=0, rejected=0),
        TimeoutNow(term=99),
    ],
)
def test_h6_who_has_no_part_in_the_log_is_refused(message: AppendEntries) -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.hosts["x"] = mesh["c"]
    mesh.strangers.add("x")
    before = mesh.kernel("b").status()
    with pytest.raises(NotEligible):
        mesh.hand("x", "b", message)
    assert mesh.kernel("b").status() == before
    with pytest.raises(NotEligible):
        mesh.hand("b", "b", message)


def test_a_vote_in_a_later_term_that_nobody_asked_for_is_nonsense() -> None:
    mesh = campaigning("abc")
    before = mesh.kernel("a").status()
    with pytest.raises(Nonsense):
        mesh.hand("b", "a", VoteAnswer(term=before.term + 1, granted=True))
    assert mesh.kernel("a").status() == before


def test_a_term_that_no_node_can_have_reached_is_nonsense() -> None:
    mesh = Mesh()
    before = mesh.kernel("a").status()
    with pytest.raises(Nonsense):
        mesh.hand("b", "a", AskVote(term=2**50, last_index=9, last_term=1, transfer=False))
    assert mesh.kernel("a").status() == before


# --- pre-vote, stickiness, and the answer to an earlier term


def test_stock_gives_up_a_leader_that_is_well_for_a_node_that_was_away() -> None:
    stock = StockMesh()
    stock.elect("a")
    stock.cut("c", "ab")
    set_inside(stock.nodes["c"], "raftElectionDeadline", 0)
    set_inside(stock.nodes["c"], "connectedNodes", {stock.node("b")})
    stock.tick("c")
    stock.heal("c", "ab")
    term = stock.nodes["c"].raftCurrentTerm
    stock.hand("c", "a", {
        "type": "request_vote", "term": term, "last_log_index": 1, "last_log_term": 0,
    })  # fmt: skip
    assert not stock.nodes["a"]._isLeader()


def test_a_node_that_was_away_deposes_nobody() -> None:
    mesh = Mesh()
    mesh.elect("a")
    term = mesh.kernel("a").status().term
    mesh.cut("c", "ab")
    mesh.settle(100)
    assert mesh.kernel("c").status().term == term  # it asked and asked, and made no new term
    mesh.heal("c", "ab")
    mesh.settle(50)
    assert mesh.leads("a")
    assert mesh.kernel("a").status().term == term


def test_no_vote_and_no_pre_vote_against_a_leader_that_is_heard() -> None:
    mesh = Mesh()
    mesh.elect("a")
    term = mesh.kernel("b").status().term
    mesh.queue.clear()
    mesh.hand("c", "b", PreVote(term=term + 1, last_index=99, last_term=term))
    mesh.hand("c", "b", AskVote(term=term + 1, last_index=99, last_term=term, transfer=False))
    mesh["b"].flush()
    assert mesh.take(PreVoteAnswer) == [PreVoteAnswer(asked=term + 1, granted=False, term=term)]
    assert mesh.take(VoteAnswer) == [VoteAnswer(term=term, granted=False)]
    assert mesh.kernel("b").status().term == term


def test_a_node_whose_term_is_ahead_is_not_stranded() -> None:
    """It won no election in its later term.  The leader hears of it, and all meet in a new one."""
    mesh = Mesh()
    mesh.elect("a")
    mesh.cut("c", "ab")
    term = mesh.kernel("c").status().term
    mesh.kernel("c").elections.may_campaign = True  # as if it had won a pre-vote
    mesh["c"].turn()
    assert mesh.kernel("c").status().term == term + 1
    mesh.heal("c", "ab")
    mesh.settle(40)
    leader = next(name for name in "abc" if mesh.leads(name))
    mesh.commit(leader, b"one")
    mesh.settle(1)
    assert mesh["c"].machine.commands == [b"one"]


def test_a_refused_pre_vote_tells_the_later_term() -> None:
    """Whoever could win is in an earlier term, and no leader tells it of the later one."""
    mesh = Mesh()
    mesh.elect("a")
    mesh.cut("b", "ac")
    mesh.commit("a", b"only a and c have it")
    mesh.cut("a", "c")  # a is gone for good
    mesh.kernel("b").elections.may_campaign = True  # b: a later term and a shorter log
    mesh["b"].turn()
    assert mesh.kernel("b").status().term > mesh.kernel("c").status().term
    mesh.heal("b", "c")
    mesh.settle(60)
    assert mesh.leads("c")


def test_a_leader_that_is_cut_off_stops_before_there_can_be_another() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.settle(3)
    mesh.cuts |= {frozenset("ab"), frozenset("ac")}  # silently: nobody is told
    cut_at = mesh.now
    while mesh.leads("a"):
        mesh.now = mesh.kernel("a").next_wake()
        mesh["a"].turn()
    assert mesh.now - cut_at <= SETTINGS.quorum_s + 0.01
    for name in "bc":  # and until then nobody would have voted for another
        kernel = mesh.kernel(name)
        assert mesh.now < kernel.elections._heard_at + SETTINGS.election_min_s


def test_stock_leads_for_half_a_minute_after_it_was_cut_off() -> None:
    conf = StockMesh().modules.syncobj.SyncObjConf(autoTick=False)
    assert conf.leaderFallbackTimeout == 30.0 > conf.raftMaxTimeout


# --- promptness


def test_the_end_of_the_leaders_link_begins_an_election_at_once() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.settle(2)
    mesh.cut("a", "bc")
    broke_at = mesh.now
    while not (mesh.leads("b") or mesh.leads("c")):
        mesh.now = min(mesh.kernel(name).next_wake() for name in "bc")
        for name in "bc":
            mesh[name].turn()
        mesh.deliver()
    assert mesh.now - broke_at < SETTINGS.heartbeat_s


def test_a_broken_link_to_a_leader_whom_others_hear_changes_nothing() -> None:
    mesh = Mesh()
    mesh.elect("a")
    term = mesh.kernel("a").status().term
    mesh.cut("a", "c")
    mesh.settle(60)
    assert mesh.leads("a")
    assert mesh.kernel("b").status().term == term


def test_a_sole_voter_leads_at_once() -> None:
    mesh = Mesh("a")
    mesh["a"].turn()
    assert mesh.kernel("a").status().ready


def test_a_node_that_just_started_votes_for_nobody_yet() -> None:
    """What it promised to a leader before, it does not know any more."""
    mesh = Mesh()
    mesh.elect("a")
    mesh.restart("b")
    term = mesh.kernel("b").status().term
    mesh.queue.clear()
    mesh.hand("c", "b", PreVote(term=term + 1, last_index=99, last_term=term))
    mesh["b"].flush()
    assert [answer.granted for answer in mesh.take(PreVoteAnswer)] == [False]


def test_a_vote_survives_a_restart() -> None:
    mesh = Mesh()
    mesh.now += 10
    mesh.hand("b", "a", AskVote(term=5, last_index=1, last_term=1, transfer=False))
    mesh["a"].flush()
    mesh.restart("a")
    mesh.now += 10
    mesh.queue.clear()
    mesh.hand("c", "a", AskVote(term=5, last_index=1, last_term=1, transfer=False))
    mesh.hand("b", "a", AskVote(term=5, last_index=1, last_term=1, transfer=False))
    mesh["a"].flush()
    answers = [(to, m.granted) for _, to, m in mesh.queue if isinstance(m, VoteAnswer)]
    assert answers == [("c", False), ("b", True)]


# --- handing over


def test_leadership_is_handed_over_although_everybody_hears_the_leader() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.kernel("a").transfer(node_id("b"), mesh.now)
    mesh["a"].turn()
    mesh.deliver()
    assert mesh.leads("b")
    assert mesh.kernel("a").status().transferring_to is None


def test_proposals_wait_while_leadership_is_handed_over() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.kernel("a").transfer(node_id("b"), mesh.now)
    mesh["a"].turn()
    number = mesh.propose("a", b"meanwhile")
    mesh["a"].turn()
    assert mesh.kernel("a").status().queued == 1
    mesh.deliver()
    mesh.settle(2)
    assert mesh["b"].machine.commands == [b"meanwhile"]  # the new leader has it from the old one
    assert number in mesh["a"].outcomes


def test_leadership_is_handed_over_only_when_the_heir_has_the_whole_log() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.commit("a", b"one")
    mesh.propose("a", b"two")
    mesh["a"].turn()
    mesh.kernel("a").transfer(node_id("b"), mesh.now)
    mesh["a"].turn()
    assert not any(isinstance(m, TimeoutNow) for _, _, m in mesh.log)
    mesh.deliver()
    assert mesh.leads("b")
    assert mesh["b"].machine.commands == [b"one", b"two"]


def test_a_handover_that_comes_to_nothing_is_given_up() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.kernel("a").transfer(node_id("b"), mesh.now)
    mesh["a"].turn()
    mesh.take(TimeoutNow)
    mesh.propose("a", b"meanwhile", timeout_s=60)
    mesh.settle(int(SETTINGS.election_max_s / 0.1) + 2)
    assert mesh.leads("a")
    assert mesh["c"].machine.commands == [b"meanwhile"]


def test_leadership_is_handed_over_to_a_linked_voter_only() -> None:
    mesh = Mesh("abc", joiners="d")
    mesh.elect("a")
    mesh.cut("a", "c")
    for to in "acdx":
        with pytest.raises(TransferRefused):
            mesh.kernel("a").transfer(node_id(to), mesh.now)
    with pytest.raises(TransferRefused):
        mesh.kernel("b").transfer(node_id("c"), mesh.now)


def test_a_word_to_take_over_counts_from_the_leader_only() -> None:
    mesh = Mesh()
    mesh.elect("a")
    term = mesh.kernel("b").status().term
    mesh.hand("c", "b", TimeoutNow(term=term))
    mesh["b"].turn()
    assert mesh.kernel("b").status().term == term
