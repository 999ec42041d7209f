"""What becomes of the votes when a person decides about one."""

from __future__ import annotations

import pytest

from meshd.consensus.voter_orders import decide
from meshd.consensus.voters import Elector, Standing, Wish
from meshd.errors import Refused
from meshd.ids import NodeId
from tests.unit.consensus.test_voters import A, B, C, D, desktop, laptop

AWAY = {"standing": Standing.FAILED, "answering": False}


def after(node: NodeId, order: Wish, *electors: Elector, voters: str = "abc") -> list[NodeId]:
    members = {e.node: e for e in electors}
    votes = [NodeId(v) for v in voters]
    return list(decide(node, order, A, votes, members, lambda n: n).voters)


def refusal(node: NodeId, order: Wish, *electors: Elector, voters: str = "abc") -> str:
    with pytest.raises(Refused) as caught:
        after(node, order, *electors, voters=voters)
    return str(caught.value)


def test_who_is_promoted_takes_the_place_of_the_least_steady() -> None:
    mesh = [desktop(A), desktop(B), laptop(C), laptop(D, caught_up=False)]
    assert after(D, Wish.ALWAYS, *mesh) == [A, B, D]


def test_of_two_machines_the_promoted_one_gets_the_vote() -> None:
    assert after(B, Wish.ALWAYS, desktop(A), laptop(B), voters="a") == [B]


def test_a_demoted_leader_hands_over_and_goes() -> None:
    mesh = [desktop(A), desktop(B), desktop(C), desktop(D)]
    assert after(A, Wish.NEVER, *mesh) == [B, C, D]


def test_a_voter_that_is_away_can_be_demoted() -> None:
    mesh = [desktop(A), desktop(B), desktop(C, **AWAY), desktop(D)]
    assert after(C, Wish.NEVER, *mesh) == [A, B, D]


def test_a_demotion_that_leaves_fewer_votes_is_refused() -> None:
    mesh = [desktop(A), desktop(B), desktop(C)]
    assert "1 vote instead of 3" in refusal(C, Wish.NEVER, *mesh)


def test_a_demotion_for_which_nobody_steps_in_is_refused() -> None:
    mesh = [desktop(A), desktop(B), desktop(C), desktop(D, **AWAY)]
    assert "Nobody could take the vote of c" in refusal(C, Wish.NEVER, *mesh)
    assert "Nobody could take" in refusal(A, Wish.NEVER, desktop(A), voters="a")


def test_who_does_not_answer_is_not_promoted() -> None:
    mesh = [desktop(A), desktop(B), desktop(C), desktop(D, **AWAY)]
    assert "d does not answer" in refusal(D, Wish.ALWAYS, *mesh)


def test_a_config_that_says_never_is_named() -> None:
    mesh = [desktop(A), desktop(B), desktop(C), desktop(D, wish=Wish.NEVER)]
    assert 'voter = "never"' in refusal(D, Wish.ALWAYS, *mesh)


def test_no_more_are_promoted_than_there_are_votes() -> None:
    mesh = [desktop(n, order=Wish.ALWAYS) for n in (A, B, C)]
    told = refusal(D, Wish.ALWAYS, *mesh, desktop(D))
    assert "3 votes" in told
    assert "meshd voters demote" in told
