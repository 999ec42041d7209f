"""OpenAI-compatible streams: every ugly way in which engines answer."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.backends.openai_stream import OpenAIStream
from meshd.errors import LimitExceeded
from meshd.inference import Delta, FailureKind, TokenLogprob, ToolCall, Usage


def sse(*events: str) -> bytes:
    return "".join(f"data: {event}\n\n" for event in events).encode()


def choice(delta: str, finish: str = "null", more: str = "") -> str:
    return f'{{"choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}{more}}}]}}'


def read(wire: bytes, **options: int) -> tuple[list[Delta | Usage], OpenAIStream]:
    stream = OpenAIStream(**options)
    return [*stream.feed(wire), *stream.end()], stream


# As llama.cpp (build of October 2026) sends it.
LLAMA = sse(
    '{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],'
    '"created":1,"id":"chatcmpl-6i","model":"tiny","object":"chat.completion.chunk"}',
    '{"choices":[{"finish_reason":null,"index":0,"delta":{"content":" bababa"}}],"id":"x"}',
    '{"choices":[{"finish_reason":null,"index":0,"delta":{"content":" d\\u00e9j\\u00e0"}}]}',
    '{"choices":[{"finish_reason":"length","index":0,"delta":{}}]}',
    '{"choices":[],"usage":{"completion_tokens":2,"prompt_tokens":9,"total_tokens":11},'
    '"timings":{"prompt_n":9,"prompt_ms":1.5,"predicted_n":2,"predicted_ms":4}}',
    "[DONE]",
)
LLAMA_EVENTS = [
    Delta(" bababa"),
    Delta(" déjà"),
    Delta(finish_reason="length"),
    Usage(prompt_tokens=9, completion_tokens=2, prompt_ns=1_500_000, completion_ns=4_000_000),
]


def test_a_chat_of_llama_cpp() -> None:
    events, stream = read(LLAMA)
    assert events == LLAMA_EVENTS
    assert stream.complete
    assert stream.failure is None


@given(st.lists(st.integers(0, len(LLAMA)), max_size=30))
def test_how_it_is_cut_changes_nothing(places: list[int]) -> None:
    stream = OpenAIStream()
    edges = sorted({0, len(LLAMA), *places})
    events = [event for a, b in pairwise(edges) for event in stream.feed(LLAMA[a:b])]
    assert [*events, *stream.end()] == LLAMA_EVENTS


def test_crlf_comments_and_a_byte_order_mark_change_nothing() -> None:
    wire = b"\xef\xbb\xbf: ping\r\n\r\n" + LLAMA.replace(b"\n", b"\r\n").replace(
        b"data: [", b":\r\n\r\ndata: ["
    )
    assert read(wire)[0] == LLAMA_EVENTS


def test_done_alone_is_no_end_of_an_answer() -> None:
    """llama-cpp-python, when another request interrupted this one."""
    events, stream = read(sse(choice('{"content":"a"}'), "[DONE]"))
    assert events == [Delta("a")]
    assert stream.over
    assert not stream.complete


def test_ollamas_empty_chunk_and_clean_end_is_no_end_of_an_answer() -> None:
    empty = (
        '{"model":"","choices":[{"index":0,"delta":{"role":"assistant","content":""},'
        '"finish_reason":null}]}'
    )
    events, stream = read(sse(choice('{"content":"a"}'), empty))
    assert events == [Delta("a")]
    assert not stream.complete


def test_a_finish_without_done_is_the_end_of_an_answer() -> None:
    """transformers serve: finish_reason and usage in the last chunk, no [DONE]."""
    last = choice("{}", '"stop"')[:-1] + ',"usage":{"prompt_tokens":3,"completion_tokens":1}}'
    events, stream = read(sse(choice('{"content":"a"}'), last))
    assert events == [
        Delta("a"),
        Delta(finish_reason="stop"),
        Usage(prompt_tokens=3, completion_tokens=1),
    ]
    assert stream.complete


def test_a_last_event_without_its_empty_line_counts() -> None:
    assert read(sse(choice("{}", '"stop"'))[:-2])[1].complete


def test_half_a_last_event_does_not_count() -> None:
    _, stream = read(sse(choice("{}", '"stop"'))[:-4])
    assert not stream.complete
    assert stream.failure is not None


def test_usage_is_told_once_and_only_after_the_finish() -> None:
    usage = '"usage":{"prompt_tokens":3,"completion_tokens":%d}'
    early = choice('{"content":"a"}')[:-1] + "," + usage % 1 + "}"
    late = '{"choices":[],' + usage % 2 + "}"
    events, _ = read(sse(early, choice("{}", '"stop"'), late, late, "[DONE]"))
    # the counts of the early chunk are already known when the finish comes
    assert events == [Delta("a"), Delta(finish_reason="stop"), Usage(3, 2)]


def test_text_and_finish_in_one_chunk() -> None:
    assert read(sse(choice('{"content":"x"}', '"stop"')))[0] == [Delta("x", finish_reason="stop")]


def test_nothing_after_the_finish_is_part_of_the_answer() -> None:
    wire = sse(choice("{}", '"stop"'), choice('{"content":"late"}'), choice("{}", '"length"'), "{")
    events, stream = read(wire)
    assert events == [Delta(finish_reason="stop")]
    assert stream.failure is None


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_under_either_name(field: str) -> None:
    wire = sse(choice(f'{{"{field}":"hm"}}'), choice('{"content":"42"}'))
    assert read(wire)[0] == [Delta(reasoning="hm"), Delta("42")]


def test_tool_calls_come_in_fragments() -> None:
    wire = sse(
        choice(
            '{"tool_calls":[{"index":0,"id":"c1","type":"function",'
            '"function":{"name":"get_weather","arguments":""}}]}'
        ),
        choice('{"tool_calls":[{"index":0,"function":{"arguments":"{\\"city\\":"}}]}'),
        choice('{"tool_calls":[{"index":0,"function":{"arguments":" \\"Oslo\\"}"}}]}'),
        choice("{}", '"tool_calls"'),
    )
    assert read(wire)[0] == [
        Delta(tool_calls=[ToolCall(0, "c1", "get_weather", "")]),
        Delta(tool_calls=[ToolCall(0, "", "", '{"city":')]),
        Delta(tool_calls=[ToolCall(0, "", "", ' "Oslo"}')]),
        Delta(finish_reason="tool_calls"),
    ]


def test_whole_tool_calls_without_numbers_are_numbered() -> None:
    call = '{"id":"%s","function":{"name":"f","arguments":{"a":1}}}'
    wire = sse(choice(f'{{"tool_calls":[{call % "x"},{call % "y"}]}}'))
    assert read(wire)[0] == [
        Delta(tool_calls=[ToolCall(0, "x", "f", '{"a":1}'), ToolCall(1, "y", "f", '{"a":1}')])
    ]


LOGPROBS = (
    ',"logprobs":{"content":[{"id":265,"token":" a","bytes":[32,97],"logprob":-0.5,'
    '"top_logprobs":[{"id":265,"token":" a","bytes":[32,97],"logprob":-0.5},'
    '{"id":9,"token":" b","bytes":[32,98],"logprob":-1.5}]}]}'
)


@pytest.mark.parametrize("wanted", [0, 1, 2, 5])
def test_logprobs_with_as_many_alternatives_as_asked_for(wanted: int) -> None:
    (delta,) = read(sse(choice('{"content":" a"}', more=LOGPROBS)), top_logprobs=wanted)[0]
    top = [TokenLogprob(" a", -0.5, [32, 97]), TokenLogprob(" b", -1.5, [32, 98])]
    assert delta == Delta(" a", logprobs=[TokenLogprob(" a", -0.5, [32, 97], top[:wanted])])


def test_logprobs_in_the_form_of_old_completions() -> None:
    wire = sse(
        '{"choices":[{"index":0,"text":" a","finish_reason":null,"logprobs":{"tokens":[" a"],'
        '"token_logprobs":[-0.5],"top_logprobs":[{" a":-0.5," b":-1.5}],"text_offset":[0]}}]}'
    )
    (delta,) = read(wire, top_logprobs=1)[0]
    top = [TokenLogprob(" a", -0.5, [32, 97])]
    assert delta == Delta(" a", logprobs=[TokenLogprob(" a", -0.5, [32, 97], top)])


def test_logprobs_in_a_form_that_nobody_knows_do_not_cost_the_text() -> None:
    wire = sse(choice('{"content":" a"}', more=',"logprobs":{"content":"?"}'))
    assert read(wire)[0] == [Delta(" a")]


def test_completions_have_their_text_in_the_choice() -> None:
    wire = sse(
        '{"choices":[{"text":" a","index":0,"logprobs":null,"finish_reason":null}]}',
        '{"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],'
        '"usage":{"completion_tokens":1,"prompt_tokens":3}}',
        "[DONE]",
    )
    assert read(wire)[0] == [Delta(" a"), Delta(finish_reason="length"), Usage(3, 1)]


def test_other_choices_than_the_first_are_left_alone() -> None:
    other = '{"choices":[{"index":1,"delta":{"content":"b"},"finish_reason":null}]}'
    assert read(sse(choice('{"content":"a"}'), other))[0] == [Delta("a")]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        ('{"error":{"code":500,"message":"boom","type":"server_error"}}', "backend", "boom"),
        ('{"error":"boom"}', "backend", "boom"),
        ('{"error":{"message":"Loading model","code":503}}', "busy", "Loading model"),
        ('{"object":"error","message":"boom","type":"BadRequestError"}', "backend", "boom"),
        (
            '{"error":{"type":"exceed_context_size_error","message":"too long","code":400}}',
            "context_overflow",
            "too long",
        ),
    ],
)
def test_an_error_in_the_stream_follows_what_came_before(error: str, kind: str, words: str) -> None:
    events, stream = read(sse(choice('{"content":"a"}'), error, choice('{"content":"b"}')))
    assert events == [Delta("a")]
    assert not stream.complete
    assert stream.failure is not None
    assert stream.failure.kind == kind
    assert words in stream.failure.message


def test_an_error_field_of_null_is_no_error() -> None:
    wire = sse(choice('{"content":"a"}')[:-1] + ',"error":null}')
    events, stream = read(wire)
    assert (events, stream.failure) == ([Delta("a")], None)


def test_the_error_line_of_old_llama_cpp_builds() -> None:
    _, stream = read(b'error: {"error":{"code":500,"message":"boom"}}\n\n')
    assert stream.failure is not None


@pytest.mark.parametrize(
    "garbage", ["<html>", '{"choices":3}', '{"choices":[{"delta":[]}]}', "nul"]
)
def test_garbage_is_a_failure_that_shows_it(garbage: str) -> None:
    _, stream = read(sse(garbage))
    assert stream.failure is not None
    assert stream.failure.kind == FailureKind.BACKEND
    assert garbage in stream.failure.message


def test_text_that_is_no_utf8_is_a_failure() -> None:
    _, stream = read(b'data: {"choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n')
    assert stream.failure is not None


def test_an_endless_line_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        OpenAIStream(max_bytes=100).feed(b"data: " + b"x" * 200)


def test_an_error_whose_text_is_no_utf8_is_still_told() -> None:
    _, stream = read(b'data: {"error":{"message":"bo\xffom"}}\n\n')
    assert stream.failure is not None
    assert "om" in stream.failure.message
