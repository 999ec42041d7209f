"""The same seed is the same run: what is asked, and what is broken when."""

from __future__ import annotations

from collections import Counter

import pytest

from meshd_chaos.feasible import as_far_as_possible, why_untestable
from meshd_chaos.scenario import Expect, Fault, Scenario, When
from meshd_chaos.schedule import steps_of
from meshd_chaos.workload import Mix, Planned, plan


def requests(seed: int, **mix: object) -> list[Planned]:
    made = Mix(**mix)  # type: ignore[arg-type]
    return plan(made, models=("a", "b"), seed=seed, rate_per_s=50.0, duration_s=20.0)


def scenario(*whens: When) -> Scenario:
    faults = tuple(Fault(name="kill", when=when) for when in whens)
    return Scenario(name="s", about="A.", faults=faults)


def test_the_same_seed_plans_the_same_requests_and_another_seed_others() -> None:
    assert requests(7) == requests(7)
    assert requests(7) != requests(8)


def test_the_rate_is_kept_and_all_of_it_is_within_the_duration() -> None:
    made = requests(7)
    assert 800 < len(made) < 1200
    assert all(0 <= one.at_s < 20 for one in made)
    assert [one.at_s for one in made] == sorted(one.at_s for one in made)
    assert len({one.name for one in made}) == len(made)


def test_the_mix_is_as_it_was_asked_for() -> None:
    made = requests(7, modes={"streamed": 3, "queued": 1}, tokens=(4, 9), leaving=0.5)
    modes = Counter(one.mode for one in made)
    assert set(modes) == {"streamed", "queued"}
    assert 2 < modes["streamed"] / modes["queued"] < 4
    assert {one.tokens for one in made} == set(range(4, 10))
    leaving = [one for one in made if one.leaves_after is not None]
    assert leaving
    assert all(one.mode == "streamed" for one in leaving)


def test_only_keyed_requests_are_asked_again() -> None:
    made = requests(7, asked_again=1.0)
    assert all(one.asks_again == (one.mode == "keyed") for one in made)


def test_the_same_seed_breaks_the_same_things_at_the_same_times() -> None:
    one = scenario(When(every_s=3.0), When(per_minute=10.0))
    assert steps_of(one, seed=7, duration_s=60) == steps_of(one, seed=7, duration_s=60)
    assert steps_of(one, seed=7, duration_s=60) != steps_of(one, seed=8, duration_s=60)


@pytest.mark.parametrize(
    ("when", "moments"),
    [
        (When(at_s=[4.0, 2.0, 30.0]), [2.0, 4.0]),
        (When(every_s=5.0, first_s=1.0), [1.0, 6.0, 11.0, 16.0]),
        (When(every_s=100.0), [2.5]),
    ],
)
def test_faults_come_when_the_scenario_says_and_none_at_the_very_end(
    when: When, moments: list[float]
) -> None:
    steps = steps_of(scenario(when), seed=7, duration_s=20.0)
    assert [step.at_s for step in steps] == moments


def test_faults_by_chance_come_once_at_least_and_as_often_as_was_asked() -> None:
    when = When(per_minute=6.0)
    assert len(steps_of(scenario(when), seed=7, duration_s=3.0)) == 1
    assert len(steps_of(scenario(when), seed=7, duration_s=100.0)) == 9


def test_a_fault_lasts_as_long_as_the_scenario_says() -> None:
    steps = steps_of(scenario(When(every_s=0.1, for_s=(2.0, 3.0))), seed=7, duration_s=20.0)
    assert all(2.0 <= step.for_s <= 3.0 for step in steps)
    assert len({step.for_s for step in steps}) > 100


@pytest.mark.parametrize(("wants", "has_to_be"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_of_faults_that_this_machine_does_not_allow_none_is_wanted(
    wants: int, has_to_be: int
) -> None:
    faults = (
        Fault(name="kill", when=When(at_s=[1, 2, 3])),
        Fault(name="full-disk", when=When(at_s=[1, 2, 3, 4, 5, 6])),
    )
    asked = Scenario(name="s", about="A.", faults=faults, expect=Expect(faults=wants))
    possible = as_far_as_possible(asked, {"full-disk": "No."}, seed=7, duration_s=20.0)
    assert possible.expect.faults == has_to_be
    assert as_far_as_possible(asked, {}, seed=7, duration_s=20.0) == asked


def test_a_run_in_which_nothing_was_done_is_never_wanted() -> None:
    faults = (
        Fault(name="kill", when=When(at_s=[60])),
        Fault(name="full-disk", when=When(at_s=[1])),
    )
    asked = Scenario(name="s", about="A.", faults=faults)
    possible = as_far_as_possible(asked, {"full-disk": "No."}, seed=7, duration_s=20.0)
    assert possible.expect.faults == 1


def test_a_scenario_is_untestable_where_none_of_its_faults_can_be_injected() -> None:
    asked = scenario(When(at_s=[1]), When(at_s=[2]))
    assert why_untestable(asked, {"kill": "No."}) == "kill: No."
    assert why_untestable(asked, {"full-disk": "No."}) == ""
    assert why_untestable(scenario(), {"kill": "No."}) == ""
