"""Floods of what is bad, and of silence."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import trio

from meshd import limits
from tests.e2e.attackers import ask, connect, log_lines, rss_bytes, talk
from tests.e2e.hostile.bad_http import CHAT, NOT_HTTP, SMUGGLED
from tests.e2e.hostile.victims import MIB, Victims, counts


def test_a_flood_of_bad_requests_fills_neither_log_nor_memory(mesh: Victims) -> None:
    lines, before = len(log_lines(mesh.a)), rss_bytes(mesh.a)
    big = CHAT + b"Content-Length: 60000\r\n\r\n" + b"[" * 60_000

    def attack(number: int) -> None:
        talk(mesh.api_port, NOT_HTTP["random"])
        talk(mesh.api_port, CHAT + SMUGGLED["two lengths"])
        talk(mesh.api_port, big + b"GET nonsense\r\n\r\n")
        talk(mesh.peer_port, os.urandom(500))

    with ThreadPoolExecutor(8) as pool:
        assert (
            counts(
                mesh.a, lambda: list(pool.map(attack, range(100))), "http_refused", "peer_refused"
            )
            >= 300
        )
    assert len(log_lines(mesh.a)) - lines < 5
    assert rss_bytes(mesh.a) - before < 64 * MIB


def test_many_silent_connections_keep_nobody_out(mesh: Victims) -> None:
    """More than the mesh port has places, from one machine; members and newcomers still get in."""
    with ExitStack() as stack:
        for _ in range(limits.PEER_CONNECTIONS + 50):
            stack.enter_context(connect(mesh.peer_port))
        for _ in range(3):
            assert ask(mesh.c)

        async def dial() -> None:
            with trio.fail_after(4):
                async with mesh.b.link(mesh.a):
                    pass

        trio.run(dial)
