"""Models whose nodes or engines are away, which is not the same as unknown."""

from __future__ import annotations

from meshd import limits
from meshd.ids import NodeId
from meshd.inference import BackendInfo, Inventory, ModelInfo
from meshd.routing.catalogue import Catalogue
from meshd.routing.placement import Placement
from meshd.routing.policies import Predicted

HERE, A, B = NodeId("h" * 26), NodeId("a" * 26), NodeId("b" * 26)
HOUR_S = 3600.0


def engine(name: str, *models: str) -> BackendInfo:
    return BackendInfo(name, "llama.cpp", models=[*map(ModelInfo, models)])


class Entry:
    """A placement, told of inventories at its own time."""

    def __init__(self, **aliases: str) -> None:
        self.catalogue = Catalogue(aliases)
        self.placement = Placement(HERE, self.catalogue, Predicted(lambda stop: 0))
        self.now = 100.0
        self._revision = 0

    def told(self, node: NodeId, *engines: BackendInfo, generation: int = 1) -> None:
        self._revision += 1
        self.catalogue.put(Inventory(node, generation, self._revision, [*engines]), self.now)

    def away(self, model: str) -> list[NodeId]:
        return self.placement.away(model, self.now)


def test_a_model_that_somebody_can_answer_with_is_not_away() -> None:
    entry = Entry()
    entry.told(A, engine("e", "tiny"))
    entry.told(B, engine("e", "tiny"))
    entry.told(B)
    entry.placement.set_presence(B, present=False)
    assert entry.away("tiny") == []


def test_a_model_that_nobody_ever_had_is_not_away() -> None:
    entry = Entry()
    entry.told(A, engine("e", "tiny"))
    entry.told(A)
    assert entry.away("large") == []


def test_all_who_have_it_and_are_absent_are_named() -> None:
    entry = Entry(small="tiny")
    for node in (B, A):
        entry.told(node, engine("e", "tiny"))
        entry.placement.set_presence(node, present=False)
    entry.now += HOUR_S
    assert entry.away("tiny:latest") == entry.away("small") == [A, B]
    entry.catalogue.drop(A)
    assert entry.away("tiny") == [B], "who is no member does not come back"


def test_an_engine_that_stopped_is_waited_for_until_its_time_is_over() -> None:
    entry = Entry(small="tiny")
    entry.told(A, engine("e", "tiny:latest"))
    entry.told(A)
    entry.now += limits.STOPPED_S - 1
    entry.told(A)  # something else changed: its time goes on
    assert entry.away("TINY") == entry.away("small") == [A]
    assert entry.catalogue.names() == [], "lists say what there is"
    entry.now += 1
    assert entry.away("tiny") == []


def test_a_daemon_that_starts_before_its_engine_is_waited_for_too() -> None:
    entry = Entry()
    entry.told(A, engine("e", "tiny"))
    entry.told(A, generation=2)
    assert entry.away("tiny") == [A]


def test_an_engine_that_is_back_has_what_it_lists_and_no_more() -> None:
    entry = Entry()
    entry.told(A, engine("e", "kept", "removed"))
    entry.told(A)
    entry.told(A, engine("e", "kept"))
    assert entry.away("removed") == []
    entry.told(A, engine("e"))
    assert entry.away("kept") == [], "removed while it served"


def test_of_a_node_that_is_no_member_any_more_nothing_is_remembered() -> None:
    entry = Entry()
    entry.told(A, engine("e", "tiny"))
    entry.told(A)
    entry.catalogue.drop(A)
    assert entry.away("tiny") == []


def test_those_that_stopped_first_are_forgotten_first() -> None:
    entry = Entry()
    names = [f"model-{n}" for n in range(limits.STOPPED_MODELS)]
    entry.told(A, engine("first", "old"))
    entry.told(A)
    entry.told(B, engine("many", *names))
    assert entry.away("old") == [A]
    entry.told(B)
    assert entry.away("old") == []
    assert entry.away(names[0]) == entry.away(names[-1]) == [B]
