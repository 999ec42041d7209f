"""Names of nodes and meshes: what people type and read.  Pure.

A name is a label, never an identity; it goes into headers, tables and shells, so its characters
are few.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from meshd import limits

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{limits.NAME_CHARS - 1}}}\Z")


def is_name(text: str) -> bool:
    """ASCII letters, digits, `.`, `_`, `-`; the first a letter or digit; `limits.NAME_CHARS`."""
    return _NAME.match(text) is not None


def clean_name(text: str) -> str:
    """The nearest name to any text, such as a host name; "node" where nothing is left of it."""
    text = text.strip().removesuffix(".local")
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[: limits.NAME_CHARS].rstrip("._-")
    return text or "node"


def free_name(wanted: str, taken: Iterable[str]) -> str:
    """The wanted name, or with the first of `-2`, `-3`, ... that nobody has.

    Names that differ in case only are the same to a person, so they are taken as the same.
    """
    in_use = {name.casefold() for name in taken}
    name, count = wanted, 1
    while name.casefold() in in_use:
        count += 1
        ending = f"-{count}"
        name = wanted[: limits.NAME_CHARS - len(ending)] + ending
    return name
