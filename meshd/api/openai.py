"""OpenAI's dialect: chat completions, completions and embeddings, decoded.  Pure.

Types, values and limits are checked here, with OpenAI's own error bodies; fields that no engine's
form has a place for travel in `Request.extra`, to engines that speak this dialect.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from meshd import limits
from meshd.api.body import (
    BadField,
    check_count,
    check_free,
    check_integer,
    check_model,
    check_number,
    check_stop,
    convert,
    read_object,
)
from meshd.api.dialect import Call, HeaderOf, client_deadline_s
from meshd.api.keep_alive import check_keep_alive
from meshd.api.openai_encode import CHAT, COMPLETION, EMBEDDING, encoder_of
from meshd.api.openai_error import bad_field, error_body, refusal
from meshd.api.openai_messages import MessageBody, messages, tool_choice, tools
from meshd.inference import Kind, Request, Sampling
from meshd.wire.serve import AnswerForm

__all__ = ["PATHS", "decode", "error_body"]

_EFFORTS: Final[dict[str, bool | str]] = {
    "none": False,
    "minimal": "low",  # engines know three levels
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}
_LOGPROBS_OF_COMPLETIONS: Final = 5  # OpenAI's limit on the old endpoint
_MAX_TOKENS: Final = 2**31 - 1


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class JsonSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None
    name: str | None = None


class ResponseFormat(msgspec.Struct):
    type: str
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None
    """llama.cpp's way to put a schema to json_object."""


class Reasoning(msgspec.Struct):
    effort: str | None = None


class SamplingBody(msgspec.Struct):
    """What the chat and completion endpoints share."""

    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    keep_alive: str | int | float | bool | None = None


class ChatBody(SamplingBody):
    messages: list[MessageBody] | None = None
    max_completion_tokens: int | None = None
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: Any = None
    function_call: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    modalities: list[str] | None = None
    audio: Any = None


class CompletionBody(SamplingBody):
    prompt: str | list[Any] | None = None
    suffix: str | None = None
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None


class EmbeddingBody(msgspec.Struct):
    model: str = ""
    input: str | list[Any] | None = None
    encoding_format: str | None = None
    dimensions: int | None = None


_CHAT_FIELDS: Final = frozenset(ChatBody.__struct_fields__)
_COMPLETION_FIELDS: Final = frozenset(CompletionBody.__struct_fields__)
_EMBEDDING_FIELDS: Final = frozenset(EmbeddingBody.__struct_fields__)


def decode(path: str, body: bytes, header: HeaderOf, *, request_id: str, now_unix_s: float) -> Call:
    """The request that POSTing `body` to `path` (one of `PATHS`) asks for.

    `request_id` and `now_unix_s` go into the answer's `id` and `created`.  Raises DialectError.
    """
    reader = PATHS.get(path)
    if reader is None:
        raise refusal(404, f"there is no {path} here", code="unknown_url")
    try:
        data = read_object(body)
        return reader(data, client_deadline_s(header), request_id, int(now_unix_s))
    except BadField as error:
        raise bad_field(error) from None


def _chat(data: dict[str, Any], deadline_s: float | None, request_id: str, created: int) -> Call:
    body = convert(data, ChatBody)
    model = check_model(body.model)
    if not body.messages:
        raise BadField("messages is required and must not be empty", "messages")
    for field in ("functions", "function_call"):
        if getattr(body, field) is not None:
            raise BadField(f"{field} is not supported; use tools and tool_choice", field)
    audio_field = "audio" if body.audio is not None else "modalities"
    if body.audio is not None or (body.modalities and "audio" in body.modalities):
        raise BadField(f"{audio_field}: answers are text, not audio", audio_field)
    offered = tools(body.tools)
    json_mode, schema, schema_name = _format(body.response_format)
    logprobs = bool(body.logprobs)
    top = check_integer(body.top_logprobs, "top_logprobs", 0, limits.TOP_LOGPROBS) or 0
    if top and not logprobs:
        raise BadField("top_logprobs needs logprobs to be true", "top_logprobs")
    max_tokens, param = body.max_completion_tokens, "max_completion_tokens"
    if max_tokens is None:
        max_tokens, param = body.max_tokens, "max_tokens"
    request = Request(
        Kind.CHAT,
        model,
        messages=messages(body.messages),
        sampling=_sampling(body, max_tokens, param),
        tools=offered,
        tool_choice=tool_choice(body.tool_choice, offered),
        json_schema=schema,
        json_mode=json_mode,
        json_schema_name=schema_name,
        logprobs=logprobs,
        top_logprobs=top,
        think=_think(body),
        keep_alive=check_keep_alive(body.keep_alive),
        extra=_extra(data, _CHAT_FIELDS),
    )
    form = _form(CHAT, body, request, request_id, created)
    return Call(request, form.stream, encoder_of(form), form, deadline_s)


def _completion(
    data: dict[str, Any], deadline_s: float | None, request_id: str, created: int
) -> Call:
    body = convert(data, CompletionBody)
    model = check_model(body.model)
    if body.echo:
        raise BadField("echo is not supported", "echo")
    if body.best_of is not None and body.best_of != 1:
        raise BadField("best_of is not supported; send the request several times", "best_of")
    top = check_integer(body.logprobs, "logprobs", 0, _LOGPROBS_OF_COMPLETIONS)
    request = Request(
        Kind.COMPLETION,
        model,
        prompt=_prompt(body.prompt),
        suffix=body.suffix or "",
        raw=not body.suffix,  # a suffix needs the model's own fill-in template
        sampling=_sampling(body, body.max_tokens, "max_tokens"),
        logprobs=top is not None,
        top_logprobs=top or 0,
        keep_alive=check_keep_alive(body.keep_alive),
        extra=_extra(data, _COMPLETION_FIELDS),
    )
    form = _form(COMPLETION, body, request, request_id, created)
    return Call(request, form.stream, encoder_of(form), form, deadline_s)


def _embedding(
    data: dict[str, Any], deadline_s: float | None, request_id: str, created: int
) -> Call:
    body = convert(data, EmbeddingBody)
    model = check_model(body.model)
    encoding = body.encoding_format or "float"
    if encoding not in ("float", "base64"):
        raise BadField(
            f"encoding_format must be float or base64, not {encoding!r}", "encoding_format"
        )
    request = Request(
        Kind.EMBED,
        model,
        inputs=_inputs(body.input),
        dimensions=check_integer(body.dimensions, "dimensions", 1, _MAX_TOKENS),
        extra=_extra(data, _EMBEDDING_FIELDS),
    )
    form = AnswerForm(
        path=EMBEDDING,
        request_id=request_id,
        unix_s=created,
        model=model,
        base64=encoding == "base64",
    )
    return Call(request, False, encoder_of(form), form, deadline_s)


def _form(
    path: str, body: SamplingBody, request: Request, request_id: str, created: int
) -> AnswerForm:
    return AnswerForm(
        path=path,
        request_id=request_id,
        unix_s=created,
        model=request.model,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        logprobs=request.logprobs,
    )


def _sampling(body: SamplingBody, max_tokens: int | None, param: str) -> Sampling:
    if body.n is not None and body.n != 1:
        raise BadField("n other than 1 is not supported; send the request several times", "n")
    if max_tokens == -1:  # how llama.cpp's and LM Studio's users write "no limit"
        max_tokens = None
    return Sampling(
        temperature=check_number(body.temperature, "temperature", 0, 2),
        top_p=check_number(body.top_p, "top_p", 0, 1),
        top_k=check_integer(body.top_k, "top_k", -1, _MAX_TOKENS),
        min_p=check_number(body.min_p, "min_p", 0, 1),
        seed=check_integer(body.seed, "seed"),
        max_tokens=check_integer(max_tokens, param, 1, _MAX_TOKENS),
        frequency_penalty=check_number(body.frequency_penalty, "frequency_penalty", -2, 2),
        presence_penalty=check_number(body.presence_penalty, "presence_penalty", -2, 2),
        repeat_penalty=check_number(body.repeat_penalty, "repeat_penalty", 0),
        stop=check_stop(body.stop),
    )


def _format(value: ResponseFormat | None) -> tuple[bool, dict[str, Any] | None, str]:
    """json_mode, json_schema and its name."""
    if value is None or value.type == "text":
        return False, None, ""
    if value.type == "json_object":
        schema, name, where = value.schema, "", "response_format.schema"
    elif value.type == "json_schema":
        where = "response_format.json_schema.schema"
        schema = value.json_schema.schema if value.json_schema else None
        if schema is None:
            raise BadField(f"{where} is required", where)
        name = (value.json_schema.name if value.json_schema else None) or ""
    else:
        raise BadField(
            f"response_format.type must be text, json_object or json_schema, not {value.type!r}",
            "response_format.type",
        )
    check_free(schema, where)
    return True, schema, name


def _think(body: ChatBody) -> bool | str | None:
    effort, param = body.reasoning_effort, "reasoning_effort"
    if effort is None and body.reasoning is not None:
        effort, param = body.reasoning.effort, "reasoning.effort"
    if effort is None:
        return None
    if effort not in _EFFORTS:
        raise BadField(f"{param} must be one of {', '.join(_EFFORTS)}, not {effort!r}", param)
    return _EFFORTS[effort]


def _prompt(prompt: str | list[Any] | None) -> str:
    if isinstance(prompt, list):
        if len(prompt) == 1 and isinstance(prompt[0], str):
            prompt = prompt[0]
        elif prompt and isinstance(prompt[0], str):
            raise BadField("prompt: several prompts in one request are not supported", "prompt")
        elif prompt:
            raise BadField("prompt: token arrays are not supported; send the text", "prompt")
    if not prompt:
        raise BadField("prompt is required and must not be empty", "prompt")
    assert isinstance(prompt, str)
    return prompt


def _inputs(value: str | list[Any] | None) -> list[str]:
    inputs = [value] if isinstance(value, str) else value or []
    if not inputs:
        raise BadField("input is required and must not be empty", "input")
    check_count(len(inputs), limits.EMBED_INPUTS, "input")
    for index, text in enumerate(inputs):
        where = "input" if isinstance(value, str) else f"input[{index}]"
        if isinstance(text, int | list):
            raise BadField("input: token arrays are not supported; send the text", "input")
        if not isinstance(text, str):
            raise BadField(f"{where} must be of type string", where)
        if not text:
            raise BadField(f"{where} must not be empty", where)
    return inputs


def _extra(data: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    unknown = data.keys() - known
    if not unknown:
        return {}
    extra = {name: data[name] for name in sorted(unknown) if data[name] is not None}
    for name, value in extra.items():
        check_free(value, name)
    return extra


PATHS: Final = {
    CHAT: _chat,
    COMPLETION: _completion,
    EMBEDDING: _embedding,
}
"""The endpoints that `decode` knows."""
