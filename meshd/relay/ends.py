"""Why a request ends without an answer, in an entry's own words.  Pure."""

from __future__ import annotations

from collections.abc import Collection

from meshd import limits
from meshd.inference import Failure, FailureKind


def deadline() -> Failure:
    return Failure(FailureKind.DEADLINE, "the time allowed for this request has passed", 504)


def stopped() -> Failure:
    return Failure(
        FailureKind.DRAINING, "this node was stopped and its time to finish is over", 503, 1.0
    )


def given_up(failure: Failure) -> Failure:
    """The holder ended it as if somebody had asked for that, and nobody here has."""
    return Failure(FailureKind.HOLDER_LOST, f"the holder gave it up: {failure.message}", 502)


def unheard() -> Failure:
    return Failure(
        FailureKind.HOLDER_LOST,
        f"the holder has not been heard for {limits.HOLDER_SILENT_S} s",
        502,
    )


def client_left() -> Failure:
    return Failure(FailureKind.CANCELLED, "the client went away", 499)


def cut() -> Failure:
    return Failure(FailureKind.BROKEN, "the answer ended before it was finished", 502)


def nobody(why: str = "") -> Failure:
    """`why`: what was said of the last one that was asked."""
    because = f" ({why})" if why else ""
    return Failure(
        FailureKind.UNREACHABLE,
        f"no engine that has this model can be reached now{because}; try again in a few seconds",
        503,
        retry_after_s=2.0,
    )


def all_busy(waits_s: Collection[float]) -> Failure:
    """`waits_s`: what those that were asked predict."""
    return Failure(
        FailureKind.BUSY,
        "every node that has this model is busy; try again later",
        503,
        retry_after_s=max(1.0, min(min(waits_s, default=1.0), 120.0)),
    )
