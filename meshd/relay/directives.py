"""What a request's state machine wants done (`machine.py`), as data.  Pure."""

from __future__ import annotations

import msgspec

from meshd.inference import Delta, Failure, Request, Usage
from meshd.relay.splice import Way
from meshd.routing.catalogue import Target
from meshd.routing.placement import TargetKey


class Pick(msgspec.Struct, frozen=True, gc=False):
    """Choose the best holder not in `exclude` and call `picked`."""

    exclude: frozenset[TargetKey]
    way: Way | None = None
    """It is to go on with what was delivered, so it must have the very model that `like` has."""
    like: Target | None = None


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """Ask this holder; it may queue the request for `wait_s` at most."""

    target: Target
    number: int
    wait_s: float
    ask: int = 1
    """Which question to a holder this is: its name there, never used twice."""
    way: Way | None = None
    request: Request | None = None
    """What to ask there; None: what the client asked."""
    others: int = 0
    """How many more could be asked in its stead."""


class Avoid(msgspec.Struct, frozen=True, gc=False):
    """This target failed: try others first, and tell membership if its node is the suspect."""

    target: Target
    failure: Failure


class Poison(msgspec.Struct, frozen=True, gc=False):
    """This very request killed as many engines as one request may: refuse its like for a while."""


class Say(msgspec.Struct, frozen=True, gc=False):
    """Tell the client this: no run will."""

    items: tuple[Delta | Usage, ...]


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The answer is whole."""


class Fail(msgspec.Struct, frozen=True, gc=False):
    """The request is over without a whole answer.  `in_stream`: a part was already delivered."""

    failure: Failure
    in_stream: bool


Directive = Pick | Attempt | Avoid | Poison | Say | Finish | Fail
