"""Which paths exist on the client port, and whose words answer the others.  Pure.

The table is the whole truth: what is not in it is refused here, in the dialect that the path
belongs to.  `/v1/...` is OpenAI's; all the rest is Ollama's, as a client of Ollama's root expects.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import unquote

from meshd.api import ollama_encode, ollama_error, openai_encode, openai_error
from meshd.api.dialect import AnswerEncoder, DialectError, HeaderPair
from meshd.inference import Failure
from meshd.wire.serve import AnswerForm


class Dialect(StrEnum):
    OPENAI = "openai"
    OLLAMA = "ollama"


class Route(StrEnum):
    """What is done for a path.  The first two groups have a `decode` in their dialect's module."""

    OPENAI_CALL = "openai.call"
    OLLAMA_CALL = "ollama.call"
    OPENAI_MODELS = "openai.models"
    OPENAI_MODEL = "openai.model"
    OLLAMA_TAGS = "ollama.tags"
    OLLAMA_PS = "ollama.ps"
    OLLAMA_SHOW = "ollama.show"
    VERSION = "version"
    ROOT = "root"
    PREFLIGHT = "preflight"


@dataclass(frozen=True, slots=True)
class Match:
    """Where a request goes."""

    route: Route
    dialect: Dialect
    model: str = ""
    """OPENAI_MODEL: which, decoded."""


@dataclass(frozen=True, slots=True)
class _Entry:
    match: Match
    methods: tuple[str, ...]


_GET: Final = ("GET", "HEAD")
_POST: Final = ("POST",)


def _openai(route: Route, methods: tuple[str, ...]) -> _Entry:
    return _Entry(Match(route, Dialect.OPENAI), methods)


def _ollama(route: Route, methods: tuple[str, ...]) -> _Entry:
    return _Entry(Match(route, Dialect.OLLAMA), methods)


_TABLE: Final[dict[str, _Entry]] = {
    "/v1/chat/completions": _openai(Route.OPENAI_CALL, _POST),
    "/v1/completions": _openai(Route.OPENAI_CALL, _POST),
    "/v1/embeddings": _openai(Route.OPENAI_CALL, _POST),
    "/v1/models": _openai(Route.OPENAI_MODELS, _GET),
    "/api/chat": _ollama(Route.OLLAMA_CALL, _POST),
    "/api/generate": _ollama(Route.OLLAMA_CALL, _POST),
    "/api/embed": _ollama(Route.OLLAMA_CALL, _POST),
    "/api/embeddings": _ollama(Route.OLLAMA_CALL, _POST),
    "/api/tags": _ollama(Route.OLLAMA_TAGS, _GET),
    "/api/ps": _ollama(Route.OLLAMA_PS, _GET),
    "/api/show": _ollama(Route.OLLAMA_SHOW, _POST),
    "/api/version": _ollama(Route.VERSION, _GET),
    "/": _ollama(Route.ROOT, _GET),
}
_MODEL: Final = "/v1/models/"
_MODEL_ENTRY: Final = _openai(Route.OPENAI_MODEL, _GET)

# Ollama's own endpoints that change what one machine holds.  They get a sentence instead of "page
# not found", since `ollama pull` and the like show it to a person.
_ELSEWHERE: Final = {
    "/api/pull": "pull models",
    "/api/push": "push models",
    "/api/create": "create models",
    "/api/copy": "copy models",
    "/api/delete": "delete models",
}


def find(method: str, path: str) -> Match:
    """Where that request goes.  `path` as on the wire, without the query.

    Raises DialectError: 404 (unknown path), 405 (known, other method, with Allow), or 501 (an
    endpoint of Ollama's that a mesh does not have).
    """
    entry = _TABLE.get(path)
    if entry is not None and method in entry.methods:
        return entry.match
    if method == "OPTIONS":
        return Match(Route.PREFLIGHT, dialect_of(path))
    if entry is None and path.startswith(_MODEL):
        name = unquote(path.removeprefix(_MODEL))
        if not name:
            return find(method, "/v1/models")
        if method in _MODEL_ENTRY.methods:
            return Match(Route.OPENAI_MODEL, Dialect.OPENAI, name)
        entry = _MODEL_ENTRY
    raise _not_here(method, path) if entry is None else _not_so(method, path, entry.methods)


def dialect_of(path: str) -> Dialect:
    """In whose words a request for that path is answered, whether the path exists or not."""
    return Dialect.OPENAI if path == "/v1" or path.startswith("/v1/") else Dialect.OLLAMA


def error_body(path: str, failure: Failure) -> tuple[int, list[HeaderPair], bytes]:
    """The failure as status, headers and body, in the dialect of the path."""
    if dialect_of(path) is Dialect.OPENAI:
        return openai_error.error_body(failure)
    return ollama_error.error_body(failure)


def encoder_of(form: AnswerForm) -> AnswerEncoder:
    """What writes an answer of this form, in the dialect of its path."""
    if dialect_of(form.path) is Dialect.OPENAI:
        return openai_encode.encoder_of(form)
    return ollama_encode.encoder_of(form)


def _plain(status: int, text: str) -> DialectError:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    return DialectError(status, text.encode(), headers, text)


def _not_here(method: str, path: str) -> DialectError:
    if dialect_of(path) is Dialect.OPENAI:
        message = f"there is no {method} {path[:200]} here; /v1/models lists what can be asked"
        return openai_error.refusal(404, message, code="unknown_url")
    what = "take uploads of models" if path.startswith("/api/blobs/") else _ELSEWHERE.get(path)
    if what:
        return ollama_error.refusal(
            501, f"a mesh does not {what}: do that at the Ollama of the machine that is to hold it"
        )
    return _plain(404, "404 page not found")


def _not_so(method: str, path: str, allowed: tuple[str, ...]) -> DialectError:
    if dialect_of(path) is Dialect.OPENAI:
        message = f"{path} does not take {method}, only {', '.join(allowed)}"
        error = openai_error.refusal(405, message, code="method_not_allowed")
    else:
        error = _plain(405, "405 method not allowed")
    error.headers.append((b"allow", ", ".join(allowed).encode()))
    return error
