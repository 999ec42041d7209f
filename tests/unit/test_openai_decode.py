"""OpenAI's requests: what they become, and how they are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from meshd import limits
from meshd.api import openai
from meshd.api.dialect import Call, DialectError
from meshd.inference import Image, Kind, Message, Request, ToolCall

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
USER = [{"role": "user", "content": "hi"}]
PNG = "iVBORw0KGgoAAAANSUhEUg=="


def decode(path: str, body: Any, headers: Mapping[bytes, bytes] | None = None) -> Call:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return openai.decode(
        path, data, (headers or {}).get, request_id="r1", now_unix_s=1_700_000_000.5
    )


def chat(**fields: Any) -> Request:
    return decode(CHAT, {"model": "tiny", "messages": USER, **fields}).request


def refused(path: str, body: Any) -> dict[str, Any]:
    """The error object of the 400 that this gets."""
    with pytest.raises(DialectError) as caught:
        decode(path, body)
    assert caught.value.status == 400
    assert caught.value.headers == [(b"content-type", b"application/json")]
    error = json.loads(caught.value.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert isinstance(error["message"], str)
    return dict(error)


def chat_refused(**fields: Any) -> dict[str, Any]:
    return refused(CHAT, {"model": "tiny", "messages": USER, **fields})


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


def test_roles_are_openais_and_developer_means_system() -> None:
    request = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hi", "name": "ada"},
        ]
    )
    assert request.messages == [
        Message("system", "be brief"),
        Message("system", "be kind"),
        Message("user", "hi", name="ada"),
    ]


def test_a_conversation_with_tools_keeps_calls_ids_and_the_tools_name() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    request = chat(
        messages=[
            *USER,
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "R"},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ]
    )
    assert request.messages[1:] == [
        Message("assistant", reasoning="R", tool_calls=[ToolCall(0, "c1", "f", '{"a":1}')]),
        Message("tool", "42", tool_call_id="c1", name="f"),
    ]


def test_parts_become_one_text_and_pictures() -> None:
    content = [
        {"type": "text", "text": "what is"},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PNG}"}},
        {"type": "image_url", "image_url": f"data:;base64,{PNG}"},
        {"type": "text", "text": "this?"},
    ]
    request = chat(messages=[{"role": "user", "content": content}])
    assert request.messages == [
        Message(
            "user", "what is\nthis?", images=[Image(PNG, "image/jpeg"), Image(PNG, "image/png")]
        )
    ]


@pytest.mark.parametrize(
    ("part", "field", "word"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            "image_url.url",
            "fetches",
        ),
        (
            {"type": "image_url", "image_url": {"url": "HTTP://example.org/a"}},
            "image_url.url",
            "fetches",
        ),
        ({"type": "image_url", "image_url": "ftp://x/a.png"}, "image_url", "data:"),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png,abc"}},
            "image_url.url",
            "data:",
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:text/plain;base64,QUJD"}},
            "image_url.url",
            "image",
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJ"}},
            "image_url.url",
            "base64",
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,Q=JD"}},
            "image_url.url",
            "base64",
        ),
        ({"type": "image_url"}, "image_url", "required"),
        ({"type": "text"}, "text", "required"),
        ({"type": "text", "text": 5}, "text", "string"),
        ({"type": "input_audio", "input_audio": {}}, "type", "not supported"),
        ({"type": "file", "file": {}}, "type", "not supported"),
        ({"type": "video"}, "type", "video"),
        ({"text": "x"}, "type", "required"),
    ],
)
def test_parts_that_cannot_be_used_are_named(part: object, field: str, word: str) -> None:
    error = chat_refused(messages=[*USER, {"role": "user", "content": [part]}])
    assert error["param"] == f"messages[1].content[0].{field}"
    assert word in error["message"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": "function", "content": "x", "name": "f"}, "messages[0].role"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages[0].function_call"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
            "messages[0].tool_calls[0].id",
        ),
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "custom", "function": {"name": "f"}}],
            },
            "messages[0].tool_calls[0].type",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"arguments": "{}"}}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ("hi", "messages[0]"),
    ],
)
def test_messages_that_cannot_be_used_are_named(message: object, param: str) -> None:
    assert refused(CHAT, {"model": "m", "messages": [message]})["param"] == param


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


def tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def test_tools_and_the_choice_among_them_pass_as_they_are() -> None:
    offered = [tool(parameters={"type": "object", "properties": {}}), tool("g")]
    choice = {"type": "function", "function": {"name": "g"}}
    request = chat(tools=offered, tool_choice=choice, parallel_tool_calls=False)
    assert request.tools == offered
    assert request.tool_choice == choice
    assert request.extra == {"parallel_tool_calls": False}
    assert chat(tools=offered, tool_choice="required").tool_choice == "required"


def test_a_choice_without_tools_is_dropped_where_it_says_nothing() -> None:
    assert chat(tool_choice="auto").tool_choice is None
    assert chat(tools=[], tool_choice="none").tool_choice is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [tool(), tool("")]}, "tools[1].function.name"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [tool()] * (limits.TOOLS + 1)}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function"}}, "tool_choice"),
        (
            {
                "tools": [tool()],
                "tool_choice": {"type": "function", "function": {"name": "h"}},
            },
            "tool_choice",
        ),
        ({"tools": [tool()], "tool_choice": 5}, "tool_choice"),
    ],
)
def test_tools_that_cannot_be_used_are_named(fields: dict[str, Any], param: str) -> None:
    assert chat_refused(**fields)["param"] == param


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


def test_a_completion_is_a_raw_prompt() -> None:
    call = decode(COMPLETIONS, {"model": "tiny", "prompt": "once", "max_tokens": 3, "logprobs": 2})
    request = call.request
    assert (request.kind, request.prompt, request.raw) == (Kind.COMPLETION, "once", True)
    assert (request.sampling.max_tokens, request.logprobs, request.top_logprobs) == (3, True, 2)
    assert decode(COMPLETIONS, {"model": "t", "prompt": ["once"]}).request.prompt == "once"


def test_a_suffix_asks_for_the_models_own_template() -> None:
    request = decode(COMPLETIONS, {"model": "t", "prompt": "a", "suffix": "b"}).request
    assert (request.suffix, request.raw) == ("b", False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1]]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [None]}, "prompt"),
        ({"echo": True}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"n": 4}, "n"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_fields_of_a_completion_that_cannot_be_used_are_named(
    fields: dict[str, Any], param: str
) -> None:
    error = refused(COMPLETIONS, {"model": "m", "prompt": "x", **fields})
    assert error["param"] == param


def test_embeddings_take_one_text_or_several() -> None:
    request = decode(EMBEDDINGS, {"model": "e", "input": "a", "dimensions": 8}).request
    assert request == Request(Kind.EMBED, "e", inputs=["a"], dimensions=8)
    request = decode(EMBEDDINGS, {"model": "e", "input": ["a", "b"], "user": "u"}).request
    assert (request.inputs, request.extra) == (["a", "b"], {"user": "u"})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": None}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1]]}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["x"] * (limits.EMBED_INPUTS + 1)}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
    ],
)
def test_fields_of_an_embedding_that_cannot_be_used_are_named(
    fields: dict[str, Any], param: str
) -> None:
    assert refused(EMBEDDINGS, {"model": "e", "input": "x", **fields})["param"] == param


def test_an_endpoint_that_is_not_there_is_a_404() -> None:
    with pytest.raises(DialectError) as caught:
        decode("/v1/audio/speech", {})
    assert caught.value.status == 404
