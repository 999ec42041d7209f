"""What a scenario says: a mesh, what clients do with it, what is broken and when.  Pure.

`scenario_file` reads it from TOML; `schedule` makes moments of it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from meshd_chaos.mesh import NODES_MAX
from meshd_chaos.workload import Mix

Seconds = Annotated[float, Meta(ge=0, le=3600)]
Interval = Annotated[float, Meta(ge=0.1, le=3600)]
PerMinute = Annotated[float, Meta(gt=0, le=600)]
Line = Annotated[str, Meta(min_length=1, max_length=300)]


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[mesh]`: what is started."""

    nodes: Annotated[int, Meta(ge=2, le=NODES_MAX)] = 5
    models: Annotated[int, Meta(ge=1, le=8)] = 3
    copies: Annotated[int, Meta(ge=1, le=NODES_MAX)] = 3
    """How many nodes hold each model."""
    tokens_per_s: Annotated[float, Meta(ge=1, le=1000)] = 60.0
    """Of each stream: the engines are paced, so that streams last."""
    slots: Annotated[int, Meta(ge=1, le=64)] = 8
    """Of each copy of a model."""


class When(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a fault comes: exactly one of `at_s`, `every_s` and `per_minute`."""

    at_s: list[Seconds] = []
    every_s: Interval | None = None
    first_s: Seconds = 2.5
    """With `every_s`: when it comes first."""
    per_minute: PerMinute | None = None
    """At moments by chance, so many on average; once at least."""
    for_s: tuple[Seconds, Seconds] = (2.0, 4.0)
    """How long it lasts: by chance between the two."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One `[[fault]]`."""

    name: str
    """Of a nemesis."""
    when: When = When()
    parameters: dict[str, object] = {}
    """All that the nemesis itself is told."""


class Expect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[expect]`: what has to be so at the end, besides that nothing was lost, doubled or wrong."""

    excuses: list[str] = []
    """Why requests may fail here, of those that the promise excludes; no other excuse counts."""
    faults: Annotated[int, Meta(ge=0)] = 1
    """At least so many were injected."""
    recovered: Annotated[int, Meta(ge=0)] = 0
    """At least so many answers were whole though their holder failed under them."""
    repeated: Annotated[int, Meta(ge=0)] = 0
    """At least so many were whole because their client repeated the key elsewhere."""
    resumed: Annotated[int, Meta(ge=0)] = 0
    """At least so many went on over another link: the same run, of a holder that lived."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """All of a file."""

    name: str
    about: str
    """A sentence."""
    given_as: str = ""
    """What finds it again: a name of the library, or the path of the file."""
    mesh: Layout = Layout()
    workload: Mix = Mix()
    at_once: int = 1
    """So many faults may be in force at the same time; others wait for their turn."""
    faults: tuple[Fault, ...] = ()
    expect: Expect = Expect()
