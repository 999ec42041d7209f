"""What an entry may not do too often: retry, and repeat what killed engines.  Pure."""

from __future__ import annotations

from collections import OrderedDict, deque

from meshd import limits


class RetryBudget:
    """Retries stay under a fraction of the requests of the last seconds.

    A floor lets an entry with little traffic retry at all, and as many as are under way may: a
    holder that had them all dies once, and no answer is to be lost by it.  relay/DESIGN.md, "How
    many runs a request may cost", derives what that amounts to.
    """

    def __init__(
        self,
        fraction: float = limits.RETRY_BUDGET_FRACTION,
        window_s: float = limits.RETRY_BUDGET_WINDOW_S,
        floor: int = limits.RETRY_BUDGET_FLOOR,
    ) -> None:
        self._fraction, self._window_s, self._floor = fraction, window_s, floor
        self._requests: deque[tuple[float, int]] = deque()
        self._count = 0
        self._retries: deque[float] = deque()

    def request(self, now: float) -> None:
        """A request began.  Counted by tenths of a second: memory does not grow with the rate."""
        if self._requests and now - self._requests[-1][0] < 0.1:
            at, count = self._requests.pop()
            self._requests.append((at, count + 1))
        else:
            self._requests.append((now, 1))
        self._count += 1
        self._forget(now)

    def may_retry(self, now: float, under_way: int = 0) -> bool:
        """Whether one more retry is within the budget; if so it is counted.

        `under_way`: how many requests are not answered yet, this one among them.
        """
        self._forget(now)
        if len(self._retries) >= max(self._floor, self._fraction * self._count, under_way):
            return False
        self._retries.append(now)
        return True

    def may_hedge(self, now: float) -> bool:
        """Whether a second run may be begun beside one that is only late; if so it is counted.

        Half of the budget at most, and none for what is under way: failures find room always.
        """
        self._forget(now)
        if 2 * len(self._retries) >= max(self._floor, self._fraction * self._count):
            return False
        self._retries.append(now)
        return True

    def _forget(self, now: float) -> None:
        oldest = now - self._window_s
        while self._requests and self._requests[0][0] < oldest:
            self._count -= self._requests.popleft()[1]
        while self._retries and self._retries[0] < oldest:
            self._retries.popleft()


class PoisonList:
    """Digests of requests that killed too many engines, refused for a while; bounded."""

    def __init__(
        self, span_s: float = limits.POISON_S, entries: int = limits.POISON_ENTRIES
    ) -> None:
        self._span_s, self._entries = span_s, entries
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, digest: bytes, now: float) -> None:
        """Refuse this one from now on."""
        self._until.pop(digest, None)
        self._until[digest] = now + self._span_s
        while len(self._until) > self._entries:
            self._until.popitem(last=False)

    def refused_for_s(self, digest: bytes, now: float) -> float:
        """How much longer it is refused; 0 if it is not."""
        until = self._until.get(digest)
        if until is None:
            return 0.0
        if until <= now:
            del self._until[digest]
            return 0.0
        return until - now
