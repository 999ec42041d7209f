"""What a client remembers of an answer, in both dialects."""

from __future__ import annotations

import pytest

from meshd_chaos.transcript import Garbled, Transcript, error_of

HEAD = b'"id":"c1","created":1,"model":"poet"'


def openai(text: str, more: bytes = b"") -> bytes:
    delta = b'{"index":0,"delta":{"content":"%s"},"finish_reason":null}' % text.encode()
    return b'data: {%s,"choices":[%s]%s}' % (HEAD, delta, more)


def finished(more: bytes = b"") -> bytes:
    choice = b'{"index":0,"delta":{},"finish_reason":"length"}'
    return b'data: {%s,"choices":[%s]%s}' % (HEAD, choice, more)


def ollama(text: str, done: bytes = b"false", more: bytes = b"") -> bytes:
    message = b'"message":{"role":"assistant","content":"%s"}' % text.encode()
    return b'{"model":"poet","created_at":"t",%s,"done":%s%s}' % (message, done, more)


def test_a_stream_is_its_pieces_with_their_times_and_its_finish_reason() -> None:
    said = Transcript("openai", 0.0)
    said.head("ben", None)
    for number, line in enumerate([openai(" a"), b"", openai(" b"), finished(), b"data: [DONE]"]):
        said.line(line, number / 10)
    assert (said.text, said.finish, said.error) == (" a b", "length", None)
    assert [(piece.at_s, piece.text) for piece in said.pieces] == [(0.0, " a"), (0.2, " b")]
    assert (said.holders, said.ids, said.attempts) == (["ben"], ["c1 1 poet"], 1)


def test_a_comment_at_a_seam_says_who_went_on_and_the_gap_is_measured_to_the_next_word() -> None:
    said = Transcript("openai", 0.0)
    said.head("ben", None)
    said.line(openai(" a"), 1.0)
    said.line(b": attempt 2: carl goes on from here", 1.4)
    said.line(openai(" b"), 1.5)
    said.line(finished(b',"x-meshd-attempts":2'), 1.6)
    (seam,) = said.seams
    assert (seam.way, seam.at_s, round(seam.gap_s, 3)) == ("continue", 1.5, 0.5)
    assert (said.holders, said.attempts) == (["ben", "carl"], 2)


def test_an_answer_that_was_tried_elsewhere_before_its_first_word_was_replayed() -> None:
    said = Transcript("openai", 2.0)
    said.head("carl", "2")
    said.line(openai(" a"), 3.0)
    (seam,) = said.seams
    assert (seam.way, seam.gap_s) == ("replay", 1.0)


def test_lines_have_no_comments_so_the_longest_silence_is_taken_for_the_seam() -> None:
    said = Transcript("ollama", 0.0)
    for at_s, text in ((0.1, " a"), (0.2, " b"), (0.9, " c"), (1.0, " d")):
        said.line(ollama(text), at_s)
    more = b',"done_reason":"length","x-meshd-attempts":2'
    said.line(ollama("", b"true", more), 1.1)
    (seam,) = said.seams
    assert (seam.way, seam.at_s, round(seam.gap_s, 3)) == ("continue", 0.9, 0.7)
    assert said.finish == "length"


def test_a_key_repeated_elsewhere_is_a_seam_from_the_last_word_that_was_heard() -> None:
    said = Transcript("ollama", 5.0)
    said.repeated(gone_before_s=4.0)
    said.body(ollama(" a b", b"true", b',"done_reason":"stop"'), 6.5)
    (seam,) = said.seams
    assert (seam.way, seam.gap_s) == ("repeat", 2.5)
    assert (said.text, said.finish) == (" a b", "stop")


def test_an_error_in_a_stream_is_remembered_in_either_dialect() -> None:
    for dialect, line in (
        ("openai", b'data: {"error":{"message":"it broke off","code":"x"}}'),
        ("ollama", b'{"error":"it broke off"}'),
    ):
        said = Transcript(dialect, 0.0)
        said.line(line, 1.0)
        assert (said.error, said.finish) == ("it broke off", None)


def test_a_name_that_changes_and_words_after_the_end_are_noticed() -> None:
    said = Transcript("openai", 0.0)
    said.line(openai(" a"), 1.0)
    said.line(finished(), 1.0)
    said.line(openai(" b").replace(b"c1", b"c2"), 1.0)
    assert said.ids == ["c1 1 poet", "c2 1 poet"]
    assert said.after_finish == 1


def test_what_a_refusal_says_is_found_in_any_body() -> None:
    assert error_of(b'{"error":{"message":"busy","code":"b"}}') == "busy"
    assert error_of(b'{"error":"busy"}') == "busy"
    assert error_of(b"<html>") == "<html>"


@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        ("openai", openai(" a")[:-5]),
        ("openai", openai(" a")[9:]),
        ("openai", openai(" a") + openai(" b")),
        ("openai", b"data: [1, 2]"),
        ("openai", b'data: {%s,"choices":[{"index":0}]}' % HEAD),
        ("openai", b'data: {%s,"choices":[{"delta":{"content":5}}]}' % HEAD),
        ("openai", b'data: {%s,"choices":{}}' % HEAD),
        ("openai", b"\xff\xfe"),
        ("ollama", ollama(" a")[:-5]),
        ("ollama", ollama(" a")[9:]),
        ("ollama", b'{"model":"poet","created_at":"t","done":true}'),
        ("ollama", b'"\xff"'),
    ],
)
def test_what_is_no_event_is_told_and_not_taken_for_one(dialect: str, line: bytes) -> None:
    said = Transcript(dialect, 0.0)
    with pytest.raises(Garbled) as told:
        said.line(line, 1.0)
    assert str(told.value)
    with pytest.raises(Garbled):
        said.body(line, 1.0)
    assert said.text == ""


def test_fields_of_an_event_stream_that_carry_no_text_are_no_mistake() -> None:
    said = Transcript("openai", 0.0)
    for line in (b"", b"\r", b": still here", b"id: 7", b"event: message", b"data: [DONE]"):
        said.line(line, 1.0)
    assert said.text == ""
