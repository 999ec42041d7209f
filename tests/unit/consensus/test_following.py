"""Nodes without a vote follow the committed entries of a voter of their choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
import pytest

from meshd import limits
from meshd.consensus.interface import Committed, Nonsense, Readable, Refused, Settings, Unknown
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
from meshd.ids import NodeId
from tests.unit.consensus.kernel_rig import SETTINGS, Mesh, ids, node_id


def resized(**sizes: float) -> Settings:
    return msgspec.structs.replace(SETTINGS, **sizes)


def meshed(voters: str = "abc", followers: str = "defg", **sizes: float) -> Mesh:
    """`a` leads, and everybody else follows somebody."""
    mesh = Mesh(voters, followers, settings=resized(**sizes))
    mesh.elect("a")
    mesh.settle(20)
    assert all(source(mesh, name) in voters for name in followers)
    return mesh


def source(mesh: Mesh, name: str) -> str:
    """Whom it follows; nothing if nobody."""
    followed = mesh.kernel(name).status().source
    return followed[0] if followed is not None else ""


def follow(mesh: Mesh, name: str, voter: str) -> None:
    """Let it follow that voter."""
    following = mesh.kernel(name).following
    following._let_go()
    following._ask(mesh.kernel(name).peer(node_id(voter)))
    mesh.settle(2)
    assert source(mesh, name) == voter


def sent(mesh: Mesh, kind: type[Message], sender: str = "", to: str = "") -> list[Message]:
    return [
        message for a, b, message in mesh.log
        if isinstance(message, kind) and sender in ("", a) and to in ("", b)
    ]  # fmt: skip


def all_have(mesh: Mesh, commands: Iterable[bytes]) -> bool:
    return all(host.machine.commands == list(commands) for host in mesh.hosts.values())


# --- what it gets


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


# --- what it costs


def test_a_slow_follower_costs_its_voter_a_window() -> None:
    mesh = meshed(followers="d", batch_bytes=64, window_bytes=512)
    follow(mesh, "d", "b")
    mesh.log.clear()
    for n in range(300):
        mesh.propose("a", b"command %d" % n)
        mesh["a"].turn()
        mesh.deliver(lambda sender, to, message: "d" in (sender, to))
    under_way = [m for m in sent(mesh, Feed, "b", "d") if isinstance(m, Feed) and m.entries]
    assert 0 < len(under_way) <= limits.RAFT_FEEDS_IN_FLIGHT
    size_bytes = sum(len(payload) for feed in under_way for _, payload in feed.entries)
    assert size_bytes < 512 + 2 * 64
    follow(mesh, "d", "b")
    mesh.settle(3)
    assert mesh["d"].machine.commands == mesh["a"].machine.commands


def test_an_idle_follower_hears_a_sign_of_life_now_and_then_and_nothing_else() -> None:
    mesh = meshed(sign_s=2.0)
    mesh.settle(30)
    mesh.log.clear()
    mesh.settle(100)  # 10 s
    for name in "defg":
        heard, said = sent(mesh, Message, to=name), sent(mesh, Message, sender=name)
        assert {type(message) for message in heard} == {Feed}
        assert {type(message) for message in said} == {FeedAnswer}
        assert 4 <= len(heard) == len(said) <= 6


def test_a_follower_that_is_gone_without_a_word_is_let_go() -> None:
    mesh = meshed(followers="d", sign_s=0.5)
    voter = source(mesh, "d")
    mesh.queue.clear()
    for _ in range(40):
        mesh.tick("abc", 0.1)
        mesh.deliver(lambda sender, to, message: to == "d")
    assert mesh.kernel(voter).status().subscribers == {}


# --- what goes wrong


def test_a_lost_message_is_noticed_by_the_next() -> None:
    mesh = meshed(followers="d", sign_s=1.0)
    mesh.commit("a", b"0")
    mesh.propose("a", b"1")
    mesh["a"].turn()
    mesh.deliver(lambda sender, to, message: to == "d" and isinstance(message, Feed))
    mesh.settle(20)
    assert all_have(mesh, [b"0", b"1"])


def test_a_late_message_of_an_earlier_subscription_changes_nothing() -> None:
    mesh = meshed(followers="d")
    voter = source(mesh, "d")
    last = mesh.kernel("d").log.last
    mesh.hand(voter, "d", Feed(1, 2, None, last.index, last.term, ((2, b"\0x"),)))
    mesh["d"].turn()
    assert mesh.kernel("d").log.last == last
    assert mesh.take(FeedEnd, sender="d") == [FeedEnd(1, ())]


def test_a_source_that_differs_from_what_is_committed_is_refused() -> None:
    mesh = meshed(followers="d")
    mesh.commit("a", b"x")
    mesh.settle(1)
    kernel = mesh.kernel("d")
    stream, before = kernel.following._stream, kernel.status()
    for prev, term, entries in (
        (before.commit, before.term + 1, ()),
        (before.commit - 1, before.term, ((before.term + 1, b"\0other"),)),
    ):
        feed = Feed(stream, before.term + 1, None, prev, term, entries)
        with pytest.raises(Nonsense, match="is committed here"):
            mesh.hand(source(mesh, "d"), "d", feed)
    assert kernel.status() == before


def test_an_answer_to_an_earlier_life_of_the_voter_makes_the_follower_ask_again() -> None:
    mesh = meshed(followers="d")
    voter = source(mesh, "d")
    mesh.hand("d", voter, FeedAnswer(stream=5, index=1))
    mesh[voter].turn()
    assert mesh.take(FeedEnd, sender=voter) == [FeedEnd(5, ids("abc"))]


def test_a_follower_in_a_later_term_is_fed_all_the_same() -> None:
    mesh = meshed(followers="d")
    mesh.kernel("d").stock.set_term(50)
    mesh["d"].flush()
    mesh.propose("a", b"x")
    mesh["a"].turn()
    mesh.settle(2)
    assert all_have(mesh, [b"x"])
    assert mesh.kernel("a").status().term < 50


def test_a_committed_command_has_its_result_at_the_follower() -> None:
    mesh = meshed(followers="d")
    number = mesh.propose("d", b"x")
    mesh["d"].turn()
    mesh.deliver()
    assert mesh["d"].outcomes[number] == Committed(number, 3, b"1 at 3")


def test_a_leader_takes_nothing_from_the_voter_that_it_followed_until_then() -> None:
    mesh = meshed(followers="")
    kernel = mesh.kernel("a")
    kernel.following._ask(kernel.peer(node_id("b")))  # as a voter that doubted that it is one
    last = kernel.log.last
    feed = Feed(kernel.following._stream, 9, None, last.index, last.term, ((9, b"\0x"),))
    mesh.hand("b", "a", feed)
    assert kernel.log.last == last
    assert mesh.leads("a")
