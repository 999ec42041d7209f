"""How an answer went on is told by the mesh, where it tells."""

from __future__ import annotations

import msgspec

from meshd.control import StatusReport
from meshd.testing.checker import Answer, How, Mode, Seam
from meshd_chaos.ways import Trace, resumed, ways_of, with_ways
from tests.unit.chaos.made_up_mesh import report


def answer(*ways: str) -> Answer:
    return Answer(
        request="r1", mode=Mode.STREAMED, dialect="openai", model="poet", entry="anna",
        sent_at_s=0.0, ended_at_s=2.0, how=How.WHOLE, accepted=True,
        seams=[Seam(way=way, at_s=1.0, gap_s=0.5) for way in ways],
    )  # fmt: skip


def told(one: Answer, *ways: str) -> list[str]:
    (found,) = with_ways([one], {"r1": ways})
    return [seam.way for seam in found.seams]


def test_the_trace_names_the_ways_of_all_runs_after_the_first() -> None:
    failed = [{"node": "a", "reason": "broken"}, {"node": "b", "reason": "silent", "way": "x"}]
    trace = msgspec.convert({"failed": failed, "way": "continue"}, Trace)
    assert ways_of(trace) == ("x", "continue")
    assert ways_of(msgspec.convert({"failed": [{"node": "a", "reason": "busy"}]}, Trace)) == ()


def test_seams_in_the_middle_are_called_as_the_mesh_calls_them() -> None:
    assert told(answer("continue", "continue"), "continue", "regenerate") == [
        "continue",
        "regenerate",
    ]
    assert told(answer("replay", "continue"), "regenerate") == ["replay", "regenerate"]


def test_what_does_not_fit_stays_as_the_client_saw_it() -> None:
    assert told(answer("continue"), "continue", "regenerate") == ["continue"]
    assert told(answer("continue")) == ["continue"]
    assert told(answer(), "regenerate") == []


def test_what_went_on_over_another_link_is_counted_from_the_beginning_of_the_run_on() -> None:
    def status(pid: int, count: int) -> StatusReport:
        counters = {"went_on_by_resume": count} if count else {}
        return msgspec.structs.replace(report("a", 0, counters), pid=pid)

    before = {"anna": status(1, 5), "ben": status(2, 7), "carl": status(3, 1)}
    after = {"anna": status(1, 8), "ben": status(20, 2), "dora": status(4, 1), "emil": status(5, 0)}
    assert resumed(before, after) == 3 + 2 + 1, "a daemon that was restarted begins at 0"
    assert resumed({}, {}) == 0
