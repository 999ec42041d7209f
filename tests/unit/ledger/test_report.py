"""What a person is told of the record."""

from __future__ import annotations

from meshd.consensus.history import Checked
from meshd.consensus.interface import PeerStatus, Role, Status
from meshd.ids import NodeId
from meshd.ledger.report import report
from meshd.record.state import RecordState

A, B, C = (NodeId(letter * 26) for letter in "abc")


def status(**changes: object) -> Status:
    fields: dict[str, object] = {
        "role": Role.LEADER, "term": 3, "leader": A, "ready": True, "voters": (A, B, C),
        "learners": (), "first": 0, "last": 9, "commit": 8, "applied": 8, "queued": 0,
        "transferring_to": None,
        "peers": {B: PeerStatus(voter=True, connected=True, match=7, mode="replicate",
                                in_flight_bytes=0, answered_s=0.0)},
    }  # fmt: skip
    return Status(**fields | changes)  # type: ignore[arg-type]


def told(status_now: Status | None, *, answering: tuple[NodeId, ...] = (B, C), **more: str) -> str:
    return report(
        A,
        status_now,
        RecordState(),
        [A, B, C],
        answering,
        name_of=lambda node: node[0],
        problem=more.get("problem"),
        sync_s=0.0004,
    ).problem


def test_a_leader_knows_how_far_the_others_are() -> None:
    made = report(
        A, status(), RecordState(), [A, B, C], [B], name_of=lambda n: n[0], problem=None, sync_s=0.0
    )
    assert [(r.name, r.part, r.state, r.index) for r in made.voters] == [
        ("a", "leads", "here", 9),
        ("b", "votes", "answers", 7),
        ("c", "votes", "away", None),
    ]
    assert (made.leader, made.last, made.commit) == ("a", 9, 8)


def test_a_voter_knows_how_far_those_are_who_follow_it_and_a_follower_whom_it_follows() -> None:
    def rows(me: NodeId, now: Status) -> list[tuple[str, str, int | None]]:
        made = report(
            me, now, RecordState(), [A, B, C], [B], name_of=lambda n: n[0], problem=None, sync_s=0.0
        )
        return [(row.name, row.follows, row.index) for row in made.voters]

    at_voter = status(voters=(A,), peers={}, subscribers={C: 6})
    assert rows(A, at_voter) == [("a", "", 9), ("b", "", None), ("c", "a", 6)]
    at_follower = status(role=Role.FOLLOWER, voters=(A, B), peers={}, source=B)
    assert rows(C, at_follower) == [("a", "", None), ("b", "", None), ("c", "b", 9)]


def test_a_start_that_nobody_could_check_is_noted() -> None:
    def notes(checked: Checked) -> list[str]:
        return report(
            A, status(checked=checked), RecordState(), [A], [], name_of=lambda n: n[0],
            problem=None, sync_s=0.0,
        ).notes  # fmt: skip

    assert notes(Checked.PASSED) == []
    assert "not checked" in notes(Checked.UNANSWERED)[0]


def test_what_is_wrong_is_said_with_who_is_missing() -> None:
    assert told(status()) == ""
    assert told(status(), answering=(B,)) == "", "two of three are a majority"
    assert told(status(), answering=()) == (
        "The record cannot be written: 2 of its 3 voters are needed, and 1 can be reached from "
        "here. Away: b, c. Start one of them, or see what cuts this machine off; `meshd recover` "
        "is for voters that are gone for good. Requests without an Idempotency-Key are served all "
        "the same."
    )
    alone = told(status(voters=(B,), role=Role.FOLLOWER, leader=None), answering=())
    assert "b, which alone has a vote, cannot be reached" in alone
    assert "choosing who leads" in told(status(role=Role.FOLLOWER, leader=None, ready=False))
    lost = told(status(role=Role.FOLLOWER, leader=None, ready=False, voters=(B,)))
    assert "b alone has a vote, and does not lead" in lost
    assert "no copy of the record yet" in told(status(voters=(), leader=None))
    assert told(None, problem="the disk is full") == (
        "The record does not run here: the disk is full"
    )
