"""An engine that streams at a set pace, and clients that read: each a process of its own.

    python -m tests.bench.paced engine PORT --events 500 --gap-s 0.02 --per-write 1
    python -m tests.bench.paced clients URL --streams 32

The engine speaks llama.cpp's form of OpenAI's stream, one event a write or several.  The clients
count what they get and print it as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from urllib.parse import urlsplit

import trio

MODEL = "bench"
MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return f"data: {json.dumps(chunk)}\n\n".encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(stream: trio.SocketStream, events: int, gap_s: float, per_write: int) -> None:
    """One connection: any number of requests."""
    held = b""
    try:
        while True:
            while b"\r\n\r\n" not in held:
                data = await stream.receive_some(65536)
                if not data:
                    return
                held += data
            head, _, held = held.partition(b"\r\n\r\n")
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line[15:])
            while len(held) < length:
                held += await stream.receive_some(65536)
            held = held[length:]
            if head.startswith(b"GET /v1/models"):
                await _whole(stream, 200, MODELS)
            elif head.startswith(b"POST /v1/chat/completions"):
                await _answer(stream, events, gap_s, per_write)
            else:
                await _whole(stream, 404, b"{}")
    except (trio.BrokenResourceError, ValueError):
        return


async def _whole(stream: trio.SocketStream, status: int, body: bytes) -> None:
    head = b"HTTP/1.1 %d -\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    await stream.send_all(head % (status, len(body)) + body)


async def _answer(stream: trio.SocketStream, events: int, gap_s: float, per_write: int) -> None:
    await stream.send_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    piece = _event({"content": " word"})
    batch = _chunk(piece * per_write)
    due = trio.current_time()
    for _ in range(events // per_write):
        await stream.send_all(batch)
        if gap_s:
            due += gap_s * per_write
            await trio.sleep_until(due)
    await stream.send_all(_chunk(_event({}, "stop") + b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def read(url: str, streams: int, results: list[int]) -> None:
    """Read that many streams at once; counts of events go to `results`."""
    async with trio.open_nursery() as nursery:
        for _ in range(streams):
            nursery.start_soon(_read_one, url, results)


async def _read_one(url: str, results: list[int]) -> None:
    parts = urlsplit(url)
    body = json.dumps(
        {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "go"}]}
    ).encode()
    stream = await trio.open_tcp_stream(str(parts.hostname), int(parts.port or 80))
    async with stream:
        await stream.send_all(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        count, tail = 0, b""
        while data := await stream.receive_some(65536):
            data = tail + data
            count += data.count(b'"content":" word"') + data.count(b'"content": " word"')
            tail = data[-16:] if not data.endswith(b'word"') else b""
        results.append(count)


def main() -> None:
    parser = argparse.ArgumentParser()
    sub = parser.add_subparsers(dest="role", required=True)
    engine = sub.add_parser("engine")
    engine.add_argument("port", type=int)
    engine.add_argument("--events", type=int, default=500)
    engine.add_argument("--gap-s", type=float, default=0.0)
    engine.add_argument("--per-write", type=int, default=1)
    clients = sub.add_parser("clients")
    clients.add_argument("url")
    clients.add_argument("--streams", type=int, default=32)
    chosen = parser.parse_args()
    if chosen.role == "engine":
        handler = partial(
            serve, events=chosen.events, gap_s=chosen.gap_s, per_write=chosen.per_write
        )
        trio.run(partial(trio.serve_tcp, handler, chosen.port, host="127.0.0.1"))
    results: list[int] = []
    trio.run(read, chosen.url, chosen.streams, results)
    json.dump({"streams": len(results), "events": sum(results)}, sys.stdout)


if __name__ == "__main__":
    main()
