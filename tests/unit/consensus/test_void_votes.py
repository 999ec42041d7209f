"""A voter that lost its journal knows no promise of its own: until its vote is given anew it gives
none, whatever the log says.  (A vote without a memory takes back what was acknowledged.)"""

from __future__ import annotations

import random

import pytest

from meshd.consensus.entries import Ballot
from meshd.consensus.kernel import Kernel
from meshd.consensus.messages import (
    AppendEntries,
    AskVote,
    FeedEnd,
    Follow,
    PreVote,
    PreVoteAnswer,
    TimeoutNow,
    VoteAnswer,
)
from meshd.consensus.replay import EMPTY, replay
from meshd.consensus.voter_list import founding_records
from tests.unit.consensus.kernel_rig import SETTINGS, ids, node_id

ME, OTHER = node_id("a"), node_id("b")


def kernel(voters: str = "abc", *, vote_is_void: bool = True) -> Kernel:
    """One that has a part of the log again, in which it has a vote."""
    made = Kernel(
        ME,
        replay(EMPTY, founding_records(ids(voters))),
        None,  # type: ignore[arg-type]
        chance=random.Random(1),
        now=0.0,
        eligible=lambda node: True,
        settings=SETTINGS,
        vote_is_void=vote_is_void,
    )
    for voter in voters[1:]:
        made.connected(node_id(voter), 0.0)
    return made


def answers(kernel: Kernel, message: object, now: float) -> list[object]:
    kernel.on_message(OTHER, message, now)  # type: ignore[arg-type]
    outbox = kernel.take_outbox()
    if outbox.must_sync:
        kernel.stored()
    return [out.message for out in outbox.late if out.to == OTHER]


ASK = AskVote(term=7, last_index=900, last_term=6, transfer=False)
PRE = PreVote(term=7, last_index=900, last_term=6)


def test_it_votes_for_nobody() -> None:
    assert answers(kernel(), PRE, 10.0) == [PreVoteAnswer(asked=7, granted=False, term=1)]
    assert answers(kernel(), ASK, 10.0) == [VoteAnswer(term=1, granted=False)]
    assert answers(kernel(vote_is_void=False), ASK, 10.0) == [VoteAnswer(term=7, granted=True)]


def test_it_does_not_vote_when_the_leader_hands_over_either() -> None:
    ask = AskVote(term=7, last_index=900, last_term=6, transfer=True)
    assert answers(kernel(), ask, 10.0) == [VoteAnswer(term=1, granted=False)]


def test_it_does_not_campaign_however_long_nobody_leads() -> None:
    for voters in ("abc", "a"):  # the second is how the log began, as far as it is here again
        it = kernel(voters)
        for now in (10.0, 100.0, 1000.0):
            it.step(now)
            outbox = it.take_outbox()
            assert (outbox.early, outbox.records) == ((), ())
            assert {type(out.message) for out in outbox.late} <= {Follow, FeedEnd}
        assert it.status().role == "follower"


@pytest.mark.parametrize("vote_is_void", [True, False])
def test_it_does_not_campaign_when_the_leader_wants_it_to(vote_is_void: bool) -> None:
    it = kernel(vote_is_void=vote_is_void)
    heartbeat = AppendEntries(term=2, round=1, prev_index=1, prev_term=1, commit=1, entries=())
    answers(it, heartbeat, 10.0)
    answers(it, TimeoutNow(term=2), 10.0)
    it.step(10.0)
    assert (it.status().role == "follower") == vote_is_void


def test_it_votes_again_once_it_may() -> None:
    it = kernel()
    it.regain_vote(10.0)
    assert answers(it, ASK, 10.0) == [VoteAnswer(term=7, granted=True)]


def test_a_vote_that_is_good_again_counts_as_given_in_the_present_term() -> None:
    """It may have been given in it before, to somebody who leads by it."""
    it = Kernel(
        ME,
        replay(EMPTY, (*founding_records(ids("abc")), Ballot(5))),
        None,  # type: ignore[arg-type]
        chance=random.Random(1),
        now=0.0,
        eligible=lambda node: True,
        settings=SETTINGS,
        vote_is_void=True,
    )
    it.connected(OTHER, 0.0)
    it.regain_vote(10.0)
    ask = AskVote(term=5, last_index=900, last_term=4, transfer=False)
    assert answers(it, ask, 10.0) == [VoteAnswer(term=5, granted=False)]
    assert answers(it, ASK, 10.0) == [VoteAnswer(term=7, granted=True)]
