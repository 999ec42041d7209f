"""HTML whose text is escaped unless it was made here.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Final


class Markup(str):
    """Text that is HTML already: made by `element`, never from what somebody else wrote."""

    __slots__ = ()


Node = str | int | Markup | None
"""A child: markup as it is, any other text escaped, None left out."""

_VOID: Final = frozenset({"meta"})
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What no HTML document may hold, however it is written."""


def element(name: str, /, *children: Node, **attributes: str | int | float | None) -> Markup:
    """`<name attributes>children</name>`.

    `class_` stands for class, `_` within a name for a hyphen; what is None is left out.
    """
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{named}>")
    return Markup(f"<{name}{named}>{join(children)}</{name}>")


def join(children: Iterable[Node]) -> Markup:
    """One after the other."""
    return Markup("".join(text(child) for child in children if child is not None))


def text(child: Node) -> Markup:
    """Markup as it is; anything else as text that shows as itself."""
    if isinstance(child, Markup):
        return child
    return Markup(escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(child))))
