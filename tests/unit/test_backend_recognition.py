"""Which engine is it?  By canned answers of those that no test can start, and ugly transports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

import pytest
import trio
from trio.testing import MockClock

from meshd.backends import Backends, RunControl
from meshd.config import BackendConfig
from meshd.http import HttpServer, Responder, ServerRequest, Sweeper
from meshd.inference import Delta, Kind, Message, Request, Usage
from meshd.ports import ByteStream, Network, Ports
from meshd.testing.clock import SimClock
from meshd.testing.database import MemoryDatabases
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from meshd.testing.machine import SimHost
from meshd.testing.memory_engine import MemoryEngines
from meshd.testing.network import MemoryNetwork

CHAT = Request(Kind.CHAT, "m", messages=[Message("user", "hi")])
Canned = Mapping[str, tuple[int, bytes]]

LM_STUDIO_NEW: Canned = {
    "/": (200, b'{"error":"Unexpected endpoint or method. (GET /)"}'),
    "/props": (200, b'{"error":"Unexpected endpoint or method. (GET /props)"}'),
    "/api/v1/models": (
        200,
        b'{"models":[{"type":"llm","key":"m","loaded_instances":[{"id":"m","config":'
        b'{"context_length":8192,"parallel":4}}]}]}',
    ),
}
LM_STUDIO_OLD: Canned = {
    "/api/v1/models": (200, b'{"error":"Unexpected endpoint or method."}'),
    "/api/v0/models": (200, b'{"data":[{"id":"m","type":"llm","state":"loaded"}]}'),
}
VLLM: Canned = {
    "/version": (200, b'{"version":"0.33.0"}'),
    "/v1/models": (200, b'{"data":[{"id":"m","owned_by":"vllm","max_model_len":4096}]}'),
}
SGLANG: Canned = {
    "/v1/models": (200, b'{"data":[{"id":"m","owned_by":"sglang"}]}'),
    "/get_server_info": (200, b'{"version":"0.5.4"}'),
}
MLX: Canned = {
    "/health": (200, b'{"status": "ok"}'),
    "/v1/models": (200, b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'),
}
HOSTED: Canned = {
    "/v1/models": (200, b'{"data":[{"id":"m","owned_by":"somebody"}]}'),
}
LLAMA_BEHIND_A_KEY: Canned = {
    "/props": (401, b'{"error":{"message":"Invalid API Key","code":401}}'),
    "/v1/models": (401, b'{"error":{"message":"Invalid API Key","code":401}}'),
}


async def watched(
    nursery: trio.Nursery, network: Network, config: BackendConfig, sweeper: Sweeper
) -> Backends:
    backends = Backends(
        Ports(
            network,
            SimClock(),
            MemoryDisk(),
            SeededEntropy(1),
            MemoryEngines(network, nursery),
            SimHost(),
            MemoryDatabases(),
        ),
        sweeper=sweeper,
        node="n" * 26,
        generation=1,
        configured=[config],
        detect=False,
        claims_dir=PurePath("/claims"),
        on_change=lambda: None,
    )
    nursery.start_soon(backends.run)
    await backends.first_probe_done()
    return backends


@pytest.mark.parametrize(
    ("canned", "engine", "version", "slots", "context"),
    [
        (LM_STUDIO_NEW, "lmstudio", "", 4, 8192),
        (LM_STUDIO_OLD, "lmstudio", "", 1, 0),
        (VLLM, "vllm", "0.33.0", 16, 4096),
        (SGLANG, "sglang", "0.5.4", 16, 0),
        (MLX, "mlx", "", 1, 0),
        (HOSTED, "openai", "", 1, 0),
    ],
    ids=["lmstudio-v1", "lmstudio-v0", "vllm", "sglang", "mlx", "other"],
)
async def test_engines_are_named_by_what_they_answer(
    autojump_clock: MockClock, canned: Canned, engine: str, version: str, slots: int, context: int
) -> None:
    seen: list[ServerRequest] = []

    async def handle(request: ServerRequest, responder: Responder) -> None:
        seen.append(request)
        status, body = canned.get(request.path, (404, b'{"error":"no"}'))
        await responder.send(status, [(b"content-type", b"application/json")], body)

    sweeper = Sweeper()
    host = MemoryNetwork(seed=1).host("a", ["10.0.0.1"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        listener = await host.listen_clients("127.0.0.1", 8000)
        nursery.start_soon(HttpServer(handle, sweeper).serve, listener)
        config = BackendConfig("http://127.0.0.1:8000")
        backends = await watched(nursery, host, config, sweeper)
        (info,) = backends.inventory().backends
        assert (info.engine, info.version, info.slots) == (engine, version, slots)
        assert info.id == f"{engine}-8000"
        (model,) = info.models
        assert (model.name, model.context_tokens) == ("m", context)
        assert {request.header(b"host") for request in seen} == {b"127.0.0.1:8000"}
        assert all(request.method == "GET" for request in seen), "a guess changes nothing"
        nursery.cancel_scope.cancel()


async def test_what_the_config_says_it_is_needs_no_recognising(
    autojump_clock: MockClock,
) -> None:
    async def handle(request: ServerRequest, responder: Responder) -> None:
        status, body = HOSTED.get(request.path.removeprefix("/below"), (404, b""))
        await responder.send(status, [], body)

    sweeper = Sweeper()
    host = MemoryNetwork(seed=1).host("a", ["10.0.0.1"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        listener = await host.listen_clients("127.0.0.1", 8000)
        nursery.start_soon(HttpServer(handle, sweeper).serve, listener)
        config = BackendConfig("http://127.0.0.1:8000/below/v1", engine="vllm")
        backends = await watched(nursery, host, config, sweeper)
        (info,) = backends.inventory().backends
        assert info.engine == "vllm"
        nursery.cancel_scope.cancel()


async def test_an_engine_that_wants_a_key_says_so_in_its_state(autojump_clock: MockClock) -> None:
    async def handle(request: ServerRequest, responder: Responder) -> None:
        status, body = LLAMA_BEHIND_A_KEY.get(request.path, (404, b""))
        await responder.send(status, [], body)

    sweeper = Sweeper()
    host = MemoryNetwork(seed=1).host("a", ["10.0.0.1"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        listener = await host.listen_clients("127.0.0.1", 8080)
        nursery.start_soon(HttpServer(handle, sweeper).serve, listener)
        config = BackendConfig("http://127.0.0.1:8080")
        backends = await watched(nursery, host, config, sweeper)
        (row,) = backends.rows()
        assert "set api_key for this backend" in row.state
        nursery.cancel_scope.cancel()


# --- transports as ugly as they come

EVENTS = (
    b": keepalive 1/2\n\n"
    b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "a"}, '
    b'"finish_reason": null}]}\n\n'
    b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, '
    b'"finish_reason": "stop"}]}\n\n'
)
OLD_HTTP = (
    b"HTTP/1.0 200 OK\r\nContent-type: text/event-stream\r\nConnection: close\r\n\r\n" + EVENTS
)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENTS), EVENTS)
)


@pytest.mark.parametrize("answer", [OLD_HTTP, CHUNKED], ids=["http-1.0-until-eof", "chunked"])
@pytest.mark.parametrize("step", [1, 7, 10_000])
async def test_answers_arrive_whole_however_they_are_carried(
    autojump_clock: MockClock, answer: bytes, step: int
) -> None:
    async def serve(stream: ByteStream) -> None:
        request = await stream.receive_some()
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some()
        if request.startswith(b"POST"):
            for at in range(0, len(answer), step):
                await stream.send_all(answer[at : at + step])
        else:
            body = HOSTED["/v1/models"][1] if b" /v1/models " in request else b"{}"
            head = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            await stream.send_all(head + body)
        await stream.aclose()

    sweeper = Sweeper()
    host = MemoryNetwork(seed=1).host("a", ["10.0.0.1"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        listener = await host.listen_clients("127.0.0.1", 8080)

        async def accept() -> None:
            while True:
                nursery.start_soon(serve, await listener.accept())

        nursery.start_soon(accept)
        config = BackendConfig("http://127.0.0.1:8080", engine="mlx")
        backends = await watched(nursery, host, config, sweeper)
        backend, model = backends.holders("m")[0]
        got: list[Delta | Usage] = []

        async def emit(events: object) -> None:
            got.extend(events)  # type: ignore[call-overload]

        await backend.run(CHAT, model, emit, RunControl())
        assert got == [Delta("a"), Delta(finish_reason="stop")]
        nursery.cancel_scope.cancel()
