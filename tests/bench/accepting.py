"""Keyed acceptance over HTTP: jobs put in with an `Idempotency-Key` at real daemons.

Each is one commit, synced on a majority, answered by the node that was asked, whichever leads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from meshd import control
from meshd.testing.daemons import Daemon, joined
from tests.bench.tools import Load, wrk

CLIENTS = 100
ONE_S = 2
FLOW_S = 2
"""So that what is put in stays below what may be queued."""

BODY = json.dumps({"queue": "bench", "payload": {"text": "x" * 100}})
NEW_KEY = """
local count = 0
request = function()
  count = count + 1
  wrk.headers["Idempotency-Key"] = "%s-" .. count
  return wrk.format()
end
"""


def accepted(folder: Path) -> list[tuple[str, Load, Load]]:
    """Where it was asked; one at a time; from many clients at once."""
    found = []
    with _voters(folder) as daemons:
        for part, where in (("leads", "the leader"), ("votes", "another voter")):
            url = f"{daemons[part].api_url}/mesh/v1/jobs"
            one = _load(url, f"{part}-one", 1, ONE_S)
            found.append((where, one, _load(url, f"{part}-many", CLIENTS, FLOW_S)))
    return found


def _load(url: str, prefix: str, connections: int, seconds: float) -> Load:
    script = NEW_KEY % prefix
    return wrk(url, connections=connections, seconds=seconds, body=BODY, more=script)


@contextmanager
def _voters(folder: Path) -> Iterator[dict[str, Daemon]]:
    """Daemons by their part in the record."""
    with ExitStack() as stack:
        founder = Daemon(folder / "0", "n0")
        stack.callback(founder.close)
        founder.start()
        others = [Daemon(folder / str(n), f"n{n}") for n in (1, 2)]
        for daemon in others:
            stack.callback(daemon.close)
        everyone = joined(founder, others)
        founder.wait_until(lambda _: len(_parts(founder)) == 3, "there are three voters", 60)
        by_name = {daemon.name: daemon for daemon in everyone}
        yield {part: by_name[name] for name, part in _parts(founder).items()}


def _parts(daemon: Daemon) -> dict[str, str]:
    """Names of those that vote, and which of them leads."""
    told = daemon.order("GET", "/control/record")
    voters = msgspec.json.decode(told, type=control.RecordReport).voters
    return {row.name: row.part for row in voters if row.part in ("leads", "votes")}
