"""Traces of requests that were answered without a job: rows, batches, samples.  Pure.

A row says that there was a request, who answered it and how it went; never what was asked, what was
answered, or a key.  It is the canonical msgpack of an array that begins with the version of its
form; later versions only append.  The record does not look into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, repeat

import msgspec

from meshd import limits
from meshd.jobs.finished import Attempt, FinishedJob
from meshd.modelnames import normalise

FORM = 1
_HEAD_BYTES = 128
"""Of a command besides its rows, and more."""
_ROW_HEAD_BYTES = 3
"""What msgpack puts before a row."""


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A request that is over at its entry, as it was noted there.  Times are trio's, in seconds."""

    request_id: str
    path: str
    model: str
    api_key: str
    """The id of the API key that the client showed; "": none."""
    streamed: bool
    began_at: float
    ended_at: float
    status: int = 0
    failure: str = ""
    """A `FailureKind`; "": the client has the whole answer."""
    first_at: float | None = None
    """When something of the answer came."""
    node: str = ""
    """Who was asked last."""
    attempts: tuple[Attempt, ...] = ()
    """The last of an answer that is whole brought it."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    form: int
    request_id: str
    finished_unix_ms: int
    total_ms: int
    first_token_ms: int | None
    path: str
    model: str
    node: str
    failures: tuple[tuple[str, str], ...]
    prompt_tokens: int
    completion_tokens: int
    status: int
    failure: str
    streamed: bool
    api_key: str
    ways: tuple[str, ...] = ()
    """Of each attempt, the failed ones first; () if none went on with another one's."""


_encoder = msgspec.msgpack.Encoder(order="sorted")
_decoder = msgspec.msgpack.Decoder(_Row)


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What one command of traces says."""

    rows: tuple[bytes, ...]
    left_out: int = 0
    """So many more requests there were."""

    @property
    def size_bytes(self) -> int:
        """Of a command with it, or somewhat less."""
        return _HEAD_BYTES + sum(len(row) + _ROW_HEAD_BYTES for row in self.rows)

    @property
    def requests(self) -> int:
        """How many it tells of."""
        return len(self.rows) + self.left_out

    def with_more(self, other: Batch) -> Batch | None:
        """Both in one; None if that is more than one command takes."""
        both = Batch(self.rows + other.rows, self.left_out + other.left_out)
        fits = both.size_bytes <= limits.TRACE_BYTES and len(both.rows) <= limits.TRACES_PER_COMMAND
        return both if fits else None


def pack(ended: Ended, wall_less_trio_s: float) -> bytes:
    """The row of a request; `wall_less_trio_s` turns trio's time into that of the mesh."""
    ways = tuple(tried.way for tried in ended.attempts)
    first_ms = None if ended.first_at is None else _ms(ended.first_at - ended.began_at)
    return _encoder.encode(
        _Row(
            form=FORM,
            request_id=_text(ended.request_id),
            finished_unix_ms=_ms(ended.ended_at + wall_less_trio_s),
            total_ms=_ms(ended.ended_at - ended.began_at),
            first_token_ms=first_ms,
            path=_text(ended.path),
            model=_text(normalise(ended.model)) if ended.model else "",
            node=ended.node,
            failures=tuple((tried.node, tried.reason) for tried in ended.attempts if tried.reason),
            prompt_tokens=ended.prompt_tokens,
            completion_tokens=ended.completion_tokens,
            status=ended.status,
            failure=ended.failure,
            streamed=ended.streamed,
            api_key=ended.api_key,
            ways=ways if any(ways) else (),
        )
    )


def batch_of(
    requests: Sequence[Ended],
    left_out: int,
    wall_less_trio_s: float,
    randrange: Callable[[int], int],
) -> Batch:
    """All of them, or as many as fit into one command: each with the same chance.

    The rows stay in order.  `left_out`: so many more there were, of which nothing is known.
    """
    if len(requests) <= limits.TRACES_PER_COMMAND:
        whole = Batch(tuple(pack(ended, wall_less_trio_s) for ended in requests), left_out)
        if whole.size_bytes <= limits.TRACE_BYTES:
            return whole
    order = list(range(len(requests)))
    chosen: dict[int, bytes] = {}
    size_bytes = _HEAD_BYTES
    for at in range(min(len(order), limits.TRACES_PER_COMMAND)):
        # One step of Fisher and Yates's shuffle: no more is drawn than is used.
        other = at + randrange(len(order) - at)
        order[at], order[other] = order[other], order[at]
        row = pack(requests[order[at]], wall_less_trio_s)
        size_bytes += len(row) + _ROW_HEAD_BYTES
        if size_bytes > limits.TRACE_BYTES:
            break
        chosen[order[at]] = row
    rows = tuple(chosen[at] for at in sorted(chosen))
    return Batch(rows, left_out + len(requests) - len(rows))


def read(row: bytes, entry: str) -> FinishedJob | None:
    """What `pack` made, by any version, as a row of the history; None for what cannot be read."""
    try:
        told = _decoder.decode(row)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    tried = [*told.failures]
    if told.node and not told.failure:
        tried.append((told.node, ""))
    ways = chain(told.ways, repeat(""))
    attempts = tuple(Attempt(node, why, way) for (node, why), way in zip(tried, ways, strict=False))
    state = "done" if not told.failure else "failed"
    return FinishedJob(
        id=told.request_id,
        state="cancelled" if told.failure == "cancelled" else state,
        accepted_ms=told.finished_unix_ms - told.total_ms,
        finished_ms=told.finished_unix_ms,
        model=told.model,
        node=told.node,
        entry=entry,
        attempts=attempts,
        prompt_tokens=told.prompt_tokens,
        completion_tokens=told.completion_tokens,
        error=told.failure,
        status=told.status,
        run_ms=told.total_ms,
        path=told.path,
        streamed=told.streamed,
        first_token_ms=told.first_token_ms,
        api_key=told.api_key,
    )


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _text(text: str) -> str:
    """Of whatever a client said, what fits and can be written down."""
    text = text[: limits.TRACE_TEXT_CHARS]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
