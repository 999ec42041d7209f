"""Requests as each kind of engine is to get them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshd.backends import BackendFailed, ollama_request, openai_request
from meshd.backends.openai_request import EngineKind
from meshd.inference import (
    Kind,
    Message,
    ModelInfo,
    Request,
)

MODEL = ModelInfo("tiny:latest", capabilities=["completion", "tools", "vision", "thinking"])
BLIND = ModelInfo("tiny:latest", capabilities=["completion"])
UNKNOWN = ModelInfo("tiny:latest")
HI = [Message("user", "hi")]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


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


def complete(**changed: Any) -> Request:
    return Request(Kind.COMPLETION, "tiny", **{"prompt": "once", **changed})
