"""Bundled engines, as child processes."""

from __future__ import annotations

from pathlib import PurePath
from typing import Protocol


class EngineProcess(Protocol):
    """A child process that serves a model on loopback."""

    pid: int
    url: str

    @property
    def last_words(self) -> str:
        """The end of what it said on stderr."""
        ...

    async def wait(self) -> int:
        """Until it has ended; the exit code (negative: the signal).

        Somebody must be in here as long as it lives: this also takes what the engine says, which
        would otherwise block when the pipe is full.  Cancelling it kills the engine.
        """
        ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class Engines(Protocol):
    """Starts bundled engines."""

    async def spawn(
        self, gguf: PurePath, *, alias: str, slots: int, context_tokens: int, embedding: bool
    ) -> EngineProcess:
        """Start one in its own session; ready to serve when this returns.

        It exits by itself when this process dies, however it dies.  Raises `meshd.errors.Refused`
        with the engine's last words if it does not come up.
        """
        ...

    async def digest(self, gguf: PurePath) -> str:
        """The identity of that model's bytes: "gguf-" and hex SHA-256 of the file.

        Takes about a second per GiB, in a thread.  Raises OSError.
        """
        ...
