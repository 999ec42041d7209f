"""Ollama's requests: what they become, and how they are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshd import limits
from meshd.api import ollama
from meshd.api.dialect import Call, DialectError
from meshd.inference import Image, Kind, Message, Request

CHAT = "/api/chat"
GENERATE = "/api/generate"
EMBED = "/api/embed"
EMBEDDINGS = "/api/embeddings"
USER = [{"role": "user", "content": "hi"}]
PNG = "iVBORw0KGgoAAAANSUhEUg=="


def decode(path: str, body: Any) -> Call:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ollama.decode(path, data, lambda name: None, request_id="r1", now_unix_s=1.7e9)


def chat(**fields: Any) -> Request:
    return decode(CHAT, {"model": "tiny", "messages": USER, **fields}).request


def refused(path: str, body: Any) -> str:
    """The error text of the 400 that this gets."""
    with pytest.raises(DialectError) as caught:
        decode(path, body)
    assert caught.value.status == 400
    assert caught.value.headers == [(b"content-type", b"application/json; charset=utf-8")]
    error = json.loads(caught.value.body)
    assert list(error) == ["error"]
    assert isinstance(error["error"], str)
    return error["error"]


def test_a_plain_chat_streams() -> None:
    call = decode(CHAT, {"model": "tiny", "messages": USER})
    assert call.request == Request(Kind.CHAT, "tiny", messages=[Message("user", "hi")])
    assert call.stream is True


@pytest.mark.parametrize(("stream", "streams"), [(True, True), (False, False), (None, True)])
def test_only_false_turns_streaming_off(stream: bool | None, streams: bool) -> None:
    assert decode(CHAT, {"model": "m", "stream": stream}).stream is streams
    assert decode(GENERATE, {"model": "m", "prompt": "x", "stream": stream}).stream is streams


def test_a_chat_without_messages_asks_to_load_or_unload() -> None:
    request = decode(CHAT, {"model": "tiny", "keep_alive": 0}).request
    assert (request.messages, request.keep_alive) == ([], 0)
    assert decode(CHAT, {"model": "tiny", "messages": []}).request.messages == []
    assert decode(GENERATE, {"model": "tiny"}).request.prompt == ""


def test_known_options_become_sampling_and_the_rest_stays() -> None:
    request = chat(
        options={
            "temperature": 1,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.05,
            "seed": 7,
            "num_predict": 10,
            "frequency_penalty": 0.5,
            "presence_penalty": 0.25,
            "repeat_penalty": 1.1,
            "stop": ["a", ""],
            "num_ctx": 4096,
            "use_mmap": True,
            "mirostat_tau": 5,
            "from_the_future": {"a": [1]},
            "tfs_z": None,
        }
    )
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 0.9, 40)
    assert (sampling.min_p, sampling.seed, sampling.max_tokens) == (0.05, 7, 10)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (0.5, 0.25)
    assert (sampling.repeat_penalty, sampling.stop) == (1.1, ["a"])
    assert request.options == {
        "num_ctx": 4096,
        "use_mmap": True,
        "mirostat_tau": 5.0,
        "from_the_future": {"a": [1]},
    }


@pytest.mark.parametrize("count", [0, -1, -2])
def test_a_num_predict_without_a_limit_is_for_ollama_alone(count: int) -> None:
    request = chat(options={"num_predict": count})
    assert request.sampling.max_tokens is None
    assert request.options == {"num_predict": count}


def test_a_whole_number_written_as_a_fraction_is_an_integer() -> None:
    assert chat(options={"num_predict": 5.0}).sampling.max_tokens == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_predict": "many"}, 'option "num_predict" must be of type integer'),
        ({"num_predict": 1.5}, 'option "num_predict" must be of type integer'),
        ({"num_ctx": True}, 'option "num_ctx" must be of type integer'),
        ({"seed": 2**70}, 'option "seed" does not fit 64 bits'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"top_p": False}, 'option "top_p" must be of type float32'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"stop": "END"}, 'option "stop" must be of type array of strings'),
        ({"stop": [1]}, 'option "stop" must be of type array of strings'),
        ({"from_the_future": 2**70}, 'option "from_the_future" has an integer that does not fit'),
        ([], "options must be of type object, not array"),
    ],
)
def test_an_option_of_the_wrong_type_is_a_400_that_names_it(options: object, message: str) -> None:
    assert refused(CHAT, {"model": "m", "options": options}).startswith(message)


@pytest.mark.parametrize(
    "value", [0, -1, 300, 1.5, "5m", "1h30m", "-1s", "0", "1.5h", "300ms", "+2us", ".5s", None]
)
def test_keep_alive_is_seconds_or_a_duration(value: str | float | None) -> None:
    assert chat(keep_alive=value).keep_alive == value


@pytest.mark.parametrize("value", ["zz", "", "5", "5 m", "m", "1d", "-", True, 2**70, ["5m"], "٣m"])
def test_a_keep_alive_that_is_neither_is_refused(value: object) -> None:
    assert "keep_alive" in refused(CHAT, {"model": "m", "keep_alive": value})


def test_ollamas_words_for_a_bad_keep_alive() -> None:
    message = refused(CHAT, {"model": "m", "keep_alive": "zz"})
    assert 'time: invalid duration "zz"' in message


def test_formats() -> None:
    schema = {"type": "object"}
    assert chat(format="") == chat(format=None) == chat()
    assert (chat(format="json").json_mode, chat(format="json").json_schema) == (True, None)
    assert chat(format=schema).json_schema == schema


def test_a_bad_format_is_refused_in_ollamas_words() -> None:
    assert refused(CHAT, {"model": "m", "format": "bad"}) == (
        'invalid format: "\\"bad\\""; expected "json" or a valid JSON Schema object'
    )
    assert "format" in refused(CHAT, {"model": "m", "format": 5})


@pytest.mark.parametrize("value", [None, True, False, "low", "medium", "high", "max"])
def test_think(value: bool | str | None) -> None:
    assert chat(think=value).think == value


def test_a_bad_think_is_refused() -> None:
    assert refused(CHAT, {"model": "m", "think": "hard"}).startswith("invalid think value: 'hard'")
    assert "think" in refused(CHAT, {"model": "m", "think": 5})


def test_pictures_are_base64_and_known_by_their_first_bytes() -> None:
    jpeg = "/9j/4AAQ"
    request = chat(messages=[{"role": "user", "content": "?", "images": [PNG, jpeg]}])
    assert request.messages[0].images == [Image(PNG), Image(jpeg, "image/jpeg")]
    request = decode(GENERATE, {"model": "m", "prompt": "?", "images": [PNG]}).request
    assert request.images == [Image(PNG, "image/png")]


@pytest.mark.parametrize("data", ["", "=", "a", "data:image/png;base64,QUJD", "QUJ\n", "ÄÖÜß"])
def test_pictures_that_are_no_base64_are_named(data: str) -> None:
    message = refused(CHAT, {"model": "m", "messages": [{"role": "user", "images": [data]}]})
    assert message.startswith("messages[0].images[0] is")


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


def test_calls_get_ids_and_answers_belong_to_the_oldest_call_that_fits() -> None:
    request = chat(
        messages=[
            *USER,
            {"role": "assistant", "tool_calls": [call("f", a=1), call("g"), call("f", a=2)]},
            {"role": "tool", "tool_name": "g", "content": "G"},
            {"role": "tool", "tool_name": "f", "content": "F1"},
            {"role": "tool", "content": "F2"},
            {"role": "tool", "content": "nobody asked"},
        ]
    )
    calls = request.messages[1].tool_calls
    assert [(c.index, c.name, c.arguments) for c in calls] == [
        (0, "f", '{"a":1}'),
        (1, "g", "{}"),
        (2, "f", '{"a":2}'),
    ]
    assert len({c.id for c in calls}) == 3
    answers = [(m.text, m.tool_call_id, m.name) for m in request.messages[2:]]
    assert answers == [
        ("G", calls[1].id, "g"),
        ("F1", calls[0].id, "f"),
        ("F2", calls[2].id, "f"),
        ("nobody asked", "", ""),
    ]


def test_ids_that_a_client_sends_stand() -> None:
    request = chat(
        messages=[
            {"role": "assistant", "thinking": "T", "tool_calls": [{"id": "x", **call("f")}]},
            {"role": "tool", "tool_call_id": "x", "content": "1"},
        ]
    )
    assert request.messages[0].tool_calls[0].id == "x"
    assert request.messages[0].reasoning == "T"
    assert (request.messages[1].tool_call_id, request.messages[1].name) == ("x", "f")


def test_tools_are_functions_even_if_the_type_is_left_out() -> None:
    function = {"name": "f", "parameters": {"type": "object"}}
    request = chat(tools=[{"function": function}, {"type": "function", "function": function}])
    assert request.tools == [{"type": "function", "function": function}] * 2


@pytest.mark.parametrize(
    ("tools", "field"),
    [
        ([{}], "tools[0].function"),
        ([{"function": {}}], "tools[0].function.name"),
        ([{"type": "web", "function": {"name": "f"}}], "tools[0].type"),
        ([5], "tools[0]"),
        ("f", "tools"),
        ([{"function": {"name": "f"}}] * (limits.TOOLS + 1), "tools"),
    ],
)
def test_tools_that_cannot_be_used_are_named(tools: object, field: str) -> None:
    assert refused(CHAT, {"model": "m", "tools": tools}).startswith(field)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": ""}], "messages[0].role"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content"),
        ([{"role": "user", "images": PNG}], "messages[0].images"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}],
            "messages[0].tool_calls[0].function.name",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"role": "user"}, "messages"),
        (USER * (limits.MESSAGES + 1), "messages"),
    ],
)
def test_messages_that_cannot_be_used_are_named(messages: object, field: str) -> None:
    assert refused(CHAT, {"model": "m", "messages": messages}).startswith(field)


def test_bodies_that_are_no_request() -> None:
    assert refused(CHAT, b"") == "missing request body"
    assert refused(CHAT, b"{b}").startswith("the body is not valid JSON")
    assert refused(CHAT, b"[]").startswith("the body must be a JSON object")
    assert refused(CHAT, {}) == "model is required"
    assert refused(CHAT, {"model": 5}) == "model must be of type string, not integer"
    assert refused(CHAT, {"model": "m", "stream": "no"}).startswith("stream must be")
    assert refused(CHAT, {"model": "m", "logprobs": True, "top_logprobs": 21}).startswith("top_l")


def test_generate_takes_all_its_fields() -> None:
    request = decode(
        GENERATE,
        {
            "model": "tiny",
            "prompt": "p",
            "suffix": "s",
            "system": "be kind",
            "template": "{{ .Prompt }}",
            "format": "json",
            "logprobs": True,
            "top_logprobs": 2,
            "truncate": False,
            "context": [],
        },
    ).request
    assert request == Request(
        Kind.COMPLETION,
        "tiny",
        prompt="p",
        suffix="s",
        system="be kind",
        template="{{ .Prompt }}",
        json_mode=True,
        logprobs=True,
        top_logprobs=2,
        truncate=False,
    )
    assert decode(GENERATE, {"model": "m", "prompt": "p", "raw": True}).request.raw


@pytest.mark.parametrize("field", [{"system": "s"}, {"template": "t"}, {"context": [1]}])
def test_raw_takes_no_template_system_or_context(field: dict[str, Any]) -> None:
    body = {"model": "m", "prompt": "p", "raw": True, **field}
    assert refused(GENERATE, body) == "raw mode does not support template, system, or context"


def test_a_context_of_token_ids_is_refused() -> None:
    assert "/api/chat" in refused(GENERATE, {"model": "m", "prompt": "p", "context": [1, 2]})


def test_embed_takes_texts() -> None:
    request = decode(
        EMBED, {"model": "e", "input": "a", "truncate": False, "dimensions": 8}
    ).request
    assert request == Request(Kind.EMBED, "e", inputs=["a"], truncate=False, dimensions=8)
    assert decode(EMBED, {"model": "e", "input": ["a", ""]}).request.inputs == ["a", ""]
    assert decode(EMBED, {"model": "e", "input": "a"}).stream is False


@pytest.mark.parametrize("value", ["", [], None])
def test_embed_without_texts_loads_the_model(value: object) -> None:
    assert decode(EMBED, {"model": "e", "input": value}).request.inputs == []


@pytest.mark.parametrize("value", [5, {"a": 1}, [5], [["a"]], True])
def test_embed_refuses_other_inputs_in_ollamas_words(value: object) -> None:
    assert refused(EMBED, {"model": "e", "input": value}) == "invalid input type"


def test_too_many_inputs_are_refused() -> None:
    assert "input" in refused(EMBED, {"model": "e", "input": ["x"] * (limits.EMBED_INPUTS + 1)})


def test_old_embeddings_are_one_prompt_and_not_normalised() -> None:
    request = decode(EMBEDDINGS, {"model": "e", "prompt": "a"}).request
    assert request == Request(Kind.EMBED, "e", inputs=["a"], normalise=False)
    assert decode(EMBEDDINGS, {"model": "e", "prompt": ""}).request.inputs == []


def test_show_names_a_model_by_either_field() -> None:
    assert ollama.decode_show(b'{"model":"tiny"}') == "tiny"
    assert ollama.decode_show(b'{"name":"tiny","verbose":true}') == "tiny"
    for body in (b"", b"{}", b"[]", b'{"model":5}'):
        with pytest.raises(DialectError) as caught:
            ollama.decode_show(body)
        assert caught.value.status == 400
