"""What is said of requests that never got to their handler."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from meshd.ids import Address
from meshd.node.bad_requests import BadRequests
from meshd.ports import Remote
from meshd.testing.world import World

THERE = Remote(Address("10.0.0.9", 1))


@pytest.mark.parametrize("status", [404, 405])
async def test_what_is_not_served_here_is_no_bad_request(
    status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = BadRequests("http_refused", "refused on the client port")
    bad.note(THERE, status, "Not Found")
    assert bad.counters["http_refused"] == 0
    assert "refused" not in capsys.readouterr().out
    bad.note(THERE, 403, "Forbidden")
    assert bad.counters["http_refused"] == 1
    assert "refused on the client port" in capsys.readouterr().out


async def test_the_log_says_why_a_request_was_refused(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with World.open() as world:
        a = await world.start("a")
        await a.client.post("/v1/nothing", {}).run()
        assert a.running._bad_clients.counters["http_refused"] == 0
        await a.client.post("/api/chat", {}, "origin: https://evil.example").run()
        assert a.running._bad_clients.counters["http_refused"] == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "refused on the client port" in line]
    assert "Forbidden" in line
    assert not [line for line in lines if "not admitted" in line]
