"""The API keys of the mesh, as they open this node (trio shell; `meshd.apikeys` is the pure part).

The record has them, and every node goes by what it has applied: a key that is taken back anywhere
opens nothing from the step on that applies it.  The file beside is a copy for a start without a
quorum, and where keys wait that were made here before there was one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import PurePath
from typing import Any

import msgspec
import trio

from meshd import control, limits, logs
from meshd.apikeys import ApiKey, ApiKeys
from meshd.beat import beat_after
from meshd.errors import MeshdError, Refused
from meshd.ids import MeshId
from meshd.ledger.ledger import Ledger
from meshd.ledger.session import MaybeWritten
from meshd.ports import Disk
from meshd.record.commands_registry import AddApiKey, RevokeApiKey
from meshd.record.events import ApiKeysChanged, Event
from meshd.record.results import RecordRefused
from meshd.record.view import api_keys
from meshd.wire.fields import one_line

log = logs.get("keys")

LOOK_S = 2.0
"""Between two looks whether the record has become another one (a snapshot tells of no changes)."""
RETRY_S = 30.0
"""After keys could not be put on the record, or the file could not be written."""


class NodeKeys:
    """Which API keys open this node."""

    def __init__(
        self, disk: Disk, path: PurePath, mesh: MeshId, record: Ledger, trouble: Callable[[], str]
    ) -> None:
        """`trouble` says why the record cannot be written now, "" if it can."""
        self._disk, self._path, self._mesh = disk, path, mesh
        self._record = record
        self._trouble = trouble
        self._keys = ApiKeys()
        self._on_disk = ApiKeys()
        self._nudge = trio.Event()

    def load(self) -> None:
        """Know what the file has.  Raises ConfigError."""
        self._on_disk = ApiKeys.parse(self._disk.read(self._path), self._path)
        self._keys = self._on_disk.in_mesh(self._mesh)

    def forget(self) -> None:
        """This node has left the mesh: its keys open nothing here.  Raises DiskFailed."""
        self._keys = self._on_disk = ApiKeys()
        self._disk.delete(self._path)

    def check(self, presented: str) -> str | None:
        """The id of the key that this is; None: it is none."""
        return self._keys.check(presented)

    def happened(self, events: Sequence[Event]) -> None:
        """Something was applied: a key that is gone opens nothing from here on."""
        if any(isinstance(event, ApiKeysChanged) for event in events):
            self._follow()
            self._nudge.set()

    async def run(self) -> None:
        """Keep what is known, on disk and on the record, until cancelled."""
        said = ""
        while True:
            pause_s = LOOK_S
            try:
                await self._catch_up()
                self._save()
                await self._hand_over()
            except (MeshdError, OSError) as error:
                if str(error) != said:  # as long as the others are away
                    log.info("API keys stay as they are for now", why=str(error))
                    said = str(error)
                pause_s = RETRY_S
            with trio.move_on_at(beat_after(trio.current_time(), pause_s)):
                await self._nudge.wait()
            self._nudge = trio.Event()

    # ---------------------------------------------------------------- orders

    def routes(self) -> dict[tuple[str, str], Callable[[bytes], Awaitable[Any]]]:
        """For the table of `AdminApi`."""
        return {
            ("GET", "/control/keys"): self._list,
            ("POST", "/control/keys"): self._create,
            ("POST", "/control/keys/revoke"): self._revoke,
        }

    async def _list(self, body: bytes) -> list[control.KeyRow]:
        del body
        await trio.lowlevel.checkpoint()
        return [control.KeyRow(key.id, key.name, key.created_unix_s) for key in self._keys.keys]

    async def _create(self, body: bytes) -> control.Done:
        order = msgspec.json.decode(body, type=control.KeyOrder)
        key = ApiKey(order.sha256[:8], order.name, order.sha256, order.created_unix_s)
        self._keys.with_key(key)  # there is room for it, and for its name
        await self._write(_add(key), "No key was made")
        return control.Done("every node of the mesh takes it from now on")

    async def _revoke(self, body: bytes) -> control.Done:
        order = msgspec.json.decode(body, type=control.KeyRevocation)
        key = self._keys.find(order.which)
        if key.on_record:
            await self._write(RevokeApiKey(id=key.id), "Until then the key still opens the mesh")
        else:
            self._keys = self._keys.without(key)
            self._save()
        named = f" ({key.name})" if key.name else ""
        return control.Done(f"key {key.id}{named} opens nothing any more")

    async def _write(self, command: AddApiKey | RevokeApiKey, otherwise: str) -> None:
        """Have it on record and in force here.  Raises Refused: why not, and what that means."""
        try:
            await self._record.execute(command)
        except MaybeWritten as error:
            raise Refused(
                f"{_sentence(self._trouble() or str(error))} Whether it was done all the same is "
                "not known: look with `meshd key list` when the record can be written again"
            ) from error
        except RecordRefused:
            raise
        except MeshdError as error:
            raise Refused(f"{_sentence(self._trouble() or str(error))} {otherwise}") from error

    # ---------------------------------------------------------------- file and record

    def _follow(self) -> None:
        """Go by the record, if it is no older than what is known: it is read anew at a start."""
        state = self._record.state
        if state.nodes.is_founded and state.index >= self._keys.index:
            self._keys = self._keys.as_on_record(api_keys(state).keys, state.index)

    async def _catch_up(self) -> None:
        state = self._record.state
        if state.nodes.is_founded and state.index < self._keys.index:
            # Older than the file: so it is for a moment at a start, and for good where a backup was
            # restored.  What others acknowledge tells the two apart.
            await self._record.read_barrier()
            state = self._record.state
            self._keys = self._keys.as_on_record(api_keys(state).keys, state.index)
        self._follow()

    def _save(self) -> None:
        if self._keys.keys != self._on_disk.keys or self._keys.index < self._on_disk.index:
            self._disk.write(self._path, self._keys.dump(), private=True)
            self._on_disk = self._keys

    async def _hand_over(self) -> None:
        """Put on the record what only this node's file has.  Raises MeshdError."""
        refused: RecordRefused | None = None
        for key in self._keys.pending if self._record.state.nodes.is_founded else ():
            try:
                await self._record.execute(_add(key))
            except RecordRefused as refusal:
                refused = refusal  # it goes on opening this node alone; the others may still go
                continue
            self._follow()
            self._save()
            log.info("an API key of this node is the mesh's now", id=key.id)
        if refused is not None:
            raise refused


def _add(key: ApiKey) -> AddApiKey:
    return AddApiKey(
        id=key.id,
        name=one_line(key.name)[: limits.NAME_CHARS],
        sha256=bytes.fromhex(key.sha256),
        created_unix_ms=int(key.created_unix_s * 1000),
    )


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
