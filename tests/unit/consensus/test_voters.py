"""Which machines get a vote, step by step."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd import limits
from meshd.consensus.voters import (
    Demote,
    Elector,
    Learn,
    Promote,
    Standing,
    Step,
    Transfer,
    Wish,
    next_step,
    voters_wanted,
)
from meshd.ids import NodeId

DAY_S = 24 * 3600.0
A, B, C, D, E = (NodeId(letter) for letter in "abcde")


def desktop(node: NodeId, **more: object) -> Elector:
    return msgspec.structs.replace(Elector(node=node, uptime_s=3 * DAY_S), **more)


def laptop(node: NodeId, **more: object) -> Elector:
    return msgspec.structs.replace(
        Elector(node=node, uptime_s=DAY_S, portable=True, on_mains=False), **more
    )


class Mesh:
    """Carries steps out, as the leader and the kernel would."""

    def __init__(self, *electors: Elector, voters: Iterable[NodeId] = "a") -> None:
        self.members = {e.node: e for e in electors}
        self.voters = [NodeId(v) for v in voters]
        self.leader = self.voters[0]
        self.since_change_s = DAY_S

    def change(self, node: NodeId, **more: object) -> None:
        self.members[node] = msgspec.structs.replace(self.members[node], **more)

    def next(self) -> Step | None:
        return next_step(self.leader, self.voters, self.members, since_change_s=self.since_change_s)

    def take(self) -> Step | None:
        step = self.next()
        match step:
            case Learn(node):
                assert self.members[node].answering
                self.change(node, caught_up=True, is_void=False)  # once it has no vote
            case Promote(node):
                elector = self.members[node]
                assert elector.answering
                assert elector.caught_up
                assert not elector.is_void
                assert node not in self.voters
                self.voters.append(node)
            case Demote(node):
                assert node in self.voters
                assert node != self.leader, "a leader cannot take its own vote"
                self.voters.remove(node)
            case Transfer(node):
                assert node in self.voters
                assert self.members[node].answering
                self.leader = node
        return step

    def settle(self) -> list[Step]:
        steps: list[Step] = []
        while (step := self.take()) is not None:
            steps.append(step)
            assert len(steps) < 30, f"it never settles: {steps}"
        return steps


def test_a_mesh_of_two_has_one_vote() -> None:
    mesh = Mesh(desktop(A), desktop(B))
    assert mesh.settle() == []


def test_the_third_machine_makes_three_laptops_included() -> None:
    mesh = Mesh(desktop(A), laptop(B, caught_up=False), laptop(C, caught_up=False))
    steps = mesh.settle()
    assert [type(step) for step in steps] == [Learn, Learn, Promote, Promote]
    assert sorted(mesh.voters) == [A, B, C]


def test_nobody_gets_a_vote_while_only_one_of_two_newcomers_answers() -> None:
    mesh = Mesh(desktop(A), desktop(B), desktop(C, answering=False))
    assert mesh.next() is None


def test_a_second_vote_whose_third_went_away_meanwhile_is_taken_back() -> None:
    mesh = Mesh(desktop(A), desktop(B), desktop(C))
    assert isinstance(mesh.take(), Promote)
    mesh.change(C if B in mesh.voters else B, answering=False)
    assert isinstance(mesh.take(), Demote)
    assert mesh.voters == [A]


def test_the_seventh_machine_makes_five() -> None:
    assert [voters_wanted(n) for n in range(1, 10)] == [1, 1, 3, 3, 3, 3, 5, 5, 5]
    mesh = Mesh(*(desktop(NodeId(x)) for x in "abcdefg"), voters="abc")
    mesh.settle()
    assert len(mesh.voters) == 5


def test_a_voter_that_failed_is_replaced_after_ten_minutes_and_not_before() -> None:
    mesh = Mesh(desktop(A), desktop(B), desktop(C), desktop(D), voters="abc")
    away = {"standing": Standing.FAILED, "answering": False}
    mesh.change(C, **away, away_s=limits.REPLACE_VOTER_AFTER_S - 1)
    assert mesh.next() is None
    mesh.change(C, **away, away_s=limits.REPLACE_VOTER_AFTER_S)
    assert mesh.settle() == [
        Promote(D, "c has been away for 10 min"),
        Demote(C, "an even number of votes bears no more losses than one fewer"),
    ]


def test_a_failed_voter_keeps_its_vote_where_nobody_can_take_it() -> None:
    away = {"standing": Standing.FAILED, "answering": False, "away_s": DAY_S}
    mesh = Mesh(desktop(A), desktop(B), desktop(C, **away), voters="abc")
    assert mesh.next() is None


def test_a_laptop_asleep_overnight_keeps_its_vote() -> None:
    mesh = Mesh(desktop(A), desktop(B), laptop(C), laptop(D), voters="abc")
    mesh.change(C, standing=Standing.ASLEEP, answering=False, away_s=11 * 3600.0)
    assert mesh.next() is None
    mesh.change(C, away_s=12 * 3600.0)
    mesh.settle()
    assert sorted(mesh.voters) == [A, B, D]


def test_a_removed_voter_loses_its_vote_at_once() -> None:
    mesh = Mesh(desktop(A), desktop(B), desktop(C), desktop(D), voters="abc")
    del mesh.members[C]
    mesh.settle()
    assert sorted(mesh.voters) == [A, B, D]


def test_three_machines_of_which_one_leaves_go_back_to_one_vote() -> None:
    mesh = Mesh(desktop(A), desktop(B), desktop(C), voters="abc")
    mesh.change(C, standing=Standing.GONE, answering=False)
    mesh.settle()
    assert mesh.voters == [A]


def test_a_steadier_machine_takes_a_laptops_vote_when_there_is_time() -> None:
    mesh = Mesh(desktop(A), desktop(B), laptop(C), desktop(D), voters="abc")
    mesh.since_change_s = 1.0
    assert mesh.next() is None
    mesh.since_change_s = DAY_S
    mesh.settle()
    assert sorted(mesh.voters) == [A, B, D]


def test_votes_do_not_wander_between_laptops() -> None:
    mesh = Mesh(desktop(A), desktop(B), laptop(C), laptop(D, on_mains=True), voters="abc")
    assert mesh.next() is None


def test_of_two_machines_the_steadier_gets_the_one_vote_and_leads() -> None:
    mesh = Mesh(laptop(A), desktop(B))
    steps = mesh.settle()
    assert [type(step) for step in steps] == [Promote, Transfer, Demote]
    assert mesh.voters == [B]


def test_of_two_that_each_find_themselves_a_moment_younger_one_gets_the_one_vote() -> None:
    """Who asks looked at its own clock first: containers of one machine, or after a power cut."""
    electors = {node: desktop(node) for node in (A, B)}
    steps = []
    for leader, other in ((A, B), (B, A)):
        mine = msgspec.structs.replace(electors[leader], uptime_s=electors[other].uptime_s - 0.02)
        members = {**electors, leader: mine}
        steps.append(next_step(leader, [A, B], members, since_change_s=0.0))
    assert [(type(step), step.node) for step in steps if step] == [(Demote, B), (Demote, A)]


def test_what_the_owner_set_counts_more_than_what_the_machine_is() -> None:
    mesh = Mesh(desktop(A), desktop(B), desktop(C), laptop(D, wish=Wish.ALWAYS), voters="abc")
    mesh.settle()
    assert D in mesh.voters
    mesh.change(A, wish=Wish.NEVER)
    mesh.settle()
    assert A not in mesh.voters


def test_a_void_vote_is_taken_and_given_anew_where_nobody_else_can_have_it() -> None:
    mesh = Mesh(desktop(A), desktop(B), desktop(C, is_void=True), voters="abc")
    assert mesh.settle() == [
        Demote(C, "the vote of c is void"),
        Learn(C),
        Promote(C, "an even number of votes bears no more losses than one fewer"),
    ]


def test_a_void_vote_goes_to_a_machine_that_is_ready() -> None:
    mesh = Mesh(desktop(A), desktop(B), desktop(C, is_void=True), desktop(D), voters="abc")
    mesh.settle()
    assert sorted(mesh.voters) == [A, B, D]


def test_a_void_vote_stays_while_nothing_could_be_written_without_it() -> None:
    away = {"standing": Standing.FAILED, "answering": False}
    mesh = Mesh(desktop(A), desktop(B, **away), desktop(C, is_void=True), voters="abc")
    assert mesh.next() is None


def test_who_was_promoted_gets_a_vote_at_once_and_the_least_steady_loses_it() -> None:
    mesh = Mesh(desktop(A), desktop(B), desktop(C), laptop(D), voters="abc")
    mesh.since_change_s = 1.0
    mesh.change(D, order=Wish.ALWAYS)
    mesh.settle()
    assert D in mesh.voters
    assert len(mesh.voters) == 3


def test_a_config_that_says_never_wins_over_a_promotion() -> None:
    mesh = Mesh(desktop(A), desktop(B), desktop(C), laptop(D, wish=Wish.NEVER), voters="abc")
    mesh.change(D, order=Wish.ALWAYS)
    assert mesh.next() is None


electors = st.builds(
    Elector,
    node=st.just(A),
    wish=st.sampled_from(Wish),
    standing=st.sampled_from(Standing),
    away_s=st.sampled_from([0.0, 60.0, 700.0, 50_000.0]),
    answering=st.booleans(),
    caught_up=st.booleans(),
    on_mains=st.booleans(),
    portable=st.booleans(),
    uptime_s=st.sampled_from([60.0, 2 * DAY_S]),
    sync_s=st.sampled_from([0.0, 0.01, 0.2]),
    order=st.sampled_from(Wish),
    is_void=st.booleans(),
)


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    ids = [NodeId(c) for c in "abcdefghi"[: draw(st.integers(1, 9))]]
    members = {}
    for node in ids:
        elector = draw(electors)
        away = elector.standing is not Standing.ALIVE
        members[node] = msgspec.structs.replace(
            elector, node=node, answering=elector.answering and not away
        )
    members[A] = msgspec.structs.replace(
        members[A], standing=Standing.ALIVE, answering=True, is_void=False
    )
    voters = draw(st.lists(st.sampled_from(ids), unique=True, min_size=1, max_size=6))
    return Mesh(*members.values(), voters=[A, *(v for v in voters if v != A)])


@settings(max_examples=400)
@given(meshes())
def test_it_settles_and_asks_only_for_what_can_be_done(mesh: Mesh) -> None:
    before = list(mesh.voters)
    mesh.settle()
    assert mesh.leader in mesh.voters
    silent = {v for v in mesh.voters if not mesh.members[v].answering}
    assert silent <= set(before), "a vote never goes to one that does not answer"
    stuck = mesh.members[A].will is Wish.NEVER and silent  # nobody to hand the lead to
    assert len(mesh.voters) % 2 == 1 or stuck
    able = [e for e in mesh.members.values() if e.answering and e.will is not Wish.NEVER]
    named = [
        e
        for e in mesh.members.values()
        if e.will is not Wish.NEVER and e.standing is not Standing.GONE
    ]
    if len(able) == len(named):  # everybody who may have a vote is there
        assert len(mesh.voters) == voters_wanted(len(named)) or stuck
