"""From the one internal form of a request to Ollama's native API."""

from __future__ import annotations

import msgspec
import pytest

from meshd.backends import BackendFailed, ollama_request
from meshd.inference import (
    FailureKind,
    Image,
    Kind,
    Message,
    ModelInfo,
    Request,
    Sampling,
    ToolCall,
)
from tests.unit.engine_requests import (
    MODEL,
    SCHEMA,
    TOOL,
    chat,
    complete,
    ollama,
    unsupported,
)


def test_a_plain_chat_for_ollama() -> None:
    assert ollama(chat()) == (
        "/api/chat",
        {
            "model": "tiny:latest",
            "stream": True,
            "messages": [{"role": "user", "content": "hi"}],
        },
    )


def test_a_conversation_with_tools_for_ollama() -> None:
    messages = [
        Message("user", "?", images=[Image("QUJD")]),
        Message("assistant", reasoning="hm", tool_calls=[ToolCall(0, "c1", "f", '{"a": 1}')]),
        Message("tool", "42", tool_call_id="c1", name="f"),
    ]
    _, body = ollama(chat(messages=messages, tools=[TOOL], tool_choice="auto"))
    call = {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}
    assert body["messages"] == [
        {"role": "user", "content": "?", "images": ["QUJD"]},
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "c1", "tool_name": "f"},
    ]
    assert body["tools"] == [TOOL]


@pytest.mark.parametrize("arguments", ["{", "[1]", '{}}],"keep_alive":0', "null"])
def test_arguments_that_are_no_object_are_refused_and_inject_nothing(arguments: str) -> None:
    messages = [Message("assistant", tool_calls=[ToolCall(0, "c1", "f", arguments)])]
    with pytest.raises(BackendFailed, match="not a JSON object") as caught:
        ollama(chat(messages=messages))
    assert caught.value.failure.kind == FailureKind.BAD_REQUEST


def test_tool_choice_none_hides_the_tools_and_required_is_refused() -> None:
    assert "tools" not in ollama(chat(tools=[TOOL], tool_choice="none"))[1]
    with unsupported("tool_choice"):
        ollama(chat(tools=[TOOL], tool_choice="required"))


def test_sampling_is_options_for_ollama() -> None:
    sampling = Sampling(0.5, 0.9, 40, 0.05, 7, 100, 0.1, 0.2, 1.1, ["x"])
    _, body = ollama(chat(sampling=sampling, options={"mirostat": 2}))
    assert body["options"] == {
        "mirostat": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "seed": 7,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "repeat_penalty": 1.1,
        "num_predict": 100,
        "stop": ["x"],
    }


@pytest.mark.parametrize(
    ("wanted", "loaded", "resident", "sent"),
    [
        (2048, 4096, True, False),  # covered: would only reload the model
        (4096, 4096, True, False),
        (8192, 4096, True, True),
        (2048, 4096, False, True),  # loaded for this request anyway
        (2048, 0, True, True),
    ],
)
def test_num_ctx_is_left_out_if_the_loaded_context_covers_it(
    wanted: int, loaded: int, resident: bool, sent: bool
) -> None:
    model = ModelInfo("tiny", resident=resident, context_tokens=loaded)
    _, body = ollama(chat(options={"num_ctx": wanted}), model)
    assert ("options" in body) is sent


def test_what_else_chat_carries_to_ollama() -> None:
    _, body = ollama(
        chat(think="high", keep_alive="5m", json_schema=SCHEMA, truncate=False, logprobs=True)
    )
    assert body["think"] == "high"
    assert body["keep_alive"] == "5m"
    assert body["format"] == SCHEMA
    assert body["truncate"] is False
    assert body["logprobs"] is True
    assert ollama(chat(json_mode=True))[1]["format"] == "json"


def test_an_ollama_without_logprobs_is_not_asked_for_them() -> None:
    with unsupported(r"0\.12\.11"):
        ollama(chat(logprobs=True), version=(0, 9, 3))
    assert ollama(chat(logprobs=True, top_logprobs=3), version=(0, 12, 11))[1]["top_logprobs"] == 3


@pytest.mark.parametrize(
    ("version", "sent"), [((0, 9, 3), True), ((0, 11, 0), "high"), ((), "high")]
)
def test_an_ollama_that_knows_no_levels_of_thinking_is_told_to_think(
    version: tuple[int, ...], sent: bool | str
) -> None:
    assert ollama(chat(think="high"), version=version)[1]["think"] == sent
    assert ollama(chat(think=False), version=version)[1]["think"] is False


@pytest.mark.parametrize("name", ["logit_bias", "grammar"])
def test_what_ollama_would_ignore_though_it_matters_is_refused(name: str) -> None:
    with unsupported(name):
        ollama(chat(extra={name: {"5": 1}}))
    ollama(chat(extra={name: {}, "user": "ada", "parallel_tool_calls": False}))


def test_generate_for_ollama() -> None:
    path, body = ollama(complete(suffix="end", system="s", template="t", images=[Image("QUJD")]))
    assert path == "/api/generate"
    assert body == {
        "model": "tiny:latest",
        "stream": True,
        "prompt": "once",
        "suffix": "end",
        "system": "s",
        "template": "t",
        "images": ["QUJD"],
    }
    assert ollama(complete(raw=True))[1]["raw"] is True


def test_embeddings_for_ollama() -> None:
    request = Request(Kind.EMBED, "tiny", inputs=["a", "b"], dimensions=8, truncate=False)
    (made,) = ollama_request.encode_embedding(request, MODEL)
    assert made.path == "/api/embed"
    assert msgspec.json.decode(made.body) == {
        "model": "tiny:latest",
        "truncate": False,
        "dimensions": 8,
        "input": ["a", "b"],
    }


def test_vectors_as_they_are_come_from_ollamas_old_endpoint_one_by_one() -> None:
    request = Request(Kind.EMBED, "tiny", inputs=["a", "b"], normalise=False)
    made = ollama_request.encode_embedding(request, MODEL)
    assert [one.path for one in made] == ["/api/embeddings"] * 2
    assert [msgspec.json.decode(one.body)["prompt"] for one in made] == ["a", "b"]
