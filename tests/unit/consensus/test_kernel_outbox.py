"""The order that makes it durable: what leaves when, and what a leader counts."""

from __future__ import annotations

import msgspec
import pytest

from meshd.consensus.entries import Append, Ballot
from meshd.consensus.interface import LAN, WAN, CallerMistake, Outbox, Settings
from meshd.consensus.messages import AppendAnswer, AppendEntries, AskVote, VoteAnswer
from meshd.consensus.outcomes import Committed, Unknown, Why
from tests.unit.consensus.kernel_rig import SETTINGS, Mesh, ids, node_id


def outbox(mesh: Mesh, who: str) -> Outbox:
    """What the node wants done, without doing it."""
    mesh.kernel(who).step(mesh.now)
    return mesh.kernel(who).take_outbox()


def test_a_vote_leaves_only_after_it_is_stored() -> None:
    mesh = Mesh()
    mesh.now += 10
    mesh.hand("b", "a", AskVote(term=5, last_index=1, last_term=1, transfer=False))
    box = mesh.kernel("a").take_outbox()
    assert box.records == (Ballot(term=5), Ballot(term=5, voted_for=node_id("b")))
    assert box.early == ()
    assert [out.message for out in box.late] == [VoteAnswer(term=5, granted=True)]
    assert box.must_sync


def test_a_request_for_votes_leaves_only_after_the_own_vote_is_stored() -> None:
    mesh = Mesh()
    mesh.kernel("a").elections.may_campaign = True
    box = outbox(mesh, "a")
    assert box.records == (Ballot(term=2, voted_for=node_id("a")),)
    assert box.early == ()
    assert [type(out.message) for out in box.late] == [AskVote, AskVote]


def test_entries_leave_before_the_sync_and_acknowledgements_after_it() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.propose("a", b"one")
    box = outbox(mesh, "a")
    assert [type(out.message) for out in box.early] == [AppendEntries, AppendEntries]
    assert [type(record) for record in box.records] == [Append]
    mesh.kernel("b").on_message(node_id("a"), box.early[0].message, mesh.now)
    box = mesh.kernel("b").take_outbox()
    assert box.early == ()
    assert [type(out.message) for out in box.late] == [AppendAnswer]
    assert [type(record) for record in box.records] == [Append]


def test_a_leaders_first_word_waits_for_its_term_to_be_stored() -> None:
    """Otherwise it could crash, lead in the same term again, and say something else."""
    mesh = Mesh("a", "d")
    mesh.kernel("a").set_learners(ids("d"), mesh.now)
    box = outbox(mesh, "a")
    assert any(isinstance(record, Ballot) for record in box.records)
    assert box.early == ()
    assert any(isinstance(out.message, AppendEntries) for out in box.late)


def test_a_leader_counts_itself_only_when_its_entry_is_stored() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.cut("a", "c")
    number = mesh.propose("a", b"one")
    box = outbox(mesh, "a")
    to_b = next(out for out in box.early if out.to == node_id("b"))
    mesh.hand("a", "b", to_b.message)
    mesh["b"].flush()
    for answer in mesh.take(AppendAnswer, sender="b"):  # b has it, and this node's disk is slow
        mesh.hand("b", "a", answer)
    before = mesh.kernel("a").status().commit
    mesh.kernel("a").step(mesh.now)
    assert mesh.kernel("a").status().commit == before
    mesh.kernel("a").stored()
    mesh.kernel("a").step(mesh.now)
    assert mesh.kernel("a").status().commit == before + 1
    assert isinstance(mesh.kernel("a").take_outbox().outcomes[0], Committed)
    assert number


def test_a_sole_voter_counts_itself_only_when_its_entry_is_stored() -> None:
    mesh = Mesh("a")
    box = outbox(mesh, "a")
    assert box.must_sync
    mesh.kernel("a").step(mesh.now)
    assert mesh.kernel("a").status().commit == 0
    mesh.kernel("a").stored()
    assert mesh.kernel("a").next_wake() < mesh.now
    mesh.kernel("a").step(mesh.now)
    assert mesh.kernel("a").status().ready


def test_entries_of_earlier_terms_are_committed_with_one_of_the_own_only() -> None:
    """Raft 5.4.2, also where it is this leader's disk that holds the commit index back."""
    mesh = Mesh()
    mesh.elect("a")
    mesh.propose("a", b"of an earlier term")  # everybody has it, and nobody knows
    mesh["a"].turn()
    mesh.deliver(lambda sender, to, message: isinstance(message, AppendAnswer))
    mesh.restart("a")
    kernel = mesh.kernel("a")
    earlier = kernel.log.last.index
    for host in mesh.hosts.values():
        host.kernel.elections._heard_at = -1e9
    mesh.queue.clear()
    kernel.elections.may_campaign = True
    mesh["a"].turn()
    answer(mesh, "a")
    assert mesh.leads("a")
    box = outbox(mesh, "a")  # its no-op is on its way to everybody, and not on its own disk
    for out in box.early:
        mesh.hand("a", out.to[0], out.message)
        mesh[out.to[0]].flush()
    answer(mesh, "a")
    kernel.step(mesh.now)
    assert kernel.log.durable == earlier
    assert all(peer.match > earlier for peer in kernel.status().peers.values())
    assert kernel.status().commit < earlier
    kernel.stored()
    kernel.step(mesh.now)
    assert kernel.status().commit == earlier + 1


def answer(mesh: Mesh, who: str) -> None:
    """Hand everything to the others, and their answers to `who`, which does nothing about them."""
    while mesh.queue:
        sender, to, message = mesh.queue.popleft()
        mesh.hand(sender, to, message)
        if to != who:
            mesh[to].flush()


def test_one_outbox_at_a_time() -> None:
    mesh = Mesh("a")
    outbox(mesh, "a")
    with pytest.raises(CallerMistake):
        mesh.kernel("a").take_outbox()
    mesh.kernel("a").stored()
    mesh.kernel("a").take_outbox()


def test_messages_to_a_node_without_a_link_are_not_kept() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.propose("a", b"one")
    mesh.kernel("a").step(mesh.now)
    mesh.kernel("a").disconnected(node_id("b"), mesh.now)
    box = mesh.kernel("a").take_outbox()
    assert {out.to for out in (*box.early, *box.late)} == {node_id("c")}


def test_a_new_link_is_the_end_of_the_one_before() -> None:
    """Also where nobody told of the end: what was under way over it is lost."""
    mesh = Mesh()
    mesh.elect("a")
    number = mesh.propose("b", b"on its way", timeout_s=60)
    mesh["b"].turn()
    mesh.queue.clear()
    mesh.kernel("b").connected(node_id("a"), mesh.now)
    mesh["b"].flush()
    assert mesh["b"].outcomes[number] == Unknown(number, Why.LEADER_LOST)


def test_time_does_not_go_back() -> None:
    mesh = Mesh("a")
    mesh["a"].turn()
    mesh.kernel("a").step(mesh.now - 500)
    assert mesh.kernel("a").now == mesh.now


def test_an_idle_leader_wakes_for_heartbeats_only() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.settle(3)
    woken, records = 0, len(mesh["a"].synced_records)
    end = mesh.now + 10
    while mesh.now < end:
        mesh.now = min(mesh.kernel(name).next_wake() for name in "abc")
        for name in "abc":
            if mesh.kernel(name).next_wake() <= mesh.now:
                woken += 1
                mesh[name].turn()
        mesh.deliver()
    assert woken <= 10 / SETTINGS.heartbeat_s + 2
    assert len(mesh["a"].synced_records) == records


@pytest.mark.parametrize("times", [(0.3, 0.8, 1.6), (0.1, 0.8, 0.8), (0.0, 0.8, 1.6)])
def test_times_with_which_no_leader_would_last_are_refused(
    times: tuple[float, float, float],
) -> None:
    heartbeat, shortest, longest = times
    with pytest.raises(ValueError, match="too rare"):
        Settings(heartbeat_s=heartbeat, election_min_s=shortest, election_max_s=longest)
    assert msgspec.structs.replace(LAN, heartbeat_s=0.1) != WAN
