"""Nodes without a vote follow the committed entries of a voter of their choice."""

from __future__ import annotations

from collections import Counter

import pytest

from meshd import limits
from meshd.consensus.messages import (
    AppendEntries,
    Feed,
    FeedAnswer,
    FeedEnd,
    Follow,
    Forward,
    Message,
    ReadAsk,
    SnapshotPart,
)
from meshd.consensus.outcomes import Readable, Refused, Unknown
from meshd.ids import NodeId
from tests.unit.consensus.followers import all_have, follow, meshed, sent, source
from tests.unit.consensus.kernel_rig import Mesh, ids


def test_followers_get_what_is_committed_and_the_leader_sends_them_nothing() -> None:
    mesh = meshed()
    mesh.log.clear()
    mesh.commit("a", *[b"%d" % n for n in range(50)])
    mesh.settle(2)
    assert all_have(mesh, [b"%d" % n for n in range(50)])
    assert not [1 for name in "defg" if sent(mesh, AppendEntries, to=name)]
    assert mesh.kernel("a").status().subscribers == {}, "two others can serve"
    served = [mesh.kernel(name).status().subscribers for name in "bc"]
    assert all(served), "each voter has some"
    assert {index for each in served for index in each.values()} == {52}


def test_a_sole_voter_serves_too() -> None:
    mesh = meshed("a", "bc")
    mesh.commit("a", b"x")
    mesh.settle(1)
    assert all_have(mesh, [b"x"])
    assert [source(mesh, name) for name in "bc"] == ["a", "a"]


def test_nothing_reaches_a_follower_before_it_is_committed() -> None:
    mesh = meshed()
    mesh.propose("a", b"x")
    mesh["a"].turn()
    lost = mesh.take(AppendEntries, sender="a")
    assert any(message.entries for message in lost)
    mesh.deliver(lambda sender, to, message: isinstance(message, AppendEntries))
    assert [mesh[name].machine.commands for name in "defg"] == [[], [], [], []]
    mesh.settle(3)
    assert all_have(mesh, [b"x"])


def test_a_follower_goes_on_where_it_was_after_a_restart() -> None:
    mesh = meshed(followers="d")
    mesh.commit("a", *[b"%d" % n for n in range(20)])
    mesh.settle(1)
    mesh.restart("d")
    mesh.log.clear()
    mesh.settle(3)
    assert all_have(mesh, [b"%d" % n for n in range(20)])
    assert next(feed.entries for feed in sent(mesh, Feed, to="d") if isinstance(feed, Feed)) == ()


def test_a_follower_with_an_uncommitted_tail_loses_it_when_it_conflicts() -> None:
    mesh = meshed(followers="")
    mesh.cut("a", "bc")
    mesh.propose("a", b"never")
    mesh["a"].turn()
    mesh.elect("b")
    mesh.kernel("b").change_voters(ids("bc"), mesh.now, 3.0)
    mesh["b"].turn()
    mesh.deliver()
    mesh.commit("b", b"x")
    mesh.settle(12, "bc")
    assert mesh["a"].kernel.log.last.index > mesh["a"].kernel.status().commit
    mesh.heal("a", "bc")
    mesh.settle(70)
    assert mesh.kernel("a").status().voters == ids("bc")
    assert source(mesh, "a") in "bc"
    assert all_have(mesh, [b"x"])


def test_who_is_behind_the_floor_gets_the_snapshot_in_parts() -> None:
    mesh = meshed(followers="d", trailing=0, chunk_bytes=16)
    mesh.cut("d", "abc")
    commands = [b"command %d" % n for n in range(40)]
    mesh.commit("a", *commands)
    mesh.settle(1)
    for name in "abc":
        mesh[name].snap()
    mesh.commit("a", b"after")
    mesh.log.clear()
    mesh.heal("d", "abc")
    mesh.settle(40)
    assert len(sent(mesh, SnapshotPart, to="d")) > 20
    assert all_have(mesh, [*commands, b"after"])
    assert mesh["d"].snapshot == mesh["a"].snapshot


# --- whom


def test_another_voter_is_followed_when_the_link_breaks() -> None:
    mesh = meshed()
    left = source(mesh, "d")
    mesh.cut("d", left)
    mesh.settle(1)
    assert source(mesh, "d") not in ("", left)
    mesh.commit("a", b"x")
    mesh.settle(1)
    assert all_have(mesh, [b"x"])


def test_another_voter_is_followed_when_one_falls_silent() -> None:
    mesh = meshed(sign_s=0.5)
    left = source(mesh, "d")
    mesh.now += 1.3
    for _ in range(4):
        mesh.tick("ad", 0.1)
        mesh.deliver(lambda sender, to, message: sender == left)
    assert source(mesh, "d") not in ("", left)


def test_a_voter_that_loses_its_vote_sends_its_followers_to_others() -> None:
    mesh = meshed(followers="d")
    left = source(mesh, "d")
    rest = "abc".replace(left, "")
    mesh.kernel("a").change_voters(ids(rest), mesh.now, 3.0)
    mesh["a"].turn()
    mesh.settle(110)
    assert source(mesh, "d") in rest
    assert source(mesh, left) in rest


def test_each_voter_gets_about_as_many_followers_as_the_others() -> None:
    kernel = Mesh("abc", "d").kernel("d")
    counts: Counter[NodeId] = Counter()
    for n in range(300):
        kernel.me = NodeId(f"{n:026}")
        counts[min(ids("abc"), key=kernel.following._lot)] += 1
    assert all(70 < count < 130 for count in counts.values())


def test_a_full_voter_refuses_and_another_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RAFT_SUBSCRIBERS", 2)
    mesh = meshed(followers="defg")
    assert sorted(source(mesh, name) for name in "defg") == ["b", "b", "c", "c"]


def test_who_knows_no_voter_asks_anybody_and_is_told() -> None:
    mesh = meshed(followers="de")
    mesh.hand("e", "d", Follow(stream=1, last_index=0, last_term=0, commit=0))
    mesh["d"].turn()
    [end] = mesh.take(FeedEnd, sender="d")
    assert end == FeedEnd(stream=1, voters=ids("abc"))


def test_a_voter_is_not_served() -> None:
    mesh = meshed(followers="")
    mesh.hand("c", "b", Follow(stream=1, last_index=0, last_term=0, commit=0))
    mesh["b"].turn()
    assert mesh.take(FeedEnd, sender="b")
    assert mesh.kernel("b").status().subscribers == {}


def test_a_voter_that_was_removed_while_it_was_away_learns_it_and_follows() -> None:
    mesh = meshed(followers="")
    mesh.cut("c", "ab")
    mesh.kernel("a").change_voters(ids("ab"), mesh.now, 3.0)
    mesh["a"].turn()
    mesh.deliver()
    mesh.kernel("a").set_learners((), mesh.now)  # it has waited for it long enough
    mesh.heal("c", "ab")
    mesh.settle(110)
    assert mesh.kernel("c").status().voters == ids("ab")
    assert source(mesh, "c") == "b"
    mesh.log.clear()
    mesh.settle(60)
    assert {type(m) for m in sent(mesh, Message, sender="c")} <= {FeedAnswer}


def test_a_follower_becomes_a_learner_and_a_voter_with_the_log_it_has() -> None:
    mesh = meshed(followers="de")
    mesh.commit("a", *[b"%d" % n for n in range(200)])
    mesh.settle(2)
    mesh.log.clear()
    mesh.kernel("a").set_learners(ids("d"), mesh.now)
    mesh.settle(3)
    assert source(mesh, "d") == ""
    taught = [m for m in sent(mesh, AppendEntries, to="d") if isinstance(m, AppendEntries)]
    assert taught
    assert not any(message.entries for message in taught), "it has everything"
    mesh.kernel("a").change_voters(ids("abcd"), mesh.now, 3.0)
    mesh["a"].turn()
    mesh.settle(3)
    assert mesh.kernel("d").status().voters == ids("abcd")
    mesh.elect("d")
    mesh.commit("d", b"x")


def test_a_learner_that_is_given_up_follows_again() -> None:
    mesh = meshed(followers="d")
    mesh.kernel("a").set_learners(ids("d"), mesh.now)
    mesh.settle(3)
    assert source(mesh, "d") == ""
    mesh.kernel("a").set_learners((), mesh.now)
    mesh.settle(25)
    assert source(mesh, "d") != ""
    mesh.commit("a", b"x")
    mesh.settle(1)
    assert all_have(mesh, [b"x"])


# --- what it asks


def test_a_follower_writes_through_the_voter_that_it_follows() -> None:
    mesh = meshed()
    follow(mesh, "d", "b")
    mesh.log.clear()
    mesh.commit("d", b"x")
    assert sent(mesh, Forward, "d", "b")
    assert sent(mesh, Forward, "b", "a")
    assert not sent(mesh, Forward, "d", "a")
    assert mesh["d"].machine.commands == [b"x"]


def test_a_read_at_a_follower_sees_what_was_acknowledged_before() -> None:
    mesh = meshed()
    follow(mesh, "d", "b")
    mesh.commit("a", b"x")
    number = mesh.kernel("d").read_index(mesh.now, 3.0)
    mesh["d"].turn()
    mesh.deliver()
    outcome = mesh["d"].outcomes[number]
    assert isinstance(outcome, Readable)
    assert outcome.index >= 3
    assert sent(mesh, ReadAsk, "d", "b")
    assert sent(mesh, ReadAsk, "b", "a")


def test_what_was_passed_on_to_a_leader_that_went_away_is_unknown() -> None:
    mesh = meshed()
    follow(mesh, "d", "b")
    number = mesh.propose("d", b"x", timeout_s=100.0)
    mesh["d"].turn()
    mesh.deliver(lambda sender, to, message: to == "a" and isinstance(message, Forward))
    mesh.cut("a", "bcd")
    mesh.settle(20, "bcd")
    assert isinstance(mesh["d"].outcomes[number], Unknown)


def test_a_source_without_a_leader_gets_no_commands() -> None:
    mesh = meshed(followers="d")
    mesh.cut("a", "bcd")
    mesh.cut("b", "c")
    mesh.settle(1, "bcd")
    number = mesh.propose("d", b"x", timeout_s=0.5)
    mesh.settle(8, "bcd")
    assert isinstance(mesh["d"].outcomes[number], Refused)
    assert mesh.kernel("d").status().leader is None


def test_a_command_is_passed_on_for_subscribers_only() -> None:
    mesh = meshed(followers="d")
    follow(mesh, "d", "b")
    mesh.hand("d", "c", Forward(7, (b"x",)))
    mesh["c"].turn()
    assert not sent(mesh, Forward, "c", "a")
    assert len(mesh.take(Message, "c", "d")) == 1
