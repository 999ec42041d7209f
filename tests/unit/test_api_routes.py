"""Which paths exist, and how the others are refused."""

from __future__ import annotations

import json

import pytest

from meshd.api import ollama, openai
from meshd.api.dialect import DialectError
from meshd.api.routes import Dialect, Match, Route, dialect_of, error_body, find
from meshd.inference import Failure, FailureKind


@pytest.mark.parametrize("path", openai.PATHS)
def test_openai_decodes_what_is_routed_to_it(path: str) -> None:
    assert find("POST", path) == Match(Route.OPENAI_CALL, Dialect.OPENAI)


@pytest.mark.parametrize("path", ollama.PATHS)
def test_ollama_decodes_what_is_routed_to_it(path: str) -> None:
    assert find("POST", path) == Match(Route.OLLAMA_CALL, Dialect.OLLAMA)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", Route.ROOT),
        ("/v1/models", Route.OPENAI_MODELS),
        ("/v1/models/", Route.OPENAI_MODELS),
        ("/v1/models/tiny", Route.OPENAI_MODEL),
        ("/api/tags", Route.OLLAMA_TAGS),
        ("/api/ps", Route.OLLAMA_PS),
        ("/api/version", Route.VERSION),
    ],
)
def test_lists_are_read(method: str, path: str, route: Route) -> None:
    assert find(method, path).route is route


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/models/tiny:latest", "tiny:latest"),
        ("/v1/models/tiny%3Alatest", "tiny:latest"),
        ("/v1/models/org/Model-GGUF:Q4", "org/Model-GGUF:Q4"),
        ("/v1/models/org%2FModel", "org/Model"),
    ],
)
def test_a_models_name_may_hold_slashes_and_escapes(path: str, model: str) -> None:
    assert find("GET", path).model == model


def test_preflights_are_taken_on_any_path() -> None:
    assert find("OPTIONS", "/v1/chat/completions").route is Route.PREFLIGHT
    assert find("OPTIONS", "/nowhere") == Match(Route.PREFLIGHT, Dialect.OLLAMA)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1", Dialect.OPENAI),
        ("/v1/", Dialect.OPENAI),
        ("/v1/whatever", Dialect.OPENAI),
        ("/v10", Dialect.OLLAMA),
        ("/api/whatever", Dialect.OLLAMA),
        ("/", Dialect.OLLAMA),
        ("", Dialect.OLLAMA),
    ],
)
def test_every_path_belongs_to_a_dialect(path: str, dialect: Dialect) -> None:
    assert dialect_of(path) is dialect


def refused(method: str, path: str) -> DialectError:
    with pytest.raises(DialectError) as caught:
        find(method, path)
    return caught.value


def test_an_unknown_path_of_openais_is_a_404_with_openais_body() -> None:
    error = refused("POST", "/v1/audio/speech")
    assert error.status == 404
    assert json.loads(error.body)["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("path", ["/api/nothing", "/nothing", "/api", "//", "*"])
def test_any_other_unknown_path_is_ollamas_page_not_found(path: str) -> None:
    error = refused("GET", path)
    assert (error.status, error.body) == (404, b"404 page not found")


def test_the_wrong_method_is_a_405_that_says_which_are_right() -> None:
    error = refused("GET", "/v1/chat/completions")
    assert error.status == 405
    assert json.loads(error.body)["error"]["code"] == "method_not_allowed"
    assert (b"allow", b"POST") in error.headers
    assert refused("DELETE", "/v1/models/tiny").status == 405
    error = refused("PUT", "/api/tags")
    assert (error.status, error.body) == (405, b"405 method not allowed")
    assert (b"allow", b"GET, HEAD") in error.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("DELETE", "/api/delete"),
        ("HEAD", "/api/blobs/sha256:abc"),
    ],
)
def test_what_changes_one_machine_is_a_501_with_a_sentence(method: str, path: str) -> None:
    error = refused(method, path)
    assert error.status == 501
    assert "a mesh does not" in json.loads(error.body)["error"]


def test_failures_are_told_in_the_words_of_the_path() -> None:
    failure = Failure(FailureKind.BAD_REQUEST, "too large", 413)
    assert json.loads(error_body("/v1/x", failure)[2])["error"]["message"] == "too large"
    assert json.loads(error_body("/api/x", failure)[2]) == {"error": "too large"}
