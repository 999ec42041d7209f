"""Bodies in OpenAI's dialect, decoded or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from meshd.api import openai
from meshd.api.dialect import Call, DialectError
from meshd.inference import Request

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
USER = [{"role": "user", "content": "hi"}]
PNG = "iVBORw0KGgoAAAANSUhEUg=="


def decode(path: str, body: Any, headers: Mapping[bytes, bytes] | None = None) -> Call:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return openai.decode(
        path, data, (headers or {}).get, request_id="r1", now_unix_s=1_700_000_000.5
    )


def chat(**fields: Any) -> Request:
    return decode(CHAT, {"model": "tiny", "messages": USER, **fields}).request


def refused(path: str, body: Any) -> dict[str, Any]:
    """The error object of the 400 that this gets."""
    with pytest.raises(DialectError) as caught:
        decode(path, body)
    assert caught.value.status == 400
    assert caught.value.headers == [(b"content-type", b"application/json")]
    error = json.loads(caught.value.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert isinstance(error["message"], str)
    return dict(error)


def chat_refused(**fields: Any) -> dict[str, Any]:
    return refused(CHAT, {"model": "tiny", "messages": USER, **fields})
