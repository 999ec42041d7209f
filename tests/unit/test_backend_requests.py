"""From the one internal form of a request to each engine's own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshd.backends import openai_request
from meshd.backends.openai_request import EngineKind
from meshd.inference import (
    FailureKind,
    Image,
    Kind,
    Message,
    Request,
    Sampling,
    ToolCall,
)
from tests.unit.engine_requests import (
    BLIND,
    MODEL,
    SCHEMA,
    TOOL,
    UNKNOWN,
    chat,
    complete,
    ollama,
    openai,
    unsupported,
)


def test_a_plain_chat_streams_with_usage_under_the_engines_own_name() -> None:
    assert openai(chat()) == (
        "/v1/chat/completions",
        {
            "model": "tiny:latest",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    )


def test_images_are_data_urls() -> None:
    _, body = openai(
        chat(messages=[Message("user", "what?", images=[Image("QUJD", "image/jpeg")])])
    )
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,QUJD"}},
    ]


def test_a_conversation_with_tools() -> None:
    messages = [
        Message("developer", "be brief"),
        Message("assistant", reasoning="hm", tool_calls=[ToolCall(0, "c1", "f", '{"a": 1}')]),
        Message("tool", "42", tool_call_id="c1", name="f"),
        Message("user", "and?", name="ada"),
    ]
    _, body = openai(chat(messages=messages, tools=[TOOL], tool_choice="required"))
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"a": 1}'},
                }
            ],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1", "name": "f"},
        {"role": "user", "content": "and?", "name": "ada"},
    ]
    assert body["tools"] == [TOOL]
    assert body["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("engine", "penalty"),
    [
        (EngineKind.LLAMA_CPP, "repeat_penalty"),
        (EngineKind.LM_STUDIO, "repeat_penalty"),
        (EngineKind.VLLM, "repetition_penalty"),
        (EngineKind.MLX, "repetition_penalty"),
    ],
)
def test_sampling_under_each_engines_names(engine: EngineKind, penalty: str) -> None:
    sampling = Sampling(0.5, 0.9, 40, 0.05, 7, 100, 0.1, 0.2, 1.1, ["x"])
    _, body = openai(chat(sampling=sampling), engine=engine)
    wanted = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "seed": 7,
        "max_tokens": 100,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        penalty: 1.1,
        "stop": ["x"],
    }
    assert {name: body.get(name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("seed", "engine", "sent"),
    [
        (-1, EngineKind.LLAMA_CPP, None),
        (2**40 + 3, EngineKind.LLAMA_CPP, (2**40 + 3) % (2**32 - 1)),
        (2**32 - 1, EngineKind.LLAMA_CPP, 0),  # llama.cpp's own "any seed"
        (2**40, EngineKind.VLLM, 2**40),
        (0, EngineKind.LLAMA_CPP, 0),
    ],
)
def test_a_seed_is_one_that_the_engine_keeps(
    seed: int, engine: EngineKind, sent: int | None
) -> None:
    _, body = openai(chat(sampling=Sampling(seed=seed)), engine=engine)
    assert body.get("seed") == sent


@pytest.mark.parametrize("engine", [EngineKind.LLAMA_CPP, EngineKind.VLLM, EngineKind.LM_STUDIO])
def test_a_schema_is_a_response_format(engine: EngineKind) -> None:
    _, body = openai(chat(json_mode=True, json_schema=SCHEMA), engine=engine)
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA},
    }


def test_json_mode_without_a_schema() -> None:
    assert openai(chat(json_mode=True))[1]["response_format"] == {"type": "json_object"}
    _, body = openai(chat(json_mode=True), engine=EngineKind.LM_STUDIO)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_mlx_cannot_promise_json() -> None:
    with unsupported("JSON schema"):
        openai(chat(json_mode=True), engine=EngineKind.MLX)


def test_logprobs_ask_for_one_at_least() -> None:
    assert openai(chat(logprobs=True))[1]["top_logprobs"] == 1
    assert openai(chat(logprobs=True, top_logprobs=4))[1]["top_logprobs"] == 4


@pytest.mark.parametrize(
    ("think", "engine", "sent"),
    [
        (False, EngineKind.LLAMA_CPP, {"chat_template_kwargs": {"enable_thinking": False}}),
        (
            "high",
            EngineKind.VLLM,
            {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "high"}},
        ),
        ("low", EngineKind.OTHER, {"reasoning_effort": "low"}),
        (False, EngineKind.LM_STUDIO, {"reasoning_effort": "none"}),
        (True, EngineKind.OTHER, {}),
    ],
)
def test_thinking_is_switched_where_the_engine_has_its_switch(
    think: bool | str, engine: EngineKind, sent: dict[str, Any]
) -> None:
    _, body = openai(chat(think=think), engine=engine)
    names = ("chat_template_kwargs", "reasoning_effort")
    assert {name: body[name] for name in names if name in body} == sent


def test_fields_that_nobody_knows_go_along_but_change_nothing_of_ours() -> None:
    extra = {"logit_bias": {"5": 1}, "stream": False, "model": "other", "messages": []}
    _, body = openai(chat(extra=extra))
    assert body["logit_bias"] == {"5": 1}
    assert body["stream"] is True
    assert body["model"] == "tiny:latest"
    assert body["messages"]


def test_ollamas_options_under_llama_cpps_names() -> None:
    options = {"num_ctx": 8192, "mirostat": 2, "num_gpu": 99, "typical_p": 0.9, "unheard_of": 1}
    _, body = openai(chat(options=options))
    assert (body["mirostat"], body["typical_p"]) == (2, 0.9)
    assert not {"num_ctx", "num_gpu", "unheard_of"} & body.keys()


def test_a_sampler_that_the_engine_lacks_is_refused_unless_it_is_off() -> None:
    with unsupported("no option 'mirostat'"):
        openai(chat(options={"mirostat": 1}), engine=EngineKind.VLLM)
    openai(chat(options={"mirostat": 0, "typical_p": 1.0}), engine=EngineKind.VLLM)


def test_a_raw_completion() -> None:
    path, body = openai(complete(raw=True, logprobs=True, sampling=Sampling(max_tokens=5)))
    assert path == "/v1/completions"
    assert (body["prompt"], body["logprobs"], body["max_tokens"]) == ("once", 1, 5)


def test_ollamas_generate_is_a_chat_where_there_is_a_template() -> None:
    path, body = openai(complete(system="be brief", images=[Image("QUJD")]))
    assert path == "/v1/chat/completions"
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    assert body["messages"][1]["content"][0] == {"type": "text", "text": "once"}


def test_json_in_a_raw_completion() -> None:
    assert openai(complete(raw=True, json_schema=SCHEMA))[1]["json_schema"] == SCHEMA
    assert openai(complete(raw=True, json_mode=True))[1]["json_schema"] == {"type": "object"}


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (complete(suffix="end"), "suffix"),
        (complete(template="{{ .Prompt }}"), "template"),
        (complete(raw=True, images=[Image("QUJD")]), "only in a chat"),
    ],
)
def test_what_such_engines_cannot_do_is_refused(request_: Request, match: str) -> None:
    with unsupported(match) as caught:
        openai(request_)
    assert caught.value.failure.kind == FailureKind.UNSUPPORTED
    assert caught.value.failure.status == 400


def test_embeddings() -> None:
    request = Request(Kind.EMBED, "tiny", inputs=["a", "b"], dimensions=8, normalise=False)
    made = openai_request.encode_embedding(request, MODEL, EngineKind.LLAMA_CPP)
    assert msgspec.json.decode(made.body) == {
        "model": "tiny:latest",
        "input": ["a", "b"],
        "encoding_format": "float",
        "embd_normalize": -1,
    }
    made = openai_request.encode_embedding(request, MODEL, EngineKind.VLLM)
    assert msgspec.json.decode(made.body)["dimensions"] == 8


# --- both


@pytest.mark.parametrize("encode", [openai, ollama])
def test_a_model_known_to_be_blind_gets_no_images(encode: Any) -> None:
    picture = chat(messages=[Message("user", "what?", images=[Image("QUJD")])])
    with unsupported("does not take images"):
        encode(picture, BLIND)
    encode(picture, UNKNOWN)
    encode(picture, MODEL)


def test_thinking_asked_of_a_model_known_not_to_is_refused() -> None:
    with unsupported("does not support thinking"):
        openai(chat(think=True), BLIND)
    openai(chat(think=False), BLIND)


@pytest.mark.parametrize(
    ("request_", "loads"),
    [
        (Request(Kind.CHAT, "m"), True),
        (Request(Kind.COMPLETION, "m"), True),
        (Request(Kind.COMPLETION, "m", images=[Image("QUJD")]), False),
        (chat(), False),
        (Request(Kind.EMBED, "m"), False),
    ],
)
def test_a_request_with_nothing_in_it_asks_to_load(request_: Request, loads: bool) -> None:
    assert openai_request.asks_to_load(request_) is loads
