"""Embedding vectors: read from an engine's answer, and brought to what was asked for.  Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from meshd.backends.failures import NOT_JSON
from meshd.backends.openai_request import unsupported
from meshd.errors import ProtocolError
from meshd.inference import Embedding, Request

Answer = TypeVar("Answer")

_UNIT: Final = 1e-3
"""How far from 1 a length may be to count as 1."""


class _Row(msgspec.Struct, gc=False):
    embedding: list[float]
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _OpenAI(msgspec.Struct):
    data: list[_Row]
    usage: _Usage = msgspec.field(default_factory=_Usage)


class _Ollama(msgspec.Struct):
    embeddings: list[list[float]] = []
    prompt_eval_count: int = 0


class _OldOllama(msgspec.Struct):
    embedding: list[float]


_openai: Final = msgspec.json.Decoder(_OpenAI).decode
_ollama: Final = msgspec.json.Decoder(_Ollama).decode
_old_ollama: Final = msgspec.json.Decoder(_OldOllama).decode


def from_openai(body: bytes, request: Request) -> Embedding:
    """The answer of /v1/embeddings.  Raises ProtocolError, BackendFailed (UNSUPPORTED)."""
    answer = _read(_openai, body)
    vectors = [row.embedding for row in sorted(answer.data, key=lambda row: row.index)]
    return _asked_for(vectors, answer.usage.prompt_tokens, request)


def from_ollama(body: bytes, request: Request) -> Embedding:
    """The answer of /api/embed.  Raises ProtocolError, BackendFailed (UNSUPPORTED)."""
    answer = _read(_ollama, body)
    return _asked_for(answer.embeddings, answer.prompt_eval_count, request)


def from_old_ollama(body: bytes) -> list[float]:
    """The answer of /api/embeddings: one vector, as it is.  Raises ProtocolError."""
    return _read(_old_ollama, body).embedding


def _read(decode: Callable[[bytes], Answer], body: bytes) -> Answer:
    try:
        return decode(body)
    except NOT_JSON as error:
        raise ProtocolError(f"The engine sent what is no embedding: {error}.") from None


def _asked_for(vectors: list[list[float]], prompt_tokens: int, request: Request) -> Embedding:
    if len(vectors) != len(request.inputs):
        raise ProtocolError(
            f"The engine gave {len(vectors)} vectors for {len(request.inputs)} inputs."
        )
    wanted = request.dimensions
    if wanted is not None:
        if any(len(vector) < wanted for vector in vectors):
            raise unsupported(
                f"this model has vectors of {len(vectors[0])} dimensions, not {wanted}"
            )
        # As Ollama does it: models trained for this keep their sense in the first dimensions.
        vectors = [vector[:wanted] for vector in vectors]
    if request.normalise:
        vectors = [_unit(vector) for vector in vectors]
    return Embedding(vectors, prompt_tokens)


def _unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    if abs(length - 1.0) < _UNIT or not length:
        return vector
    return [x / length for x in vector]
