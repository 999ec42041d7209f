"""What a run on an engine and those around it say to each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from meshd.errors import MeshdError
from meshd.inference import (
    BackendInfo,
    Delta,
    Embedding,
    Failure,
    FailureKind,
    ModelInfo,
    Request,
    Usage,
)

Emit = Callable[[Sequence[Delta | Usage]], Awaitable[None]]
"""Takes all events decoded from one read, in order, at once; awaiting it is the backpressure.

A `Usage` is the last of its sequence.  What it raises ends the run and comes out of it unchanged.
"""


class BackendFailed(MeshdError):
    """An engine, or what stands for one, did not give the whole answer."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def failed(
    kind: FailureKind, message: str, status: int, retry_after_s: float | None = None
) -> BackendFailed:
    """Short for raising one."""
    return BackendFailed(Failure(kind, message, status, retry_after_s))


class Abortable(Protocol):
    """Something that a reason can end: a `ByteStream`, or a place in a queue."""

    def abort(self, reason: str) -> None: ...


class RunControl:
    """How others end a run in progress.

    Whoever sees a deadline or a disconnect calls `abort`; the run finds its stream aborted under
    it.  One run at a time uses it; what is attached last is what is aborted.
    """

    __slots__ = ("_attached", "aborted")

    def __init__(self) -> None:
        self.aborted: str | None = None
        """The reason, once there is one."""
        self._attached: Abortable | None = None

    def abort(self, reason: str) -> None:
        """End the run.  Idempotent: the first reason stands."""
        if self.aborted is None:
            self.aborted = reason
            if self._attached is not None:
                self._attached.abort(reason)

    def attach(self, stream: Abortable) -> None:
        """The run waits on this now.  It is aborted at once if the run was already."""
        self._attached = stream
        if self.aborted is not None:
            stream.abort(self.aborted)

    def detach(self) -> None:
        """The run does not use it any more: a later abort must not hit its next user."""
        self._attached = None


class Backend(Protocol):
    """One engine that this node can use."""

    id: str
    """Stable within the node, e.g. "ollama-11434"."""
    url: str
    engine: str

    async def probe(self) -> BackendInfo:
        """Ask the engine what it has.  Raises DialFailed, StreamBroken or BackendFailed."""
        ...

    async def lives(self) -> bool:
        """Whether the engine answers anything at all, within `limits.PROBE_TIMEOUT_S`.

        For one that is silent in a run: it may be at its work, or hung.
        """
        ...

    async def run(
        self, request: Request, model: ModelInfo, emit: Emit, control: RunControl
    ) -> None:
        """CHAT and COMPLETION, always streamed.

        Returns only after a finish_reason was seen and passed on; everything else raises:
        BackendFailed, DialFailed, StreamBroken (with `control.aborted` set if somebody ended it),
        ProtocolError for garbage, and what `emit` raises.
        """
        ...

    async def embed(self, request: Request, model: ModelInfo, control: RunControl) -> Embedding:
        """EMBED.  Raises as `run`."""
        ...

    async def show(self, model: ModelInfo) -> dict[str, Any]:
        """The body of Ollama's /api/show, made up from what is known for other engines."""
        ...
