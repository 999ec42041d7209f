"""Ollama's dialect: chat, generate, embed and the old embeddings, decoded.  Pure.

As Ollama's server does it, so that its clients notice no difference: streaming unless told
otherwise, unknown fields ignored, a request without messages or prompt loads (or, with
`keep_alive` 0, unloads) the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from meshd import limits
from meshd.api.body import (
    BadField,
    check_base64,
    check_count,
    check_free,
    check_integer,
    check_model,
    convert,
    media_type_of,
    read_object,
)
from meshd.api.dialect import Call, HeaderOf, call_id, client_deadline_s
from meshd.api.keep_alive import check_keep_alive
from meshd.api.ollama_encode import CHAT, EMBED, GENERATE, OLD_EMBED, encoder_of
from meshd.api.ollama_error import bad_field, error_body, refusal
from meshd.api.ollama_options import split_options
from meshd.inference import Image, Kind, Message, Request, ToolCall
from meshd.wire.serve import AnswerForm

__all__ = ["PATHS", "decode", "decode_show", "error_body"]

_LEVELS: Final = frozenset({"low", "medium", "high", "max"})
_MAX_DIMENSIONS: Final = 2**31 - 1
_encode: Final = msgspec.json.Encoder().encode


class CalledFunction(msgspec.Struct):
    name: str
    arguments: dict[str, Any] = {}


class Called(msgspec.Struct):
    function: CalledFunction
    id: str | None = None


class MessageBody(msgspec.Struct):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[Called] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    name: str | None = None


class RunBody(msgspec.Struct):
    """What chat and generate share."""

    model: str = ""
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    keep_alive: str | int | float | bool | None = None
    options: dict[str, Any] | None = None
    think: bool | str | None = None
    truncate: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class ChatBody(RunBody):
    messages: list[MessageBody] | None = None
    tools: list[dict[str, Any]] | None = None


class GenerateBody(RunBody):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class EmbedBody(msgspec.Struct):
    model: str = ""
    input: Any = None
    prompt: str | None = None
    truncate: bool | None = None
    dimensions: int | None = None
    keep_alive: str | int | float | bool | None = None
    options: dict[str, Any] | None = None


class ShowBody(msgspec.Struct):
    model: str | None = None
    name: str | None = None


def decode(path: str, body: bytes, header: HeaderOf, *, request_id: str, now_unix_s: float) -> Call:
    """The request that POSTing `body` to `path` (one of `PATHS`) asks for.

    `now_unix_s` becomes the `created_at` of every line.  Raises DialectError.
    """
    reader = PATHS.get(path)
    if reader is None:
        raise refusal(404, f"there is no {path} here")
    if not body:
        raise refusal(400, "missing request body")
    try:
        data = read_object(body)
        return reader(data, client_deadline_s(header), request_id, now_unix_s)
    except BadField as error:
        raise bad_field(error) from None


def decode_show(body: bytes) -> str:
    """The model that POST /api/show asks about (`model`, formerly `name`).  Raises DialectError."""
    if not body:
        raise refusal(400, "missing request body")
    try:
        shown = convert(read_object(body), ShowBody)
        return check_model(shown.model or shown.name or "")
    except BadField as error:
        raise bad_field(error) from None


def _chat(data: dict[str, Any], deadline_s: float | None, request_id: str, now: float) -> Call:
    body = convert(data, ChatBody)
    model = check_model(body.model)
    request = msgspec.structs.replace(
        _request(Kind.CHAT, model, body),
        messages=_messages(body.messages or (), request_id),
        tools=_tools(body.tools),
    )
    return _call(CHAT, body, request, request_id, now, deadline_s)


def _generate(data: dict[str, Any], deadline_s: float | None, request_id: str, now: float) -> Call:
    body = convert(data, GenerateBody)
    model = check_model(body.model)
    if body.raw and (body.template or body.system or body.context):
        raise BadField("raw mode does not support template, system, or context")
    if body.context:
        # Token ids of one engine's model: they would mean something else on another node.
        raise BadField("context is not supported; send the conversation to /api/chat", "context")
    request = msgspec.structs.replace(
        _request(Kind.COMPLETION, model, body),
        prompt=body.prompt or "",
        suffix=body.suffix or "",
        system=body.system or "",
        template=body.template or "",
        raw=bool(body.raw),
        images=_images(body.images, "images"),
    )
    return _call(GENERATE, body, request, request_id, now, deadline_s)


def _call(
    path: str,
    body: RunBody,
    request: Request,
    request_id: str,
    now: float,
    deadline_s: float | None,
) -> Call:
    form = AnswerForm(
        path=path,
        request_id=request_id,
        unix_s=now,
        model=request.model,
        stream=body.stream is not False,
        logprobs=request.logprobs,
    )
    return Call(request, form.stream, encoder_of(form), form, deadline_s)


def _request(kind: Kind, model: str, body: RunBody) -> Request:
    """What chat and generate share, read."""
    sampling, options = split_options(body.options)
    json_mode, schema = _format(body.format)
    top = check_integer(body.top_logprobs, "top_logprobs", 0, limits.TOP_LOGPROBS) or 0
    return Request(
        kind,
        model,
        truncate=body.truncate,
        sampling=sampling,
        json_schema=schema,
        json_mode=json_mode,
        logprobs=bool(body.logprobs),
        top_logprobs=top if body.logprobs else 0,
        think=_think(body.think),
        keep_alive=check_keep_alive(body.keep_alive),
        options=options,
    )


def _embed(data: dict[str, Any], deadline_s: float | None, request_id: str, now: float) -> Call:
    body = convert(data, EmbedBody)
    given = body.input
    if given is None or given == "":
        inputs: list[str] = []
    elif isinstance(given, str):
        inputs = [given]
    elif isinstance(given, list) and all(isinstance(text, str) for text in given):
        inputs = given
    else:
        raise BadField("invalid input type", "input")
    return _embedding(body, inputs, False, deadline_s, request_id, now)


def _embeddings(
    data: dict[str, Any], deadline_s: float | None, request_id: str, now: float
) -> Call:
    body = convert(data, EmbedBody)
    inputs = [body.prompt] if body.prompt else []
    return _embedding(body, inputs, True, deadline_s, request_id, now)


def _embedding(
    body: EmbedBody,
    inputs: list[str],
    old: bool,
    deadline_s: float | None,
    request_id: str,
    now: float,
) -> Call:
    model = check_model(body.model)
    check_count(len(inputs), limits.EMBED_INPUTS, "input")
    sampling, options = split_options(body.options)
    dimensions = check_integer(body.dimensions, "dimensions", 0, _MAX_DIMENSIONS)
    request = Request(
        Kind.EMBED,
        model,
        inputs=inputs,
        dimensions=dimensions or None,
        truncate=body.truncate,
        normalise=not old,
        sampling=sampling,
        keep_alive=check_keep_alive(body.keep_alive),
        options=options,
    )
    form = AnswerForm(
        path=OLD_EMBED if old else EMBED, request_id=request_id, unix_s=now, model=model
    )
    return Call(request, False, encoder_of(form), form, deadline_s)


def _messages(bodies: Sequence[MessageBody], request_id: str) -> list[Message]:
    """The conversation, every tool call with an id and every tool's answer tied to one.

    Ollama's clients send no ids, which OpenAI's engines want: calls are numbered through the
    conversation, and an answer belongs to the oldest unanswered call (of that tool, if it names
    one).
    """
    check_count(len(bodies), limits.MESSAGES, "messages")
    result: list[Message] = []
    waiting: list[ToolCall] = []
    number = 0
    for index, body in enumerate(bodies):
        at = f"messages[{index}]"
        if not body.role:
            raise BadField(f"{at}.role is required", f"{at}.role")
        role = body.role.lower()
        calls: list[ToolCall] = []
        for called in body.tool_calls or ():
            check_free(called.function.arguments, f"{at}.tool_calls")
            arguments = _encode(called.function.arguments).decode()
            made_up = call_id(request_id, -1 - number)  # apart from the answer's, from 0 up
            calls.append(
                ToolCall(len(calls), called.id or made_up, called.function.name, arguments)
            )
            number += 1
        waiting.extend(calls)
        name = body.tool_name or body.name or ""
        answered = body.tool_call_id or ""
        if role == "tool":
            call = _answered(waiting, answered, name)
            if call is not None:
                waiting.remove(call)
                answered, name = call.id, name or call.name
        result.append(
            Message(
                role,
                body.content or "",
                images=_images(body.images, f"{at}.images"),
                reasoning=body.thinking or "",
                tool_calls=calls,
                tool_call_id=answered,
                name=name,
            )
        )
    return result


def _answered(waiting: Sequence[ToolCall], wanted_id: str, name: str) -> ToolCall | None:
    for call in waiting:
        if call.id == wanted_id if wanted_id else (not name or call.name == name):
            return call
    return None


def _images(images: Sequence[str] | None, at: str) -> list[Image]:
    if not images:
        return []
    return [
        Image(check_base64(data, f"{at}[{index}]"), media_type_of(data))
        for index, data in enumerate(images)
    ]


def _tools(entries: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]]:
    if not entries:
        return []
    check_count(len(entries), limits.TOOLS, "tools")
    result = []
    for index, tool in enumerate(entries):
        at = f"tools[{index}]"
        function = tool.get("function")
        if not isinstance(function, dict):
            raise BadField(f"{at}.function must be of type object", f"{at}.function")
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise BadField(f"{at}.function.name is required", f"{at}.function.name")
        if tool.get("type") not in (None, "function"):
            raise BadField(f"{at}.type must be function", f"{at}.type")
        check_free(tool, at)
        result.append(tool if tool.get("type") else {**tool, "type": "function"})
    return result


def _format(value: str | dict[str, Any] | None) -> tuple[bool, dict[str, Any] | None]:
    """json_mode and json_schema."""
    if value is None or value == "":
        return False, None
    if isinstance(value, dict):
        check_free(value, "format")
        return True, value
    if value == "json":
        return True, None
    shown = _encode(_encode(value[:64]).decode()).decode()
    raise BadField(
        f'invalid format: {shown}; expected "json" or a valid JSON Schema object', "format"
    )


def _think(value: bool | str | None) -> bool | str | None:
    if value is None or isinstance(value, bool) or value in _LEVELS:
        return value
    raise BadField(
        f'invalid think value: {value[:64]!r} (must be "high", "medium", "low", "max", true, '
        "or false)",
        "think",
    )


PATHS: Final = {
    "/api/chat": _chat,
    "/api/generate": _generate,
    "/api/embed": _embed,
    "/api/embeddings": _embeddings,
}
"""The endpoints that `decode` knows."""
