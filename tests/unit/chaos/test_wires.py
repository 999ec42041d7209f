"""Sockets that other tasks close."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meshd_chaos import wires


@pytest.mark.parametrize("close", [wires.close, wires.reset])
async def test_who_reads_a_socket_that_was_closed_is_told_so(close: object) -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        async with trio.open_nursery() as nursery:

            async def waiting() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await wires.receive(near)

            nursery.start_soon(waiting)
            await wait_all_tasks_blocked()
            close(near)  # type: ignore[operator]
        with pytest.raises(trio.ClosedResourceError):
            await wires.receive(near)
