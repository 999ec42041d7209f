"""A majority of the voters is away, and back: said once each."""

from __future__ import annotations

import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from meshd.testing.world import World, until
from tests.sim.meshes import report, three

LOST, BACK = "the record cannot be written from here", "the record can be written again"


async def test_a_majority_that_is_away_is_logged_once_and_so_is_its_return(
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as logs:
        async with World.open() as world:
            a, b, c = await three(world)
            assert not [line for line in logs if line["event"] in (LOST, BACK)]
            b.crash()
            c.crash()
            await trio.sleep(60.0)
            [lost] = [line for line in logs if line["event"] in (LOST, BACK)]
            assert (lost["log_level"], lost["event"]) == ("warning", LOST)
            assert "Away: b, c" in lost["why"] or "Away: c, b" in lost["why"]
            await b.start()
            await until(lambda: not report(a).problem, within_s=60.0)
            await trio.sleep(60.0)
            of_a = [line for line in logs if line["event"] in (LOST, BACK)]
            assert [(x["log_level"], x["event"]) for x in of_a][:2] == [
                ("warning", LOST),
                ("info", BACK),
            ]
            assert len(of_a) == 2
