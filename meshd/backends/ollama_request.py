"""From a `Request` to Ollama's native API.  Pure.

Native, because Ollama's /v1 loses errors in mid-stream and ignores fields.  What Ollama would
silently leave out, though it changes the answer, is refused as UNSUPPORTED.

About `num_ctx`: a request whose num_ctx differs from that of the loaded model makes Ollama unload
and load it again, tens of seconds for everybody, and two clients with different values make it do
so for ever.  So a value that the loaded context covers is left out; only a larger one goes through.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from meshd.backends.control import failed
from meshd.backends.failures import NOT_JSON
from meshd.backends.openai_request import HttpBody, as_messages, check_images, unsupported
from meshd.inference import FailureKind, Kind, Message, ModelInfo, Request, ToolCall

CHAT_PATH: Final = "/api/chat"
GENERATE_PATH: Final = "/api/generate"
EMBED_PATH: Final = "/api/embed"
OLD_EMBED_PATH: Final = "/api/embeddings"

LOGPROBS_SINCE: Final = (0, 12, 11)
"""The first Ollama with logprobs; older ones ignore the field."""
THINK_LEVELS_SINCE: Final = (0, 11, 0)
"""The first Ollama whose `think` may be a level; older ones take only a boolean."""

_json: Final = msgspec.json.Encoder().encode
_object: Final = msgspec.json.Decoder(dict[str, Any]).decode
_ANSWER_CHANGING: Final = ("logit_bias", "grammar")
"""Fields of OpenAI's dialect that Ollama has no word for and that cannot be left out."""


def encode(request: Request, model: ModelInfo, version: tuple[int, ...]) -> HttpBody:
    """The streaming request for a CHAT or COMPLETION.  Raises BackendFailed (UNSUPPORTED).

    `version` is Ollama's, () if it is not known.
    """
    check_images(request, model)
    for name in _ANSWER_CHANGING:
        if request.extra.get(name):
            raise unsupported(f"Ollama has no {name}")
    body: dict[str, Any] = {"model": model.name, "stream": True}
    if request.kind is Kind.CHAT or (request.goes_on() and not request.raw):
        if request.template:
            raise unsupported("an answer under the client's own template cannot be gone on with")
        path = CHAT_PATH
        body["messages"] = [message_of(message) for message in as_messages(request)]
        if tools := _tools(request):
            body["tools"] = tools
    else:
        path = GENERATE_PATH
        body |= _prompt(request)
    if request.json_schema is not None:
        body["format"] = request.json_schema
    elif request.json_mode:
        body["format"] = "json"
    if request.think is not None:
        levels = not version or version >= THINK_LEVELS_SINCE
        body["think"] = request.think if levels else bool(request.think)
    if request.logprobs:
        if version and version < LOGPROBS_SINCE:
            raise unsupported("this Ollama has no logprobs; 0.12.11 and later have")
        body["logprobs"] = True
        if request.top_logprobs:
            body["top_logprobs"] = request.top_logprobs
    return HttpBody(path, _json(body | _common(request, model)))


def encode_embedding(request: Request, model: ModelInfo) -> list[HttpBody]:
    """The requests for an EMBED: one, or (vectors as they are) one for each input."""
    common = {"model": model.name} | _common(request, model)
    if not request.normalise:
        return [
            HttpBody(OLD_EMBED_PATH, _json(common | {"prompt": text})) for text in request.inputs
        ]
    if request.dimensions is not None:
        common["dimensions"] = request.dimensions
    return [HttpBody(EMBED_PATH, _json(common | {"input": request.inputs}))]


def _common(request: Request, model: ModelInfo) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if request.keep_alive is not None:
        body["keep_alive"] = request.keep_alive
    if request.truncate is not None:
        body["truncate"] = request.truncate
    if options := _options(request, model):
        body["options"] = options
    return body


def message_of(message: Message) -> dict[str, Any]:
    """A message as Ollama takes it."""
    role = "system" if message.role == "developer" else message.role  # templates know no developer
    out: dict[str, Any] = {"role": role, "content": message.text}
    if message.reasoning:
        out["thinking"] = message.reasoning
    if message.images:
        out["images"] = [image.data for image in message.images]
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call.id,
                "function": {
                    "index": call.index,
                    "name": call.name,
                    "arguments": _arguments(call),
                },
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        if message.tool_call_id:
            out["tool_call_id"] = message.tool_call_id
        if message.name:
            out["tool_name"] = message.name
    return out


def _arguments(call: ToolCall) -> dict[str, Any]:
    """OpenAI has them as text, Ollama as an object."""
    try:
        return _object((call.arguments or "{}").encode())
    except (*NOT_JSON, UnicodeEncodeError):
        message = f"the arguments of the call of {call.name!r} are not a JSON object"
        raise failed(FailureKind.BAD_REQUEST, message, 400) from None


def _tools(request: Request) -> list[dict[str, Any]]:
    choice = request.tool_choice
    if choice == "none":
        return []
    if request.tools and choice not in (None, "auto"):
        raise unsupported("Ollama cannot be made to call a tool: tool_choice must be auto or none")
    return request.tools


def _prompt(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {"prompt": request.prompt + request.partial}
    for name in ("suffix", "system", "template"):
        if value := getattr(request, name):
            body[name] = value
    if request.raw:
        body["raw"] = True
    if request.images:
        body["images"] = [image.data for image in request.images]
    return body


def _options(request: Request, model: ModelInfo) -> dict[str, Any]:
    sampling = request.sampling
    options = dict(request.options)
    for name in (
        *("temperature", "top_p", "top_k", "min_p", "seed"),
        *("frequency_penalty", "presence_penalty", "repeat_penalty"),
    ):
        if (value := getattr(sampling, name)) is not None:
            options[name] = value
    if sampling.max_tokens is not None:
        options["num_predict"] = sampling.max_tokens
    if sampling.stop:
        options["stop"] = sampling.stop
    wanted = options.get("num_ctx")
    if (
        isinstance(wanted, int)
        and model.resident
        and model.context_tokens
        and wanted <= model.context_tokens
    ):
        del options["num_ctx"]
    return options
