"""From a `Request` to the body of an OpenAI-compatible engine.  Pure.

llama.cpp, LM Studio, vLLM, SGLang, mlx-lm and whatever else speaks the dialect; `EngineKind` says
where they differ.  What an engine would silently leave out, though it changes the answer, is
refused as UNSUPPORTED: another holder may be able to do it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from meshd.backends.control import BackendFailed, failed
from meshd.inference import FailureKind, Image, Kind, Message, ModelInfo, Request, Sampling


class EngineKind(StrEnum):
    """Kinds of engines that speak this dialect."""

    LLAMA_CPP = "llama.cpp"
    LM_STUDIO = "lmstudio"
    VLLM = "vllm"
    SGLANG = "sglang"
    MLX = "mlx"
    OTHER = "openai"


CHAT_PATH: Final = "/v1/chat/completions"
COMPLETION_PATH: Final = "/v1/completions"
EMBED_PATH: Final = "/v1/embeddings"
CONTINUE: Final[dict[str, Any]] = {"continue_final_message": True, "add_generation_prompt": False}
"""What vLLM and SGLang are told so that they go on after a trailing assistant message."""

UNLOAD: Final = (0, "0", "0s", "0m", "0h")
"""Values of `keep_alive` that unload a model."""

_json: Final = msgspec.json.Encoder().encode
_TOLD_TO_CONTINUE: Final = (EngineKind.VLLM, EngineKind.SGLANG, EngineKind.OTHER)
"""Unknown ones too: that they go on was found out with the flags.  llama.cpp does by itself."""
_UINT32: Final = 2**32

# Ollama's options by what becomes of them here.  Those that say how Ollama loads a model, or that
# mean nothing elsewhere, change no answer and are left out.
_LLAMA_SAMPLERS: Final = frozenset(
    {"mirostat", "mirostat_tau", "mirostat_eta", "typical_p", "repeat_last_n"}
)
_NEUTRAL: Final[dict[str, float]] = {"mirostat": 0, "typical_p": 1.0, "tfs_z": 1.0}
"""Values at which a sampler is off: asking for them is no reason to refuse."""


@dataclass(frozen=True, slots=True)
class HttpBody:
    """What to POST where."""

    path: str
    body: bytes


def encode(request: Request, model: ModelInfo, engine: EngineKind) -> HttpBody:
    """The streaming request for a CHAT or COMPLETION.  Raises BackendFailed (UNSUPPORTED)."""
    _check(request, model)
    if request.raw:
        path, body = COMPLETION_PATH, _completion_body(request, engine)
    else:
        # Ollama's generate puts the prompt into the model's chat template: here that is a chat.
        path, body = CHAT_PATH, _chat_body(request, as_messages(request), engine)
    body |= _sampling(request, engine)
    body |= _ollama_options(request.options, engine)
    body["model"] = model.name
    body["stream"] = True
    body["stream_options"] = {"include_usage": True}
    return HttpBody(path, _json({**request.extra, **body}))


def encode_embedding(request: Request, model: ModelInfo, engine: EngineKind) -> HttpBody:
    """The request for an EMBED."""
    body: dict[str, Any] = {
        "model": model.name,
        "input": request.inputs,
        "encoding_format": "float",
    }
    if request.dimensions is not None and engine is not EngineKind.LLAMA_CPP:
        body["dimensions"] = request.dimensions  # llama.cpp has no such parameter
    if not request.normalise and engine is EngineKind.LLAMA_CPP:
        body["embd_normalize"] = -1
    return HttpBody(EMBED_PATH, _json({**request.extra, **body}))


def asks_to_load(request: Request) -> bool:
    """Ollama's way to load or unload a model: a request with nothing in it."""
    if request.kind is Kind.CHAT:
        return not request.messages
    return request.kind is Kind.COMPLETION and not (request.prompt or request.images)


def unsupported(message: str) -> BackendFailed:
    """This engine or model cannot do it."""
    return failed(FailureKind.UNSUPPORTED, message, 400)


def cannot_continue(engine: str) -> BackendFailed:
    """It would begin a new answer after what was said."""
    return unsupported(f"this engine ({engine}) cannot go on with what another began to say")


def check_images(request: Request, model: ModelInfo) -> None:
    """Refuse pictures for a model that is known to be blind."""
    wanted = bool(request.images) or any(m.images for m in request.messages)
    if wanted and model.capabilities and "vision" not in model.capabilities:
        raise unsupported(f"model {model.name!r} does not take images")


def _check(request: Request, model: ModelInfo) -> None:
    check_images(request, model)
    if request.suffix:
        raise unsupported("this engine cannot fill in text before a suffix")
    if request.template:
        raise unsupported("this engine takes no template from the client")
    if request.raw and request.images:
        raise unsupported("this engine takes images only in a chat")
    if request.think and model.capabilities and "thinking" not in model.capabilities:
        raise unsupported(f'"{model.name}" does not support thinking')


# --- chat


def as_messages(request: Request) -> list[Message]:
    """The request as a conversation, with what was said of its answer already at the end."""
    messages = request.messages
    if request.kind is not Kind.CHAT:
        system = [Message("system", request.system)] if request.system else []
        messages = [*system, Message("user", request.prompt, images=request.images)]
    if not request.goes_on():
        return messages
    if messages and messages[-1].role == "assistant":  # the client began the answer itself
        begun = messages[-1]
        text = begun.text + request.partial
        return [*messages[:-1], msgspec.structs.replace(begun, text=text)]
    said = Message("assistant", request.partial, reasoning=request.partial_reasoning)
    return [*messages, said]


def _chat_body(request: Request, messages: list[Message], engine: EngineKind) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [_message(message) for message in messages]}
    if request.tools:
        body["tools"] = request.tools
        if request.tool_choice is not None:
            body["tool_choice"] = request.tool_choice
    if request.logprobs:
        body["logprobs"] = True
        # llama.cpp takes a missing number for 20 and 0 for "no logprobs"; the stream cuts it back
        body["top_logprobs"] = max(1, request.top_logprobs)
    if (form := _response_format(request, engine)) is not None:
        body["response_format"] = form
    if request.goes_on() and engine in _TOLD_TO_CONTINUE:
        body |= CONTINUE
    return body | _thinking(request.think, engine)


def _message(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role  # templates know no developer
    out: dict[str, Any] = {"role": role, "content": _content(message)}
    if message.tool_calls:
        out["content"] = out["content"] or None
        out["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments or "{}"},
            }
            for call in message.tool_calls
        ]
    if message.reasoning:
        out["reasoning_content"] = message.reasoning
    if message.tool_call_id:
        out["tool_call_id"] = message.tool_call_id
    if message.name:
        out["name"] = message.name
    return out


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.text
    parts: list[dict[str, Any]] = [{"type": "text", "text": message.text}] if message.text else []
    return [*parts, *(_image_part(image) for image in message.images)]


def _image_part(image: Image) -> dict[str, Any]:
    url = f"data:{image.media_type};base64,{image.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _response_format(request: Request, engine: EngineKind) -> dict[str, Any] | None:
    schema = request.json_schema
    if schema is None and not request.json_mode:
        return None
    if engine is EngineKind.MLX:
        raise unsupported("this engine (mlx) does not hold its answers to a JSON schema")
    if schema is None:
        if engine is not EngineKind.LM_STUDIO:
            return {"type": "json_object"}
        schema = {"type": "object"}  # LM Studio knows no json_object
    name = request.json_schema_name or "answer"
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}


def _thinking(think: bool | str | None, engine: EngineKind) -> dict[str, Any]:
    """Local engines switch it in the chat template; others have OpenAI's effort."""
    if think is None:
        return {}
    if engine in (EngineKind.LLAMA_CPP, EngineKind.VLLM, EngineKind.SGLANG, EngineKind.MLX):
        settings: dict[str, Any] = {"enable_thinking": bool(think)}
        if isinstance(think, str):
            settings["reasoning_effort"] = think
        return {"chat_template_kwargs": settings}
    if think is True:
        return {}  # what they do by themselves
    return {"reasoning_effort": think or "none"}


# --- completion


def _completion_body(request: Request, engine: EngineKind) -> dict[str, Any]:
    body: dict[str, Any] = {"prompt": request.prompt + request.partial}
    if request.logprobs:
        body["logprobs"] = max(1, request.top_logprobs)
    if request.json_schema is not None or request.json_mode:
        if engine is EngineKind.LLAMA_CPP:
            body["json_schema"] = request.json_schema or {"type": "object"}
        else:
            body["response_format"] = _response_format(request, engine)
    return body


# --- sampling


def _sampling(request: Request, engine: EngineKind) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {}
    for name in ("temperature", "top_p", "top_k", "min_p", "max_tokens"):
        if (value := getattr(sampling, name)) is not None:
            body[name] = value
    for name in ("frequency_penalty", "presence_penalty"):
        if (value := getattr(sampling, name)) is not None:
            body[name] = value
    if sampling.repeat_penalty is not None:
        multiplied = engine in (EngineKind.VLLM, EngineKind.SGLANG, EngineKind.MLX)
        body["repetition_penalty" if multiplied else "repeat_penalty"] = sampling.repeat_penalty
    if sampling.stop:
        body["stop"] = sampling.stop
    if (seed := _seed(sampling, engine)) is not None:
        body["seed"] = seed
    return body


def _seed(sampling: Sampling, engine: EngineKind) -> int | None:
    """Ollama's -1 is "any seed"; llama.cpp's are 32 bits, of which the highest is "any"."""
    if sampling.seed is None or (sampling.seed == -1 and engine is not EngineKind.OTHER):
        return None
    return sampling.seed % (_UINT32 - 1) if engine is EngineKind.LLAMA_CPP else sampling.seed


def _ollama_options(options: dict[str, Any], engine: EngineKind) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for name, value in options.items():
        if name in _LLAMA_SAMPLERS and engine is EngineKind.LLAMA_CPP:
            body[name] = value
        elif name in _NEUTRAL and value != _NEUTRAL[name]:
            raise unsupported(f"this engine ({engine}) has no option {name!r}")
    return body
