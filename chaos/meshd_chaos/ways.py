"""How answers went on, as the mesh itself tells: a client sees that they did, and not how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import httpx
import msgspec
import trio

from meshd.control import StatusReport
from meshd.testing.checker import Answer, Seam
from meshd_chaos.clients import Clients

TOLD_S: Final = 5.0
"""For all of them; traces are written once a second, and what is not told stays as it was seen."""
_RESUMED: Final = "went_on_by_resume"
"""Counted by each entry (relay/remote.py): its client sees nothing of it."""
_SEEN: Final = "continue"
"""What a client takes every seam in the middle of an answer for."""


async def ask_ways(clients: Clients) -> dict[str, tuple[str, ...]]:
    """By the request's name: the ways of its runs after the first, in order."""
    ways: dict[str, tuple[str, ...]] = {}

    async def ask(answer: Answer, url: str) -> None:
        try:
            told = await clients.http.get(url, headers=dict(clients.stage.headers))
        except httpx.HTTPError:
            return
        if told.status_code == 200:
            with suppress(msgspec.DecodeError, UnicodeDecodeError):  # then it stays as it was seen
                trace = msgspec.json.decode(told.content, type=Trace)
                ways[answer.request] = ways_of(trace)

    with trio.move_on_after(TOLD_S):
        async with trio.open_nursery() as nursery:
            for answer in clients.answers:
                name = clients.request_ids.get(answer.request)
                entry = clients.stage.entries().get(answer.entry)
                if name and entry and any(seam.way == _SEEN for seam in answer.seams):
                    nursery.start_soon(ask, answer, f"{entry}/mesh/v1/requests/{name}")
    return ways


class _Run(msgspec.Struct):
    way: str | None = None


class Trace(_Run):
    """What there is to know here of a request's trace (jobs/request_views.py)."""

    failed: list[_Run] = []


def resumed(before: Mapping[str, StatusReport], after: Mapping[str, StatusReport]) -> int:
    """How many answers went on over another link in between, as the daemons say that live."""
    return sum(_resumed(now, before.get(name)) for name, now in after.items())


def _resumed(now: StatusReport, before: StatusReport | None) -> int:
    began_anew = before is None or before.pid != now.pid
    former = 0 if began_anew or before is None else before.counters.get(_RESUMED, 0)
    return now.counters.get(_RESUMED, 0) - former


def ways_of(trace: Trace) -> tuple[str, ...]:
    """Those of its runs."""
    return tuple(run.way for run in (*trace.failed, trace) if run.way)


def with_ways(answers: Iterable[Answer], ways: Mapping[str, Sequence[str]]) -> list[Answer]:
    """The same with the ways that were told; where they do not fit the seams, as they were seen."""
    return [_told(answer, ways.get(answer.request, ())) for answer in answers]


def _told(answer: Answer, ways: Sequence[str]) -> Answer:
    places = [place for place, seam in enumerate(answer.seams) if seam.way == _SEEN]
    if not ways or len(places) != len(ways):
        return answer
    seams: list[Seam] = list(answer.seams)
    for place, way in zip(places, ways, strict=True):
        seams[place] = msgspec.structs.replace(seams[place], way=way)
    return msgspec.structs.replace(answer, seams=seams)
