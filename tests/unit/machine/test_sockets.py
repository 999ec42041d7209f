"""Dialling whatever somebody announced."""

from __future__ import annotations

import pytest

from meshd.errors import DialFailed
from meshd.ids import Address
from meshd.machine.sockets import connect

NO_NAMES = ("a..b", ".", "..", "a" * 64, "1" * 70, "::::", "999.1.1.1", "a\0")


@pytest.mark.parametrize("host", NO_NAMES)
@pytest.mark.parametrize("port", [0, 9, 70_000, -1])
async def test_what_cannot_be_an_address_is_a_failed_dial(host: str, port: int) -> None:
    with pytest.raises(DialFailed):
        await connect(Address(host, port), peer=True)
