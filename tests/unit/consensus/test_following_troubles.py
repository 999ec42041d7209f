"""Followers that are slow, gone or behind, and messages that come late or not at all."""

from __future__ import annotations

import pytest

from meshd import limits
from meshd.consensus.interface import Nonsense
from meshd.consensus.messages import (
    Feed,
    FeedAnswer,
    FeedEnd,
    Message,
)
from meshd.consensus.outcomes import Committed
from tests.unit.consensus.followers import all_have, follow, meshed, sent, source
from tests.unit.consensus.kernel_rig import ids, node_id


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
