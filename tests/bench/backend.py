"""A backend that always gives the same answer, far faster than what is measured: nginx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.tools import free_port, nginx

MODEL = "bench"
REQUEST = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": "Say something short, please."}]}
)
TEXT = "A short answer, as asked for."

_WHOLE = json.dumps(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1700000000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19},
    }
)
_MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]})


def _event(delta: dict[str, str], finish: str | None, **more: object) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": MODEL,
        "choices": [choice],
        **more,
    }
    return f"data: {json.dumps(chunk)}\n\n"


_USAGE = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}
_STREAM = (
    _event({"role": "assistant", "content": TEXT}, None)
    + _event({}, "stop", usage=_USAGE)
    + "data: [DONE]\n\n"
)


@contextmanager
def fixed_backend() -> Iterator[int]:
    """Its port on loopback.

    It answers a chat with one JSON object of some 300 bytes, or, to who accepts an event stream (as
    meshd does of engines), with the same in three events.
    """
    port = free_port()
    stream = _STREAM.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    block = f"""
    map $http_accept $kind {{ default whole; "~event-stream" stream; }}
    server {{
      listen 127.0.0.1:{port} backlog=4096;
      default_type application/json;
      location = /v1/models {{ return 200 '{_MODELS}'; }}
      location = /v1/chat/completions {{
        if ($kind = stream) {{ rewrite ^ /stream last; }}
        return 200 '{_WHOLE}';
      }}
      location = /stream {{ default_type text/event-stream; return 200 '{stream}'; }}
    }}"""
    with nginx(block, port):
        yield port
