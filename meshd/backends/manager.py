"""All engines of this node (trio shell)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

import msgspec
import trio

from meshd import limits, logs
from meshd.backends.control import Backend
from meshd.backends.place import CLAIM_SUFFIX, Place, Where
from meshd.config import BackendConfig
from meshd.control import BackendRow
from meshd.errors import Refused
from meshd.http import Sweeper
from meshd.inference import BackendInfo, Inventory, ModelInfo
from meshd.modelnames import normalise
from meshd.ports import Disk, Network, Ports

PORTS: Final = (11434, 1234, 8080, 9931, 8000)
"""Where engines listen by default: Ollama, LM Studio, llama.cpp (old, new), vLLM; MLX: 8080."""

_EXPIRES_SLACK_S: Final = 60.0
"""By how much a loaded model's end may move before the mesh is told."""

log = logs.get("backends")


@dataclass(eq=False, slots=True)
class _Bundled:
    """A model file to be served by an engine of our own."""

    gguf: PurePath
    alias: str
    slots: int
    context_tokens: int
    embedding: bool
    digest: str = ""
    place: Place | None = None
    """Where it serves; None while it does not."""
    state: str = "gone: it is starting"
    """While it does not serve."""
    complained: str = ""
    """What the log was told last of why it does not serve, and when (trio time)."""
    complained_at: float = 0.0

    @property
    def id(self) -> str:
        return f"bundled-{self.alias}"


class Backends:
    """Finds, watches and starts the engines of this node, and knows what they offer.

    `configured` are always watched and always shown; with `detect` the usual ports of loopback are
    too.  `on_change` is called (from within `run`) after the inventory changed.
    """

    def __init__(
        self,
        ports: Ports,
        *,
        sweeper: Sweeper,
        node: str,
        generation: int,
        configured: Sequence[BackendConfig],
        detect: bool,
        claims_dir: PurePath,
        on_change: Callable[[], None],
    ) -> None:
        self.sweeper = sweeper
        self.node = node
        self.claims_dir = claims_dir
        self._ports = ports
        self._on_change = on_change
        self._inventory = Inventory(node, generation, 0)
        self._index: dict[str, list[tuple[Backend, ModelInfo]]] = {}
        self._bundled: list[_Bundled] = []
        self._places = [Place(where, self) for where in _wheres(configured, detect)]
        self._unseen = len(self._places)
        self._seen = trio.Event()

    # --- for places

    @property
    def network(self) -> Network:
        return self._ports.network

    @property
    def disk(self) -> Disk:
        return self._ports.disk

    def free_id(self, wanted: str) -> str:
        """That id, or one like it that no other backend has."""
        taken = {place.backend.id for place in self._all_places() if place.backend is not None}
        number, free = 1, wanted
        while free in taken:
            number += 1
            free = f"{wanted}-{number}"
        return free

    def changed(self) -> None:
        """Work out the inventory again, and tell if it is another."""
        found = [place.info for place in self._all_places() if place.info is not None]
        before = {info.id: info for info in self._inventory.backends}
        backends = [_settled(before.get(info.id), info) for info in found[: limits.BACKENDS]]
        self._index = {}
        for place in self._all_places():
            if place.backend is not None and place.info is not None:
                for model in place.info.models:
                    entry = (place.backend, model)
                    self._index.setdefault(normalise(model.name), []).append(entry)
        if backends != self._inventory.backends:
            self._inventory = Inventory(
                self.node, self._inventory.generation, self._inventory.revision + 1, backends
            )
            self._on_change()

    # --- for the node

    def add_bundled(
        self,
        gguf: PurePath,
        *,
        alias: str | None,
        slots: int,
        context_tokens: int,
        embedding: bool,
    ) -> None:
        """Serve this file too.  Call it before `run`."""
        name = alias or gguf.stem
        self._bundled.append(_Bundled(gguf, name, slots, context_tokens, embedding))
        self._unseen += 1

    async def run(self) -> None:
        """Watch and serve until cancelled."""
        if not self._unseen:
            self._seen.set()
        self._sweep_claims()
        async with trio.open_nursery() as nursery:
            for place in self._places:
                nursery.start_soon(place.watch, self._once())
            for bundled in self._bundled:
                nursery.start_soon(self._digest, bundled)
                nursery.start_soon(self._supervise, bundled, self._once())

    async def first_probe_done(self) -> None:
        """Until every address was looked at once and every bundled engine serves or has failed.

        Not longer than `limits.FIRST_PROBES_S`: a large model may load for minutes.
        """
        with trio.move_on_after(limits.FIRST_PROBES_S):
            await self._seen.wait()

    def inventory(self) -> Inventory:
        """What this node offers now."""
        return self._inventory

    def holders(self, model_name: str) -> list[tuple[Backend, ModelInfo]]:
        """The backends that have a model of that name (see `meshd.modelnames`)."""
        return self._index.get(normalise(model_name), [])

    def rows(self) -> list[BackendRow]:
        """All engines that a person may want to hear of."""
        rows = [_row(place) for place in self._places if place.shown]
        for bundled in self._bundled:
            if bundled.place is not None:
                rows.append(_row(bundled.place))
            else:
                unknown = BackendRow(bundled.id, "llama.cpp", "", "", 0, 0, bundled.state)
                rows.append(unknown)
        return rows

    # --- bundled engines

    async def _digest(self, bundled: _Bundled) -> None:
        try:
            bundled.digest = await self._ports.engines.digest(bundled.gguf)
        except OSError as error:
            log.warning("cannot read a model file", gguf=str(bundled.gguf), error=str(error))
        if bundled.place is not None:
            bundled.place.look_now()

    async def _supervise(self, bundled: _Bundled, first_done: Callable[[], None]) -> None:
        """Keep one engine running: again after its end, later each time."""
        delay_s = limits.ENGINE_RESTART_MIN_S
        while True:
            started_at = trio.current_time()
            try:
                await self._serve_once(bundled, first_done)
            except (Refused, OSError) as error:
                bundled.state = f"gone: {error}"
                self._complain(bundled, str(error))
                first_done()
            if trio.current_time() - started_at > limits.ENGINE_STEADY_S:
                delay_s = limits.ENGINE_RESTART_MIN_S
            await trio.sleep(delay_s * (0.5 + self._ports.entropy.random()))
            delay_s = min(2 * delay_s, limits.ENGINE_RESTART_MAX_S)

    async def _serve_once(self, bundled: _Bundled, first_done: Callable[[], None]) -> None:
        process = await self._ports.engines.spawn(
            bundled.gguf,
            alias=bundled.alias,
            slots=bundled.slots,
            context_tokens=bundled.context_tokens,
            embedding=bundled.embedding,
        )
        where = Where(
            process.url,
            name=bundled.id,
            slots=bundled.slots,
            engine="llama.cpp",
            configured=True,
            digest=lambda: bundled.digest,
            claimed=False,
        )
        place = bundled.place = Place(where, self)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(place.watch, first_done)
                code = await process.wait()
                nursery.cancel_scope.cancel()
        finally:
            bundled.place = None
        self.changed()
        words = f": {process.last_words}" if process.last_words else ""
        bundled.state = f"gone: the engine ended ({code}){words}"
        self._complain(bundled, f"the engine ended ({code}){words}")

    def _complain(self, bundled: _Bundled, why: str) -> None:
        """One line in the log; the same again only every `limits.ENGINE_COMPLAINT_S`."""
        line, now = " ".join(why.split()), trio.current_time()
        again = line == bundled.complained
        if again and now - bundled.complained_at < limits.ENGINE_COMPLAINT_S:
            return
        bundled.complained, bundled.complained_at = line, now
        log.error("a model file is not served", model=bundled.alias, why=line, again=again)

    # --- helpers

    def _sweep_claims(self) -> None:
        """Take away the claims of daemons that are gone: files stay when their lock ends."""
        try:
            for name in self.disk.names(self.claims_dir):
                if name.endswith(CLAIM_SUFFIX):
                    self.disk.remove_unlocked(self.claims_dir / name)
        except OSError as error:  # another user's, say: they cost nothing but their place
            log.debug("old claims were not taken away", why=str(error))

    def _all_places(self) -> Iterator[Place]:
        yield from self._places
        for bundled in self._bundled:
            if bundled.place is not None:
                yield bundled.place

    def _once(self) -> Callable[[], None]:
        """Counts down the first looks; each of these counts once."""
        done = False

        def first_done() -> None:
            nonlocal done
            if not done:
                done = True
                self._unseen -= 1
                if not self._unseen:
                    self._seen.set()

        return first_done


def _wheres(configured: Sequence[BackendConfig], detect: bool) -> list[Where]:
    """Every place once, configured ones first."""
    wheres: dict[tuple[str, int, str], Where] = {}
    for backend in configured:
        where = Where(
            backend.url.rstrip("/").removesuffix("/v1"),
            backend.name,
            backend.api_key,
            backend.slots,
            backend.engine,
            configured=True,
        )
        wheres.setdefault(where.key, where)
    if detect:
        for port in PORTS:
            where = Where(f"http://127.0.0.1:{port}")
            wheres.setdefault(where.key, where)
    return list(wheres.values())


def _settled(before: BackendInfo | None, now: BackendInfo) -> BackendInfo:
    """The same without changes that are not worth telling the mesh."""
    if before is None:
        return now
    known = {model.name: model for model in before.models}
    models = []
    for model in now.models:
        old = known.get(model.name)
        if old is not None and abs(model.expires_unix_s - old.expires_unix_s) < _EXPIRES_SLACK_S:
            model = msgspec.structs.replace(model, expires_unix_s=old.expires_unix_s)
        models.append(model)
    return msgspec.structs.replace(now, models=models)


def _row(place: Place) -> BackendRow:
    info = place.info
    if info is None:
        name = place.backend.id if place.backend is not None else place.where.name
        return BackendRow(
            name or place.where.url,
            place.where.engine,
            place.where.url,
            "",
            0,
            place.where.slots or 0,
            place.state or "gone: it was not looked at yet",
        )
    return BackendRow(
        info.id,
        info.engine,
        place.where.url,
        info.version,
        len(info.models),
        info.slots,
        place.state,
    )
