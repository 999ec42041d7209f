"""Two runs of one request, event by event: never two answers, never half of one."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from meshd import limits
from meshd.ids import NodeId
from meshd.inference import Delta, Embedding, Failure, FailureKind, ModelInfo, Usage
from meshd.relay.race import Race, Racer, ends_both
from meshd.relay.sinks import AnswerItem
from meshd.routing.catalogue import Target

ROLE, WORD, STOP = Delta(), Delta(text=" one"), Delta(finish_reason="stop")


def racer(name: str, *, remote: bool = True) -> Racer:
    target = Target(NodeId(name * 26), "engine", "llama.cpp", 1, ModelInfo("tiny"))
    return Racer(target, remote, number=1)


def race(late_at: float = 1.0) -> tuple[Race, Racer, Racer]:
    first, second = racer("a"), racer("b")
    return Race(first, late_at), first, second


def test_an_answer_in_time_needs_no_second_run() -> None:
    it, first, _ = race()
    assert not it.is_late(0.9)
    assert it.says(first, [ROLE, WORD]) == ([ROLE, WORD], True)
    assert it.beaten() == []
    assert not it.is_late(1.0)
    assert it.wake_at == math.inf
    assert it.says(first, [STOP]) == ([STOP], False)


def test_a_late_one_gets_a_second_run_once() -> None:
    it, _, second = race()
    assert it.is_late(1.0)
    assert not it.is_late(2.0)
    assert it.begins(second)
    assert not it.begins(racer("c"))


def test_the_first_to_say_something_is_the_answer_and_the_other_is_called_off() -> None:
    it, first, second = race()
    it.begins(second)
    assert it.says(first, [ROLE]) == ((), False), "it says nothing"
    assert it.says(second, [ROLE]) == ((), False)
    assert it.says(second, [WORD]) == ([ROLE, WORD], True)
    assert it.beaten() == [first]
    assert it.says(first, [WORD]) == ((), False)
    assert it.says(second, [STOP]) == ([STOP], False)


def test_an_empty_answer_and_vectors_are_answers() -> None:
    for item in (STOP, Embedding([[1.0]])):
        it, first, _ = race()
        assert it.says(first, [item])[1]


def test_of_two_one_may_fail() -> None:
    it, first, second = race()
    it.begins(second)
    assert it.failed(first), "the second goes on"
    assert it.says(second, [WORD]) == ([WORD], True)
    assert not it.failed(second), "which was the answer"


def test_one_that_fails_alone_is_no_race_any_more() -> None:
    it, first, second = race()
    assert not it.failed(first)
    assert not it.begins(second), "the next attempt is somebody else's decision"
    assert it.wake_at == math.inf


def test_each_holder_is_watched_until_one_has_won() -> None:
    it, first, second = race(late_at=math.inf)
    first.watch.asked(0.0)
    first.watch.heard(5.0)
    it.begins(second)
    second.watch.asked(5.0)
    second.watch.sent(limits.SLOW_LINK_BYTES_PER_S, 5.0)
    assert it.wake_at == 5.0 + limits.HOLDER_SILENT_S
    assert it.silent(5.0 + limits.HOLDER_SILENT_S) == [first]
    assert it.silent(5.0 + limits.HOLDER_SILENT_S) == [], "given up once"
    it.was_deaf(2.0)
    assert it.silent(6.0 + limits.HOLDER_SILENT_S) == []
    assert it.silent(8.0 + limits.HOLDER_SILENT_S) == [second]


def test_this_nodes_own_engine_is_never_silent() -> None:
    own = racer("a", remote=False)
    it = Race(own, math.inf)
    own.watch.asked(0.0)
    own.watch.heard(1.0)
    own.watch.sent(100, 1.0)
    assert it.wake_at == math.inf


def test_what_is_wrong_with_the_request_ends_both() -> None:
    assert ends_both(Failure(FailureKind.BAD_REQUEST, "no", 400))
    assert not ends_both(Failure(FailureKind.BROKEN, "gone", 502))


ITEMS = st.sampled_from([ROLE, WORD, Delta(text=" two"), STOP, Usage(1, 2)])
STEPS = st.one_of(
    st.tuples(st.just("says"), st.integers(0, 1), st.lists(ITEMS, min_size=1, max_size=3)),
    st.tuples(st.just("fails"), st.integers(0, 1), st.just([])),
    st.tuples(st.just("begins"), st.just(1), st.just([])),
)


@given(st.lists(STEPS, max_size=30))
def test_what_is_passed_on_is_the_beginning_of_one_runs_answer(
    steps: list[tuple[str, int, list[AnswerItem]]],
) -> None:
    it, first, second = race()
    runs = (first, second)
    said: dict[int, list[AnswerItem]] = {0: [], 1: []}
    over: set[int] = set()
    begun = {0}
    passed: list[AnswerItem] = []
    for what, which, items in steps:
        if what == "begins" and 1 not in begun and it.begins(second):
            begun.add(1)
        elif which not in begun or which in over:
            continue
        elif what == "fails":
            over.add(which)
            it.failed(runs[which])
        else:
            said[which] += items
            out, won = it.says(runs[which], items)
            passed += out
            if won:
                assert all(run is not it.winner for run in it.beaten())
    if it.winner is None:
        assert passed == []
    else:
        assert passed == said[runs.index(it.winner)][: len(passed)]
        assert len(passed) == len(said[runs.index(it.winner)])
