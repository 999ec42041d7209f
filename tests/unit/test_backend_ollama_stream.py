"""Ollama's native streams."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.backends.ollama_stream import OllamaStream
from meshd.inference import Delta, FailureKind, TokenLogprob, ToolCall, Usage


def read(wire: bytes) -> tuple[list[Delta | Usage], OllamaStream]:
    stream = OllamaStream()
    return [*stream.feed(wire), *stream.end()], stream


def piece(message: str, more: str = "") -> bytes:
    return (
        '{"model":"m","created_at":"2026-11-21T03:00:00.123456789Z","message":'
        f'{{"role":"assistant",{message}}},"done":false{more}}}\n'
    ).encode()


def done(reason: str = ',"done_reason":"stop"', message: str = '"content":""') -> bytes:
    return (
        '{"model":"m","created_at":"2026-11-21T03:00:01Z","message":{"role":"assistant",'
        f'{message}}}{reason},"done":true,"total_duration":50,"load_duration":10,'
        '"prompt_eval_count":7,"prompt_eval_duration":20,"eval_count":2,"eval_duration":15}\n'
    ).encode()


USAGE = Usage(7, 2, total_ns=50, load_ns=10, prompt_ns=20, completion_ns=15)
CHAT = piece('"content":" b\\u003cx\\u003e"') + piece('"content":" d\u00e9j\u00e0"') + done()
CHAT_EVENTS = [Delta(" b<x>"), Delta(" déjà"), Delta(finish_reason="stop"), USAGE]


def test_a_chat() -> None:
    events, stream = read(CHAT)
    assert events == CHAT_EVENTS
    assert stream.complete
    assert stream.over


@given(st.lists(st.integers(0, len(CHAT)), max_size=30))
def test_how_it_is_cut_changes_nothing(places: list[int]) -> None:
    stream = OllamaStream()
    edges = sorted({0, len(CHAT), *places})
    events = [event for a, b in pairwise(edges) for event in stream.feed(CHAT[a:b])]
    assert [*events, *stream.end()] == CHAT_EVENTS


def test_crlf_and_empty_lines_change_nothing() -> None:
    assert read(CHAT.replace(b"\n", b"\r\n\r\n"))[0] == CHAT_EVENTS


def test_the_last_line_may_lack_its_end() -> None:
    assert read(CHAT[:-1])[0] == CHAT_EVENTS


def test_generate_has_its_text_elsewhere() -> None:
    wire = (
        b'{"model":"m","created_at":"x","response":"","thinking":"hm","done":false}\n'
        b'{"model":"m","created_at":"x","response":" a","done":false}\n'
        b'{"model":"m","response":"","done":true,"done_reason":"length","context":[1,2],'
        b'"eval_count":1}\n'
    )
    assert read(wire)[0] == [
        Delta(reasoning="hm"),
        Delta(" a"),
        Delta(finish_reason="length"),
        Usage(completion_tokens=1),
    ]


def test_thinking_is_reasoning() -> None:
    wire = piece('"content":"","thinking":"let me see"') + piece('"content":"42"') + done()
    assert read(wire)[0][:2] == [Delta(reasoning="let me see"), Delta("42")]


CALL = '{"function":{"name":"get_weather","arguments":{"city":"Oslo","n":1.50}}}'


def test_tool_calls_are_whole_and_numbered_over_all_lines() -> None:
    wire = (
        piece(f'"content":"","tool_calls":[{CALL}]')
        + piece(f'"content":"","tool_calls":[{CALL[:-1]},"id":"call_abcd1234"}}]')
        + done()
    )
    arguments = '{"city":"Oslo","n":1.50}'
    assert read(wire)[0] == [
        Delta(tool_calls=[ToolCall(0, "", "get_weather", arguments)]),
        Delta(tool_calls=[ToolCall(1, "call_abcd1234", "get_weather", arguments)]),
        Delta(finish_reason="tool_calls"),
        USAGE,
    ]


def test_tool_calls_may_ride_on_the_last_line() -> None:
    """Newer versions, in their native mode."""
    events, _ = read(done(message=f'"content":"","tool_calls":[{CALL}]'))
    assert isinstance(events[0], Delta)
    assert events[0].finish_reason == "tool_calls"
    assert events[0].tool_calls[0].name == "get_weather"


def test_a_call_without_arguments_has_empty_ones() -> None:
    wire = piece('"content":"","tool_calls":[{"function":{"name":"f","arguments":null}}]')
    assert read(wire)[0] == [Delta(tool_calls=[ToolCall(0, "", "f", "{}")])]


@pytest.mark.parametrize("reason", ["load", "unload", "length"])
def test_other_reasons_stay_as_they_are(reason: str) -> None:
    events, _ = read(done(f',"done_reason":"{reason}"'))
    assert events[0] == Delta(finish_reason=reason)


def test_old_versions_give_no_reason() -> None:
    assert read(done(""))[0][0] == Delta(finish_reason="stop")


def test_logprobs() -> None:
    token = '{"token":" a","logprob":-0.5,"bytes":[32,97]}'
    wire = piece('"content":" a"', f',"logprobs":[{token[:-1]},"top_logprobs":[{token}]}}]')
    plain = TokenLogprob(" a", -0.5, [32, 97])
    assert read(wire)[0] == [
        Delta(" a", logprobs=[TokenLogprob(" a", -0.5, [32, 97], [plain])]),
    ]


def test_an_end_without_done_is_no_end_of_an_answer() -> None:
    """Ollama's token repeat limit: no done line, and no error."""
    events, stream = read(piece('"content":"a"'))
    assert events == [Delta("a")]
    assert not stream.complete
    assert stream.failure is None


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (
            '{"error":"an error was encountered while running the model: unexpected EOF"}',
            FailureKind.BROKEN,
        ),
        ('{"error":"model \\"x\\" not found, try pulling it first"}', FailureKind.NOT_FOUND),
        ('{"error":"registry/library/x:latest does not support tools"}', FailureKind.UNSUPPORTED),
        (
            '{"error":"server busy, please try again.  maximum pending requests exceeded"}',
            FailureKind.BUSY,
        ),
        ('{"error":"bad thing","status":400}', FailureKind.BAD_REQUEST),
        ('{"error":"who knows"}', FailureKind.BACKEND),
    ],
)
def test_an_error_line_under_status_200_is_a_failure(line: str, kind: FailureKind) -> None:
    events, stream = read(piece('"content":"a"') + line.encode() + b"\n" + done())
    assert events == [Delta("a")]
    assert not stream.complete
    assert stream.failure is not None
    assert stream.failure.kind == kind


@pytest.mark.parametrize(
    "garbage", [b"<html>\n", b'{"message":3}\n', b'{"done":"yes"}\n', b"\xff\n"]
)
def test_garbage_is_a_failure(garbage: bytes) -> None:
    _, stream = read(garbage)
    assert stream.failure is not None
    assert stream.failure.kind == FailureKind.BACKEND


def test_nothing_counts_after_the_last_line() -> None:
    assert read(done() + piece('"content":"late"'))[0] == [Delta(finish_reason="stop"), USAGE]


def test_arguments_that_are_no_utf8_do_not_end_the_stream() -> None:
    wire = b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":{"a":"\xff"}}}]}}\n'
    events, stream = read(wire)
    assert stream.failure is not None or events == [
        Delta(tool_calls=[ToolCall(0, "", "f", '{"a":"\ufffd"}')])
    ]
