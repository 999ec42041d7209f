"""The search against an oracle that tries every order, on thousands of small histories."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.testing.checker import JobModel, Operation, RegisterModel, Verdict, search, shrink
from meshd.testing.checker import jobs as j
from meshd.testing.checker import registers as r
from meshd.testing.checker.linearizability import Model

AnyOperation = Operation[Any, Any]
AnyModel = Model[Any, Any, Any]


def oracle(operations: Sequence[AnyOperation], model: AnyModel) -> bool:
    """Whether any order of all answered and some open operations explains the answers.

    No search, no memory, no cleverness: every subset, every order, every state.
    """
    answered = [o for o in operations if not o.is_open]
    unanswered = [o for o in operations if o.is_open]
    for count in range(len(unanswered) + 1):
        for some in itertools.combinations(unanswered, count):
            for order in itertools.permutations([*answered, *some]):
                if in_time(order) and explains(order, model):
                    return True
    return False


def in_time(order: Sequence[AnyOperation]) -> bool:
    return not any(later.before(o) for i, o in enumerate(order) for later in order[i + 1 :])


def explains(order: Iterable[AnyOperation], model: AnyModel) -> bool:
    states = [model.initial]
    for operation in order:
        states = [
            after
            for state in states
            for after in model.step(state, operation.action, operation.result)
        ]
    return bool(states)


FENCES = (2, 3, 4)
UNDER_A_FENCE = [j.Renew, j.Fail, j.Release, j.Expire]
JOB_ACTIONS: list[j.JobAction] = [
    *(j.Submit(request) for request in ("q", "p")),
    *(j.Accept(request, "a") for request in ("q", "p")),
    *(j.Claim(node) for node in ("a", "b")),
    *(action(fence) for action in UNDER_A_FENCE for fence in FENCES),
    *(j.Complete(fence, result) for fence in FENCES for result in ("x", "y")),
    *(j.Move(fence, "b") for fence in FENCES),
    *(j.Cancel(), j.Retry(), j.Lapse(), j.LetGo("a"), j.Fail(3, True), j.Read(), j.Read()),
]
REGISTER_ACTIONS: list[r.RegisterAction] = [
    *(r.Write(value) for value in (1, 2)),
    *(r.Exchange(old, new) for old, new in itertools.permutations((None, 1, 2), 2)),
    *(r.Read(), r.Read(), r.Read()),
]


def a_job_result(action: j.JobAction, dice: random.Random) -> j.JobResult:
    """Something that may be answered to that, whether true or not."""
    if dice.random() < 0.2:
        return j.Refused()
    match action:
        case j.Read():
            phase = dice.choice(list(j.Phase))
            fence = dice.choice([None, None, *FENCES])
            return j.Seen(phase, fence, dice.choice([None, "a"]), dice.choice([None, None, "x"]))
        case j.Claim() | j.Accept() | j.Move():
            return dice.choice([j.Granted(dice.choice(FENCES)), j.Joined()])
        case j.Submit():
            return dice.choice([j.Ok(), j.Joined()])
        case j.Fail() | j.Release() | j.Expire():
            return j.Ok(dice.choice([None, j.Phase.QUEUED, j.Phase.ACCEPTED, j.Phase.DEAD]))
    return j.Ok()


def a_register_result(action: r.RegisterAction, dice: random.Random) -> r.RegisterResult:
    match action:
        case r.Read():
            return r.Held(dice.choice([None, 1, 2]))
        case r.Write():
            return r.Wrote()
    return dice.choice([r.Wrote(), r.Kept()])


def a_true_result(state: Any, model: AnyModel, action: Any, results: Sequence[Any]) -> Any:
    """One of these results that the model allows, None if it allows none."""
    return next((result for result in results if model.step(state, action, result)), None)


def history(dice: random.Random, model: AnyModel, actions: Sequence[Any], a_result: Any) -> Any:
    """Up to six operations that overlap at random.

    Their answers are given in some order that respects time, mostly truly, sometimes not.
    """
    size = dice.randint(1, 6)
    moments = dice.sample(range(100), 2 * size)
    spans = sorted(tuple(sorted(moments[2 * i : 2 * i + 2])) for i in range(size))
    done_at = sorted((dice.uniform(*span), span) for span in spans)
    truth = dice.choice([1.0, 0.8, 0.3])
    made, state = [], model.initial
    for _, (called, returned) in done_at:
        for _ in range(dice.choice([1, 5])):  # rather what changes something than a refusal
            action = dice.choice(actions)
            guesses = [a_result(action, dice) for _ in range(10)]
            result = a_true_result(state, model, action, guesses) or guesses[0]
            if not model.is_look(action, result):
                break
        if dice.random() > truth:
            result = guesses[-1]
        after = model.step(state, action, result)
        state = after[0] if after else state
        is_open = dice.random() < 0.25
        made.append(
            Operation(
                client="c",
                subject="x",
                action=action,
                called_ns=called,
                returned_ns=None if is_open else returned,
                result=None if is_open else result,
            )
        )
    return made


def job_history(seed: int) -> Any:
    return history(random.Random(seed), JobModel(), JOB_ACTIONS, a_job_result)


def register_history(seed: int) -> Any:
    return history(random.Random(seed), RegisterModel(), REGISTER_ACTIONS, a_register_result)


MODELS = [(JobModel(), job_history), (RegisterModel(), register_history)]


@pytest.mark.parametrize(
    ("model", "made", "kinds"),
    [(*MODELS[0], 14), (*MODELS[1], 3)],
    ids=["jobs", "registers"],
)
def test_the_search_and_the_oracle_agree(model: AnyModel, made: Any, kinds: int) -> None:
    verdicts: Counter[Verdict] = Counter()
    explained: set[type] = set()
    for seed in range(2000):
        operations = made(seed)
        found = search(operations, model)
        verdicts[found.verdict] += 1
        holds = oracle(operations, model)
        assert (found.verdict is Verdict.HOLDS) == holds, f"seed {seed}: {operations}"
        if holds:  # and the order that it names is one
            assert in_time(found.order)
            assert explains(found.order, model)
            explained |= {type(o.action) for o in found.order[3:]}
            answered = [o for o in operations if not o.is_open]
            assert all(any(o is one for one in found.order) for o in answered)
    assert verdicts[Verdict.UNDECIDED] == 0
    assert min(verdicts[Verdict.HOLDS], verdicts[Verdict.VIOLATED]) > 150, verdicts
    assert len(explained) == kinds  # after three others: no kind is always refused at the start


@pytest.mark.parametrize(("model", "made"), MODELS, ids=["jobs", "registers"])
def test_what_is_shrunk_is_a_proof_for_the_oracle_too(model: AnyModel, made: Any) -> None:
    proofs = shrunk = 0
    for seed in range(600):
        operations = made(seed)
        if search(operations, model).verdict is Verdict.VIOLATED:
            small = shrink(operations, model)
            assert not oracle(small, model), f"seed {seed}: {small}"
            proofs += 1
            shrunk += len(small) < len(operations)
    assert proofs > 50
    assert shrunk > 20


@st.composite
def register_histories(draw: st.DrawFn) -> list[r.RegisterOperation]:
    """Any that can be written down; found counterexamples shrink."""
    made = []
    for _ in range(draw(st.integers(0, 5))):
        action = draw(st.sampled_from(REGISTER_ACTIONS))
        results: list[r.RegisterResult] = {
            r.Read: [r.Held(None), r.Held(1), r.Held(2)],
            r.Write: [r.Wrote()],
            r.Exchange: [r.Wrote(), r.Kept()],
        }[type(action)]
        called = draw(st.integers(0, 8))
        returned = draw(st.one_of(st.none(), st.integers(called, 9)))
        made.append(
            Operation(
                client="c",
                subject="x",
                action=action,
                called_ns=called,
                returned_ns=returned,
                result=None if returned is None else draw(st.sampled_from(results)),
            )
        )
    return made


@settings(max_examples=300)
@given(register_histories())
def test_they_agree_on_whatever_hypothesis_thinks_of(
    operations: list[r.RegisterOperation],
) -> None:
    model = RegisterModel()
    assert (search(operations, model).verdict is Verdict.HOLDS) == oracle(operations, model)
