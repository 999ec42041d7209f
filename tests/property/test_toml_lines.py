"""Every key of a document is found, on the line where it stands, however it is written."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshd.toml_lines import KeyPath, key_lines

BARE = st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True)
ODD = st.text(st.sampled_from("ab .#[]{}=,'\"\\\né"), max_size=5)
KEYS = st.one_of(BARE, BARE, ODD)
SCALARS = st.one_of(
    st.sampled_from(["1", "-3.5", "true", "1979-05-27 07:32:00", "inf", '""', "''", "0x1f"]),
    ODD.map(json.dumps),
    st.sampled_from(
        [
            '"""\nx = 1\n[y]\n"""',
            "'''\n# no comment\n[[z]]'''",
            '"""ends in two quotes"""""',
            "'''ends in one quote''''",
            '"""a \\""" b\\\\"""',
            "'#'",
            '"a # b \\" ] }"',
        ]
    ),
)
GAPS = st.sampled_from(["", "", "\n", "# [c] = 1\n", "\n  # 'x\n\n", "\r\n"])


@dataclass
class Writer:
    """Writes a document piece by piece and keeps the line of each key it wrote."""

    draw: st.DrawFn
    text: str = ""
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def here(self, path: KeyPath) -> KeyPath:
        self.lines.setdefault(path, self.text.count("\n") + 1)
        return path

    def key(self, path: KeyPath, part: str) -> KeyPath:
        path = self.here((*path, part))
        bare = part.isascii() and part.replace("_", "a").replace("-", "a").isalnum()
        styles = ["basic"]
        if bare:
            styles += ["bare", "bare"]
        if "'" not in part and "\n" not in part:
            styles.append("literal")
        style = self.draw(st.sampled_from(styles))
        if style == "basic":
            self.text += json.dumps(part, ensure_ascii=False).replace("\x7f", "\\u007f")
        else:
            self.text += part if style == "bare" else f"'{part}'"
        return path

    def value(self, path: KeyPath, depth: int) -> None:
        form = (
            self.draw(st.sampled_from(["scalar", "scalar", "array", "inline"]))
            if depth
            else "scalar"
        )
        if form == "scalar":
            self.text += self.draw(SCALARS)
        elif form == "array":
            self.text += "[" + self.draw(GAPS)
            for index in range(self.draw(st.integers(0, 3))):
                self.value(self.here((*path, index)), depth - 1)
                self.text += self.draw(GAPS) + "," + self.draw(GAPS)
            self.text += "]"
        else:
            self.text += "{"
            for number, part in enumerate(self.draw(st.lists(KEYS, max_size=3, unique=True))):
                self.text += " , " if number else ""
                inner = self.key(path, part)
                self.text += " = "
                self.value(inner, depth - 1)
            self.text += "}"

    def pairs(self, table: KeyPath) -> None:
        for part in self.draw(st.lists(KEYS, max_size=3, unique=True)):
            self.text += self.draw(GAPS) + self.draw(st.sampled_from(["", "  ", "\t"]))
            path = self.key(table, part)
            if self.draw(st.integers(0, 3)) == 0:
                self.text += self.draw(st.sampled_from([".", " . "]))
                path = self.key(path, self.draw(KEYS))
            self.text += self.draw(st.sampled_from(["=", " = "]))
            self.value(path, 2)
            self.text += self.draw(st.sampled_from(["\n", " # and = more\n", "\r\n"]))


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[KeyPath, int]]:
    writer = Writer(draw)
    writer.pairs(())
    # Tables get names of their own ("t0", "t1", ...), so that no header names a key twice.
    for number in range(draw(st.integers(0, 3))):
        name = f"t{number}"
        writer.text += draw(GAPS)
        form = draw(st.sampled_from(["table", "nested", "array"]))
        if form == "array":
            for index in range(draw(st.integers(1, 3))):
                writer.here((name,))
                writer.here((name, index))
                writer.text += draw(st.sampled_from([f"[[{name}]]", f"[[ '{name}' ]] # x"])) + "\n"
                writer.pairs((name, index))
                if draw(st.booleans()):
                    writer.here((name, index, "~sub"))
                    writer.text += f'[{name}."~sub"]\n'
                    writer.pairs((name, index, "~sub"))
        else:
            writer.here((name,))
            writer.text += f"[{name}"
            path: KeyPath = (name,)
            if form == "nested":
                writer.text += " . "
                path = writer.key(path, draw(KEYS))
            writer.text += "]\n"
            writer.pairs(path)
    return writer.text, writer.lines


def every_path(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    found: set[KeyPath] = set()
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for part, inner in items:
        found.add((*path, part))
        if isinstance(inner, dict | list):
            found |= every_path(inner, (*path, part))
    return found


@given(documents())
def test_every_key_of_a_document_is_found_on_its_line(
    document: tuple[str, dict[KeyPath, int]],
) -> None:
    text, lines = document
    assert key_lines(text) == lines
    assert set(lines) == every_path(tomllib.loads(text))


@given(st.text(st.sampled_from("ab=.[]{}\"'#,\\\n\r 1"), max_size=60))
def test_no_text_makes_it_loop_or_raise(text: str) -> None:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        try:
            key_lines(text)
        except tomllib.TOMLDecodeError:
            return  # a quoted key that is none: fine, the document was refused before
    else:
        assert set(key_lines(text)) == every_path(parsed)
