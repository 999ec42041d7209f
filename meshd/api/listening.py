"""From what a run says to a client's connection (trio shell).

The run waits for none of its clients: each is told by a task of its own, at its own pace, from the
bytes that the run keeps (`jobs.said`) or another node's run is heard to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from meshd.api.dialect import AnswerEncoder
from meshd.http import Headers, Responder
from meshd.inference import Failure
from meshd.jobs.said import Answer, Broken, End, Listener

REPLAYED: Final = (b"x-meshd-replayed", b"true")
"""On an answer that another request asked for."""


class GivenUp(Exception):
    """A client is not to wait any longer: it went away, or this node ends."""


class Delivery:
    """One client, and how much of a run's stream it was given.  Raises StreamBroken if it left."""

    def __init__(
        self, responder: Responder, encoder: AnswerEncoder, headers: Callable[[], Headers]
    ) -> None:
        """`headers` of the stream are asked for when it begins.

        Of the client's own `encoder` only what says nothing and what tells an error is used.
        """
        self._responder = responder
        self._encoder = encoder
        self._headers = headers
        self.size_bytes = 0
        self._digest = hashlib.sha256()
        self._waiting: trio.CancelScope | None = None
        self._given_up = False

    @property
    def begun(self) -> bool:
        """Whether the client has the head of a stream: its end can only be told in it."""
        return self._responder.started

    async def hear(self, listener: Listener) -> End:
        """Pass on all that is heard; how it ended, which is still to be told."""
        while True:
            with self.waiting():
                said = await listener.next()
            if not isinstance(said, bytes):
                return said
            await self._write(said or self._encoder.keep_alive())
            self.size_bytes += len(said)
            self._digest.update(said)

    async def tell(self, end: End) -> None:
        """The end, as the run told it."""
        match end:
            case Answer(status=status, headers=headers, body=body):
                await self._responder.send(status, headers, body)
            case Broken(last=last):
                await self.finish(last)
            case _:
                await self.finish()

    async def go_on_with(self, whole: bytes) -> bool:
        """End with the rest of this, if it begins with what was given; else do nothing."""
        given = whole[: self.size_bytes]
        if hashlib.sha256(given).digest() != self._digest.digest():
            return False
        await self.finish(whole[self.size_bytes :])
        return True

    async def fail(self, failure: Failure) -> None:
        """End a stream that has begun with the dialect's error."""
        await self.finish(self._encoder.error(failure))

    async def finish(self, last: bytes = b"") -> None:
        """The last bytes."""
        if not self._responder.started:
            await self._responder.start(200, self._headers())
        await self._responder.finish(last)

    async def _write(self, data: bytes) -> None:
        if self._responder.started:
            await self._responder.write(data)
        else:
            await self._responder.start(200, self._headers(), data)

    # ---------------------------------------------------------------- not for ever

    def give_up(self) -> None:
        """End the wait of now or the next one with `GivenUp`; what is being written is written."""
        self._given_up = True
        if self._waiting is not None:
            self._waiting.cancel()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what may take long and may be given up.  Raises GivenUp."""
        with trio.CancelScope() as self._waiting:
            if self._given_up:
                self._waiting.cancel()
            yield
        cancelled, self._waiting = self._waiting.cancelled_caught, None
        if cancelled:
            raise GivenUp
