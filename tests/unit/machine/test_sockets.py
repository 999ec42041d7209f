"""Dialling whatever somebody announced."""

from __future__ import annotations

import socket
import ssl
import struct

import pytest

from meshd.errors import DialFailed, HandshakeFailed
from meshd.ids import Address
from meshd.machine.network import wrap
from meshd.machine.sockets import connect

NO_NAMES = ("a..b", ".", "..", "a" * 64, "1" * 70, "::::", "999.1.1.1", "a\0")


@pytest.mark.parametrize("host", NO_NAMES)
@pytest.mark.parametrize("port", [0, 9, 70_000, -1])
async def test_what_cannot_be_an_address_is_a_failed_dial(host: str, port: int) -> None:
    with pytest.raises(DialFailed):
        await connect(Address(host, port), peer=True)


def test_a_peer_that_resets_before_the_handshake_is_one_that_hung_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()  # with a reset
        with pytest.raises(HandshakeFailed, match="hung up"):
            wrap(ssl.create_default_context(), sock, Address(*server.getsockname()), "a")
    assert sock.fileno() == -1, "it is closed"
