"""From the one internal form of a request to each engine's own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshd.backends import BackendFailed, ollama_request, openai_request
from meshd.backends.openai_request import EngineKind
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

MODEL = ModelInfo("tiny:latest", capabilities=["completion", "tools", "vision", "thinking"])
BLIND = ModelInfo("tiny:latest", capabilities=["completion"])
UNKNOWN = ModelInfo("tiny:latest")
HI = [Message("user", "hi")]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def openai(
    request: Request, model: ModelInfo = MODEL, engine: EngineKind = EngineKind.LLAMA_CPP
) -> tuple[str, dict[str, Any]]:
    made = openai_request.encode(request, model, engine)
    return made.path, msgspec.json.decode(made.body)


def ollama(
    request: Request, model: ModelInfo = MODEL, version: tuple[int, ...] = ()
) -> tuple[str, dict[str, Any]]:
    made = ollama_request.encode(request, model, version)
    return made.path, msgspec.json.decode(made.body)


def chat(**changed: Any) -> Request:
    return Request(Kind.CHAT, "tiny", **{"messages": HI, **changed})


def unsupported(match: str) -> Any:
    return pytest.raises(BackendFailed, match=match)


# --- OpenAI's dialect


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


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


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


def complete(**changed: Any) -> Request:
    return Request(Kind.COMPLETION, "tiny", **{"prompt": "once", **changed})


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


# --- Ollama's native API


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
