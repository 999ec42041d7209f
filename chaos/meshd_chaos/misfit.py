"""What msgspec says of a value that does not fit, as a sentence for whoever wrote it.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import inspect

from meshd.toml_lines import KeyPath

_PLACE: Final = re.compile(
    r"^(?P<what>.*?)(?: - at (?P<is_key>`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL
)
_STEP: Final = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+|\.\.\.)\]")
_CHOICE: Final = "Invalid enum value "
_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
    "date": "a date",
    "datetime": "a date and time",
    "time": "a time of day",
}
_LISTS: Final = {
    "at_s": "a number, or a list of numbers",
    "for_s": "a number, or [shortest, longest]",
    "tokens": "[shortest, longest]",
}
"""What is said of those instead of "a list"."""


def place_of(error: msgspec.ValidationError) -> KeyPath:
    """Keys and indices from the value that was converted to the one that does not fit."""
    return tuple(
        int(index) if index.isdigit() else key or index
        for key, index in _STEP.findall(_parts(error)["path"] or "")
    )


def sentence(error: msgspec.ValidationError, kind: type[msgspec.Struct], place: KeyPath) -> str:
    """What is wrong, and what is allowed.  `kind` is what it was converted to."""
    parts = _parts(error)
    what, named = parts["what"], _named(place) or "it"
    if what.startswith(_CHOICE):
        known = _choices(inspect.type_info(kind), place_of(error))
        has = "has no" if parts["is_key"] else "cannot be"
        return f"{named} {has} {what.removeprefix(_CHOICE)}; {there_are(known)}"
    if "`array`" in what and (form := _LISTS.get(named)):
        what = re.sub(r"`array`(?: of length \d+)?", form, what, count=1)
    return in_words(what, named)


def in_words(what: str, named: str) -> str:
    """msgspec's sentence, about the value of that name."""
    for kind, words in _KINDS.items():
        what = what.replace(f"`{kind}`", words).replace(f"`{kind} | null`", words)
    what = re.sub(r"(\d)\.0\b", r"\1", what)
    what = re.sub(r", got (\d+)$", r", and has \1", what).replace(", got ", ", and is ")
    what = what.replace("Expected ", "must be ", 1)
    return f"{named} {what}" if what.startswith("must be") else f"{named}: {what}"


def there_are(names: Iterable[str]) -> str:
    """What is allowed."""
    return f"there are {', '.join(sorted(names))}"


def _parts(error: msgspec.ValidationError) -> dict[str, str]:
    found = _PLACE.match(str(error))
    assert found is not None
    return found.groupdict()


def _named(place: KeyPath) -> str:
    """What a reader calls it: items are counted from 1."""
    named = ""
    for step in place:
        if isinstance(step, int):
            named = f"item {step + 1} of {named}"
        elif step == "...":
            named = f"each value of {named}"
        else:
            named = f"{named}.{step}" if named else step
    return named


def _choices(kind: inspect.Type, place: KeyPath) -> list[str]:
    """The words that are allowed at that place of it."""
    for step in place:
        if isinstance(kind, inspect.StructType):
            kind = next(field.type for field in kind.fields if field.encode_name == step)
        elif isinstance(kind, inspect.ListType):
            kind = kind.item_type
        elif isinstance(kind, inspect.DictType):
            kind = kind.value_type
    if isinstance(kind, inspect.DictType):
        kind = kind.key_type
    return [str(value) for value in kind.values] if isinstance(kind, inspect.LiteralType) else []
