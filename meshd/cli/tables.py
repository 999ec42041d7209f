"""Tables for a terminal, and the same as plain lines for a file or a pipe."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshd.cli.words import plain

UNLIMITED = 10_000
"""Columns of a pipe: one row is one line there, however long."""

STYLES = {
    "good": "green",
    "warn": "yellow",
    "bad": "red",
    "dim": "dim",
    "strong": "bold",
    "": "",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A text in a table; `mood` is a key of STYLES, and tells nothing that the text does not."""

    text: str | Sequence[str]
    """Several are shown one below the other on a terminal, with commas in a pipe."""
    mood: str = ""


Row = Sequence[Cell | str]


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    right: bool = False
    grows: bool = False
    """It gives way when the terminal is narrow: folded onto more lines, never cut."""


class Paper:
    """What a command prints on: stdout, with colours and a width if it is a terminal."""

    def __init__(self, *, terminal: bool | None = None, width: int | None = None) -> None:
        self.terminal = sys.stdout.isatty() if terminal is None else terminal
        self._buffer = io.StringIO()
        colours = self.terminal and not os.environ.get("NO_COLOR")
        self._console = Console(
            file=self._buffer,
            force_terminal=colours,
            no_color=not colours,
            width=width or (None if self.terminal else UNLIMITED),
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=False,
        )

    def line(self, text: str = "", mood: str = "") -> None:
        """One paragraph, folded at the terminal's width."""
        self._console.print(Text(plain(text), style=STYLES[mood]))

    def item(self, mark: str, text: str, mood: str = "") -> None:
        """A paragraph behind a mark, its further lines indented."""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(mark, style=STYLES[mood]), Text(plain(text)))
        self._console.print(grid)

    def table(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        texts = [[self._text(cell) for cell in row] for row in rows]
        for number, column in enumerate(columns):
            longest = max([len(column.title), *(row[number].cell_len for row in texts)])
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                overflow="fold",
                no_wrap=not column.grows,
                min_width=None if column.grows else longest,
            )
        for row in texts:
            table.add_row(*row)
        self._console.print(table)

    def _text(self, cell: Cell | str) -> Text:
        if isinstance(cell, str):
            return Text(plain(cell))
        if isinstance(cell.text, str):
            return Text(plain(cell.text), style=STYLES[cell.mood])
        between = "\n" if self.terminal else ", "
        return Text(between.join(map(plain, cell.text)), style=STYLES[cell.mood])

    def text(self) -> str:
        """All that was printed so far, lines without blanks at their ends."""
        lines = self._buffer.getvalue().split("\n")
        return "\n".join(line.rstrip() for line in lines).rstrip("\n")
