"""What the API tells of a job (proto/http.md), also in the checker's words.  Pure."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from meshd.testing.checker import JobResult, Joined, Ok, Phase, Seen, digest_of
from meshd_chaos.transcript import Garbled

_OVER: Final = (Phase.FAILED, Phase.CANCELLED, Phase.DEAD)
_SHOWN: Final = 40
"""Bytes that a sentence shows of what is no such thing."""


class Made(msgspec.Struct):
    """A job that was put in."""

    id: str
    new: bool

    @property
    def welcome(self) -> JobResult:
        """What its submission came to."""
        return Ok() if self.new else Joined()


class JobView(msgspec.Struct):
    """What a node says of a job."""

    state: Phase
    reason: str | None = ""
    node: str | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    result_is_away: bool = False

    @property
    def has_result(self) -> bool:
        return self.state is Phase.DONE and not self.result_is_away

    @property
    def is_over(self) -> bool:
        """It is at its end, and all of it is here: so it is for good, however old this is."""
        return self.has_result or self.state in _OVER

    @property
    def seen(self) -> Seen:
        """What that shows of the job."""
        return Seen(self.state, result=digest_of(bytes(self.result)) if self.has_result else None)


_View = TypeVar("_View", Made, JobView)


def decoded(body: bytes, form: type[_View]) -> _View:
    """What a body says.  Raises Garbled."""
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Garbled(f"{error}: {body[:_SHOWN]!r}") from None
