"""Engines in memory: what llama.cpp and Ollama say, at a settable speed, in trio's time.

On `testing.network` and under `MockClock` a whole node runs against these in no time.  They answer
with the chain of the counter model (`testing.models.expected_text`), so that a lost, doubled or
re-ordered token shows.  What they do on demand, real engines do only by accident: see `Fault`.

    engine = MemoryEngine("tiny", tokens_per_s=20)
    nursery.start_soon(engine.serve, host, 8080)     # host: a ports.Network
    engine.fault = Fault.DIE                         # the next answer breaks off
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from typing import Any, Final

import msgspec
import trio

from meshd.errors import MeshdError, Refused, StreamBroken
from meshd.http import HttpServer, Responder, ServerOptions, ServerRequest, Sweeper
from meshd.ports import Network
from meshd.testing.memory_answers import (
    CREATED_AT,
    WORDS_MAX,
    OllamaWire,
    OpenAIWire,
    Template,
    Wire,
)

JSON: Final = (b"content-type", b"application/json")

_json: Final = msgspec.json.Encoder().encode


class Dialect(StrEnum):
    """Whose API it has."""

    LLAMA_CPP = "llama.cpp"
    OLLAMA = "ollama"


class Fault(StrEnum):
    """What goes wrong with an answer."""

    REFUSE = "refuse"  # 503 instead of an answer
    NOT_FOUND = "not_found"  # 404: the model is gone
    OVERFLOW = "overflow"  # 400: the prompt does not fit
    HANG = "hang"  # accepted, then nothing
    HANG_LATER = "hang_later"  # nothing more after `fault_after` tokens
    DIE = "die"  # the connection breaks after `fault_after` tokens
    NO_FINISH = "no_finish"  # a clean end after `fault_after` tokens, without finish_reason
    ERROR = "error"  # an error object after `fault_after` tokens
    GARBAGE = "garbage"  # bytes that are nothing after `fault_after` tokens


class _Cut(Exception):
    """The answer ends here, by breaking its connection."""


@dataclass(eq=False)
class MemoryEngine:
    """One engine with one model.  Times in seconds of trio's clock."""

    model: str = "tiny"
    dialect: Dialect = Dialect.LLAMA_CPP
    slots: int = 4
    tokens_per_s: float = 100.0
    prefill_s: float = 0.0
    load_s: float = 0.0
    """How long the first request waits (Ollama: and until when the model is not resident)."""
    context_tokens: int = 4096
    digest: str = "d" * 64
    """Ollama's."""
    template: Template = Template()  # noqa: RUF009 - it is frozen
    answer_words: int = WORDS_MAX
    """How long its whole answer is: `expected_text(max_tokens=answer_words)`."""
    thoughts: int = 0
    """How many words of its answer it thinks before it says the others."""
    version: str = "0.33.0"
    """Ollama's."""
    fault: Fault | None = None
    """For the next answer only, unless `fault_stays`."""
    fault_after: int = 3
    fault_stays: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of all requests for inference, in order."""
    running: int = 0
    cancelled: int = 0
    """Answers that the client did not wait for."""
    words_said: int = 0
    """Over all answers."""
    resident: bool = False
    """Ollama's: loaded by the first request."""

    def __post_init__(self) -> None:
        self._gate = trio.CapacityLimiter(self.slots)
        self._awake = trio.Event()
        self._awake.set()
        self._scope: trio.CancelScope | None = None

    # --- life

    @property
    def serving(self) -> bool:
        """Whether it was started and did not crash since."""
        return self._scope is not None and not self._scope.cancel_called

    async def serve(
        self,
        network: Network,
        port: int,
        *,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve on that host's loopback until `crash`; tells the port."""
        listener = await network.listen_clients("127.0.0.1", port)
        assert listener.address is not None
        sweeper = Sweeper()
        server = HttpServer(self.handle, sweeper, options=ServerOptions(send_stall_s=600.0))
        self.resident = self.dialect is Dialect.LLAMA_CPP
        try:
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(sweeper.run)
                    task_status.started(listener.address.port)
                    await server.serve(listener)
        finally:
            with trio.CancelScope(shield=True):
                await listener.aclose()

    def crash(self) -> None:
        """kill -9: every connection breaks, nobody listens any more."""
        if self._scope is not None:
            self._scope.cancel()

    def freeze(self) -> None:
        """SIGSTOP: connections are still taken, and nothing is said on any of them."""
        if self._awake.is_set():
            self._awake = trio.Event()

    def thaw(self) -> None:
        """SIGCONT."""
        self._awake.set()

    # --- answers

    async def handle(self, request: ServerRequest, responder: Responder) -> None:
        """The handler of its HTTP server."""
        await self._awake.wait()
        body: dict[str, Any] = {}
        if request.body:
            body = msgspec.json.decode(request.body, type=dict[str, Any])
        if body.get("_debug_render_only"):
            await self._load()  # Ollama does before it renders
        facts = self._facts(request.path, body)
        if facts is not None:
            status, content = facts
            raw = content.encode() if isinstance(content, str) else _json(content)
            return await responder.send(status, [JSON], raw)
        self.requests.append(body)
        fault = self._take_fault()
        if (refusal := self._refusal(fault)) is not None:
            return await responder.send(refusal[0], [JSON], _json(refusal[1]))
        with trio.CancelScope() as scope:
            responder.on_disconnect = scope.cancel
            async with self._gate:
                self.running += 1
                try:
                    await self._answer(request.path, body, responder, fault)
                except StreamBroken:
                    scope.cancel()  # noticed by writing rather than by reading
                finally:
                    self.running -= 1
        if responder.disconnected:
            self.cancelled += 1
        return None

    def _take_fault(self) -> Fault | None:
        fault = self.fault
        if not self.fault_stays:
            self.fault = None
        return fault

    def _refusal(self, fault: Fault | None) -> tuple[int, object] | None:
        message, status, kind = {
            Fault.REFUSE: ("server busy, please try again", 503, "unavailable_error"),
            Fault.NOT_FOUND: (f"model '{self.model}' not found", 404, "not_found_error"),
            Fault.OVERFLOW: (
                "the request exceeds the available context size",
                400,
                "exceed_context_size_error",
            ),
        }.get(fault or Fault.DIE, ("", 0, ""))
        if not status:
            return None
        if self.dialect is Dialect.OLLAMA:
            return status, {"error": message}
        return status, {"error": {"code": status, "message": message, "type": kind}}

    async def _answer(
        self, path: str, body: dict[str, Any], responder: Responder, fault: Fault | None
    ) -> None:
        if fault is Fault.HANG:
            await trio.sleep_forever()
        await self._load()
        await trio.sleep(self.prefill_s)
        await self._awake.wait()
        if "embed" in path:
            return await responder.send(200, [JSON], _json(self._embedding(path, body)))
        kind = OllamaWire if self.dialect is Dialect.OLLAMA else OpenAIWire
        wire = kind(path, body, self.template, self.thoughts, self.answer_words)
        await responder.start(200, [wire.content_type])
        try:
            await self._stream(wire, responder, fault)
        except _Cut:
            # An error out of a handler whose answer has begun breaks the connection.
            raise MeshdError("the engine dies on purpose") from None
        return await responder.finish()

    async def _load(self) -> None:
        if not self.resident or self.load_s:
            await trio.sleep(self.load_s)
            self.load_s = 0.0
            self.resident = True

    async def _stream(self, wire: Wire, responder: Responder, fault: Fault | None) -> None:
        await responder.write(wire.start())
        words = wire.words()
        for number, (word, thought) in enumerate(words):
            if number == self.fault_after and fault is not None:
                if fault is Fault.HANG_LATER:
                    await trio.sleep_forever()
                if fault is Fault.DIE:
                    raise _Cut
                if fault is Fault.NO_FINISH:
                    return await responder.write(wire.done_marker())
                if fault is Fault.ERROR:
                    return await responder.write(wire.error("the engine had an accident"))
                if fault is Fault.GARBAGE:
                    return await responder.write(b"data: {nonsense}\n\n")
            await trio.sleep(1.0 / self.tokens_per_s)
            await self._awake.wait()
            await responder.write(wire.piece(word, thought))
            self.words_said += 1
        return await responder.write(wire.end(len(words)))

    def _embedding(self, path: str, body: dict[str, Any]) -> object:
        if path == "/api/embeddings":
            return {"embedding": [3.0, 4.0]}
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        vectors = [[0.6, 0.8] for _ in inputs]
        if path == "/api/embed":
            return {"model": self.model, "embeddings": vectors, "prompt_eval_count": len(inputs)}
        data = [{"index": i, "embedding": v} for i, v in enumerate(vectors)]
        return {"data": data, "usage": {"prompt_tokens": len(inputs)}}

    def _facts(self, path: str, body: Mapping[str, Any]) -> tuple[int, object] | None:
        """What it says about itself; None for requests for inference."""
        facts: dict[str, object]
        if self.dialect is Dialect.OLLAMA:
            if body.get("_debug_render_only"):
                return 200, {"_debug_info": {"rendered_template": self._prompt(body)}}
            if path.startswith("/api/") and path.rpartition("/")[2] in _OLLAMA_RUNS:
                return None
            facts = self._ollama_facts()
        elif path == "/apply-template":
            return 200, {"prompt": self._prompt(body)}
        else:
            if path in ("/v1/chat/completions", "/v1/completions"):
                return None
            if path == "/v1/embeddings":
                if body.get("input"):
                    return None
                return 400, {"error": {"message": "Input content cannot be empty"}}
            facts = self._llama_facts()
        if path in facts:
            return 200, facts[path]
        return 404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}

    def _prompt(self, body: Mapping[str, Any]) -> str:
        """A chat as its template has it."""
        return self.template.prompt(body["messages"])

    def _llama_facts(self) -> dict[str, object]:
        meta = {"n_ctx": self.context_tokens, "n_params": 173_504, "size": 694_016}
        row = {"id": self.model, "owned_by": "llamacpp", "meta": meta}
        slots = [{"id": i, "is_processing": i < self.running} for i in range(self.slots)]
        return {
            "/health": {"status": "ok"},
            "/props": {
                "default_generation_settings": {"n_ctx": self.context_tokens},
                "total_slots": self.slots,
                "build_info": "memory",
                "chat_template": "",
                "chat_template_caps": {"supports_tools": True},
                "modalities": {"vision": False},
            },
            "/slots": slots,
            "/v1/models": {"object": "list", "data": [row]},
        }

    def _ollama_facts(self) -> dict[str, object]:
        details = {"format": "gguf", "family": "llama", "parameter_size": "174K"}
        row = {
            "name": f"{self.model}:latest",
            "model": f"{self.model}:latest",
            "modified_at": CREATED_AT,
            "size": 711_392,
            "digest": self.digest,
            "details": details,
        }
        loaded = {**row, "expires_at": "2300-01-01T00:00:00Z", "context_length": 0, "size_vram": 0}
        loaded["context_length"] = self.context_tokens
        return {
            "/": "Ollama is running",
            "/api/version": {"version": self.version},
            "/api/tags": {"models": [row]},
            "/api/ps": {"models": [loaded] if self.resident else []},
            "/api/show": {
                "capabilities": ["completion", "tools", "embedding"],
                "parameters": f"num_ctx    {self.context_tokens}",
                "details": details,
                "model_info": {},
            },
        }


_OLLAMA_RUNS: Final = ("chat", "generate", "embed", "embeddings")


@dataclass(eq=False)
class _MemoryProcess:
    """`ports.EngineProcess` of an engine in memory."""

    engine: MemoryEngine
    pid: int
    url: str
    last_words: str = ""
    _ended: trio.Event = field(default_factory=trio.Event)
    _code: int = 0

    async def wait(self) -> int:
        try:
            await self._ended.wait()
        finally:
            self.engine.crash()
        return self._code

    def terminate(self) -> None:
        self._end(143)

    def kill(self) -> None:
        self._end(-9)

    def _end(self, code: int) -> None:
        if not self._ended.is_set():
            self._code = code
            self.engine.crash()
            self._ended.set()


class MemoryEngines:
    """`ports.Engines` of one host in memory.  The nursery is where its engines live."""

    def __init__(self, network: Network, nursery: trio.Nursery, *, spawn_s: float = 0.2) -> None:
        self.processes: list[_MemoryProcess] = []
        """Every one that was started, in order."""
        self.settings: dict[str, Any] = {}
        """Fields for the `MemoryEngine`s to come, e.g. `tokens_per_s`."""
        self.broken = ""
        """While set, no engine comes up: its last words."""
        self._network = network
        self._nursery = nursery
        self._spawn_s = spawn_s

    async def spawn(
        self, gguf: PurePath, *, alias: str, slots: int, context_tokens: int, embedding: bool
    ) -> _MemoryProcess:
        """See `ports.Engines`."""
        await trio.sleep(self._spawn_s)
        if self.broken:
            raise Refused(f"The bundled engine does not serve {gguf}: {self.broken}")
        engine = MemoryEngine(
            alias, slots=slots, context_tokens=context_tokens or 8192, **self.settings
        )
        port = await self._nursery.start(engine.serve, self._network, 0)
        process = _MemoryProcess(engine, 1000 + len(self.processes), f"http://127.0.0.1:{port}")
        self.processes.append(process)
        return process

    async def digest(self, gguf: PurePath) -> str:
        """See `ports.Engines`.  Equal for equal paths."""
        await trio.lowlevel.checkpoint()
        return "gguf-" + str(gguf).encode().hex().ljust(64, "0")[:64]
