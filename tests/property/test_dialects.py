"""What must hold for any request body, and for any way an answer is cut into deltas."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from meshd import limits
from meshd.api import ollama, openai
from meshd.api.dialect import AnswerEncoder, Call, DialectError
from meshd.inference import Delta, Failure, FailureKind, Request, ToolCall, Usage

ENDPOINTS = [*openai.PATHS, *ollama.PATHS]
FIELDS = sorted(
    {
        *("model", "messages", "prompt", "input", "stream", "options", "tools", "tool_choice"),
        *("format", "response_format", "stop", "seed", "temperature", "max_tokens", "think"),
        *("keep_alive", "logprobs", "top_logprobs", "images", "n", "dimensions", "raw", "context"),
        *("stream_options", "reasoning_effort", "encoding_format", "suffix", "other"),
    }
)
TEXT = st.text(max_size=8)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "file"]) | TEXT},
    optional={"text": JSON, "image_url": JSON | st.just({"url": "data:;base64,QUJD"})},
)
CALL = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": TEXT}, optional={"arguments": JSON})},
    optional={"id": JSON, "type": JSON},
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system"]) | TEXT},
    optional={
        "content": TEXT | st.lists(PART, max_size=3) | JSON,
        "tool_calls": st.lists(CALL, max_size=3) | JSON,
        "tool_call_id": TEXT | JSON,
        "tool_name": TEXT | JSON,
        "images": JSON,
    },
)
OPTIONS = st.dictionaries(
    st.sampled_from(["num_ctx", "num_predict", "stop", "temperature", "seed", "use_mmap", "x"]),
    JSON,
    max_size=4,
)
BODY = st.fixed_dictionaries(
    {"model": st.just("m") | JSON},
    optional={
        "messages": st.lists(MESSAGE, max_size=4),
        "options": OPTIONS,
        **{name: JSON for name in FIELDS if name not in ("model", "messages", "options")},
    },
)


def decode(path: str, body: bytes) -> Call:
    dialect = openai if path in openai.PATHS else ollama
    return dialect.decode(path, body, lambda name: None, request_id="r", now_unix_s=1.7e9)


def outcome(path: str, body: bytes) -> Call | DialectError:
    try:
        return decode(path, body)
    except DialectError as error:
        return error


def check(path: str, body: bytes) -> None:
    """Either a request that can travel and be answered, or a 400 of the dialect."""
    result = outcome(path, body)
    if isinstance(result, DialectError):
        assert result.status == 400
        assert "error" in json.loads(result.body)
        return
    packed = msgspec.msgpack.encode(result.request)
    assert msgspec.msgpack.decode(packed, type=Request) == result.request
    assert 0 < len(result.request.model) <= limits.MODEL_NAME_CHARS
    assert result.encoder.error(Failure(FailureKind.BROKEN, "why"))


@given(path=st.sampled_from(ENDPOINTS), body=BODY)
def test_any_object_is_a_request_that_can_travel_or_a_400(path: str, body: Any) -> None:
    check(path, json.dumps(body).encode())


@given(path=st.sampled_from(ENDPOINTS), body=st.binary(max_size=64))
def test_any_bytes_are_a_request_or_a_400(path: str, body: bytes) -> None:
    check(path, body)


@given(path=st.sampled_from(ENDPOINTS), body=JSON)
def test_any_json_is_a_request_or_a_400(path: str, body: Any) -> None:
    check(path, json.dumps(body).encode())


@given(path=st.sampled_from(ENDPOINTS), depth=st.integers(60, 5000), field=st.sampled_from(FIELDS))
def test_any_depth_is_a_request_or_a_400(path: str, depth: int, field: str) -> None:
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    check(path, b'{"model":"m","%s":%b}' % (field.encode(), nested))


# --- answers: the same text and calls, however they are cut

OBJECT = st.dictionaries(TEXT, st.booleans() | st.integers(-9, 9) | TEXT, max_size=3)


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    places = draw(st.lists(st.integers(0, len(text)), max_size=4))
    bounds = [0, *sorted(places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[Delta], str, str, list[tuple[str, Any]]]:
    """Deltas, and the text, the reasoning and the calls that they add up to."""
    text, reasoning = draw(st.text(max_size=30)), draw(st.text(max_size=10))
    calls = draw(st.lists(st.tuples(st.text(min_size=1, max_size=5), OBJECT), max_size=3))
    deltas = [Delta(reasoning=piece) for piece in draw(cut(reasoning))]
    deltas += [Delta(piece) for piece in draw(cut(text))]
    for index, (name, arguments) in enumerate(calls):
        pieces = draw(cut(json.dumps(arguments)))
        deltas.append(Delta(tool_calls=[ToolCall(index, draw(TEXT), name, pieces[0])]))
        deltas += [Delta(tool_calls=[ToolCall(index, "", "", piece)]) for piece in pieces[1:]]
    reason = draw(st.sampled_from(["stop", "tool_calls", "eos"]))
    if draw(st.booleans()) and deltas:
        last = deltas.pop()
        deltas.append(msgspec.structs.replace(last, finish_reason=reason))
    else:
        deltas.append(Delta(finish_reason=reason))
    return deltas, text, reasoning, calls


def encoder(path: str) -> AnswerEncoder:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "prompt": "x"}
    return decode(path, json.dumps(body).encode()).encoder


def streamed(answer: AnswerEncoder, deltas: list[Delta]) -> bytes:
    data = answer.start()
    for delta in deltas:
        data += answer.delta(delta) + answer.keep_alive()
    return data + answer.end(Usage(1, 2))


def sse(data: bytes) -> list[Any]:
    blocks = data.decode().split("\n\n")
    assert blocks.pop() == ""
    texts = [block.removeprefix("data: ") for block in blocks if not block.startswith(":")]
    assert texts.pop() == "[DONE]"
    return [json.loads(text) for text in texts]


@given(answers())
def test_an_openai_stream_says_what_the_deltas_say(
    answer: tuple[list[Delta], str, str, list[tuple[str, Any]]],
) -> None:
    deltas, text, reasoning, calls = answer
    choices = [event["choices"][0] for event in sse(streamed(encoder(CHAT), deltas))]
    pieces = [choice["delta"] for choice in choices]
    assert "".join(piece.get("content", "") for piece in pieces) == text
    assert "".join(piece.get("reasoning_content", "") for piece in pieces) == reasoning
    got: dict[int, list[str]] = {}
    ids: dict[int, str] = {}
    for piece in pieces:
        for call in piece.get("tool_calls", ()):
            if call["index"] not in got:
                got[call["index"]] = [call["function"]["name"], ""]
                ids[call["index"]] = call["id"]
            got[call["index"]][1] += call["function"]["arguments"]
    assert [(name, json.loads(arguments)) for name, arguments in got.values()] == calls
    assert all(ids.values())
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == ("tool_calls" if calls else "stop")


@given(answers())
def test_an_ollama_stream_says_what_the_deltas_say(
    answer: tuple[list[Delta], str, str, list[tuple[str, Any]]],
) -> None:
    deltas, text, reasoning, calls = answer
    data = streamed(encoder("/api/chat"), deltas)
    lines = [json.loads(line) for line in data.split(b"\n")[:-1]]
    messages = [line["message"] for line in lines]
    assert "".join(message["content"] for message in messages) == text
    assert "".join(message.get("thinking", "") for message in messages) == reasoning
    functions = [c["function"] for message in messages for c in message.get("tool_calls", ())]
    assert [(f["name"], f["arguments"]) for f in functions] == calls
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


CHAT = "/v1/chat/completions"


@given(answers())
def test_a_whole_answer_says_what_its_stream_says(
    answer: tuple[list[Delta], str, str, list[tuple[str, Any]]],
) -> None:
    deltas, text, reasoning, calls = answer
    choice = json.loads(encoder(CHAT).whole(deltas, None))["choices"][0]
    message = choice["message"]
    assert (message["content"] or "") == text
    assert message.get("reasoning_content", "") == reasoning
    functions = [call["function"] for call in message.get("tool_calls", ())]
    assert [(f["name"], json.loads(f["arguments"])) for f in functions] == calls
    assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
    message = json.loads(encoder("/api/chat").whole(deltas, None))["message"]
    assert (message["content"], message.get("thinking", "")) == (text, reasoning)
    functions = [call["function"] for call in message.get("tool_calls", ())]
    assert [(f["name"], f["arguments"]) for f in functions] == calls


@given(answers())
def test_completions_and_generate_say_the_text(
    answer: tuple[list[Delta], str, str, list[tuple[str, Any]]],
) -> None:
    deltas, text, reasoning, _ = answer
    events = sse(streamed(encoder("/v1/completions"), deltas))
    assert "".join(event["choices"][0]["text"] for event in events) == text
    data = streamed(encoder("/api/generate"), deltas)
    lines = [json.loads(line) for line in data.split(b"\n")[:-1]]
    assert "".join(line["response"] for line in lines) == text
    assert "".join(line.get("thinking", "") for line in lines) == reasoning
    body = json.loads(encoder("/api/generate").whole(deltas, None))
    assert body["response"] == text
