"""A node that starts asks what it had promised, before it promises anything."""

from __future__ import annotations

import random

import pytest

from meshd.consensus.entries import Append, Ballot, Entry, EntryKind, Stored
from meshd.consensus.history import Checked, History
from meshd.consensus.kernel import Kernel
from meshd.consensus.messages import (
    AppendAnswer,
    AppendEntries,
    AskVote,
    Feed,
    Message,
    PreVote,
    Recall,
    RecallAnswer,
    VoteAnswer,
)
from meshd.consensus.replay import EMPTY, replay
from meshd.consensus.voter_list import founding_records
from tests.unit.consensus.kernel_rig import SETTINGS, Machine, ids, node_id

ME, B, C, D = map(node_id, "abcd")
NOW = 100.0


def stored(voters: str = "abc", *, term: int = 5, voted: bool = False, last: int = 9) -> Stored:
    """A journal whose ballot is of `term` and whose log ends at `last`."""
    entries = tuple(Entry(n, 1, EntryKind.COMMAND, b"x") for n in range(2, last + 1))
    records = (*founding_records(ids(voters)), Append(entries))
    return replay(EMPTY, (*records, Ballot(term, B if voted else None)))


class Starting:
    """A node that has just started, and what it sends."""

    def __init__(
        self,
        journal: Stored | None = None,
        *,
        starts: int | None = 3,
        others: str = "bc",
        void: bool = False,
    ) -> None:
        self.now = NOW
        self.kernel = Kernel(
            ME,
            stored() if journal is None else journal,
            Machine(),
            chance=random.Random(1),
            now=NOW,
            eligible=lambda node: True,
            settings=SETTINGS,
            vote_is_void=void,
            history=History(starts_known=starts, others=ids(others)),
        )
        self.asked = 0
        self.sent: list[tuple[str, Message]] = []
        for other in others:
            self.kernel.connected(node_id(other), self.now)
        self.turn()

    def turn(self, later_s: float = 0.0) -> None:
        self.now += later_s
        self.kernel.step(self.now)
        outbox = self.kernel.take_outbox()
        if outbox.must_sync:
            self.kernel.stored()
        for out in (*outbox.early, *outbox.late):
            self.sent.append((out.to[0], out.message))
            if isinstance(out.message, Recall):
                self.asked = out.message.asked

    def hear(self, sender: str, message: Message) -> None:
        self.kernel.on_message(node_id(sender), message, self.now)
        self.turn()

    def answer(self, sender: str, **known: object) -> None:
        fields: dict[str, object] = {
            "asked": self.asked, "generation": 0, "term": 0, "voted_term": 0, "match_term": 0,
            "index": 0, "list_term": 1, "list_index": 1, "voters": ids("abc"),
        }  # fmt: skip
        self.hear(sender, RecallAnswer(**fields | known))  # type: ignore[arg-type]

    def to(self, other: str, kind: type[Message]) -> list[Message]:
        return [message for to, message in self.sent if to == other and type(message) is kind]

    @property
    def checked(self) -> Checked:
        return self.kernel.checked


HEARTBEAT = AppendEntries(term=5, round=1, prev_index=9, prev_term=1, commit=5, entries=())
ASK = AskVote(term=6, last_index=90, last_term=5, transfer=False)


def test_it_asks_all_and_answers_nothing_until_it_has_heard() -> None:
    node = Starting()
    assert len(node.to("b", Recall)) == len(node.to("c", Recall)) == 1
    node.hear("b", HEARTBEAT)
    node.hear("b", ASK)
    node.hear("b", PreVote(term=6, last_index=90, last_term=5))
    assert {type(message) for _, message in node.sent} == {Recall}
    node.turn(later_s=30.0)
    assert {type(message) for _, message in node.sent} == {Recall}, "nor does it campaign"
    assert node.checked is Checked.PENDING


def test_what_came_meanwhile_is_answered_once_all_have_said_what_they_know() -> None:
    node = Starting()
    node.hear("b", HEARTBEAT)
    node.answer("b")
    assert node.to("b", AppendAnswer) == []
    node.answer("c")
    assert node.checked is Checked.PASSED
    assert [answer.ok for answer in node.to("b", AppendAnswer)] == [True]  # type: ignore[attr-defined]


def test_a_majority_is_enough_a_moment_later() -> None:
    node = Starting()
    node.answer("b")
    assert node.checked is Checked.PENDING
    node.turn(later_s=SETTINGS.heartbeat_s)
    assert node.checked is Checked.PASSED


def test_of_five_one_answer_is_not_enough() -> None:
    node = Starting(stored("abcde"), others="bc")
    node.answer("b", voters=ids("abcde"))
    node.turn(later_s=10.0)
    assert node.checked is Checked.PENDING


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({"generation": 4}, "knows of its start 4"),
        ({"term": 6}, "in term 6"),
        ({"term": 5, "voted_term": 5}, "got its vote in term 5"),
        ({"term": 5, "match_term": 5, "index": 10}, "had entry 10"),
    ],
)
def test_a_journal_that_lacks_what_somebody_heard_is_never_used(
    known: dict[str, object], why: str
) -> None:
    node = Starting()
    node.hear("b", HEARTBEAT)
    node.answer("c", **known)
    node.answer("b")
    node.turn(later_s=10.0)
    assert node.checked is Checked.BEHIND
    assert why in node.kernel.why_behind
    assert {type(message) for _, message in node.sent} == {Recall}


@pytest.mark.parametrize(
    "known",
    [
        {"generation": 3, "term": 5, "match_term": 5, "index": 9},
        {"term": 4, "match_term": 4, "index": 90},  # cut by the leader of term 5
        {"term": 4, "voted_term": 4},
    ],
)
def test_a_journal_that_has_all_that_others_heard_is_used(known: dict[str, object]) -> None:
    node = Starting()
    for other in "bc":
        node.answer(other, **known)
    assert node.checked is Checked.PASSED


def test_its_own_vote_in_the_journal_is_no_other_vote() -> None:
    node = Starting(stored(voted=True))
    node.answer("b", term=5, voted_term=5)
    node.answer("c")
    assert node.checked is Checked.PASSED


def test_an_answer_to_an_earlier_start_does_not_count() -> None:
    node = Starting()
    node.asked += 1
    node.answer("b", term=50)
    assert node.checked is Checked.PENDING


def test_voters_that_are_gone_are_not_waited_for_by_a_node_that_was_away() -> None:
    node = Starting(stored("abc"), others="d")
    node.answer("d", list_index=90, voters=[D])
    assert node.checked is Checked.PASSED


def test_a_list_of_a_later_term_counts_however_long_another_log_is() -> None:
    """A record that was recovered goes on in a term beyond all others."""
    log = stored("a", term=900)
    node = Starting(log, others="b")
    node.answer("b", list_term=0, list_index=90, voters=ids("abc"))
    assert node.checked is Checked.PASSED


def test_a_journal_that_is_empty_knows_of_no_start() -> None:
    node = Starting(EMPTY, starts=3)
    node.answer("b", generation=3)
    assert node.checked is Checked.BEHIND


def test_a_log_that_was_begun_anew_is_not_asked_about_starts() -> None:
    node = Starting(starts=None)
    for other in "bc":
        node.answer(other, generation=99)
    assert node.checked is Checked.PASSED


def test_a_sole_voter_waits_a_moment_for_its_followers_and_then_leads() -> None:
    node = Starting(stored("a"), others="b")
    node.turn(later_s=SETTINGS.election_min_s)
    assert node.checked is Checked.UNANSWERED
    node.turn()
    assert node.kernel.status().role == "leader"


def test_a_mesh_of_one_has_nobody_to_ask() -> None:
    assert Starting(stored("a"), others="").checked is Checked.PASSED


def test_whose_vote_is_void_follows_nobody_from_before_what_others_heard_of_it() -> None:
    node = Starting(EMPTY, void=True)
    for other in "bc":
        node.answer(other, term=8)
    assert node.checked is Checked.PASSED
    assert node.kernel.status().term == 8


def test_votes_and_acknowledgements_are_remembered_and_told() -> None:
    node = Starting()
    for other in "bc":
        node.answer(other)
    node.kernel.memory.note(B, VoteAnswer(term=4, granted=True))
    node.kernel.memory.note(B, AppendAnswer(term=5, round=1, ok=True, index=7, rejected=0))
    node.kernel.memory.note(B, AppendAnswer(term=5, round=2, ok=True, index=6, rejected=0))
    node.kernel.memory.note(B, PreVote(term=9, last_index=1, last_term=1))
    node.hear("b", Recall(asked=77))
    assert node.to("b", RecallAnswer) == [
        RecallAnswer(
            asked=77, generation=0, term=5, voted_term=4, match_term=5, index=7, list_term=1,
            list_index=1, voters=ids("abc"),
        )
    ]  # fmt: skip


def test_what_a_voter_fed_its_followers_is_remembered() -> None:
    """A sole voter has nobody else who could know."""
    node = Starting()
    for other in "bc":
        node.answer(other)
    feed = Feed(stream=1, term=5, leader=B, prev_index=6, prev_term=1, entries=((1, b"\0x"),))
    node.kernel.memory.note(B, feed)
    node.hear("b", Recall(asked=77))
    [answer] = node.to("b", RecallAnswer)
    assert isinstance(answer, RecallAnswer)
    assert (answer.term, answer.match_term, answer.index) == (5, 5, 7)


def test_an_answer_that_went_into_a_dead_link_is_given_again() -> None:
    node = Starting()
    node.kernel.disconnected(C, node.now)
    node.hear("c", Recall(asked=5))
    assert node.to("c", RecallAnswer) == []
    node.kernel.connected(C, node.now)
    node.turn()
    assert [answer.asked for answer in node.to("c", RecallAnswer)] == [5]  # type: ignore[attr-defined]
