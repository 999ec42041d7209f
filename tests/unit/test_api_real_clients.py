"""The real `openai` and `ollama` Python clients, against decoder and encoder alone.

No socket: the clients' HTTP transport hands each request to the dialect, and a script of deltas
comes back through its encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx
import ollama as ollama_client
import openai as openai_client
import pytest

from meshd.api import ollama, openai
from meshd.api.dialect import Call, DialectError
from meshd.api.lists import Listing, Offer, ollama_ps, ollama_tags, openai_model, openai_models
from meshd.api.places import Numbering
from meshd.api.routes import Route, find
from meshd.inference import (
    Delta,
    Embedding,
    Failure,
    FailureKind,
    Message,
    ModelInfo,
    TokenLogprob,
    ToolCall,
    Usage,
)

LISTING = Listing(
    [
        Offer("anna", "ollama", ModelInfo("tiny:latest", "ab" * 32, 1000, modified_unix_s=1.7e9)),
        Offer("bert", "llama.cpp", ModelInfo("big", resident=True, context_tokens=4096)),
    ]
)
USER: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
USAGE = Usage(3, 4, 1000, 100, 400, 500)
ANSWER = [Delta("Hé"), Delta(" the"), Delta("re"), Delta(finish_reason="stop")]
CALLS = [
    Delta(reasoning="hm"),
    Delta(tool_calls=[ToolCall(0, "", "weather", '{"city"')]),
    Delta(tool_calls=[ToolCall(0, "", "", ':"Oslo"}')]),
    Delta(tool_calls=[ToolCall(1, "c2", "weather", '{"city":"Rome"}')]),
    Delta(finish_reason="stop"),
]


class Double:
    """A mesh that answers every request with the same deltas, or the same failure."""

    def __init__(
        self,
        deltas: Sequence[Delta] = ANSWER,
        *,
        usage: Usage | None = USAGE,
        failure: Failure | None = None,
        vectors: Sequence[list[float]] = (),
    ) -> None:
        self.deltas = deltas
        self.usage = usage
        self.failure = failure
        self.vectors = list(vectors)
        self.calls: list[Call] = []

    def serve(self, request: httpx.Request) -> httpx.Response:
        try:
            status, kind, body = self._serve(request)
        except DialectError as error:
            headers = [(n.decode(), v.decode()) for n, v in error.headers]
            return httpx.Response(error.status, headers=headers, content=error.body)
        return httpx.Response(status, headers={"content-type": kind.decode()}, content=body)

    def _serve(self, request: httpx.Request) -> tuple[int, bytes, bytes]:
        match = find(request.method, request.url.path)
        lists: dict[Route, Callable[[], bytes | None]] = {
            Route.OPENAI_MODELS: lambda: openai_models(LISTING),
            Route.OPENAI_MODEL: lambda: openai_model(LISTING, match.model),
            Route.OLLAMA_TAGS: lambda: ollama_tags(LISTING),
            Route.OLLAMA_PS: lambda: ollama_ps(LISTING),
        }
        if match.route in lists:
            body = lists[match.route]()
            return (200, b"application/json", body) if body else (404, b"text/plain", b"")
        dialect = openai if match.route is Route.OPENAI_CALL else ollama
        names = {name.lower(): value for name, value in request.headers.raw}
        call = dialect.decode(
            request.url.path, request.content, names.get, request_id="r1", now_unix_s=1.7e9
        )
        self.calls.append(call)
        encoder = call.encoder
        if self.vectors:
            return 200, encoder.content_type_whole, encoder.embedding(Embedding(self.vectors, 5))
        if not call.stream and self.failure is not None:
            status, headers, body = dialect.error_body(self.failure)
            raise DialectError(status, body, headers)
        if not call.stream:
            return 200, encoder.content_type_whole, encoder.whole(self.deltas, self.usage)
        body = encoder.start() + encoder.keep_alive()
        for delta in self.deltas:
            body += encoder.delta(delta) + encoder.keep_alive()
        if b"idempotency-key" in names:  # its events have ids
            body = Numbering().add(body + encoder.end(self.usage))
            return 200, encoder.content_type_stream, body
        if self.failure is not None:
            return 200, encoder.content_type_stream, body + encoder.error(self.failure)
        return 200, encoder.content_type_stream, body + encoder.end(self.usage)


def openai_of(double: Double, **options: Any) -> openai_client.OpenAI:
    transport = httpx.Client(transport=httpx.MockTransport(double.serve))
    return openai_client.OpenAI(
        api_key="none", base_url="http://mesh.local/v1", http_client=transport, **options
    )


def ollama_of(double: Double) -> ollama_client.Client:
    return ollama_client.Client(
        host="http://mesh.local:11435", transport=httpx.MockTransport(double.serve)
    )


def test_openai_streams_a_chat() -> None:
    double = Double()
    stream = openai_of(double).chat.completions.create(
        model="tiny", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    texts = [c.choices[0].delta.content for c in chunks if c.choices]
    assert texts == ["", "Hé", " the", "re", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7
    assert {(c.id, c.created, c.model, c.object) for c in chunks} == {
        ("chatcmpl-r1", 1_700_000_000, "tiny", "chat.completion.chunk")
    }


def test_openai_reads_a_stream_whose_events_have_ids_as_one_without() -> None:
    def read(**more: Any) -> list[Any]:
        library = openai_of(Double())
        return list(
            library.chat.completions.create(model="tiny", messages=USER, stream=True, **more)
        )

    assert read(extra_headers={"Idempotency-Key": "k"}) == read()


def test_openai_gets_a_whole_chat() -> None:
    double = Double()
    answer = openai_of(double).chat.completions.create(model="tiny", messages=USER, seed=1)
    assert answer.choices[0].message.content == "Hé there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert double.calls[0].request.messages == [Message("user", "hi")]


def test_the_openai_clients_timeout_is_the_deadline() -> None:
    double = Double()
    openai_of(double, timeout=33).chat.completions.create(model="tiny", messages=USER)
    assert double.calls[0].deadline_s == 33


def test_openai_puts_tool_calls_together() -> None:
    double = Double(CALLS)
    client = openai_of(double)
    with client.chat.completions.stream(model="tiny", messages=USER, tools=[TOOL]) as stream:
        final = stream.get_final_completion()
    whole = client.chat.completions.create(model="tiny", messages=USER, tools=[TOOL])
    for answer in (final, whole):
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls"
        calls = choice.message.tool_calls
        assert calls is not None
        functions = [(c.function.name, c.function.arguments) for c in calls]  # type: ignore[union-attr]
        assert functions == [("weather", '{"city":"Oslo"}'), ("weather", '{"city":"Rome"}')]
        assert calls[1].id == "c2"
    assert final.choices[0].message.tool_calls[0].id == whole.choices[0].message.tool_calls[0].id  # type: ignore[index]


def test_openai_can_send_its_own_tool_calls_back() -> None:
    double = Double(CALLS)
    client = openai_of(double)
    message = client.chat.completions.create(model="t", messages=USER, tools=[TOOL]).choices[0]
    calls = message.message.tool_calls
    assert calls is not None
    client.chat.completions.create(
        model="t",
        messages=[*USER, message.message, *tool_answers([call.id for call in calls])],
        tools=[TOOL],
    )
    _, said, first, second = double.calls[1].request.messages
    assert [call.arguments for call in said.tool_calls] == ['{"city":"Oslo"}', '{"city":"Rome"}']
    assert (first.tool_call_id, first.name) == (said.tool_calls[0].id, "weather")
    assert (second.tool_call_id, second.name) == ("c2", "weather")


def tool_answers(ids: Sequence[str]) -> list[Any]:
    return [{"role": "tool", "tool_call_id": call_id, "content": "rain"} for call_id in ids]


def test_openai_gets_logprobs() -> None:
    tokens = [TokenLogprob("Hi", -0.5, [72, 105], [TokenLogprob("Yo", -1.5, [89, 111])])]
    client = openai_of(Double([Delta("Hi", logprobs=tokens), Delta(finish_reason="stop")]))
    answer = client.chat.completions.create(model="t", messages=USER, logprobs=True, top_logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert logprobs.content[0].token == "Hi"
    assert logprobs.content[0].top_logprobs[0].bytes == [89, 111]
    old = client.completions.create(model="t", prompt="x", logprobs=1).choices[0].logprobs
    assert old is not None
    assert (old.tokens, old.top_logprobs, old.text_offset) == (["Hi"], [{"Yo": -1.5}], [0])


def test_openai_completes_streaming_and_not() -> None:
    client = openai_of(Double())
    chunks = list(client.completions.create(model="t", prompt="x", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hé there"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert client.completions.create(model="t", prompt="x").choices[0].text == "Hé there"


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}])
def test_openai_reads_embeddings(options: dict[str, Any]) -> None:
    double = Double(vectors=[[0.5, -1.25], [2.0, 0.0]])
    answer = openai_of(double).embeddings.create(model="e", input=["a", "b"], **options)
    assert [list(row.embedding) for row in answer.data] == [[0.5, -1.25], [2.0, 0.0]]
    assert answer.usage.prompt_tokens == 5


def test_openai_lists_models() -> None:
    client = openai_of(Double())
    assert [model.id for model in client.models.list()] == ["big", "tiny:latest"]
    assert client.models.retrieve("tiny").id == "tiny:latest"


def test_openai_raises_what_the_stream_says_went_wrong() -> None:
    failure = Failure(FailureKind.BROKEN, "the holder is gone")
    stream = openai_of(Double(ANSWER[:2], failure=failure)).chat.completions.create(
        model="tiny", messages=USER, stream=True
    )
    texts = [next(stream).choices[0].delta.content for _ in range(3)]
    assert texts == ["", "Hé", " the"]
    with pytest.raises(openai_client.APIError, match="the holder is gone") as caught:
        next(stream)
    assert caught.value.code == "broken"


def test_openai_raises_the_error_of_a_bad_request() -> None:
    client = openai_of(Double())
    with pytest.raises(openai_client.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=USER, n=2)
    assert caught.value.param == "n"
    assert caught.value.type == "invalid_request_error"


def test_openai_does_not_repeat_what_cannot_succeed() -> None:
    double = Double(failure=Failure(FailureKind.DEADLINE, "too late", 504))
    with pytest.raises(openai_client.InternalServerError):
        openai_of(double).chat.completions.create(model="tiny", messages=USER)
    assert len(double.calls) == 1


def test_ollama_streams_a_chat() -> None:
    double = Double()
    parts = list(ollama_of(double).chat("tiny", USER, stream=True, options={"num_ctx": 64}))
    assert [part.message.content for part in parts] == ["Hé", " the", "re", ""]
    assert parts[-1].done is True
    assert parts[-1].done_reason == "stop"
    assert (parts[-1].prompt_eval_count, parts[-1].eval_count) == (3, 4)
    assert double.calls[0].request.options == {"num_ctx": 64}
    assert double.calls[0].stream


def test_ollama_gets_a_whole_chat() -> None:
    answer = ollama_of(Double()).chat("tiny", USER)
    assert answer.message.content == "Hé there"
    assert answer.total_duration == 1000


def test_ollama_generates_streaming_and_not() -> None:
    client = ollama_of(Double())
    parts = list(client.generate("tiny", "x", stream=True))
    assert "".join(part.response or "" for part in parts) == "Hé there"
    assert client.generate("tiny", "x").response == "Hé there"


def test_ollama_gets_whole_tool_calls_from_fragments() -> None:
    client = ollama_of(Double(CALLS))
    parts = list(client.chat("tiny", USER, tools=[TOOL], stream=True, think=True))
    streamed = [call for part in parts for call in part.message.tool_calls or ()]
    answer = client.chat("tiny", USER, tools=[TOOL])
    for calls in (streamed, answer.message.tool_calls or ()):
        assert [call.function.arguments for call in calls] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert answer.message.thinking == "hm"


def test_ollama_can_send_its_own_tool_calls_back() -> None:
    double = Double(CALLS)
    client = ollama_of(double)
    message = client.chat("tiny", USER, tools=[TOOL]).message
    answers = [{"role": "tool", "tool_name": "weather", "content": text} for text in ("a", "b")]
    client.chat("tiny", [*USER, message, *answers], tools=[TOOL])
    _, said, first, second = double.calls[1].request.messages
    assert said.reasoning == "hm"
    assert [call.id for call in said.tool_calls] == [first.tool_call_id, second.tool_call_id]


def test_ollama_sends_pictures_and_schemas() -> None:
    double = Double()
    image = b"\x89PNG\r\n\x1a\n" + bytes(10)
    schema: Any = {"type": "object", "properties": {"a": {"type": "integer"}}}
    ollama_of(double).chat(
        "tiny", [{"role": "user", "content": "?", "images": [image]}], format=schema
    )
    request = double.calls[0].request
    assert request.messages[0].images[0].media_type == "image/png"
    assert request.json_schema == schema


def test_ollama_reads_embeddings() -> None:
    client = ollama_of(Double(vectors=[[0.5, -1.25]]))
    assert client.embed("e", "a").embeddings == [[0.5, -1.25]]
    assert client.embeddings("e", "a").embedding == [0.5, -1.25]


def test_ollama_lists_what_there_is_and_what_is_loaded() -> None:
    client = ollama_of(Double())
    tags = client.list().models
    assert [model.model for model in tags] == ["tiny:latest", "big"]
    assert tags[0].digest == "ab" * 32
    assert tags[0].modified_at is not None
    loaded = client.ps().models
    assert [(model.name, model.context_length) for model in loaded] == [("big", 4096)]
    assert loaded[0].expires_at is not None


def test_ollama_raises_what_the_stream_says_went_wrong() -> None:
    failure = Failure(FailureKind.BROKEN, "the holder is gone")
    client = ollama_of(Double(ANSWER[:2], failure=failure))
    stream = client.chat("tiny", USER, stream=True)
    assert [next(stream).message.content for _ in range(2)] == ["Hé", " the"]
    with pytest.raises(ollama_client.ResponseError, match="the holder is gone"):
        next(stream)


def test_ollama_raises_the_error_of_a_bad_request() -> None:
    client = ollama_of(Double())
    with pytest.raises(ollama_client.ResponseError) as caught:
        client.chat("tiny", USER, options={"stop": ["x"] * 100})
    assert caught.value.status_code == 400
    assert "stop" in caught.value.error
