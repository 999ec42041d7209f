"""A client library's own retry takes over the run that its first try began (trio shell).

OpenAI's libraries give up on a request when their timeout is over, and send it again, marked with
`x-stainless-retry-count`.  An engine would begin anew, and be as slow again.  So the run of such a
client goes on for `limits.RETRY_GRACE_S` after it went away, and its answer is kept meanwhile; the
same request with the same credentials, come again at this entry in that time, is given it from its
first byte.  Once: a client that goes away a second time ends the run.

    THERE --left--> AWAY --came back--> BACK --left--> GONE
      |               `--stayed away-----------------> GONE
      `--left, and too much was said or too many are away--> GONE
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from typing import Final

import trio

from meshd import limits
from meshd.api.dialect import ATTEMPTS, AnswerEncoder, HeaderPair
from meshd.api.listening import REPLAYED, Delivery, GivenUp
from meshd.errors import StreamBroken
from meshd.http import Headers, Responder, Room, ServerRequest, Share, Sweeper, Watch
from meshd.inference import Failure, FailureKind
from meshd.jobs.said import Answer, Broken, Said, TooMuchSaid, Whole
from meshd.relay.runs import Run

HEADER: Final = b"x-stainless-retry-count"
"""Which try of the library this is, from 0 on.  Of a library without it no retry can be told."""
_OF_THE_RUN: Final = frozenset(
    {b"content-type", b"x-meshd-node", ATTEMPTS, b"retry-after", b"x-should-retry"}
)
"""Headers of an answer that are not of the one request for which it was made."""
_TOO_MUCH: Final = Failure(
    FailureKind.NO_ROOM, "the answer has grown over what this node may keep of it", 503
)


def is_retry(request: ServerRequest) -> bool:
    """Whether a library sends this for the second time, or a later one, and it has no key."""
    count = request.header(HEADER) or b""
    return count.strip(b"0").isdigit() and request.header(b"idempotency-key") is None


def deadline_s(read_timeout_s: float | None) -> float | None:
    """How long a whole answer may take: for this try, the pause, and the next try."""
    return None if read_timeout_s is None else 2 * read_timeout_s + limits.RETRY_GRACE_S


class Retries:
    """Runs of this entry whose client went away and may come back."""

    def __init__(self, sweeper: Sweeper, room: Room) -> None:
        """`room` is where their answers are kept."""
        self.sweeper = sweeper
        self._room = room
        self._away: dict[LeavingClient, None] = {}

    def client(
        self, request: ServerRequest, responder: Responder, encoder: AnswerEncoder
    ) -> LeavingClient:
        """What a run is to see of that client; to be closed when the run is over."""
        return LeavingClient(self, request, responder, encoder, Share(self._room))

    def take(self, request: ServerRequest) -> LeavingClient | None:
        """The one that went away from the same request, if there is one; it is back."""
        for client in self._away:
            if client.asked_the_same(request):
                del self._away[client]
                client.come_back()
                return client
        return None

    def wait_for(self, client: LeavingClient) -> bool:
        """Whether there is room for one more that is away."""
        if len(self._away) >= limits.RETRIES_AWAY:
            return False
        self._away[client] = None
        return True

    def forget(self, client: LeavingClient) -> None:
        """It is not waited for any more."""
        self._away.pop(client, None)


class _State(Enum):
    THERE = auto()
    """The client is there, and is told everything directly."""
    AWAY = auto()
    """It went away, and may come back."""
    BACK = auto()
    """It came back, and listens to what is kept."""
    GONE = auto()
    """Nobody waits for the answer."""


class LeavingClient:
    """A client of a library that retries (`answering.Client`); what it is told is kept as well."""

    def __init__(
        self,
        retries: Retries,
        request: ServerRequest,
        responder: Responder,
        encoder: AnswerEncoder,
        share: Share,
    ) -> None:
        self.said = Said(share, limits.RETRY_KEPT_BYTES)
        self.started = self.finished = False
        self._retries = retries
        self._request = request
        self._client = responder
        self._encoder = encoder
        self._share = share
        self._state = _State.THERE
        self._is_kept = True
        """All that was said so far is kept."""
        self._is_ending = False
        self._is_over = False
        self._gone: Callable[[], None] | None = None
        self._patience: Watch | None = None
        """While it is away: until when."""
        responder.on_disconnect = self._left

    # ---------------------------------------------------------------- coming and going

    @property
    def on_disconnect(self) -> Callable[[], None] | None:
        """Called when the client is gone for good."""
        return self._gone

    @on_disconnect.setter
    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        self._gone = callback
        if self.disconnected and callback is not None:
            callback()

    @property
    def disconnected(self) -> bool:
        """Whether nobody is to be told any more."""
        return self._state is _State.GONE

    def asked_the_same(self, request: ServerRequest) -> bool:
        """Whether that is this client's request, with its credentials."""
        own = self._request
        return (
            hmac.compare_digest(
                own.header(b"authorization") or b"", request.header(b"authorization") or b""
            )
            and (own.method, own.path, own.query) == (request.method, request.path, request.query)
            and own.body == request.body
        )

    def come_back(self) -> None:
        """It listens to `said` from now on: see `tell_again`."""
        self._state = _State.BACK
        self._wait_no_more()
        self.said.most_bytes = limits.BLOB_BYTES

    def leave(self) -> None:
        """Nobody waits for the answer any more: the run ends."""
        self._retries.forget(self)
        self._wait_no_more()
        self._state = _State.GONE
        if self._is_over:
            self.said.close()
        elif self._gone is not None:
            self._gone()

    def was_told(self) -> None:
        """It needs what is kept no more."""
        if self._is_over:
            self.said.close()

    def close(self) -> None:
        """The run is over.  What a client that is away could not be told is kept for it."""
        self._is_over = True
        if self._state is _State.AWAY and not _is_good(self.said):
            self.leave()  # its next try is better off with a run of its own
        elif self._state is not _State.AWAY:
            self.said.close()

    def _left(self) -> None:
        if self._is_kept and self._retries.wait_for(self):
            self._state = _State.AWAY
            back_at = trio.current_time() + limits.RETRY_GRACE_S
            self._patience = self._retries.sweeper.watch(self.leave, back_at)
        else:
            self.leave()

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._retries.sweeper.unwatch(self._patience)

    # ---------------------------------------------------------------- the answer

    def ending(self, runs: Sequence[Run]) -> None:
        """What comes now says that the answer is whole."""
        self._is_ending = True

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        self.started = self.finished = True
        if self._state is not _State.BACK and (
            len(body) > limits.RETRY_KEPT_BYTES or not self._share.hold(len(body))
        ):
            self._keep_no_more()
        self.said.finish(Answer(status, headers, body))
        await self._tell(self._client.send, status, headers, body)

    async def start(self, status: int, headers: Headers, data: bytes = b"") -> None:
        self.started = True
        self.said.begin(headers)
        self._keep(data)
        await self._tell(self._client.start, status, headers, data)

    def start_nowait(self, status: int, headers: Headers, data: bytes = b"") -> bool:
        """Only to say nothing: what begins the stream is kept, what says nothing is not."""
        if self._state is _State.THERE and not self._client.start_nowait(status, headers, data):
            return False
        self.started = True
        self.said.begin(headers)
        self._keep(self._encoder.start())
        self.said.quiet()
        return True

    async def write(self, data: bytes) -> None:
        self._keep(data)
        await self._tell(self._client.write, data)

    def write_nowait(self, data: bytes) -> bool:
        """Only to say nothing."""
        if self._state is _State.THERE:
            return self._client.write_nowait(data)
        self.said.quiet()
        return True

    async def finish(self, data: bytes = b"") -> None:
        self.finished = True
        if self._is_ending:
            self._keep(data)
        self.said.finish(Whole() if self._is_ending else Broken(data))
        await self._tell(self._client.finish, data)

    async def _tell(self, say: Callable[..., Awaitable[None]], *what: object) -> None:
        """To the client if it is there; raises StreamBroken if it will not be there again."""
        if self._state is _State.THERE:
            try:
                await say(*what)
                return
            except StreamBroken:
                if self._state is _State.THERE:  # it left with the very last of it
                    self._left()
        await trio.lowlevel.checkpoint()
        if self.disconnected:
            raise StreamBroken("the client went away")

    def _keep(self, data: bytes) -> None:
        if self._is_kept:
            try:
                self.said.add(data)
            except TooMuchSaid:
                self._keep_no_more()

    def _keep_no_more(self) -> None:
        """There is too much of it to be told again."""
        self._is_kept = False
        if self._state is _State.THERE:
            self.said.close()
            return
        self.said.finish(Broken(self._encoder.error(_TOO_MUCH)))
        self.leave()


async def tell_again(
    client: LeavingClient,
    responder: Responder,
    encoder: AnswerEncoder,
    headers: list[HeaderPair],
) -> None:
    """Tell a client that came back what its run says; `headers` are those of its new request.

    Raises StreamBroken if it went away again.
    """
    said = client.said

    def own(of_the_run: Headers) -> list[HeaderPair]:
        return [*(h for h in of_the_run if h[0] in _OF_THE_RUN), REPLAYED, *headers]

    delivery = Delivery(responder, encoder, lambda: own(said.headers))

    def left() -> None:
        delivery.give_up()
        client.leave()

    try:
        with said.listen() as listener:
            responder.on_disconnect = left
            end = await delivery.hear(listener)
            if isinstance(end, Answer):
                end = Answer(end.status, own(end.headers), end.body)
            await delivery.tell(end)
    except GivenUp:
        return
    finally:
        client.was_told()


def _is_good(said: Said) -> bool:
    """Whether that is an answer, and not an error."""
    return isinstance(said.end, Whole) or (isinstance(said.end, Answer) and said.end.status == 200)
