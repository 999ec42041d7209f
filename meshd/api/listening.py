"""From what a run says to a client's connection (trio shell).

The run waits for none of its clients: each is told by a task of its own, at its own pace, from the
bytes that the run keeps (`jobs.said`) or another node's run is heard to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from meshd.api.dialect import AnswerEncoder, HeaderPair
from meshd.api.places import OtherWords, Place, Rest, comment
from meshd.http import Headers, Responder
from meshd.inference import Failure
from meshd.jobs.said import Answer, Broken, End, Listener, Whole

REPLAYED: Final = (b"x-meshd-replayed", b"true")
"""On an answer that another request asked for."""


class GivenUp(Exception):
    """A client is not to wait any longer: it went away, or this node ends."""


class Delivery:
    """One client, and how much of a run's stream it was given.  Raises StreamBroken if it left."""

    def __init__(
        self,
        responder: Responder,
        encoder: AnswerEncoder,
        headers: Callable[[], Headers],
        *,
        rest: Rest | None = None,
        more: Sequence[HeaderPair] = (),
    ) -> None:
        """`headers` of the stream are asked for when it begins; `more` are the client's own, with
        whatever head it is told.

        Of the client's own `encoder` only what says nothing and what tells an error is used.
        `rest`: the client has the beginning of the stream, and is told what follows that.
        """
        self._responder = responder
        self._encoder = encoder
        self._stream_headers = headers
        self._rest = rest or Rest(Place(), events=True)
        self._more = tuple(more)
        self.size_bytes = 0
        """Of the stream, what was heard: given to the client, or had by it before."""
        self.heard_bytes = 0
        """Of it, what the run that is heard now has said: less while that begins again."""
        self._digest = hashlib.sha256()
        self._again = hashlib.sha256()
        """Of `heard_bytes`, while they are compared."""
        self._waiting: trio.CancelScope | None = None
        self._given_up = False

    @property
    def begun(self) -> bool:
        """Whether the client has the head of a stream: its end can only be told in it."""
        return self._responder.started

    async def hear(self, listener: Listener) -> End:
        """Pass on all that is heard; how it ended, which is still to be told.

        Raises OtherWords if what the client had before is not how the stream begins.
        """
        while True:
            with self.waiting():
                said = await listener.next()
            if not isinstance(said, bytes):
                return said
            if new := self._new_of(said):
                await self._write(new)

    def _new_of(self, said: bytes) -> bytes:
        """What the client is to be told of it."""
        if not said:  # an answer of which nothing was told yet may still become a refusal
            return comment(self._encoder.keep_alive()) if self._rest.reached else b""
        said = self._not_again(said)
        self.size_bytes += len(said)
        self.heard_bytes += len(said)
        self._digest.update(said)
        return self._rest.feed(said)

    @property
    def comparing(self) -> bool:
        """Whether what is heard now was heard before, of another run."""
        return self.heard_bytes < self.size_bytes

    def begin_again(self) -> None:
        """Another run is heard from its first byte on: it must begin with what was heard."""
        self.heard_bytes = 0
        self._again = hashlib.sha256()

    def _not_again(self, said: bytes) -> bytes:
        """What is new in it.  Raises OtherWords."""
        if not self.comparing:
            return said
        again = said[: self.size_bytes - self.heard_bytes]
        self._again.update(again)
        self.heard_bytes += len(again)
        if not self.comparing and self._again.digest() != self._digest.digest():
            raise OtherWords("another run of it said other words")
        return said[len(again) :]

    async def tell(self, end: End) -> None:
        """The end, as the run told it.

        Raises BeyondTheEnd if the client had more than all, OtherWords if that is not how what it
        was told can end: another run was told to it, and this one says less, or never began.
        """
        match end:
            case Answer() | Broken(last=b"") if self.begun:
                raise OtherWords("another run of it came to nothing")
            case Whole() if self.comparing:
                raise OtherWords("another run of it said less")
            case Answer(status=status, headers=headers, body=body):
                await self._responder.send(status, [*headers, *self._more], body)
            case Broken(last=last):
                await self.finish(last)
            case _:
                self._rest.close()
                await self.finish()

    async def go_on_with(self, whole: bytes) -> bool:
        """End with the rest of this, if it begins with what was given; else do nothing."""
        given = whole[: self.size_bytes]
        if hashlib.sha256(given).digest() != self._digest.digest():
            return False
        rest = self._rest.feed(whole[self.size_bytes :])
        self._rest.close()
        await self.finish(rest)
        return True

    async def fail(self, failure: Failure) -> None:
        """End a stream that has begun with the dialect's error."""
        await self.finish(self._encoder.error(failure))

    async def finish(self, last: bytes = b"") -> None:
        """The last bytes."""
        if not self._responder.started:
            await self._responder.start(200, self._headers())
        await self._responder.finish(last)

    def _headers(self) -> Headers:
        return [*self._stream_headers(), *self._more]

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
