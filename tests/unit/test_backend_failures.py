"""What engines' errors mean: their own words, as measured or read in their source."""

from __future__ import annotations

import pytest

from meshd.backends.failures import failure_in_stream, failure_of
from meshd.inference import FailureKind as K

LLAMA_OVERFLOW = (
    b'{"error":{"code":400,"message":"the request exceeds the available context size, try '
    b'increasing it","type":"exceed_context_size_error","n_prompt_tokens":9000,"n_ctx":4096}}'
)


@pytest.mark.parametrize(
    ("status", "body", "kind", "shown"),
    [
        # llama.cpp
        (400, LLAMA_OVERFLOW, K.CONTEXT_OVERFLOW, 400),
        (
            400,
            b'{"error":{"code":400,"message":"\'messages\' is required",'
            b'"type":"invalid_request_error"}}',
            K.BAD_REQUEST,
            400,
        ),
        (
            401,
            b'{"error":{"code":401,"message":"Invalid API Key","type":"authentication_error"}}',
            K.BACKEND,
            502,
        ),
        (
            404,
            b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}',
            K.UNSUPPORTED,
            400,
        ),
        (
            500,
            b'{"error":{"code":500,"message":"The model produced output that does not match the '
            b'expected peg-native format","type":"server_error"}}',
            K.BACKEND,
            502,
        ),
        (
            500,
            b'{"error":{"code":500,"message":"image input is not supported - hint: if this is '
            b'unexpected, you may need to provide the mmproj","type":"server_error"}}',
            K.UNSUPPORTED,
            400,
        ),
        (
            501,
            b'{"error":{"code":501,"message":"This server does not support embeddings. Start it '
            b'with `--embeddings`","type":"not_supported_error"}}',
            K.UNSUPPORTED,
            400,
        ),
        (
            503,
            b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}',
            K.BUSY,
            503,
        ),
        # Ollama
        (404, b'{"error":"model \\"x\\" not found, try pulling it first"}', K.NOT_FOUND, 404),
        (404, b'{"error":"model \'x\' not found"}', K.NOT_FOUND, 404),
        (404, b"404 page not found", K.UNSUPPORTED, 400),
        (400, b'{"error":"\\"x\\" does not support thinking"}', K.UNSUPPORTED, 400),
        (400, b'{"error":"host/library/x:latest does not support tools"}', K.UNSUPPORTED, 400),
        (403, b"", K.BACKEND, 502),
        (
            500,
            b'{"error":"option \\"num_predict\\" must be of type integer"}',
            K.BAD_REQUEST,
            400,
        ),
        (
            400,
            b'{"error":"the input length exceeds the context length"}',
            K.CONTEXT_OVERFLOW,
            400,
        ),
        (
            500,
            b'{"error":"llama runner process has terminated: exit status 2"}',
            K.BROKEN,
            502,
        ),
        (
            503,
            b'{"error":"server busy, please try again.  maximum pending requests exceeded"}',
            K.BUSY,
            503,
        ),
        # vLLM
        (
            400,
            b'{"object":"error","message":"This model\'s maximum context length is 4096 tokens. '
            b'However, you requested 5000","type":"BadRequestError","code":400}',
            K.CONTEXT_OVERFLOW,
            400,
        ),
        (
            404,
            b'{"error":{"message":"The model `x` does not exist.","type":"NotFoundError",'
            b'"code":404}}',
            K.NOT_FOUND,
            404,
        ),
        (422, b'{"detail":[{"loc":["body","n"],"msg":"wrong"}]}', K.BAD_REQUEST, 400),
        # LM Studio
        (
            404,
            b'{"error":{"message":"No models loaded. Please load a model","code":404}}',
            K.NOT_FOUND,
            404,
        ),
        (400, b'{"error":"Model has crashed"}', K.BROKEN, 502),
        # mlx-lm
        (404, b'{"error": "something odd"}', K.NOT_FOUND, 404),
        # a hosted one
        (429, b'{"error":{"message":"Rate limit reached"}}', K.BUSY, 503),
        (502, b"<html>Bad Gateway</html>", K.BACKEND, 502),
        (302, b"", K.BACKEND, 502),
        (400, b"", K.BAD_REQUEST, 400),
        (500, b"\xff\xfe", K.BACKEND, 502),
        (400, b"[1, 2]", K.BAD_REQUEST, 400),
        (500, b'{"error":null}', K.BACKEND, 502),
    ],
)
def test_an_answer_that_is_none(status: int, body: bytes, kind: K, shown: int) -> None:
    failure = failure_of(status, body)
    assert (failure.kind, failure.status) == (kind, shown)
    assert failure.message


def test_the_engines_own_words_are_told() -> None:
    assert "try increasing it" in failure_of(400, LLAMA_OVERFLOW).message


def test_a_refused_key_says_what_to_do_and_is_not_the_clients_fault() -> None:
    failure = failure_of(401, b'{"error":{"message":"Invalid API Key"}}')
    assert "set api_key for this backend" in failure.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (b"7", 7.0),
        (b"0.5", 0.5),
        (b"Fri, 20 Nov 2026 00:00:00 GMT", 1.0),
        (None, 1.0),
        (b"9999", 120),
    ],
)
def test_how_long_a_busy_engine_asks_to_wait(header: bytes | None, seconds: float) -> None:
    assert failure_of(429, b"", retry_after=header).retry_after_s == seconds


def test_a_long_page_is_cut_short() -> None:
    assert len(failure_of(500, b"x" * 100_000).message) < 600


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("unexpected EOF", K.BROKEN),
        ({"message": "boom"}, K.BACKEND),
        ({"message": "boom", "code": 400}, K.BAD_REQUEST),
        ({"message": "boom", "code": "invalid_request_error"}, K.BAD_REQUEST),
        ({"code": 429}, K.BUSY),
        (None, K.BACKEND),
        (["boom"], K.BACKEND),
    ],
)
def test_an_error_within_an_answer(error: object, kind: K) -> None:
    assert failure_in_stream(error).kind == kind
