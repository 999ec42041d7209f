"""Scenarios as users write them: TOML, and what is wrong with it, by line.  Pure.

name = "my-attic"
about = "The attic's daemon dies again and again."

[workload]
modes = { streamed = 3, keyed = 1 }

[[fault]]
name = "kill"
target = "holder"
every_s = 10

[expect]
recovered = 1
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from meshd.errors import MeshdError
from meshd.toml_lines import KeyPath, key_lines
from meshd_chaos.excuses import EXCUSES
from meshd_chaos.misfit import in_words, place_of, sentence, there_are
from meshd_chaos.scenario import Expect, Fault, Layout, Line, Scenario, When
from meshd_chaos.workload import Mix

T = TypeVar("T", bound=msgspec.Struct)
Parameters = Mapping[str, type[msgspec.Struct]]
"""What each nemesis is told, by its name."""

AT_ONCE_MAX: Final = 4
_TOP: Final = ("name", "about", "at_once", "mesh", "workload", "fault", "expect")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_TOML_PLACE: Final = re.compile(r" \(at (?:line (?P<line>\d+), column \d+|end of document)\)$")
_LONG_NUMBER: Final = re.compile(r"[0-9][0-9_]{4000}")


class BadScenario(MeshdError):
    """A scenario that cannot be used; each line of the text names a place and what is allowed."""


def read_scenario(text: str, *, file: str, parameters: Parameters) -> Scenario:
    """Raises BadScenario with all that is wrong.  `file` is what the text calls it."""
    try:
        document, lines = tomllib.loads(text), key_lines(text)
    except RecursionError:
        raise BadScenario(f"{file}: its lists and tables are nested too deep") from None
    except tomllib.TOMLDecodeError as error:
        raise BadScenario(_no_toml(file, text, str(error))) from None
    except ValueError:  # Python reads no numbers that long
        line = _line_of(text, _LONG_NUMBER.search(text))
        raise BadScenario(f"{file}:{line}: a number with thousands of digits") from None
    reader = _Reader(file, lines, parameters)
    scenario = reader.scenario(document)
    if reader.problems:
        raise BadScenario("\n".join(sentence for _, sentence in sorted(reader.problems)))
    return scenario


class _Reader:
    """Collects what is wrong, and reads on."""

    def __init__(self, file: str, lines: Mapping[KeyPath, int], parameters: Parameters) -> None:
        self._file, self._lines, self._parameters = file, lines, parameters
        self.problems: list[tuple[int, str]] = []

    def scenario(self, document: dict[str, Any]) -> Scenario:
        self._known(document, (), _TOP, "a scenario")
        name, about = self._line(document, "name"), self._line(document, "about")
        if name and not _NAME.fullmatch(name):
            problem = "name must be lower-case letters, digits and dashes, 40 at most"
            self._wrong(("name",), problem)
        if not about.isprintable():
            self._wrong(("about",), "about must be one line without control characters")
        at_once = document.get("at_once", 1)
        if type(at_once) is not int or not 1 <= at_once <= AT_ONCE_MAX:
            self._wrong(("at_once",), f"at_once must be a whole number from 1 to {AT_ONCE_MAX}")
        return Scenario(
            name=name,
            about=about,
            mesh=self._mesh(document),
            workload=self._mix(document),
            at_once=at_once,
            faults=tuple(self._faults(document)),
            expect=self._expect(document),
        )

    def _mesh(self, document: dict[str, Any]) -> Layout:
        mesh = self._table(document, ("mesh",), Layout)
        if mesh.copies <= mesh.nodes:
            return mesh
        if ("mesh", "copies") in self._lines:
            default = "" if ("mesh", "nodes") in self._lines else " that there are by default"
            problem = f"copies = {mesh.copies} is more than the {mesh.nodes} nodes{default}"
            self._wrong(("mesh", "copies"), problem)
        return msgspec.structs.replace(mesh, copies=mesh.nodes)

    def _mix(self, document: dict[str, Any]) -> Mix:
        mix = self._table(document, ("workload",), Mix)
        if mix.tokens[0] > mix.tokens[1]:
            self._wrong(("workload", "tokens"), _not_in_order("tokens", mix.tokens))
        for key, weights in (("modes", mix.modes), ("dialects", mix.dialects)):
            if not sum(weights.values()):
                self._wrong(("workload", key), f"{key} must have one weight above 0")
        return mix

    def _expect(self, document: dict[str, Any]) -> Expect:
        expect = self._table(document, ("expect",), Expect)
        for number, name in enumerate(expect.excuses):
            if name not in EXCUSES:
                problem = f"there is no excuse {name!r}; {there_are(EXCUSES)}"
                self._wrong(("expect", "excuses", number), problem)
        if expect.faults and document.get("fault", []) == []:
            problem = "a scenario needs a [[fault]], or faults = 0 under [expect]"
            self._wrong(("expect", "faults"), problem)
        return expect

    # ---------------------------------------------------------------- faults

    def _faults(self, document: dict[str, Any]) -> Iterable[Fault]:
        tables = document.get("fault", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._wrong(("fault",), "faults are tables, each under a line [[fault]]")
            return
        for number, table in enumerate(tables):
            if (fault := self._fault(table, ("fault", number))) is not None:
                yield fault

    def _fault(self, table: dict[str, Any], path: KeyPath) -> Fault | None:
        name = table.get("name")
        if name is None:
            self._wrong(path, f"a fault needs a name; {there_are(self._parameters)}")
            return None
        if not isinstance(name, str) or name not in self._parameters:
            problem = f"there is no fault {name!r}; {there_are(self._parameters)}"
            self._wrong((*path, "name"), problem)
            return None
        kind, schedule = self._parameters[name], When.__struct_fields__
        allowed = ("name", *schedule, *kind.__struct_fields__)
        if not self._known(table, path, allowed, f"the fault {name!r}"):
            return None
        given = {key: value for key, value in table.items() if key in kind.__struct_fields__}
        self._converted(given, path, kind)
        when = self._converted(_spread(table, schedule), path, When, written=table)
        chosen = [key for key in ("at_s", "every_s", "per_minute") if key in table]
        if len(chosen) != 1:
            problem = f"a fault has one of at_s, every_s and per_minute, {name!r} has "
            self._wrong(path, problem + (" and ".join(chosen) or "none"))
        if when.for_s[0] > when.for_s[1]:
            self._wrong((*path, "for_s"), _not_in_order("for_s", when.for_s))
        return Fault(name=name, when=when, parameters=given)

    # ---------------------------------------------------------------- tables and values

    def _table(self, document: dict[str, Any], path: KeyPath, kind: type[T]) -> T:
        table = document.get(str(path[0]), {})
        if not isinstance(table, dict):
            self._wrong(path, f"{path[0]} must be a table: [{path[0]}]")
            return kind()
        known = self._known(table, path, kind.__struct_fields__, f"[{path[0]}]")
        return self._converted(table, path, kind) if known else kind()

    def _known(
        self, table: dict[str, Any], path: KeyPath, allowed: Iterable[str], where: str
    ) -> bool:
        """Whether it has no other keys than those."""
        unknown = [key for key in table if key not in allowed]
        for key in unknown:
            self._wrong((*path, key), f"{where} has no {key!r}; {there_are(allowed)}")
        return not unknown

    def _converted(
        self,
        table: dict[str, Any],
        path: KeyPath,
        kind: type[T],
        written: Mapping[str, Any] | None = None,
    ) -> T:
        """`written` is what the user wrote, if the table is not just that."""
        try:
            return msgspec.convert(table, kind)
        except msgspec.ValidationError as error:
            place = place_of(error)
            if written and place and not isinstance(written[str(place[0])], list):
                place = place[:1]
            self._wrong((*path, *place), sentence(error, kind, place))
            return kind()

    def _line(self, document: dict[str, Any], key: str) -> str:
        """Text that a scenario has to have; "" if it has none."""
        if key not in document:
            self._wrong((), f"a scenario needs {key} = ...")
            return ""
        try:
            return str(msgspec.convert(document[key], Line))
        except msgspec.ValidationError as error:
            self._wrong((key,), in_words(str(error), key))
            return ""

    def _wrong(self, path: KeyPath, problem: str) -> None:
        """Say so, with the nearest line that is known."""
        while path and path not in self._lines:
            path = path[:-1]
        line = self._lines.get(path, 1)
        self.problems.append((line, f"{self._file}:{line}: {problem}"))


def _no_toml(file: str, text: str, error: str) -> str:
    """What `tomllib` says, with the line where every other mistake has it."""
    found = _TOML_PLACE.search(error)
    if found is None:
        return f"{file}: this is no TOML: {error}"
    line = found["line"] or _line_of(text, re.search(r"\s*\Z", text))
    return f"{file}:{line}: this is no TOML: {error[: found.start()]}"


def _line_of(text: str, found: re.Match[str] | None) -> int:
    return text.count("\n", 0, found.start() if found else 0) + 1


def _spread(table: dict[str, Any], schedule: tuple[str, ...]) -> dict[str, Any]:
    """The keys of the schedule; where one number may stand for a list, as a list."""
    found = {key: value for key, value in table.items() if key in schedule}
    if isinstance(found.get("at_s"), int | float):
        found["at_s"] = [found["at_s"]]
    if isinstance(found.get("for_s"), int | float):
        found["for_s"] = [found["for_s"], found["for_s"]]
    return found


def _not_in_order(key: str, pair: tuple[float, float]) -> str:
    return f"{key} must be [shortest, longest], and {pair[0]:g} is more than {pair[1]:g}"
