"""Where each key of a TOML document stands.  Pure.

`tomllib` says what a document means, not where: this finds the line, so that a setting that cannot
be used is named with the place to look at.  It reads documents that `tomllib` has accepted, and
takes no position on those it has not.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]
"""Keys from the top of the document; an integer is an index into an array (of tables)."""

_SPACE = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_GAP_AND_COMMAS = re.compile(r"(?:[ \t\r\n,]+|#[^\n]*)*")
_BARE_KEY = re.compile(r"[^\s.=\]\[\"'#]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_STRINGS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        # Three-quoted ones may end in up to two quotes of their own: """a "quoted" word"""""
        r'"""(?:[^\\]|\\.)*?""""{0,2}',
        r"'''.*?''''{0,2}",
        r'"(?:[^"\\]|\\.)*"',
        r"'[^']*'",
    )
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, where each key, table and array element of the document first occurs."""
    return _Scanner(text).scan()


class _Scanner:
    """One walk over the document; `pos` is the only thing that moves."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.lines: dict[KeyPath, int] = {}
        self.array_sizes: dict[KeyPath, int] = {}
        """How many tables each array of tables has so far."""
        self.line_starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self.skip(_GAP)
        while self.pos < len(self.text):
            before = self.pos
            if self.text.startswith("[[", self.pos):
                table = self.header(2)
            elif self.text.startswith("[", self.pos):
                table = self.header(1)
            else:
                self.pair(table)
            self.skip(_GAP)
            if self.pos == before:  # not TOML after all: say what is known, never loop
                break
        return self.lines

    def header(self, brackets: int) -> KeyPath:
        """Read `[a.b]` or `[[a.b]]`; the path of the table that it opens."""
        line = self.line()
        self.pos += brackets
        parts = self.key()
        self.skip(_SPACE)
        self.pos += brackets
        path: KeyPath = ()
        for part in parts[:-1]:
            path = self.note((*path, part), line)
            if path in self.array_sizes:
                path = (*path, self.array_sizes[path] - 1)
        path = self.note((*path, *parts[-1:]), line)
        if brackets == 2:
            index = self.array_sizes.get(path, 0)
            self.array_sizes[path] = index + 1
            path = self.note((*path, index), line)
        return path

    def pair(self, table: KeyPath) -> None:
        """Read `key = value`."""
        line = self.line()
        path = table
        for part in self.key():
            path = self.note((*path, part), line)
        self.skip(_SPACE)
        self.pos += 1  # the equals sign
        self.skip(_SPACE)
        self.value(path)

    def key(self) -> list[str]:
        """Read a key with all its dots."""
        parts = []
        while True:
            self.skip(_SPACE)
            quoted = self.string()
            parts.append(
                self.skip(_BARE_KEY) if quoted is None else tomllib.loads(f"k={quoted}")["k"]
            )
            self.skip(_SPACE)
            if not self.text.startswith(".", self.pos):
                return parts
            self.pos += 1

    def value(self, path: KeyPath) -> None:
        if self.text.startswith("[", self.pos):
            self.pos += 1
            index = 0
            self.skip(_GAP_AND_COMMAS)
            while self.pos < len(self.text) and self.text[self.pos] != "]":
                before = self.pos
                self.value(self.note((*path, index), self.line()))
                index += 1
                self.skip(_GAP_AND_COMMAS)
                if self.pos == before:
                    break
            self.pos += 1
        elif self.text.startswith("{", self.pos):
            self.pos += 1
            self.skip(_GAP_AND_COMMAS)
            while self.pos < len(self.text) and self.text[self.pos] != "}":
                before = self.pos
                self.pair(path)
                self.skip(_GAP_AND_COMMAS)
                if self.pos == before:
                    break
            self.pos += 1
        elif self.string() is None:
            self.skip(_SCALAR)

    def string(self) -> str | None:
        """Read a quoted string, if one starts here; its source text."""
        for pattern in _STRINGS:
            match = pattern.match(self.text, self.pos)
            if match is not None:
                self.pos = match.end()
                return match.group()
        return None

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.pos)
        if match is None:
            return ""
        self.pos = match.end()
        return match.group()

    def line(self) -> int:
        return bisect_right(self.line_starts, self.pos)

    def note(self, path: KeyPath, line: int) -> KeyPath:
        self.lines.setdefault(path, line)
        return path
