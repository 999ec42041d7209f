"""Reading the server name out of a ClientHello, against OpenSSL's own."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.machine.client_hello import MAX_BYTES, NotHello, server_name


def client_hello(name: str | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["meshd/1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


HELLOS = {name: client_hello(name) for name in (None, "join", "some.host.example")}


@pytest.mark.parametrize("name", HELLOS)
def test_the_name_is_read_once_the_whole_hello_is_there_and_not_before(name: str | None) -> None:
    hello = HELLOS[name]
    for end in range(len(hello)):
        assert server_name(hello[:end]) is None
    assert server_name(hello) == (name or "")
    assert server_name(hello + b"what follows") == (name or "")


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_hello_in_several_records_is_one_hello(size: int) -> None:
    handshake = HELLOS["join"][5:]
    records = b"".join(
        b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece
        for at in range(0, len(handshake), size)
        for piece in [handshake[at : at + size]]
    )
    assert server_name(records) == "join"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_name_or_incomplete_or_no_hello(data: bytes) -> None:
    for prefix in (b"", b"\x16\x03\x01", b"\x16\x03\x01\x00\x60\x01\x00\x00\x50\x03\x03"):
        with suppress(NotHello):
            assert isinstance(server_name(prefix + data), str | None)


@given(st.data())
def test_a_damaged_hello_never_raises_anything_else(data: st.DataObject) -> None:
    hello = bytearray(HELLOS["join"])
    for _ in range(data.draw(st.integers(1, 5))):
        hello[data.draw(st.integers(0, len(hello) - 1))] = data.draw(st.integers(0, 255))
    with suppress(NotHello):
        server_name(bytes(hello))


def test_a_hello_without_end_is_refused_at_the_limit() -> None:
    endless = b"\x16\x03\x01\xff\xff" + b"\x01\xff\xff\xff" + b"\0" * MAX_BYTES
    assert server_name(endless[: MAX_BYTES - 1]) is None
    with pytest.raises(NotHello, match="too large"):
        server_name(endless[:MAX_BYTES])
