"""Who was accepted, who may have failed, and why: only for what was really done to the mesh."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshd.testing.checker import Answer, How, Mode, judge_answers
from meshd_chaos.excuses import EXCUSES, HARM, REPEATED, SETTLING_S, Places, excused
from meshd_chaos.records import FaultRecord, Outage

PLACES = Places(
    holders={"poet": ["ben", "carl"], "ode": ["ben", "carl", "dora", "emil"]},
    voters=["anna", "ben", "carl"],
)


def answer(**changes: Any) -> Answer:
    made = {
        "request": "r1",
        "mode": Mode.STREAMED,
        "dialect": "openai",
        "model": "poet",
        "entry": "anna",
        "sent_at_s": 10.0,
        "ended_at_s": 12.0,
        "how": How.ERROR,
        "accepted": True,
        "cause": "broke off",
    }
    return Answer(**{**made, **changes})


def fault(
    name: str, *nodes: str, began_at_s: float = 11.0, ended_at_s: float = 14.0
) -> FaultRecord:
    did = f"{name} {nodes}"
    return FaultRecord(
        name=name, nodes=nodes, did=did, began_at_s=began_at_s, ended_at_s=ended_at_s
    )


def judged(one: Answer, *faults: FaultRecord) -> Answer:
    (found,) = excused([one], faults, PLACES)
    return found


def keyed(**changes: Any) -> Answer:
    return answer(mode=Mode.KEYED, key="k", **changes)


KILLED_ALL = (fault("kill", "ben"), fault("freeze", "carl"))
ENGINES_OF_TWO = (fault("kill-backend", "ben"), fault("freeze-backend", "carl"))


@pytest.mark.parametrize(
    ("one", "faults", "excuse"),
    [
        (answer(how=How.BROKEN), [fault("kill", "anna")], "entry-died"),
        (answer(how=How.REFUSED), [fault("restart", "anna")], "entry-died"),
        (answer(), [fault("restart", "anna", "ben", "carl")], "entry-died"),
        (answer(entry="dora"), [fault("restart", "anna", "ben", "carl")], ""),
        (answer(how=How.BROKEN), [fault("kill", "ben")], ""),
        (answer(how=How.BROKEN), [fault("freeze", "anna")], ""),
        (answer(how=How.CUT), [fault("kill", "anna")], ""),
        (answer(how=How.SILENT, ended_at_s=None), [fault("kill", "anna")], ""),
        (answer(how=How.BROKEN), [fault("kill", "anna", began_at_s=12.5)], ""),
        (answer(how=How.BROKEN, ended_at_s=40.0), [fault("kill", "anna")], ""),
        (answer(how=How.BROKEN), [fault("kill", "anna", began_at_s=2.0, ended_at_s=9.0)], ""),
        (keyed(how=How.BROKEN), [fault("kill", "anna")], ""),
        (answer(), KILLED_ALL, "no-holder"),
        (answer(), [fault("kill", "ben"), fault("kill-backend", "carl")], "no-holder"),
        (answer(), [fault("partition", "anna")], "no-holder"),
        (answer(), [fault("partition", "ben", "carl")], "no-holder"),
        (answer(), [fault("partition", "anna", "ben")], ""),
        (answer(how=How.BROKEN), KILLED_ALL, ""),
        (answer(), [fault("kill", "ben")], ""),
        (answer(), [fault("slow", "ben", "carl")], ""),
        (answer(), [fault("kill", "ben", ended_at_s=11.2),
                    fault("kill", "carl", began_at_s=11.3 + SETTLING_S)], ""),
        (keyed(how=How.REFUSED), [fault("partition", "anna")], "no-holder"),
        (keyed(how=How.REFUSED, model="other"), [fault("partition", "anna")], "no-quorum"),
        (keyed(how=How.REFUSED, model="other"), [fault("full-disk", "anna", "ben")], "no-quorum"),
        (keyed(how=How.REFUSED, model="other"), [fault("full-disk", "anna")], ""),
        (answer(how=How.REFUSED, model="other"), [fault("partition", "ben", "carl")], ""),
        (answer(model="ode"), ENGINES_OF_TWO, "attempts-spent"),
        (answer(model="ode", holders=["carl", "ben"]), ENGINES_OF_TWO, "attempts-spent"),
        (answer(model="ode", holders=["dora"]), ENGINES_OF_TWO, ""),
        (answer(model="ode", how=How.REFUSED, attempts=2), ENGINES_OF_TWO, "attempts-spent"),
        (answer(model="ode", how=How.REFUSED), ENGINES_OF_TWO, ""),
        (answer(model="ode"), [fault("kill-backend", "ben"), fault("freeze-backend", "ben")], ""),
        (answer(model="ode"), [fault("kill", name) for name in ("ben", "carl", "dora")],
         "attempts-spent"),
        (answer(model="ode"), [fault("kill", name) for name in ("ben", "carl", "ben")], ""),
        (answer(), [fault("kill", "ben"), fault("kill", "ben", began_at_s=11.5)], ""),
    ],
)  # fmt: skip
def test_only_what_the_promise_excludes_is_excused(
    one: Answer, faults: list[FaultRecord], excuse: str
) -> None:
    assert judged(one, *faults).excuse == excuse


@pytest.mark.parametrize(
    ("entry", "ended_at_s", "excuse"),
    [("anna", 12.0, "entry-died"), ("anna", 30.0, ""), ("ben", 30.0, "entry-died"),
     ("ben", 12.0, ""), ("carl", 30.0, "")],
)  # fmt: skip
def test_of_nodes_that_restart_one_after_the_other_only_the_one_that_is_down_excuses(
    entry: str, ended_at_s: float, excuse: str
) -> None:
    rolling = msgspec.structs.replace(
        fault("restart", "anna", "ben", "carl", ended_at_s=60.0),
        outages=(
            Outage(node="anna", began_at_s=11.0, ended_at_s=13.0),
            Outage(node="ben", began_at_s=29.5, ended_at_s=31.0),
        ),
    )
    one = answer(how=How.BROKEN, entry=entry, ended_at_s=ended_at_s)
    assert judged(one, rolling).excuse == excuse


def test_a_request_on_an_entry_that_died_was_not_accepted() -> None:
    assert not judged(answer(how=How.BROKEN), fault("kill", "anna")).accepted
    assert judged(answer(), *KILLED_ALL).accepted


def test_an_excuse_that_the_scenario_does_not_allow_excuses_nothing() -> None:
    (found,) = excused([answer(how=How.BROKEN)], [fault("kill", "anna")], PLACES, ["no-holder"])
    assert found.excuse == ""
    assert judge_answers([found]).lost == 1


def test_a_key_that_was_accepted_once_is_accepted_in_all_its_tries() -> None:
    first = keyed(how=How.BROKEN, excuse=REPEATED)
    last = keyed(request="r1.2", how=How.SILENT, accepted=False, ended_at_s=None)
    found = excused([first, last], [], PLACES)
    assert [one.accepted for one in found] == [True, True]
    assert judge_answers(found).lost == 1


def test_what_was_answered_needs_no_excuse() -> None:
    assert judged(answer(how=How.WHOLE), *KILLED_ALL).excuse == ""


def test_every_exclusion_is_a_sentence_for_the_docs() -> None:
    for name, exclusion in EXCUSES.items():
        assert name == name.lower()
        assert len(exclusion.sentence.split()) > 5
        assert not exclusion.ends & {How.WHOLE, How.LEFT, How.SILENT, How.CUT}
    assert HARM
