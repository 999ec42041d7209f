"""Servers of the world: by their names, and by the CAs that this machine trusts."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from meshd.errors import HandshakeFailed, NotAdmitted
from meshd.ids import Address
from meshd.machine.network import RealNetwork
from tests.unit.tiny_ca import TinyCa


async def serve(nursery: trio.Nursery, certificate: Path | None) -> int:
    """Echo, over TLS if there is a certificate; the port."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate is not None:
        context.load_cert_chain(certificate)

    async def echo(stream: trio.SocketStream) -> None:
        try:
            if certificate is None:
                await stream.receive_some()
                await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return
            tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            await tls.send_all(await tls.receive_some())
        except (trio.BrokenResourceError, ssl.SSLError):
            await trio.lowlevel.checkpoint()
        finally:
            await stream.aclose()

    nursery.start_soon(trio.serve_listeners, echo, [listener])
    port: int = listener.socket.getsockname()[1]
    return port


@pytest.fixture
def ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyCa:
    """What this machine trusts."""
    made = TinyCa.new()
    (tmp_path / "ca.pem").write_bytes(made.certificate.public_bytes(Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    return made


async def test_a_server_that_shows_its_name_is_talked_to(
    ca: TinyCa, tmp_path: Path, nursery: trio.Nursery
) -> None:
    (tmp_path / "own.pem").write_bytes(ca.web_server("localhost"))
    port = await serve(nursery, tmp_path / "own.pem")
    stream = await RealNetwork().dial_web(Address("localhost", port), 10)
    await stream.send_all(b"hello")
    assert await stream.receive_some() == b"hello"
    await stream.aclose()


@pytest.mark.parametrize("why", ["another name", "another CA"])
async def test_a_server_that_does_not_is_not(
    ca: TinyCa, tmp_path: Path, nursery: trio.Nursery, why: str
) -> None:
    issuer = ca if why == "another name" else TinyCa.new()
    shown = "example.org" if why == "another name" else "localhost"
    (tmp_path / "own.pem").write_bytes(issuer.web_server(shown))
    port = await serve(nursery, tmp_path / "own.pem")
    with pytest.raises(NotAdmitted, match="is not trusted"):
        await RealNetwork().dial_web(Address("localhost", port), 10)


async def test_what_speaks_no_tls_cannot_be_reached(ca: TinyCa, nursery: trio.Nursery) -> None:
    port = await serve(nursery, None)
    with pytest.raises(HandshakeFailed, match="TLS failed"):
        await RealNetwork().dial_web(Address("127.0.0.1", port), 10)
