"""Ollama, in its native API (trio shell)."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from meshd import limits
from meshd.backends import listing, vectors
from meshd.backends.continuing import Continuing
from meshd.backends.control import Emit, RunControl
from meshd.backends.exchange import EngineHttp
from meshd.backends.ollama_request import encode, encode_embedding
from meshd.backends.ollama_stream import OllamaStream
from meshd.backends.probing import Known, read_object, refuse_meshd
from meshd.backends.ways import RENDERS_SINCE, NotSaid, OllamaWays
from meshd.errors import StreamBroken
from meshd.inference import BackendInfo, Embedding, ModelInfo, Request

ENGINE: Final = "ollama"
ROOT_BODY: Final = b"Ollama is running"
_DEFAULT_SLOTS: Final = 1  # OLLAMA_NUM_PARALLEL's default; no API tells it


class OllamaBackend:
    """One Ollama (`Backend`)."""

    engine = ENGINE

    def __init__(
        self, backend_id: str, url: str, http: EngineHttp, *, known: Callable[[], Known] = Known
    ) -> None:
        self.id = backend_id
        self.url = url
        self._http = http
        self._known = known
        self._ways = OllamaWays()
        self._continuing = Continuing(ENGINE, http, self._ways)
        self._version: tuple[int, ...] = ()
        self._shown: dict[str, dict[str, Any]] = {}
        """Digest -> the lasting facts of /api/show, asked once for each."""
        self._asked_ahead: set[tuple[str, str]] = set()
        """Names and digests of loaded models that were asked whether they go on."""

    async def probe(self) -> BackendInfo:
        """See `Backend`."""
        version = listing.text(read_object(await self._http.ask("GET", "/api/version")), "version")
        self._version = self._ways.version = version_of(version)
        tags = read_object(await self._http.ask("GET", "/api/tags"))
        ps = read_object(await self._http.ask("GET", "/api/ps"))
        await self._show_new(tags)
        models = listing.ollama_models(tags, ps, self._shown)
        await self._find_out_ahead(models)
        models = [
            msgspec.structs.replace(model, continues=self._continuing.known(model))
            for model in models
        ]
        slots = self._known().slots or _DEFAULT_SLOTS
        return BackendInfo(self.id, self.engine, version, slots, models)

    async def _show_new(self, tags: dict[str, Any]) -> None:
        present = {
            listing.text(row, "digest"): listing.text(row, "name", 512)
            for row in listing.rows(tags, "models")
        }
        self._shown = {digest: self._shown[digest] for digest in self._shown.keys() & present}
        new = [digest for digest in present if digest not in self._shown]
        for digest in new[: limits.SHOWS_PER_PROBE]:  # the rest next time: a probe is to be short
            body = msgspec.json.encode({"model": present[digest]})
            answer = await self._http.ask("POST", "/api/show", body)
            # One that cannot be shown (deleted meanwhile, damaged) is asked about again next time.
            if answer.ok:
                self._shown[digest] = listing.ollama_shown(read_object(answer))

    async def _find_out_ahead(self, models: list[ModelInfo]) -> None:
        """Whether answers can be gone on with is better known before one has to be.

        Of loaded models, since the question loads the others; once, and not of an old Ollama, which
        would have to answer for it.
        """
        if self._version < RENDERS_SINCE:
            return
        loaded = {(model.name, model.digest): model for model in models if model.resident}
        self._asked_ahead &= loaded.keys()
        for key, model in loaded.items():
            writes = not model.capabilities or "completion" in model.capabilities
            if writes and key not in self._asked_ahead:
                self._asked_ahead.add(key)
                with suppress(NotSaid, StreamBroken):  # it is asked again when it has to go on
                    await self._continuing.find_out(model)

    async def lives(self) -> bool:
        """See `Backend`."""
        return await self._http.answers("/api/version")

    async def run(
        self, request: Request, model: ModelInfo, emit: Emit, control: RunControl
    ) -> None:
        """See `Backend`."""
        if request.goes_on():
            request, emit = await self._continuing.begin(request, model, emit, control)
        asked = encode(request, model, self._version)
        await self._http.stream(asked.path, asked.body, OllamaStream(), emit, control)

    async def embed(self, request: Request, model: ModelInfo, control: RunControl) -> Embedding:
        """See `Backend`."""
        asked = encode_embedding(request, model)
        if request.normalise:
            body = await self._http.post(asked[0].path, asked[0].body, control)
            return vectors.from_ollama(body, request)
        found = []
        for one in asked:
            body = await self._http.post(one.path, one.body, control)
            found.append(vectors.from_old_ollama(body))
        return Embedding(found)

    async def show(self, model: ModelInfo) -> dict[str, Any]:
        """See `Backend`."""
        body = msgspec.json.encode({"model": model.name})
        return read_object(await self._http.ask("POST", "/api/show", body))


async def is_ollama(http: EngineHttp) -> bool:
    """Whether Ollama answers here.  Raises DialFailed, StreamBroken, BackendFailed (a meshd)."""
    root = await http.ask("GET", "/")
    refuse_meshd(root)
    if not root.ok or root.body.strip() != ROOT_BODY:
        return False
    return (await http.ask("GET", "/api/version")).ok


def version_of(text: str) -> tuple[int, ...]:
    """ "0.12.11-rc1" -> (0, 12, 11); () if it has no such form."""
    match = re.match(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})", text)
    return tuple(int(part) for part in match.groups()) if match else ()
