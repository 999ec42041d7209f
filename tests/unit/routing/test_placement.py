"""Who is picked, and why."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meshd.ids import NodeId
from meshd.inference import (
    BackendInfo,
    Inventory,
    Kind,
    Load,
    Message,
    ModelInfo,
    ModelLoad,
    Request,
    Sampling,
)
from meshd.routing.catalogue import Catalogue
from meshd.routing.cost import Candidate
from meshd.routing.demand import Demand, demand_of
from meshd.routing.placement import AVOID_FIRST_S, Placement, load_key
from meshd.routing.policies import POLICIES, Predicted, policy_named

HERE, A, B = NodeId("h" * 26), NodeId("a" * 26), NodeId("b" * 26)
CHAT = Request(Kind.CHAT, "tiny", messages=[Message("user", "hello")])


def inventory(node: NodeId, *models: ModelInfo, revision: int = 1, slots: int = 1) -> Inventory:
    return Inventory(
        node, 1, revision, [BackendInfo("e", "llama.cpp", slots=slots, models=[*models])]
    )


def placement(*inventories: Inventory, ties: Sequence[int] = ()) -> Placement:
    catalogue = Catalogue()
    for item in inventories:
        catalogue.put(item, 0.0)
    turns = iter(ties)
    return Placement(HERE, catalogue, Predicted(lambda stop: next(turns, 0)))


def first(place: Placement, request: Request = CHAT, now: float = 0.0) -> NodeId | None:
    choice = place.choose(request.model, demand_of(request), set(), now)
    return choice.target.node if choice else None


def test_a_warm_busy_node_loses_to_a_cold_idle_one() -> None:
    place = placement(
        inventory(A, ModelInfo("tiny", resident=True)), inventory(B, ModelInfo("tiny"))
    )
    assert first(place) == A
    place.report(A, Load(per_model={load_key("e", "tiny"): ModelLoad(running=1, slots=1)}))
    assert first(place) == B


def test_a_faster_node_wins_by_its_measured_rate() -> None:
    warm = ModelInfo("tiny", resident=True)
    place = placement(inventory(A, warm), inventory(B, warm))
    for node, rate in ((A, 20.0), (B, 90.0)):
        load = ModelLoad(slots=1, resident=True, decode_tokens_per_s=rate)
        place.report(node, Load(per_model={load_key("e", "tiny"): load}))
    assert first(place) == B


def test_own_dispatches_count_at_once_and_are_not_counted_twice() -> None:
    warm = ModelInfo("tiny", resident=True)
    place = placement(inventory(A, warm), inventory(B, warm))
    choice = place.choose("tiny", demand_of(CHAT), set(), 0.0)
    assert choice is not None
    assert choice.target.node == A
    dispatch = place.dispatched(choice.target)
    assert first(place) == B
    dispatch.reached = True
    # The holder's report includes that request; the other one is busier still.
    for node, running in ((A, 1), (B, 3)):
        place.report(
            node,
            Load(per_model={load_key("e", "tiny"): ModelLoad(running, 0, 1, resident=True)}),
        )
    assert first(place) == A
    place.returned(dispatch)


def test_a_report_made_before_a_dispatch_reached_its_holder_does_not_hide_it() -> None:
    warm = ModelInfo("tiny", resident=True)
    place = placement(inventory(A, warm), inventory(B, warm))
    choice = place.choose("tiny", demand_of(CHAT), set(), 0.0)
    assert choice is not None
    dispatch = place.dispatched(choice.target)
    idle = Load(per_model={load_key("e", "tiny"): ModelLoad(slots=1, resident=True)})
    place.report(A, idle)  # it was on its way when the request was sent
    assert first(place) == B
    place.returned(dispatch)
    assert first(place) == A


def test_a_dispatch_that_a_report_includes_leaves_no_credit_behind() -> None:
    warm = ModelInfo("tiny", resident=True)
    place = placement(inventory(A, warm), inventory(B, warm))
    (target,) = [t for t in place.holders("tiny") if t.node == A]
    one, two = place.dispatched(target), place.dispatched(target)
    one.reached = two.reached = True
    # The first one's own last report: it is over there, though not yet returned here.
    place.report(A, Load(per_model={load_key("e", "tiny"): ModelLoad(1, 0, 2, resident=True)}))
    place.report(B, Load(per_model={load_key("e", "tiny"): ModelLoad(2, 0, 2, resident=True)}))
    place.returned(one)
    assert first(place) == A
    for _ in range(2):
        place.dispatched(target)
    assert first(place) == B, "two dispatched since, and one that was reported"


def test_this_nodes_own_load_and_rates_count_as_they_are_now() -> None:
    warm = ModelInfo("tiny", resident=True)
    place = placement(inventory(HERE, warm), inventory(A, warm))
    place.report(
        A, Load(per_model={load_key("e", "tiny"): ModelLoad(slots=1, decode_tokens_per_s=40.0)})
    )
    own = ModelLoad(decode_tokens_per_s=90.0)
    place.own_load = lambda backend, model: own
    assert first(place) == HERE
    own = ModelLoad(decode_tokens_per_s=3.0)
    assert first(place) == A
    own = ModelLoad(decode_tokens_per_s=90.0, running=2)
    assert first(place) == A


@pytest.mark.parametrize("lie", [-5, float("nan"), float("inf"), 1e300])
def test_numbers_that_make_no_sense_win_nothing(lie: float) -> None:
    liar = ModelInfo("tiny", size_bytes=-5, resident=True)
    place = placement(inventory(A, liar), inventory(B, ModelInfo("tiny", resident=True)))
    load = ModelLoad(running=-9, slots=-1, decode_tokens_per_s=lie, prefill_tokens_per_s=lie)
    place.report(A, Load(per_model={load_key("e", "tiny"): load}))
    fast = ModelLoad(slots=1, decode_tokens_per_s=90.0)
    place.report(B, Load(per_model={load_key("e", "tiny"): fast}))
    assert first(place) == B


def test_near_ties_are_broken_by_chance() -> None:
    warm = ModelInfo("tiny", resident=True)
    assert first(placement(inventory(A, warm), inventory(B, warm), ties=[0])) == A
    assert first(placement(inventory(A, warm), inventory(B, warm), ties=[1])) == B


def test_a_holder_that_failed_is_tried_last_for_a_while() -> None:
    warm = ModelInfo("tiny", resident=True)
    place = placement(inventory(A, warm), inventory(B, warm))
    choice = place.choose("tiny", demand_of(CHAT), set(), 0.0)
    assert choice is not None
    place.avoid(choice.target, 0.0)
    assert first(place, now=0.1) == B
    assert first(place, now=AVOID_FIRST_S + 0.1) == A
    place.avoid(choice.target, 3.0)
    assert first(place, now=3.0 + AVOID_FIRST_S + 0.1) == B, "the second time it is longer"
    place.succeeded(choice.target)
    assert first(place, now=3.1) == A


def test_the_only_holder_is_asked_even_if_it_failed() -> None:
    place = placement(inventory(A, ModelInfo("tiny")))
    choice = place.choose("tiny", demand_of(CHAT), set(), 0.0)
    assert choice is not None
    place.avoid(choice.target, 0.0)
    assert first(place, now=0.1) == A


def test_absent_and_draining_nodes_are_not_asked() -> None:
    place = placement(inventory(A, ModelInfo("tiny")), inventory(B, ModelInfo("tiny")))
    place.set_presence(A, present=False)
    assert first(place) == B
    place.report(B, Load(draining=True))
    assert first(place) is None


def test_a_suspect_is_asked_after_a_healthy_node() -> None:
    warm = ModelInfo("tiny", resident=True)
    place = placement(inventory(A, warm), inventory(B, warm))
    place.set_presence(A, present=True, suspect=True)
    assert first(place) == B


def test_a_holder_without_the_capability_is_not_asked() -> None:
    can = ModelInfo("tiny", capabilities=["completion", "tools"])
    cannot = ModelInfo("tiny", capabilities=["completion"], resident=True)
    place = placement(inventory(A, cannot), inventory(B, can))
    tools = Request(Kind.CHAT, "tiny", messages=CHAT.messages, tools=[{"type": "function"}])
    assert first(place) == A
    assert first(place, tools) == B
    assert first(placement(inventory(A, cannot)), tools) == A, "its own refusal says why"


def test_a_context_too_small_loses_only_while_another_fits() -> None:
    small = ModelInfo("tiny", context_tokens=100, resident=True)
    large = ModelInfo("tiny", context_tokens=10_000)
    long = Request(
        Kind.CHAT, "tiny", messages=[Message("user", "x" * 4000)], sampling=Sampling(max_tokens=50)
    )
    assert first(placement(inventory(A, small), inventory(B, large)), long) == B
    assert first(placement(inventory(A, small)), long) == A


def test_embeddings_go_to_the_digest_most_holders_have() -> None:
    odd = ModelInfo("tiny", digest="odd", resident=True)
    usual = ModelInfo("tiny", digest="usual")
    place = placement(inventory(A, odd), inventory(B, usual), inventory(NodeId("c" * 26), usual))
    embed = Request(Kind.EMBED, "tiny", inputs=["x"])
    assert first(place) == A
    assert first(place, embed) == B


def test_names_are_normalised_and_aliases_resolve() -> None:
    catalogue = Catalogue({"gpt-4o": "llama3.2"})
    catalogue.put(inventory(A, ModelInfo("llama3.2:latest")), 0.0)
    for name in ("llama3.2", "LLAMA3.2:latest", "gpt-4o"):
        assert [t.node for t in catalogue.holders(name)] == [A]
    assert "llama3.2:latest" in catalogue.near("lama3.2")


def test_an_older_inventory_does_not_replace_a_newer_one() -> None:
    catalogue = Catalogue()
    assert catalogue.put(inventory(A, ModelInfo("new"), revision=2), 0.0)
    assert not catalogue.put(inventory(A, ModelInfo("old"), revision=1), 0.0)
    assert catalogue.names() == ["new"]
    catalogue.drop(A)
    assert catalogue.names() == []


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_keeps_everyone(name: str) -> None:
    policy = policy_named(name, lambda stop: stop - 1)
    targets = [
        t
        for item in (inventory(A, ModelInfo("tiny")), inventory(B, ModelInfo("tiny")))
        for t in _catalogue(item).holders("tiny")
    ]
    candidates = [Candidate(t, ModelLoad(slots=1)) for t in targets]
    demand = Demand(Kind.CHAT, 10, 10, 20, frozenset({"completion"}))
    ordered = policy.order(candidates, demand)
    assert sorted(c.target.node for c in ordered) == [A, B]


def test_an_unknown_policy_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="round_robin"):
        policy_named("fastest", lambda stop: 0)


def _catalogue(item: Inventory) -> Catalogue:
    catalogue = Catalogue()
    catalogue.put(item, 0.0)
    return catalogue
