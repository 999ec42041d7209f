"""Tables: the maps that the record's state is made of.  Pure.

A table maps keys to rows that never change (a change is another row), and gives three things that
a dict does not:

- **A capture that costs nothing.**  The rows lie in parts.  `capture` only marks the parts as
  shared; whoever changes a part first copies that part alone.  So a snapshot can be packed while
  commands go on being applied, and never sees them.
- **A hash that is kept up.**  The sum of the hashes of all rows, modulo 2^256, follows each change;
  it depends on which rows there are and on nothing else: not on the order in which they came, and
  not on how this process hashes text.
- **One order.**  `rows` and captures give rows in the order of their keys, however they came there.
  Reducers iterate in no other way: a dict's order tells of its past, and a node that started from a
  snapshot has another past than one that did not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

PART_ROWS: Final = 256
"""A part of the frozen form has at most so many rows: it is packed within a millisecond or so."""

_FOLD_AT: Final = 512
"""Changed rows are hashed when so many have come together: most that live shortly never are."""
_MODULUS: Final = 1 << 256

_encoder = msgspec.msgpack.Encoder(order="sorted")  # canonical, as wire.codec: see its tests
encode_row: Final = _encoder.encode


class Row(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,
):
    """What tables hold.  A field that has its default is not written.

    So a later version can add a field with a default: until it is used, the bytes (and the hash)
    of a row are those of the version before, and that version's snapshots can be read.
    """


K = TypeVar("K")
R = TypeVar("R", bound=Row)


class Table(Generic[K, R]):
    """Rows of one type by key.  See the module's text."""

    __slots__ = (
        "_count", "_decoder", "_key_of", "_part_of", "_parts", "_shared", "_sum", "_touched",
        "kind", "name",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        kind: type[R],
        key_of: Callable[[R], K],
        *,
        parts: int = 1,
        part_of: Callable[[K], int] | None = None,
    ) -> None:
        """An empty table.  `part_of` must be the same in every process: not `hash`."""
        if (parts > 1) != (part_of is not None):
            raise ValueError("a table of several parts has to be told which part a key is in")
        self.name: Final = name
        self.kind: Final = kind
        self._decoder = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]
        self._key_of = key_of
        self._part_of = part_of
        self._parts: list[dict[K, R]] = [{} for _ in range(parts)]
        self._shared = [False] * parts
        self._count = 0
        self._sum = 0
        self._touched: dict[K, R | None] = {}
        """Rows as they were when last hashed, of the keys that changed since."""

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: K) -> bool:
        return self.get(key) is not None

    def get(self, key: K) -> R | None:
        part_of = self._part_of
        return self._parts[part_of(key) if part_of else 0].get(key)

    def __getitem__(self, key: K) -> R:
        """The row of a key that is known to be there."""
        row = self.get(key)
        if row is None:
            raise KeyError(key)
        return row

    def put(self, row: R) -> None:
        """Add the row, or replace the one with its key."""
        key = self._key_of(row)
        number = self._part_of(key) if self._part_of else 0
        part = self._own(number) if self._shared[number] else self._parts[number]
        old = part.get(key)
        part[key] = row
        if old is None:
            self._count += 1
        if key not in self._touched:
            self._touch(key, old)

    def drop(self, key: K) -> R:
        """Take out the row of a key that is known to be there."""
        number = self._part_of(key) if self._part_of else 0
        part = self._own(number) if self._shared[number] else self._parts[number]
        old = part.pop(key)
        self._count -= 1
        if key not in self._touched:
            self._touch(key, old)
        return old

    def rows(self) -> list[R]:
        """All rows in the order of their keys.  For small tables, tests and reports."""
        items = [item for part in self._parts for item in part.items()]
        return [row for _, row in sorted(items, key=_key)]

    def each(self) -> Iterator[R]:
        """All rows in no order: for indexes, which are the same whatever came first."""
        for part in self._parts:
            yield from part.values()

    def hash_sum(self) -> int:
        """The sum of the hashes of all rows."""
        self._fold()
        return self._sum

    def capture(self) -> Capture:
        """These rows as they are now, whatever is changed later."""
        self._shared = [True] * len(self._parts)
        return Capture(self.name, tuple(cast("list[dict[Any, Row]]", self._parts)))

    def adopt(self, rows: msgspec.Raw) -> None:
        """Put packed rows into a table that is being restored.

        Raises msgspec.MsgspecError or UnicodeDecodeError for what holds no rows of this table.
        """
        for row in self._decoder.decode(rows):
            self.put(row)

    def check(self) -> None:
        """Raise AssertionError if what is kept up differs from what is there."""
        rows = self.rows()
        assert len(rows) == self._count
        assert sum(self._hash(row) for row in rows) % _MODULUS == self.hash_sum()

    def _own(self, number: int) -> dict[K, R]:
        """A part that a capture shares, copied for this table alone."""
        part = self._parts[number] = dict(self._parts[number])
        self._shared[number] = False
        return part

    def _touch(self, key: K, old: R | None) -> None:
        touched = self._touched
        touched[key] = old
        if len(touched) >= _FOLD_AT:
            self._fold()

    def _fold(self) -> None:
        change = 0
        for key, old in self._touched.items():
            new = self.get(key)
            if new is not old:
                change += self._hash(new) - self._hash(old)
        self._touched.clear()
        self._sum = (self._sum + change) % _MODULUS

    def _hash(self, row: R | None) -> int:
        if row is None:
            return 0
        covered = self.name.encode() + b"\0" + encode_row(row)
        return int.from_bytes(hashlib.sha256(covered).digest(), "big")


class Capture:
    """A table as it was at one moment."""

    __slots__ = ("_parts", "name")

    def __init__(self, name: str, parts: tuple[dict[Any, Row], ...]) -> None:
        self.name: Final = name
        self._parts = parts

    def rows(self) -> Iterator[Collection[Row]]:
        """Its rows, in no order, one part after another."""
        for part in self._parts:
            yield part.values()

    def packed(self) -> Iterator[bytes]:
        """Its rows in canonical msgpack, `[name, [row, ...]]` with at most `PART_ROWS` each."""
        for part in self._parts:
            rows = [row for _, row in sorted(part.items(), key=_key)]
            for start in range(0, len(rows), PART_ROWS):
                yield encode_row([self.name, rows[start : start + PART_ROWS]])


def _key(item: tuple[Any, Any]) -> Any:
    return item[0]
