"""What clients asked for and what they were told, in the order in which it happened.

    history: JobHistory = History(clock.monotonic)
    with history.operation("worker 1", "job 7", Claim(node="a")) as told:
        told(Granted(fence=await claim(...)))

A block that ends without having been told anything leaves its operation **open**: the client never
learned, so it may have taken effect at any time after the call, or never.  What is known to have
done nothing at all (refused before it was proposed, no quorum) is `withdraw`n: it happened, and it
is no evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

A = TypeVar("A")
R = TypeVar("R")

NS_PER_S = 1_000_000_000


class HistoryError(ValueError):
    """A history that cannot have been recorded so; the text says what is wrong and where."""


class Operation(msgspec.Struct, Generic[A, R], frozen=True, kw_only=True):
    """One thing that one client asked for."""

    client: str
    subject: str
    """What it is about: a job's id, a register's name.  Subjects are independent of each other.

    "" in an open operation: nobody knows which subject it was about, e.g. a claim of any job of a
    queue that was never answered.
    """
    action: A
    called_ns: int
    returned_ns: int | None = None
    """None: open."""
    result: R | None = None
    """None: open."""

    def __post_init__(self) -> None:
        if (self.returned_ns is None) != (self.result is None):
            raise HistoryError(f"neither open nor answered: {self.action} of {self.client}")
        if self.returned_ns is not None and self.returned_ns < self.called_ns:
            raise HistoryError(f"answered before it was asked: {self.action} of {self.client}")
        if not self.subject and self.result is not None:
            raise HistoryError(f"answered, about nothing: {self.action} of {self.client}")

    @property
    def is_open(self) -> bool:
        return self.returned_ns is None

    def opened(self) -> Operation[A, R]:
        """The same, as if its client had never learned what became of it."""
        return msgspec.structs.replace(self, returned_ns=None, result=None)

    def before(self, other: Operation[A, R]) -> bool:
        """Whether it was over when the other began."""
        return self.returned_ns is not None and self.returned_ns < other.called_ns

    def __str__(self) -> str:
        called = f"{self.called_ns / NS_PER_S:.6f}"
        if self.returned_ns is None:
            return f"{self.client}: {self.action} -> never answered [{called} s ...]"
        returned = f"{self.returned_ns / NS_PER_S:.6f}"
        return f"{self.client}: {self.action} -> {self.result} [{called} .. {returned} s]"


class History(Generic[A, R]):
    """Operations, as they are recorded by one program.

    No two of its events have the same time: what happens in one instant of virtual time keeps the
    order in which it was recorded, a nanosecond apart.
    """

    def __init__(self, now_s: Callable[[], float] = lambda: 0.0) -> None:
        """`now_s` is a clock that does not jump, the same for all histories to be merged."""
        self._now_s = now_s
        self._last_ns = -1
        self._operations: dict[int, Operation[A, R]] = {}
        self._count = 0

    @property
    def operations(self) -> list[Operation[A, R]]:
        """All of them, in the order of their calls."""
        return sorted(self._operations.values(), key=lambda operation: operation.called_ns)

    def called(self, client: str, subject: str, action: A) -> int:
        """A client asks now.  Returns a number by which to say what came of it."""
        self._count += 1
        self._operations[self._count] = Operation(
            client=client, subject=subject, action=action, called_ns=self._tick()
        )
        return self._count

    def returned(self, number: int, result: R, *, subject: str = "") -> None:
        """The client is told now; `subject` where only the answer says what it was about."""
        operation = self._operations[number]
        if not operation.is_open:
            raise HistoryError(f"answered twice: {operation}")
        self._operations[number] = msgspec.structs.replace(
            operation,
            subject=subject or operation.subject,
            returned_ns=self._tick(),
            result=result,
        )

    def returned_for(self, number: int, results: Mapping[str, R]) -> None:
        """The client is told now, of several subjects at once; of none: it did nothing."""
        operation = self._operations.pop(number)
        returned_ns = self._tick()
        for subject, result in results.items():
            self._count += 1
            self._operations[self._count] = msgspec.structs.replace(
                operation, subject=subject, returned_ns=returned_ns, result=result
            )

    def concerns(self, number: int, subjects: Iterable[str]) -> None:
        """It was never answered; if it took effect, it was about these, as is known from elsewhere
        (what was written down, say).  None: it never did, and never will."""
        operation = self._operations.pop(number)
        if not operation.is_open:
            raise HistoryError(f"it was answered: {operation}")
        for subject in subjects:
            self._count += 1
            self._operations[self._count] = msgspec.structs.replace(operation, subject=subject)

    def withdraw(self, number: int) -> None:
        """It is certain that this did nothing, for reasons that no model knows of."""
        del self._operations[number]

    @contextmanager
    def operation(self, client: str, subject: str, action: A) -> Iterator[Callable[[R], None]]:
        """Call; and return when the block calls what it was given, with the result."""
        number = self.called(client, subject, action)
        yield lambda result: self.returned(number, result)

    def merge(self, operations: Iterable[Operation[A, R]]) -> None:
        """Take in what another program recorded by the same clock."""
        for operation in operations:
            self._count += 1
            self._operations[self._count] = operation

    def save(self, path: Path) -> None:
        """Write it as JSON lines, one operation each."""
        path.write_bytes(msgspec.json.Encoder().encode_lines(self.operations))

    def _tick(self) -> int:
        self._last_ns = max(self._last_ns + 1, round(self._now_s() * NS_PER_S))
        return self._last_ns


def load(path: Path, form: type[Operation[A, R]]) -> list[Operation[A, R]]:
    """Read JSON lines; `form` says which actions and results there are, e.g. `JobOperation`.

    Raises HistoryError with the line.
    """
    decoder = msgspec.json.Decoder(form)
    operations = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            try:
                operations.append(decoder.decode(line))
            except (msgspec.MsgspecError, HistoryError) as error:
                raise HistoryError(f"{path}, line {number}: {error}") from error
    return operations


def by_subject(operations: Iterable[Operation[A, R]]) -> dict[str, list[Operation[A, R]]]:
    """Apart by what they are about, in the order of their calls.

    An open operation about nobody knows what goes to every subject: it may have been that one.
    So one such operation may explain something in two subjects, which lets a violation pass and
    never invents one.
    """
    ordered = sorted(operations, key=lambda operation: operation.called_ns)
    apart: dict[str, list[Operation[A, R]]] = {
        operation.subject: [] for operation in ordered if operation.subject
    }
    for operation in ordered:
        for subject in [operation.subject] if operation.subject else apart:
            apart[subject].append(operation)
    return apart
