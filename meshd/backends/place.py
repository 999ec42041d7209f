"""One address where an engine may be: recognised, claimed, probed, gone, back (trio shell)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import trio

from meshd import limits, logs
from meshd.backends.capacity import LearnedSlots
from meshd.backends.control import Backend, BackendFailed, Emit, RunControl, failed
from meshd.backends.exchange import EngineHttp
from meshd.backends.ollama import ENGINE as OLLAMA
from meshd.backends.ollama import OllamaBackend, is_ollama
from meshd.backends.openai_compatible import OpenAIBackend, identify
from meshd.backends.openai_request import UNLOAD, EngineKind
from meshd.backends.probing import IsMeshd, Known
from meshd.errors import DialFailed, MeshdError, ProtocolError, StreamBroken
from meshd.http import HttpClient, Sweeper
from meshd.ids import Address
from meshd.inference import (
    BackendInfo,
    Delta,
    Embedding,
    FailureKind,
    ModelInfo,
    Request,
    Usage,
)
from meshd.ports import Disk, Network

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_TROUBLE: Final = (FailureKind.BROKEN, FailureKind.NOT_FOUND)
_SILENT: Final = (
    EngineKind.VLLM.value,
    EngineKind.SGLANG.value,
    EngineKind.MLX.value,
    EngineKind.OTHER.value,
)
"""Engines that do not tell how many requests they take at once."""
_RATE_TOKENS: Final = 8
"""A shorter answer says nothing of an engine's speed."""
_MISSES: Final = 3
"""An engine that still listens, but answered no probe this often in a row, is gone."""

CLAIM_SUFFIX: Final = ".claim"

log = logs.get("backends")


@dataclass(frozen=True, slots=True)
class Where:
    """An engine's address, as the config has it or as it was guessed."""

    url: str
    """Without a slash, and without a `/v1`, at the end."""
    name: str = ""
    """The backend's id, if somebody chose one."""
    api_key: str = ""
    slots: int | None = None
    engine: str = ""
    """Which kind it is, if somebody said so."""
    configured: bool = False
    digest: Callable[[], str] = str
    """Of a bundled engine's model file, once it is known."""
    claimed: bool = True
    """Whether another daemon of this machine might use it too."""

    @property
    def address(self) -> Address:
        parts = urlsplit(self.url)
        return Address(parts.hostname or "127.0.0.1", parts.port or 80)

    @property
    def path(self) -> str:
        """What comes before the engine's own paths."""
        return urlsplit(self.url).path

    @property
    def key(self) -> tuple[str, int, str]:
        """Equal for addresses that are the same place."""
        host, port = self.address.host.lower(), self.address.port
        return ("127.0.0.1" if host in _LOOPBACK else host, port, self.path)


class Surroundings(Protocol):
    """What a place needs of the manager."""

    @property
    def network(self) -> Network: ...
    @property
    def disk(self) -> Disk: ...
    @property
    def sweeper(self) -> Sweeper: ...
    @property
    def claims_dir(self) -> PurePath: ...

    def free_id(self, wanted: str) -> str:
        """That id, or one like it that no other backend of this node has."""
        ...

    def changed(self) -> None:
        """What a place offers, or its state, is another than before."""
        ...


class Place:
    """Watches one address for as long as `watch` runs."""

    def __init__(self, where: Where, around: Surroundings) -> None:
        self.where = where
        self.state = ""
        """serving | gone: WHY | refused: WHY; empty: nothing was ever found there."""
        self.backend: Watched | None = None
        self.info: BackendInfo | None = None
        self._around = around
        self._wake = trio.Event()
        self._misses = 0
        self._claim: PurePath | None = None
        self._learned: LearnedSlots | None = None
        address = where.address
        self._client = HttpClient(
            lambda: around.network.dial_plain(address, limits.DIAL_S),
            host=str(address),
            sweeper=around.sweeper,
        )
        headers = []
        if where.api_key:
            headers.append((b"authorization", b"Bearer " + where.api_key.encode()))
        self._http = EngineHttp(self._client, around.sweeper, headers, prefix=where.path)

    @property
    def shown(self) -> bool:
        """Whether a person wants to see it in a list."""
        return bool(self.where.configured or self.state)

    def look_now(self) -> None:
        """Something happened: probe soon, not only when it is time."""
        self._wake.set()

    async def watch(self, first_done: Callable[[], None] = lambda: None) -> None:
        """Probe for ever."""
        try:
            while True:
                self._wake = trio.Event()
                await self._look()
                first_done()
                lost = self.info is None and self.shown
                with trio.move_on_after(limits.PROBE_LOST_S if lost else limits.PROBE_S):
                    await self._wake.wait()
                    await trio.sleep(limits.PROBE_MIN_S)  # several reasons at once: one probe
        finally:
            self._client.close_all("this node does not use the engine any more")
            self._unclaim()

    # --- one look

    async def _look(self) -> None:
        try:
            await self._probe()
        except IsMeshd as error:
            self._refused(str(error))
        except DialFailed as error:
            self._not_there(str(error))
        except StreamBroken as error:
            # It listens and does not answer: perhaps it is busy loading a model.
            backend = self.backend
            mute = backend is not None and backend.is_mute
            if backend is not None and not mute and backend.was_heard(_MISSES * limits.PROBE_S):
                return
            self._misses += 1
            if self.info is None or mute or self._misses >= _MISSES:
                self._not_there(str(error))
        except (BackendFailed, ProtocolError) as error:
            self._not_there(str(error))
        except Exception:  # the boundary of this engine's task: the others are looked after on
            log.exception("a probe failed in a way that nobody thought of", url=self.where.url)
            self._not_there("probing it failed; see the log")

    async def _probe(self) -> None:
        if self.backend is None:
            self.backend = await self._recognise()
            if self.backend is None:
                return
        info = await self.backend.probe()
        self._misses = 0
        if len(info.models) > limits.MODELS_PER_BACKEND:
            raise ProtocolError(f"it lists more than {limits.MODELS_PER_BACKEND} models")
        self._set(info, "serving")

    async def _recognise(self) -> Watched | None:
        where, http = self.where, self._http
        kind, version = where.engine, ""
        if not kind:
            if await is_ollama(http):
                kind = OLLAMA
            else:
                found = await identify(http)
                if found is None:
                    self._not_there("what answers there is no engine that meshd knows")
                    return None
                kind, version = found[0].value, found[1]
        if (holder := self._try_claim()) is not None:
            self._refused(f"another meshd of this machine{holder} uses it")
            return None
        host = "" if self.where.key[0] == "127.0.0.1" else f"{where.address.host}-"
        backend_id = where.name or f"{kind}-{host}{where.address.port}"
        backend_id = self._around.free_id(backend_id)
        backend: Backend
        if kind == OLLAMA:
            backend = OllamaBackend(backend_id, where.url, http, known=self._known)
        else:
            backend = OpenAIBackend(
                backend_id, where.url, EngineKind(kind), http, version=version, known=self._known
            )
        self._learned = LearnedSlots(kind) if kind in _SILENT and not where.slots else None
        return Watched(backend, self.look_now, self._learned)

    def _known(self) -> Known:
        slots = self.where.slots
        if self._learned is not None:
            slots = self._learned.slots
        return Known(slots=slots, digest=self.where.digest())

    # --- what is known now

    def _not_there(self, why: str) -> None:
        self.backend = None
        self._unclaim()
        if self.info is None and not self.state and not self.where.configured:
            return  # a guess that was wrong
        self._client.close_idle()
        self._set(None, f"gone: {why}")

    def _refused(self, why: str) -> None:
        self.backend = None
        self._unclaim()
        self._set(None, f"refused: {why}")

    def _set(self, info: BackendInfo | None, state: str) -> None:
        if state != self.state:
            words = {"url": self.where.url, "state": state}
            if state == "serving":
                assert info is not None
                log.info("an engine serves", engine=info.engine, models=len(info.models), **words)
            else:
                log.warning("an engine does not serve", **words)
        if info != self.info or state != self.state:
            self.info, self.state = info, state
            self._around.changed()

    # --- one daemon per engine

    def _try_claim(self) -> str | None:
        """Who else has it (as an addition to a sentence); None if it is ours now."""
        if not self.where.claimed or self._claim is not None:
            return None
        host, port, path = self.where.key
        safe = "".join(c if c.isalnum() or c in ".-" else "_" for c in f"{host}_{port}{path}")
        claim = self._around.claims_dir / f"{safe[:200]}{CLAIM_SUFFIX}"
        pid = self._around.disk.lock(claim)
        if pid is None:
            self._claim = claim
            return None
        return f" (pid {pid})" if pid else ""

    def _unclaim(self) -> None:
        if self._claim is not None:
            self._around.disk.unlock(self._claim)
            self._claim = None


def _decode_rate(usage: Usage | None) -> float:
    """Tokens a second of one run; 0 where too little is known."""
    if usage is None or usage.completion_tokens < _RATE_TOKENS or usage.completion_ns <= 0:
        return 0.0
    return usage.completion_tokens / usage.completion_ns * 1e9


class Watched:
    """A backend whose runs tell its place when it is worth looking again."""

    def __init__(
        self, inner: Backend, look_now: Callable[[], None], learned: LearnedSlots | None = None
    ) -> None:
        self._inner = inner
        self._learned = learned
        self._look_now = look_now
        self._heard_at = -math.inf
        self.is_mute = False
        """It fell silent in a run and did not answer when it was asked whether it lives."""
        self.id = inner.id
        self.url = inner.url
        self.engine = inner.engine

    def was_heard(self, within_s: float) -> bool:
        """Whether an answer of it made progress so recently."""
        return trio.current_time() - self._heard_at < within_s

    async def probe(self) -> BackendInfo:
        info = await self._inner.probe()
        self.is_mute = False
        return info

    async def lives(self) -> bool:
        self.is_mute = not await self._inner.lives()
        if self.is_mute:
            self._look_now()  # no other request is to wait for it as long as this one did
        return not self.is_mute

    async def run(
        self, request: Request, model: ModelInfo, emit: Emit, control: RunControl
    ) -> None:
        usage: Usage | None = None

        async def heard(events: Sequence[Delta | Usage]) -> None:
            nonlocal usage
            self._heard_at = trio.current_time()
            if type(events[-1]) is Usage:
                usage = events[-1]
            await emit(events)

        learned = self._learned
        slots, full = (learned.slots, learned.began()) if learned else (0, False)
        refused = False
        try:
            await self._inner.run(request, model, heard, control)
        except MeshdError as error:
            refused = isinstance(error, BackendFailed) and error.failure.kind == FailureKind.BUSY
            self._trouble(error, control)
            raise
        finally:
            if learned is not None:
                if refused:
                    learned.refused()
                else:
                    learned.ended(full=full, tokens_per_s=_decode_rate(usage))
                if learned.slots != slots:
                    self._look_now()  # the next probe tells the others
        self._ran(request, model)

    async def embed(self, request: Request, model: ModelInfo, control: RunControl) -> Embedding:
        try:
            embedding = await self._inner.embed(request, model, control)
        except MeshdError as error:
            self._trouble(error, control)
            raise
        self._ran(request, model)
        return embedding

    async def show(self, model: ModelInfo) -> dict[str, Any]:
        try:
            return await self._inner.show(model)
        except (DialFailed, StreamBroken, ProtocolError) as error:
            raise failed(
                FailureKind.ENGINE_AWAY, f"the engine did not answer: {error}", 503
            ) from error

    def _trouble(self, error: MeshdError, control: RunControl) -> None:
        if control.aborted is not None:
            return  # ended from this side
        kind = error.failure.kind if isinstance(error, BackendFailed) else None
        if kind in _TROUBLE or isinstance(error, DialFailed | StreamBroken):
            self._look_now()

    def _ran(self, request: Request, model: ModelInfo) -> None:
        """Residency is another than it was known to be."""
        if not model.resident or request.keep_alive in UNLOAD:
            self._look_now()
