"""llama.cpp, LM Studio, vLLM, SGLang, mlx-lm, others that speak OpenAI's dialect (trio shell)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from meshd.backends import listing, vectors
from meshd.backends.continuing import Continuing
from meshd.backends.control import BackendFailed, Emit, RunControl
from meshd.backends.exchange import Answer, EngineHttp
from meshd.backends.failures import failure_of
from meshd.backends.openai_request import (
    EMBED_PATH,
    UNLOAD,
    EngineKind,
    asks_to_load,
    encode,
    encode_embedding,
    unsupported,
)
from meshd.backends.openai_stream import OpenAIStream
from meshd.backends.probing import Known, read_object, refuse_meshd
from meshd.backends.ways import NotSaid, ways_of
from meshd.inference import BackendInfo, Delta, Embedding, ModelInfo, Request, Usage


class OpenAIBackend:
    """One engine of this kind (`Backend`)."""

    def __init__(
        self,
        backend_id: str,
        url: str,
        kind: EngineKind,
        http: EngineHttp,
        *,
        version: str = "",
        known: Callable[[], Known] = Known,
    ) -> None:
        self.id = backend_id
        self.url = url
        self.engine = kind.value
        self._kind = kind
        self._http = http
        self._version = version
        self._known = known
        self._continuing = Continuing(self.engine, http, ways_of(kind))
        self._embeds: bool | None = None
        self._template = ""

    async def probe(self) -> BackendInfo:
        """See `Backend`."""
        version, slots = self._version, 1
        if self._kind is EngineKind.LLAMA_CPP:
            models, slots, version = await self._probe_llama()
        elif self._kind is EngineKind.LM_STUDIO:
            answer = await self._http.ask("GET", "/api/v1/models")
            if "models" not in _object(answer):  # old versions answer 200 to what they do not know
                answer = await self._http.ask("GET", "/api/v0/models")
            models, slots = listing.lm_studio_models(read_object(answer))
        else:
            answer = await self._http.ask("GET", "/v1/models")
            models = listing.openai_models(read_object(answer))
        known = self._known()
        if known.digest:
            models = [msgspec.structs.replace(model, digest=known.digest) for model in models]
        if self._kind is EngineKind.LLAMA_CPP and len(models) == 1:
            with suppress(NotSaid):  # it may say next time
                await self._continuing.find_out(models[0])  # costs nothing: the model is loaded
        models = [
            msgspec.structs.replace(model, continues=self._continuing.known(model))
            for model in models
        ]
        return BackendInfo(self.id, self.engine, version, known.slots or slots, models)

    async def _probe_llama(self) -> tuple[list[ModelInfo], int, str]:
        answer = await self._http.ask("GET", "/props")
        # A server in its mode for several models has no props of its own.
        props = read_object(answer) if answer.ok else {}
        refuse_meshd(answer)
        models = read_object(await self._http.ask("GET", "/v1/models"))
        if self._embeds is None:
            # An empty input costs nothing: 400 where embeddings are served, 501 where not.
            asked = await self._http.ask("POST", EMBED_PATH, b'{"input":""}')
            self._embeds = asked.status in (200, 400)
        self._template = listing.text(props, "chat_template", 1024 * 1024)
        version = listing.text(props, "build_info")
        slots = listing.llama_slots(props)
        return listing.llama_models(models, props, embedding=self._embeds), slots, version

    async def lives(self) -> bool:
        """See `Backend`."""
        # llama.cpp's threads for HTTP answer this while the one that computes is busy.
        return await self._http.answers(
            "/health" if self._kind is EngineKind.LLAMA_CPP else "/v1/models"
        )

    async def run(
        self, request: Request, model: ModelInfo, emit: Emit, control: RunControl
    ) -> None:
        """See `Backend`."""
        if asks_to_load(request):
            return await self._load(request, model, emit)
        if request.goes_on():
            request, emit = await self._continuing.begin(request, model, emit, control)
            if request.sampling.max_tokens == 0:
                return await emit([Delta(finish_reason="length"), Usage()])
        asked = encode(request, model, self._kind)
        decoder = OpenAIStream(top_logprobs=request.top_logprobs)
        return await self._http.stream(asked.path, asked.body, decoder, emit, control)

    async def _load(self, request: Request, model: ModelInfo, emit: Emit) -> None:
        """Ollama's empty request.  These engines load by themselves, and unload for nobody."""
        if request.keep_alive in UNLOAD:
            raise unsupported(f"this engine ({self.engine}) unloads no model on request")
        await emit([Delta(finish_reason="load"), Usage()])

    async def embed(self, request: Request, model: ModelInfo, control: RunControl) -> Embedding:
        """See `Backend`."""
        if not request.inputs:
            return Embedding([])
        if model.capabilities and "embedding" not in model.capabilities:
            raise unsupported(f"model {model.name!r} makes no embeddings here")
        asked = encode_embedding(request, model, self._kind)
        return vectors.from_openai(await self._http.post(asked.path, asked.body, control), request)

    async def show(self, model: ModelInfo) -> dict[str, Any]:
        """See `Backend`."""
        return listing.made_up_show(model, self._template)


async def identify(http: EngineHttp) -> tuple[EngineKind, str] | None:
    """Which engine of this family answers, and its version; None if none does.

    Raises DialFailed, StreamBroken, BackendFailed (it is a meshd, or wants a key).
    """
    props = await http.ask("GET", "/props")
    refuse_meshd(props)
    if "default_generation_settings" in _object(props) or "total_slots" in _object(props):
        return EngineKind.LLAMA_CPP, listing.text(_object(props), "build_info")
    for path, name in (("/api/v1/models", "models"), ("/api/v0/models", "data")):
        answer = await http.ask("GET", path)
        if isinstance(_object(answer).get(name), list):
            return EngineKind.LM_STUDIO, ""
    models = await http.ask("GET", "/v1/models")
    if models.status in (401, 403):
        raise BackendFailed(failure_of(models.status, models.body))
    found = _object(models).get("data")
    if not isinstance(found, list):
        return None
    owners = {str(row.get("owned_by", "")) for row in found if isinstance(row, dict)}
    if owners & {"llamacpp"}:
        return EngineKind.LLAMA_CPP, ""
    if owners & {"sglang"}:
        told = await http.ask("GET", "/get_server_info")
        return EngineKind.SGLANG, listing.text(_object(told), "version")
    if owners & {"vllm"}:
        version = await http.ask("GET", "/version")
        return EngineKind.VLLM, listing.text(_object(version), "version")
    if owners <= {""} and listing.text(_object(await http.ask("GET", "/health")), "status") == "ok":
        return EngineKind.MLX, ""  # the only one that names no owner
    return EngineKind.OTHER, ""


def _object(answer: Answer) -> dict[str, Any]:
    """An answer's object, {} if it is none."""
    if not answer.ok:
        return {}
    try:
        return listing.json_object(answer.body)
    except listing.Unreadable:
        return {}
