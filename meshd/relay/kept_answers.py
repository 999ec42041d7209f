"""Answers that ended a short while ago, for entries that have not read them to their end.  Pure.

Whoever sends the last frame does not know whether it arrives.  Should the link break under it, the
entry asks for the rest on another one and must find it: else all of it would be generated again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from meshd import limits
from meshd.ids import NodeId
from meshd.wire.answer import frames_after
from meshd.wire.serve import ServeRequest

RunKey = tuple[NodeId, str]
"""Who asked, and what it called the run."""

_OVERHEAD_BYTES = 1 * limits.KIB
"""What one costs besides its frames, about."""


class KeptAnswer(msgspec.Struct, frozen=True, gc=False):
    """The frames of an answer that is over."""

    pieces: tuple[tuple[int, bytes], ...]
    """The number before the first item, and the frames, of each piece, in order."""
    seq: int
    """The number of the last item."""
    last: bytes
    """The frames that say how it ended."""
    asked: ServeRequest | None = None
    """Of a keyed request's: whoever asked may be gone before it has made the answer the key's."""
    asked_bytes: int = 0
    """What that takes, about."""

    def keeps(self, after: int) -> bool:
        """Whether what follows item `after` is there."""
        oldest = self.pieces[0][0] if self.pieces else self.seq
        return oldest <= after <= self.seq

    def rest(self, after: int) -> bytes:
        """What follows item `after`, to the end."""
        return rest_of(self.pieces, after) + self.last

    @property
    def size_bytes(self) -> int:
        said_bytes = len(self.last) + sum(len(data) for _, data in self.pieces)
        return _OVERHEAD_BYTES + self.asked_bytes + said_bytes


def rest_of(pieces: Iterable[tuple[int, bytes]], after: int) -> bytes:
    """The frames of the items that follow item `after`."""
    return b"".join(frames_after(data, before, after) for before, data in pieces)


class KeptAnswers:
    """The last of them, for `window_s` each, within `most_bytes` together: the oldest go first."""

    def __init__(
        self,
        window_s: float = limits.RESUME_WINDOW_S,
        most_bytes: int = limits.RESUME_ENDED_BYTES,
    ) -> None:
        self._window_s, self._most_bytes = window_s, most_bytes
        self._answers: OrderedDict[RunKey, tuple[float, KeptAnswer]] = OrderedDict()
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def keep(self, key: RunKey, answer: KeptAnswer, now: float) -> None:
        """That run ended now."""
        self._drop(key)
        self._answers[key] = (now + self._window_s, answer)
        self._bytes += answer.size_bytes
        self.forget_old(now)
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._answers)))

    def find(self, key: RunKey, now: float) -> KeptAnswer | None:
        """The answer of that run, if it is kept still."""
        self.forget_old(now)
        kept = self._answers.get(key)
        return None if kept is None else kept[1]

    def take_of(self, node: NodeId, now: float) -> list[tuple[RunKey, KeptAnswer]]:
        """Those of keyed requests that this node asked for; they are kept no longer."""
        self.forget_old(now)
        found = [
            (key, answer)
            for key, (_, answer) in self._answers.items()
            if key[0] == node and answer.asked is not None
        ]
        for key, _ in found:
            self._drop(key)
        return found

    def forget_old(self, now: float) -> float | None:
        """Drop those whose time is over; returns when the next one's will be."""
        while self._answers:
            key, (until, _) = next(iter(self._answers.items()))
            if until > now:
                return until
            self._drop(key)
        return None

    def _drop(self, key: RunKey) -> None:
        kept = self._answers.pop(key, None)
        if kept is not None:
            self._bytes -= kept[1].size_bytes
