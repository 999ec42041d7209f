"""OpenAI's answers, byte for byte."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from meshd.api import openai
from meshd.api.dialect import AnswerEncoder, DialectError
from meshd.api.openai_encode import finish_reason
from meshd.inference import (
    Delta,
    Embedding,
    Failure,
    FailureKind,
    TokenLogprob,
    ToolCall,
    Usage,
)

HEAD = '"created":1700000000,"model":"tiny","system_fingerprint":"fp_meshd"'
STOP = Delta(finish_reason="stop")


def encoder(path: str = "/v1/chat/completions", **fields: Any) -> AnswerEncoder:
    subject = {"messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"}
    body = json.dumps({"model": "tiny", **subject, **fields}).encode()
    return openai.decode(
        path, body, lambda name: None, request_id="r1", now_unix_s=1_700_000_000.5
    ).encoder


def events(data: bytes) -> list[Any]:
    """The SSE events of a stream; [DONE] as it is."""
    assert data.endswith(b"\n\n")
    lines = data.decode().split("\n\n")[:-1]
    assert all(line.startswith("data: ") for line in lines)
    texts = [line.removeprefix("data: ") for line in lines]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def chat_chunk(choice: str) -> str:
    return (
        f'data: {{"id":"chatcmpl-r1","object":"chat.completion.chunk",{HEAD},'
        f'"choices":[{choice}]}}\n\n'
    )


def test_a_chat_stream_byte_for_byte() -> None:
    answer = encoder()
    stream = [
        answer.start(),
        answer.delta(Delta('Hé"\n')),
        answer.delta(Delta(" there", finish_reason="stop")),
        answer.end(Usage(3, 4)),
    ]
    assert b"".join(stream).decode() == (
        chat_chunk(
            '{"index":0,"delta":{"role":"assistant","content":""},'
            '"logprobs":null,"finish_reason":null}'
        )
        + chat_chunk(
            '{"index":0,"delta":{"content":"Hé\\"\\n"},"logprobs":null,"finish_reason":null}'
        )
        + chat_chunk(
            '{"index":0,"delta":{"content":" there"},"logprobs":null,"finish_reason":null}'
        )
        + chat_chunk('{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}')
        + "data: [DONE]\n\n"
    )
    assert answer.content_type_stream == b"text/event-stream"


def test_nothing_that_ends_an_answer_leaves_before_its_end() -> None:
    assert encoder().delta(STOP) == b""


def test_usage_is_a_chunk_of_its_own_where_it_was_asked_for() -> None:
    answer = encoder(stream_options={"include_usage": True})
    first, text = events(answer.start() + answer.delta(Delta("a")))
    assert first["usage"] is None
    assert text["usage"] is None
    answer.delta(STOP)
    finish, usage, done = events(answer.end(Usage(3, 4)))
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert usage["id"] == first["id"]
    assert done == "[DONE]"


def test_usage_that_nobody_counted_is_left_out() -> None:
    answer = encoder(stream_options={"include_usage": True})
    answer.delta(STOP)
    assert len(events(answer.end(None))) == 2
    assert "usage" not in json.loads(encoder().whole([STOP], None))


def test_empty_deltas_write_nothing() -> None:
    assert encoder().delta(Delta()) == b""
    assert encoder("/v1/completions").delta(Delta()) == b""


def test_reasoning_is_a_field_of_its_own() -> None:
    answer = encoder()
    (chunk,) = events(answer.delta(Delta(reasoning="hm")))
    assert chunk["choices"][0]["delta"] == {"reasoning_content": "hm"}
    body = json.loads(
        answer.whole([Delta(reasoning="h"), Delta(reasoning="m"), Delta("yes"), STOP], None)
    )
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "yes",
        "reasoning_content": "hm",
    }


def test_fragments_of_a_tool_call_pass_with_index_id_and_name_once() -> None:
    answer = encoder()
    fragments = [
        ToolCall(0, "c1", "f", ""),
        ToolCall(0, "c1", "f", '{"a"'),
        ToolCall(0, "", "", ":1}"),
        ToolCall(1, "c2", "g", "{}"),
    ]
    data = b"".join(answer.delta(Delta(tool_calls=[fragment])) for fragment in fragments)
    calls = [event["choices"][0]["delta"]["tool_calls"] for event in events(data)]
    assert calls == [
        [
            {
                "index": 0,
                "id": "c1",
                "type": "function",
                "function": {"name": "f", "arguments": ""},
            }
        ],
        [{"index": 0, "function": {"arguments": '{"a"'}}],
        [{"index": 0, "function": {"arguments": ":1}"}}],
        [
            {
                "index": 1,
                "id": "c2",
                "type": "function",
                "function": {"name": "g", "arguments": "{}"},
            }
        ],
    ]
    answer.delta(STOP)
    assert events(answer.end(None))[0]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_call_without_an_id_gets_the_same_one_streamed_and_whole() -> None:
    deltas = [Delta(tool_calls=[ToolCall(3, "", "f", "{}")]), STOP]
    (chunk,) = events(encoder().delta(deltas[0]))
    (streamed,) = chunk["choices"][0]["delta"]["tool_calls"]
    body = json.loads(encoder().whole(deltas, None))
    (whole,) = body["choices"][0]["message"]["tool_calls"]
    assert streamed["id"] == whole["id"]
    assert streamed["id"].startswith("call_")
    assert streamed["index"] == 0  # clients index by it; the engine's own numbers may start later


def test_a_whole_answer_with_tool_calls() -> None:
    deltas = [
        Delta(tool_calls=[ToolCall(0, "c1", "f", '{"a"')]),
        Delta(tool_calls=[ToolCall(0, "", "", ":1}")]),
        Delta(finish_reason="tool_calls"),
    ]
    assert json.loads(encoder().whole(deltas, Usage(1, 2)))["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a":1}'},
                    }
                ],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ]


def test_a_whole_answer_byte_for_byte() -> None:
    answer = encoder()
    body = answer.whole([Delta("Hi"), Delta(" there", finish_reason="length")], Usage(3, 4))
    assert body.decode() == (
        f'{{"id":"chatcmpl-r1","object":"chat.completion",{HEAD},"choices":[{{"index":0,'
        '"message":{"role":"assistant","content":"Hi there"},"logprobs":null,'
        '"finish_reason":"length"}],'
        '"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}'
    )
    assert answer.content_type_whole == b"application/json"


LOGPROBS = [
    TokenLogprob("Hi", -0.5, [72, 105], [TokenLogprob("Hi", -0.5), TokenLogprob("Yo", -1.5)])
]


def test_logprobs_of_chats_where_they_were_asked_for() -> None:
    answer = encoder(logprobs=True, top_logprobs=2)
    (chunk,) = events(answer.delta(Delta("Hi", logprobs=LOGPROBS)))
    expected = {
        "content": [
            {
                "token": "Hi",
                "logprob": -0.5,
                "bytes": [72, 105],
                "top_logprobs": [
                    {"token": "Hi", "logprob": -0.5, "bytes": None},
                    {"token": "Yo", "logprob": -1.5, "bytes": None},
                ],
            }
        ],
        "refusal": None,
    }
    assert chunk["choices"][0]["logprobs"] == expected
    body = json.loads(answer.whole([Delta("Hi", logprobs=LOGPROBS), STOP], None))
    assert body["choices"][0]["logprobs"] == expected


def test_logprobs_that_nobody_asked_for_are_left_out() -> None:
    (chunk,) = events(encoder().delta(Delta("Hi", logprobs=LOGPROBS)))
    assert chunk["choices"][0]["logprobs"] is None
    assert encoder().delta(Delta(logprobs=LOGPROBS)) == b""


def test_a_completion_stream_byte_for_byte() -> None:
    answer = encoder("/v1/completions")
    stream = answer.start() + answer.delta(Delta("a")) + answer.delta(Delta("b"))
    assert answer.delta(STOP) == b""
    stream += answer.end(None)

    def chunk(text: str, reason: str) -> str:
        return (
            f'data: {{"id":"cmpl-r1","object":"text_completion",{HEAD},"choices":'
            f'[{{"text":"{text}","index":0,"logprobs":null,"finish_reason":{reason}}}]}}\n\n'
        )

    assert stream.decode() == (
        chunk("a", "null") + chunk("b", "null") + chunk("", '"stop"') + "data: [DONE]\n\n"
    )


def test_logprobs_of_completions_have_the_old_form_with_running_offsets() -> None:
    answer = encoder("/v1/completions", logprobs=2)
    answer.delta(Delta("...."))
    (chunk,) = events(answer.delta(Delta("Hi", logprobs=LOGPROBS)))
    assert chunk["choices"][0]["logprobs"] == {
        "tokens": ["Hi"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"Hi": -0.5, "Yo": -1.5}],
        "text_offset": [4],
    }
    body = json.loads(answer.whole([Delta("Hi", logprobs=LOGPROBS * 2), STOP], None))
    assert body["choices"][0]["logprobs"]["text_offset"] == [0, 2]
    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"] == "Hi"


@pytest.mark.parametrize(
    ("reason", "has_calls", "word"),
    [
        ("stop", False, "stop"),
        ("stop", True, "tool_calls"),
        ("tool_calls", True, "tool_calls"),
        ("tool_calls", False, "stop"),
        ("length", False, "length"),
        ("length", True, "length"),
        ("load", False, "stop"),
        ("eos", False, "stop"),
        ("content_filter", False, "content_filter"),
    ],
)
def test_finish_reasons_are_openais_words(reason: str, has_calls: bool, word: str) -> None:
    assert finish_reason(reason, has_calls) == word


def test_an_error_in_the_stream_is_an_event_with_an_error_and_no_done() -> None:
    failure = Failure(FailureKind.BROKEN, "the holder is gone", status=502)
    (event,) = events(encoder().error(failure))
    assert event == {
        "error": {
            "message": "the holder is gone",
            "type": "server_error",
            "param": None,
            "code": "broken",
        }
    }


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_answer_that_never_ended_is_an_error_and_not_an_answer(path: str) -> None:
    answer = encoder(path)
    data = answer.start() + answer.delta(Delta("half")) + answer.end(Usage(1, 1))
    assert events(data)[-1]["error"]["code"] == "broken"
    assert b"[DONE]" not in data
    with pytest.raises(DialectError) as caught:
        encoder(path).whole([Delta("half")], None)
    assert caught.value.status == 502


def test_the_keep_alive_is_a_comment() -> None:
    assert encoder().keep_alive() == b": keep-alive\n\n"


def test_embeddings_as_numbers_and_as_base64() -> None:
    result = Embedding([[0.5, -1.25], [2.0, 0.0]], prompt_tokens=6)
    body = json.loads(encoder("/v1/embeddings").embedding(result))
    assert body == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1.25]},
            {"object": "embedding", "index": 1, "embedding": [2.0, 0.0]},
        ],
        "model": "tiny",
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }
    packed = json.loads(encoder("/v1/embeddings", encoding_format="base64").embedding(result))
    vectors = [base64.b64decode(row["embedding"]) for row in packed["data"]]
    assert [struct.unpack("<2f", vector) for vector in vectors] == [(0.5, -1.25), (2.0, 0.0)]


@pytest.mark.parametrize(
    ("failure", "status", "headers", "code"),
    [
        (
            Failure(FailureKind.BUSY, "no slot", 503, retry_after_s=2.2),
            503,
            [(b"retry-after", b"3")],
            "busy",
        ),
        (
            Failure(FailureKind.BUSY, "no slot", 503, retry_after_s=5000),
            503,
            [(b"retry-after", b"120")],
            "busy",
        ),
        (
            Failure(FailureKind.DEADLINE, "too late", 504),
            504,
            [(b"x-should-retry", b"false")],
            "timeout",
        ),
        (Failure(FailureKind.UNREACHABLE, "gone", 502), 502, [], "unreachable"),
        (
            Failure(FailureKind.CONTEXT_OVERFLOW, "too long", 400),
            400,
            [],
            "context_length_exceeded",
        ),
        (Failure(FailureKind.NOT_FOUND, "model 'x' not found", 404), 404, [], "model_not_found"),
    ],
)
def test_failures_before_the_answer_have_a_status_and_openais_body(
    failure: Failure, status: int, headers: list[tuple[bytes, bytes]], code: str
) -> None:
    got_status, got_headers, body = openai.error_body(failure)
    assert got_status == status
    assert got_headers == [(b"content-type", b"application/json"), *headers]
    error = json.loads(body)["error"]
    assert error["message"] == failure.message
    assert error["code"] == code
