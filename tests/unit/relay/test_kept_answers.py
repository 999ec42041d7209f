"""Answers that ended a short while ago: kept, forgotten, bounded."""

from __future__ import annotations

from msgspec.structs import replace

from meshd import limits
from meshd.ids import NodeId
from meshd.inference import Delta, Kind, Request
from meshd.relay.kept_answers import KeptAnswer, KeptAnswers, RunKey
from meshd.wire.answer import AnswerReader, AnswerWriter
from meshd.wire.serve import AnswerForm, KeyedClaim, ServeRequest

CLAIM = KeyedClaim(7, 5, AnswerForm(path="/api/chat", request_id="r", unix_s=1.0, model="m"))
KEY: RunKey = (NodeId("a" * 26), "r.1")


def kept(*texts: str) -> KeptAnswer:
    writer = AnswerWriter()
    pieces = []
    for text in texts:
        before = writer.seq
        pieces.append((before, writer.items([Delta(text=text)])))
    return KeptAnswer(tuple(pieces), writer.seq, writer.end())


def test_what_follows_any_item_is_there_to_the_end() -> None:
    answers = KeptAnswers()
    answers.keep(KEY, kept("a", "b", "c"), 0.0)
    found = answers.find(KEY, 1.0)
    assert found is not None
    for after in range(4):
        assert found.keeps(after)
        reader = AnswerReader(seq=after)
        frames = reader.feed(found.rest(after))
        said = [item.text for f in frames for item in f.items if isinstance(item, Delta)]
        assert said == ["a", "b", "c"][after:]
        assert reader.complete
    assert not found.keeps(4)


def test_an_answer_is_forgotten_when_its_time_is_over() -> None:
    answers = KeptAnswers(window_s=30.0)
    answers.keep(KEY, kept("a"), 0.0)
    answers.keep((KEY[0], "r.2"), kept("b"), 10.0)
    assert answers.forget_old(29.9) == 30.0
    assert answers.find(KEY, 30.0) is None
    assert answers.forget_old(30.0) == 40.0
    assert answers.forget_old(40.0) is None
    assert answers.size_bytes == 0


def test_the_oldest_make_room() -> None:
    one = kept("x" * 1000)
    answers = KeptAnswers(most_bytes=3 * one.size_bytes)
    for n in range(5):
        answers.keep((KEY[0], f"r.{n}"), one, float(n))
    found = [answers.find((KEY[0], f"r.{n}"), 5.0) is not None for n in range(5)]
    assert found == [False, False, True, True, True]
    assert answers.size_bytes == 3 * one.size_bytes


def test_one_that_is_larger_than_all_room_is_not_kept() -> None:
    answers = KeptAnswers(most_bytes=1500)
    answers.keep(KEY, kept("x" * 5000), 0.0)
    assert answers.find(KEY, 0.0) is None
    assert answers.size_bytes == 0


def test_those_of_keyed_requests_can_be_had_when_who_asked_is_gone() -> None:
    asked = ServeRequest(
        request_id="r", backend="", model="m", request=Request(Kind.CHAT, "m"), keyed=CLAIM
    )
    answers = KeptAnswers()
    keyed = replace(kept("a"), asked=asked, asked_bytes=5000)
    answers.keep(KEY, keyed, 0.0)
    answers.keep((KEY[0], "r.2"), kept("b"), 0.0)
    answers.keep((NodeId("b" * 26), "r.1"), keyed, 0.0)
    assert answers.size_bytes > 2 * 5000, "what was asked counts"
    assert answers.take_of(KEY[0], 1.0) == [(KEY, keyed)]
    assert answers.take_of(KEY[0], 1.0) == []
    assert answers.find((KEY[0], "r.2"), 1.0) is not None
    assert answers.take_of(NodeId("b" * 26), limits.RESUME_WINDOW_S + 1.0) == []
    assert answers.size_bytes == 0
