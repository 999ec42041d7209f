"""Where settings are given: the TOML file, `MESHD_*` variables and flags, in this order.  Pure.

Later ones win.  `[[backend]]` and `[[engine.gguf]]` are lists: flags and variables add to them.
Whatever cannot be used is named with its key and the file and line (or variable, or flag) that it
came from; all of them at once, so that a file is mended in one go.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, cast

from meshd import limits
from meshd.errors import ConfigError
from meshd.setting_kinds import Where
from meshd.settings import (
    ALIAS,
    BACKEND_SETTINGS,
    GGUF_SETTINGS,
    OTHER_VARIABLES,
    SETTINGS,
    Setting,
)
from meshd.toml_lines import KeyPath, key_lines

NEAR = 0.7
"""How alike an unknown key and the one that is suggested for it must be: "prot" and "port"."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where decisions come from; nothing in here has been checked."""

    text: str = ""
    """The config file's, empty if there is none."""
    file: PurePath = field(default_factory=lambda: PurePath("config.toml"))
    environ: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, object] = field(default_factory=dict)
    """Keys of `settings.SETTINGS`, and `backend` and `gguf` (lists); a None was not given."""
    cwd: PurePath = field(default_factory=lambda: PurePath("/"))
    home: PurePath = field(default_factory=lambda: PurePath("/"))


@dataclass(frozen=True, slots=True)
class Given:
    """What the sources add up to, each value checked by its setting."""

    values: dict[str, object]
    """By the key of the setting; all of `settings.SETTINGS` are there."""
    aliases: dict[str, str]
    backends: list[dict[str, Any]]
    """Each by the keys of `settings.BACKEND_SETTINGS`, with those that were given."""
    ggufs: list[dict[str, Any]]


def collect(sources: Sources) -> Given:
    """Read and check all of them.

    Raises ConfigError: one line for each setting that cannot be used, in the order of the file.
    """
    return _Collector(sources).collect()


class _Collector:
    """Collects values and what is wrong with them."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[tuple[int, str]] = []
        """(line in the file, sentence); 0 for flags and variables, which come last."""
        self.in_file = Where(sources.file.parent, sources.home)
        self.outside = Where(sources.cwd, sources.home)

    def collect(self) -> Given:
        values: dict[str, object] = {}
        document = self.parse()
        backends = self.file_list(document, ("backend",), BACKEND_SETTINGS, "url")
        engine = self.table(document, "engine")
        ggufs = self.file_list(engine, ("engine", "gguf"), GGUF_SETTINGS, "path")
        self.only(engine, ("engine",), ["gguf"])
        aliases = self.aliases(document)
        self.file_settings(document, values)
        self.variables(values, backends, ggufs)
        self.flags(values, backends, ggufs)
        if self.problems:
            self.problems.sort(key=lambda problem: problem[0] or 1 << 60)
            raise ConfigError("\n".join(sentence for _, sentence in self.problems))
        return Given(values, aliases, _unique(backends, "url"), _unique(ggufs, "path"))

    # --- the file

    def parse(self) -> dict[str, Any]:
        text = self.sources.text.removeprefix("\ufeff")
        if len(text) > limits.CONFIG_BYTES:
            raise ConfigError(
                f"{self.sources.file}: larger than {limits.CONFIG_BYTES // limits.KIB} KiB"
            )
        try:
            document = tomllib.loads(text)
            self.lines = key_lines(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(self.not_toml(str(error), text)) from None
        except RecursionError:
            raise ConfigError(f"{self.sources.file}: nested too deeply") from None
        return document

    def not_toml(self, error: str, text: str) -> str:
        what, _, where = error.partition(" (at ")
        found = re.match(r"line (\d+)", where)
        line = int(found[1]) if found else text.rstrip().count("\n") + 1
        return f"{self.sources.file}:{line}: not TOML: {what[:1].lower()}{what[1:]}"

    def wrong(self, path: KeyPath, sentence: str) -> None:
        line = self.lines.get(path, 0)
        self.problems.append((line, f"{self.sources.file}:{line}: {sentence}"))

    def table(self, document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = document.get(key, {})
        if isinstance(value, dict):
            return value
        self.wrong((key,), f"{key} must be a table: [{key}]")
        return {}

    def only(self, table: Mapping[str, Any], path: KeyPath, known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                shown = _dotted((*path, key))
                self.wrong((*path, key), f'unknown key "{shown}"{_advice(path, key, known)}')

    def file_settings(self, document: Mapping[str, Any], values: dict[str, object]) -> None:
        tables: dict[str, list[str]] = {"": []}
        for setting in SETTINGS:
            table_name, _, key = setting.key.rpartition(".")
            tables.setdefault(table_name, []).append(key)
        self.only(
            document, (), [*tables[""], *filter(None, tables), "aliases", "backend", "engine"]
        )
        found = {name: self.table(document, name) for name in tables}
        for name, table in found.items():
            self.only(table, (name,), tables[name])
        for setting in SETTINGS:
            table_name, _, key = setting.key.rpartition(".")
            table = found[table_name] if table_name else document
            path = (table_name, key) if table_name else (key,)
            values[setting.key] = setting.default
            if key in table:
                values[setting.key] = self.file_value(setting, path, table[key])

    def file_value(self, setting: Setting, path: KeyPath, value: object) -> object:
        try:
            return setting.kind.check(value, self.in_file)
        except ValueError:
            given = "" if setting.secret else f", not {_shown(value)}"
            self.wrong(path, f"{_dotted(path)} must be {setting.kind.wants}{given}")
            return setting.default

    def file_list(
        self,
        document: Mapping[str, Any],
        path: KeyPath,
        settings: Sequence[Setting],
        required: str,
    ) -> list[dict[str, Any]]:
        tables = document.get(str(path[-1]), [])
        name = _dotted(path)
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self.wrong(path, f"{name} must be a list of tables: [[{name}]]")
            return []
        if len(tables) > limits.BACKENDS:
            self.wrong(path, f"more than {limits.BACKENDS} of [[{name}]]")
        rows = []
        for index, table in enumerate(tables):
            here = (*path, index)
            self.only(table, here, [setting.key for setting in settings])
            row = {
                setting.key: self.file_value(setting, (*here, setting.key), table[setting.key])
                for setting in settings
                if setting.key in table
            }
            if required not in table:
                self.wrong(here, f'[[{name}]] has no "{required}"')
            if "api_key" in row and "api_key_file" in row:
                self.wrong((*here, "api_key_file"), "give api_key or api_key_file, not both")
            rows.append(row)
        return rows

    def aliases(self, document: Mapping[str, Any]) -> dict[str, str]:
        table = self.table(document, "aliases")
        if len(table) > limits.ALIASES:
            self.wrong(("aliases",), f"more than {limits.ALIASES} aliases")
        for alias, model in table.items():
            for what in (alias, model):
                try:
                    ALIAS.check(what, self.in_file)
                except ValueError:
                    self.wrong(
                        ("aliases", alias),
                        f"{_dotted(('aliases', alias))} must be {ALIAS.wants}, not {_shown(what)}",
                    )
                    break
        return dict(table)

    # --- variables and flags

    def variables(
        self,
        values: dict[str, object],
        backends: list[dict[str, Any]],
        ggufs: list[dict[str, Any]],
    ) -> None:
        by_variable = {setting.variable: setting for setting in SETTINGS}
        known = [*by_variable, *(name for name, _ in OTHER_VARIABLES)]
        for name in sorted(self.sources.environ):
            given = self.sources.environ[name]
            if name in by_variable:
                if given:
                    setting = by_variable[name]
                    values[setting.key] = self.outside_value(setting, name, given)
            elif name in ("MESHD_BACKENDS", "MESHD_GGUFS"):
                items = [item.strip() for item in given.split(",") if item.strip()]
                self.outside_list(name, items, backends, ggufs)
            elif name.startswith("MESHD_") and name not in known:
                near = get_close_matches(name, known, 1, NEAR)
                advice = f"; did you mean {near[0]}?" if near else ""
                self.problems.append((0, f"{name}: unknown environment variable{advice}"))

    def flags(
        self,
        values: dict[str, object],
        backends: list[dict[str, Any]],
        ggufs: list[dict[str, Any]],
    ) -> None:
        by_key = {setting.key: setting for setting in SETTINGS}
        for key, given in self.sources.flags.items():
            if given is None:
                continue
            name = "--" + key.replace("_", "-")
            if key in ("backend", "gguf"):
                self.outside_list(name, cast("Sequence[str]", given), backends, ggufs)
            else:
                values[key] = self.outside_value(by_key[key], name, given)

    def outside_value(self, setting: Setting, name: str, given: object) -> object:
        try:
            value = setting.kind.parse(given) if isinstance(given, str) else given
            return setting.kind.check(value, self.outside)
        except ValueError:
            shown = "" if setting.secret else f", not {_shown(given)}"
            self.problems.append((0, f"{name} must be {setting.kind.wants}{shown}"))
            return setting.default

    def outside_list(
        self,
        name: str,
        items: Sequence[str],
        backends: list[dict[str, Any]],
        ggufs: list[dict[str, Any]],
    ) -> None:
        of_backends = "BACKEND" in name.upper()
        setting = (BACKEND_SETTINGS if of_backends else GGUF_SETTINGS)[0]
        for item in items:
            value = self.outside_value(setting, name, item)
            (backends if of_backends else ggufs).append({setting.key: value})


def _unique(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The first of each: a flag that repeats an entry of the file adds nothing to it.

    An alias of its own makes it another: one file may be served under two names.
    """
    seen: dict[object, dict[str, Any]] = {}
    for row in rows:
        if "alias" in row or all(row[key] != other[key] for other in seen.values()):
            seen.setdefault((row[key], row.get("alias")), row)
    return list(seen.values())


def _advice(path: KeyPath, key: str, known: Sequence[str]) -> str:
    """What was probably meant: a near key, or the same one in another table."""
    for setting in SETTINGS:
        table, _, name = setting.key.rpartition(".")
        if name == key and table != ".".join(map(str, path)):
            return (
                f"; it belongs into [{table}]"
                if table
                else ("; it belongs to the top, before the first [table]")
            )
    near = get_close_matches(key, known, 1, NEAR)
    return f'; did you mean "{_dotted((*path, near[0]))}"?' if near else ""


def _dotted(path: KeyPath) -> str:
    """A path as it would be written in the file; which one of a list is told by the line."""
    keys = [part for part in path if isinstance(part, str)]
    return ".".join(
        key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{_printable(key)}"' for key in keys
    )


def _printable(given: str) -> str:
    return "".join(char if char.isprintable() else "�" for char in given[:60])


def _shown(value: object) -> str:
    """A value in a sentence: short, and with nothing that would move a terminal's cursor."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{_printable(value)}"'
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    return _printable(str(value))
