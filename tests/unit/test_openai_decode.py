"""OpenAI's chats: what each field becomes; fields and bodies that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from meshd import limits
from meshd.api.dialect import DialectError
from meshd.inference import Kind, Message, Request
from tests.unit.openai_bodies import (
    CHAT,
    USER,
    chat,
    chat_refused,
    decode,
    refused,
)


def test_a_plain_chat_becomes_a_request_that_does_not_stream() -> None:
    call = decode(CHAT, {"model": "tiny", "messages": USER})
    assert call.request == Request(Kind.CHAT, "tiny", messages=[Message("user", "hi")])
    assert call.stream is False
    assert call.deadline_s is None


def test_every_sampling_field_has_its_place() -> None:
    request = chat(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        seed=7,
        max_tokens=10,
        frequency_penalty=-1,
        presence_penalty=1.5,
        repeat_penalty=1.1,
        stop=["a", "b"],
    )
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 40)
    assert (sampling.min_p, sampling.seed, sampling.max_tokens) == (0.05, 7, 10)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (-1.0, 1.5)
    assert (sampling.repeat_penalty, sampling.stop) == (1.1, ["a", "b"])
    assert request.extra == {}


def test_nulls_are_as_good_as_nothing() -> None:
    fields = dict.fromkeys(
        ("temperature", "stop", "tools", "tool_choice", "response_format", "seed", "n", "user")
    )
    assert chat(**fields) == chat()


def test_one_stop_string_is_a_list_and_empty_ones_are_dropped() -> None:
    assert chat(stop="END").sampling.stop == ["END"]
    assert chat(stop=["", "END"]).sampling.stop == ["END"]
    assert chat(stop="").sampling.stop == []


def test_max_completion_tokens_wins_over_max_tokens() -> None:
    assert chat(max_tokens=5, max_completion_tokens=6).sampling.max_tokens == 6


def test_minus_one_token_means_no_limit() -> None:
    assert chat(max_tokens=-1).sampling.max_tokens is None


def test_unknown_fields_travel_in_extra() -> None:
    request = chat(logit_bias={"5": -100}, user="ada", chat_template_kwargs={"a": [1]}, gone=None)
    assert request.extra == {
        "logit_bias": {"5": -100},
        "user": "ada",
        "chat_template_kwargs": {"a": [1]},
    }


@pytest.mark.parametrize(
    ("headers", "deadline_s"),
    [
        ({b"x-stainless-read-timeout": b"600"}, 600.0),
        ({b"x-stainless-timeout": b"12.5"}, 12.5),
        ({b"x-stainless-read-timeout": b"3", b"x-stainless-timeout": b"9"}, 3.0),
        ({b"x-stainless-read-timeout": b"soon", b"x-stainless-timeout": b"9"}, 9.0),
        ({b"x-stainless-read-timeout": b"0"}, None),
        ({b"x-stainless-read-timeout": b"-1"}, None),
        ({b"x-stainless-read-timeout": b"inf"}, None),
        ({b"x-stainless-read-timeout": b"nan"}, None),
        ({}, None),
    ],
)
def test_the_sdks_read_timeout_is_the_deadline(
    headers: dict[bytes, bytes], deadline_s: float | None
) -> None:
    assert decode(CHAT, {"model": "m", "messages": USER}, headers).deadline_s == deadline_s


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"model": "x" * (limits.MODEL_NAME_CHARS + 1)}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": USER * (limits.MESSAGES + 1)}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -5}, "max_completion_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"stop": ["x"] * (limits.STOP_STRINGS + 1)}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
            "response_format.json_schema.schema",
        ),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"functions": []}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"logit_bias": {"1": 2**70}}, "logit_bias"),
    ],
)
def test_fields_of_a_chat_that_cannot_be_used_are_named(fields: dict[str, Any], param: str) -> None:
    error = chat_refused(**fields)
    assert error["param"] == param
    assert param.split(".")[0].split("[")[0] in error["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"[]", b"5", b"null", b'{"model": "\xff"}', b"[" * 100_000, b"{}{}"],
)
def test_a_body_that_is_no_json_object_is_refused_as_a_whole(body: bytes) -> None:
    error = refused(CHAT, body)
    assert error["param"] is None
    assert error["message"]


def test_numbers_that_no_machine_holds_are_refused() -> None:
    huge = b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":1e999}'
    assert "out of range" in refused(CHAT, huge)["message"]


def test_a_field_nested_too_deeply_is_refused_by_name() -> None:
    deep: Any = 1
    for _ in range(limits.JSON_DEPTH + 1):
        deep = [deep]
    assert chat_refused(metadata=deep)["param"] == "metadata"


def test_a_field_with_too_many_values_is_refused_by_name() -> None:
    many = [[1] * 256] * (limits.JSON_ITEMS // 256)
    assert chat_refused(metadata=many)["param"] == "metadata"
    assert chat(metadata=many[:-2]).extra == {"metadata": many[:-2]}


def test_a_body_of_millions_of_values_is_refused_unparsed() -> None:
    body = b'{"model":"m","messages":[' + b"1," * limits.JSON_COMMAS + b"1]}"
    assert refused(CHAT, body)["message"] == "the body has too many values"
    text = "word, " * (limits.JSON_COMMAS // 10)
    assert chat(messages=[{"role": "user", "content": text}]).messages[0].text == text


def test_response_formats() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert chat(response_format={"type": "text"}) == chat()
    request = chat(response_format={"type": "json_object"})
    assert (request.json_mode, request.json_schema) == (True, None)
    request = chat(
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": schema},
        }
    )
    assert (request.json_mode, request.json_schema) == (True, schema)
    assert request.json_schema_name == "answer"
    request = chat(response_format={"type": "json_object", "schema": schema})
    assert request.json_schema == schema


@pytest.mark.parametrize(
    ("fields", "think"),
    [
        ({}, None),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, "low"),
        ({"reasoning_effort": "medium"}, "medium"),
        ({"reasoning": {"effort": "high"}}, "high"),
        ({"reasoning": {}}, None),
    ],
)
def test_reasoning_effort_is_how_much_to_think(
    fields: dict[str, Any], think: bool | str | None
) -> None:
    assert chat(**fields).think == think


def test_logprobs_of_chats() -> None:
    request = chat(logprobs=True, top_logprobs=4)
    assert (request.logprobs, request.top_logprobs) == (True, 4)


def test_an_endpoint_that_is_not_there_is_a_404() -> None:
    with pytest.raises(DialectError) as caught:
        decode("/v1/audio/speech", {})
    assert caught.value.status == 404
