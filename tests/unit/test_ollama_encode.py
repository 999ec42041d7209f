"""Ollama's answers, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshd.api import ollama
from meshd.api.dialect import AnswerEncoder, DialectError
from meshd.api.ollama_encode import done_reason, rfc3339
from meshd.inference import (
    Delta,
    Embedding,
    Failure,
    FailureKind,
    TokenLogprob,
    ToolCall,
    Usage,
)

AT = '"created_at":"2023-11-14T22:13:20.500000000Z"'
STOP = Delta(finish_reason="stop")
USAGE = Usage(3, 4, total_ns=50, load_ns=10, prompt_ns=20, completion_ns=20)
METRICS = (
    '"total_duration":50,"load_duration":10,"prompt_eval_count":3,"prompt_eval_duration":20,'
    '"eval_count":4,"eval_duration":20'
)


def encoder(path: str = "/api/chat", **fields: Any) -> AnswerEncoder:
    subject = {"messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"}
    body = json.dumps({"model": "tiny", **subject, **fields}).encode()
    return ollama.decode(
        path, body, lambda name: None, request_id="r1", now_unix_s=1_700_000_000.5
    ).encoder


def lines(data: bytes) -> list[Any]:
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def test_a_chat_stream_byte_for_byte() -> None:
    answer = encoder()
    stream = (
        answer.start()
        + answer.delta(Delta('Hé"\n'))
        + answer.delta(Delta(" there", finish_reason="length"))
        + answer.end(USAGE)
    )
    assert stream.decode() == (
        f'{{"model":"tiny",{AT},"message":{{"role":"assistant","content":"Hé\\"\\n"}},'
        '"done":false}\n'
        f'{{"model":"tiny",{AT},"message":{{"role":"assistant","content":" there"}},'
        '"done":false}\n'
        f'{{"model":"tiny",{AT},"message":{{"role":"assistant","content":""}},'
        f'"done_reason":"length","done":true,{METRICS}}}\n'
    )
    assert answer.content_type_stream == b"application/x-ndjson"


def test_a_generate_stream_byte_for_byte() -> None:
    answer = encoder("/api/generate")
    stream = answer.delta(Delta("a")) + answer.delta(STOP) + answer.end(USAGE)
    assert stream.decode() == (
        f'{{"model":"tiny",{AT},"response":"a","done":false}}\n'
        f'{{"model":"tiny",{AT},"response":"","done":true,"done_reason":"stop",{METRICS}}}\n'
    )


def test_a_whole_chat_byte_for_byte() -> None:
    answer = encoder()
    body = answer.whole([Delta("Hi"), Delta(reasoning="hm"), STOP], USAGE)
    assert body.decode() == (
        f'{{"model":"tiny",{AT},"message":{{"role":"assistant","content":"Hi","thinking":"hm"}},'
        f'"done_reason":"stop","done":true,{METRICS}}}'
    )
    assert answer.content_type_whole == b"application/json; charset=utf-8"


def test_a_whole_generate_byte_for_byte() -> None:
    body = encoder("/api/generate").whole([Delta("Hi"), STOP], None)
    assert body.decode() == (
        f'{{"model":"tiny",{AT},"response":"Hi","done":true,"done_reason":"stop"}}'
    )


def test_counts_that_nobody_took_are_left_out() -> None:
    answer = encoder()
    answer.delta(STOP)
    (last,) = lines(answer.end(Usage(completion_tokens=4)))
    assert list(last) == ["model", "created_at", "message", "done_reason", "done", "eval_count"]


def test_loading_says_so() -> None:
    answer = encoder(messages=[])
    assert answer.delta(Delta(finish_reason="load")) == b""
    assert answer.end(None).decode() == (
        f'{{"model":"tiny",{AT},"message":{{"role":"assistant","content":""}},'
        '"done_reason":"load","done":true}\n'
    )


def test_thinking_comes_with_empty_content() -> None:
    (line,) = lines(encoder().delta(Delta(reasoning="hm")))
    assert line["message"] == {"role": "assistant", "content": "", "thinking": "hm"}
    (line,) = lines(encoder("/api/generate").delta(Delta(reasoning="hm")))
    assert (line["response"], line["thinking"]) == ("", "hm")


def test_fragments_of_tool_calls_are_whole_calls_at_the_end() -> None:
    answer = encoder()
    fragments = [
        ToolCall(0, "c1", "f", ""),
        ToolCall(0, "", "", '{"a"'),
        ToolCall(1, "", "g", ""),
        ToolCall(0, "", "", ":[1]}"),
    ]
    for fragment in fragments:
        assert answer.delta(Delta(tool_calls=[fragment])) == b""
    answer.delta(Delta(finish_reason="tool_calls"))
    calls, last = lines(answer.end(None))
    first, second = calls["message"]["tool_calls"]
    assert first == {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": [1]}}}
    assert second["function"] == {"index": 1, "name": "g", "arguments": {}}
    assert second["id"].startswith("call_")
    assert calls["message"]["content"] == ""
    assert calls["done"] is False
    assert (last["done"], last["done_reason"]) == (True, "stop")


def test_a_whole_answer_has_its_calls_in_the_message() -> None:
    deltas = [
        Delta("Let me see."),
        Delta(tool_calls=[ToolCall(0, "c1", "f", "{}")]),
        Delta(finish_reason="tool_calls"),
    ]
    body = json.loads(encoder().whole(deltas, None))
    assert body["message"] == {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [{"id": "c1", "function": {"index": 0, "name": "f", "arguments": {}}}],
    }


@pytest.mark.parametrize("arguments", ['{"a":', "[1]", '"x"', "nonsense", "5"])
def test_arguments_that_are_no_object_are_an_error_and_no_answer(arguments: str) -> None:
    call = Delta("so: ", tool_calls=[ToolCall(0, "c1", "f", arguments)])
    answer = encoder()
    data = answer.delta(call) + answer.delta(STOP) + answer.end(USAGE)
    *_, last = lines(data)
    assert list(last) == ["error"]
    assert "'f'" in last["error"]
    assert arguments in last["error"]
    with pytest.raises(DialectError) as caught:
        encoder().whole([call, STOP], USAGE)
    assert caught.value.status == 502


def test_a_call_that_the_limit_cut_off_is_left_out_and_done_reason_says_why() -> None:
    answer = encoder()
    whole, cut = ToolCall(0, "c1", "f", "{}"), ToolCall(1, "c2", "g", '{"a":')
    answer.delta(Delta(tool_calls=[whole, cut], finish_reason="length"))
    calls, last = lines(answer.end(None))
    assert [call["function"]["name"] for call in calls["message"]["tool_calls"]] == ["f"]
    assert last["done_reason"] == "length"


def test_logprobs_where_they_were_asked_for() -> None:
    tokens = [TokenLogprob("Hi", -0.5, [72, 105], [TokenLogprob("Yo", -1.5)])]
    expected = [
        {
            "token": "Hi",
            "logprob": -0.5,
            "bytes": [72, 105],
            "top_logprobs": [{"token": "Yo", "logprob": -1.5}],
        }
    ]
    answer = encoder(logprobs=True, top_logprobs=1)
    (line,) = lines(answer.delta(Delta("Hi", logprobs=tokens)))
    assert line["logprobs"] == expected
    body = json.loads(encoder(logprobs=True).whole([Delta("Hi", logprobs=tokens), STOP], None))
    assert body["logprobs"] == expected
    (line,) = lines(encoder().delta(Delta("Hi", logprobs=tokens)))
    assert "logprobs" not in line


def test_an_error_in_the_stream_is_the_last_line_and_never_done() -> None:
    failure = Failure(FailureKind.BROKEN, "the holder is gone")
    assert encoder().error(failure) == b'{"error":"the holder is gone"}\n'


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_an_answer_that_never_ended_is_an_error_and_not_an_answer(path: str) -> None:
    answer = encoder(path)
    *_, last = lines(answer.delta(Delta("half")) + answer.end(USAGE))
    assert list(last) == ["error"]
    with pytest.raises(DialectError):
        encoder(path).whole([Delta("half")], USAGE)


def test_there_is_no_keep_alive_since_clients_parse_every_line() -> None:
    assert encoder().keep_alive() == b""


def test_embed_byte_for_byte() -> None:
    result = Embedding([[0.5, -1.25]], prompt_tokens=2)
    assert encoder("/api/embed").embedding(result) == (
        b'{"model":"tiny","embeddings":[[0.5,-1.25]],"prompt_eval_count":2}'
    )
    assert encoder("/api/embed").embedding(Embedding([])) == b'{"model":"tiny","embeddings":[]}'


def test_old_embeddings_byte_for_byte() -> None:
    assert encoder("/api/embeddings").embedding(Embedding([[0.5]])) == b'{"embedding":[0.5]}'
    assert encoder("/api/embeddings").embedding(Embedding([])) == b'{"embedding":[]}'


@pytest.mark.parametrize(
    ("reason", "word"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), ("load", "load"),
     ("unload", "unload"), ("eos", "stop")],
)  # fmt: skip
def test_done_reasons_are_ollamas_words(reason: str, word: str) -> None:
    assert done_reason(reason) == word


@pytest.mark.parametrize(
    ("unix_s", "text"),
    [
        (1_700_000_000.25, "2023-11-14T22:13:20.250000000Z"),
        (0, "0001-01-01T00:00:00Z"),
        (-5, "0001-01-01T00:00:00Z"),
        (1e30, "9999-12-31T23:59:59.000000000Z"),
    ],
)
def test_times_are_rfc_3339_with_nanoseconds(unix_s: float, text: str) -> None:
    assert rfc3339(unix_s) == text


def test_failures_before_the_answer_have_a_status_and_ollamas_body() -> None:
    failure = Failure(FailureKind.BUSY, "no slot is free", 503, retry_after_s=1)
    assert ollama.error_body(failure) == (
        503,
        [(b"content-type", b"application/json; charset=utf-8"), (b"retry-after", b"1")],
        b'{"error":"no slot is free"}',
    )
