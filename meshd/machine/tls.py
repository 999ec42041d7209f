"""TLS contexts: of the peer port, and of a client of the world.

TLS 1.3 only.  Members: both sides show a certificate that a CA of the mesh signed, whatever its
dates say (`check_peer` decides on those: a registered member with an expired certificate or a
wrong clock still gets a link, and renews on it); host names mean nothing.  Strangers: SNI `join`
selects the one context without a client certificate, which speaks only `meshd-join/1`.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from meshd.ports import Alpn, Credentials

__all__ = ["Credentials", "PeerContexts", "join_client_context", "peer_contexts", "web_context"]

JOIN_NAME = "join"
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL; Python has no name for it
_MEMBER_ALPN = (Alpn.CONTROL, Alpn.HTTP)


@dataclass(frozen=True, slots=True)
class PeerContexts:
    """One set of credentials as OpenSSL wants them."""

    member_server: ssl.SSLContext
    join_server: ssl.SSLContext
    member_client: dict[Alpn, ssl.SSLContext]

    def server(self, name: str) -> ssl.SSLContext:
        """The context for a client that asks for `name` (SNI)."""
        return self.join_server if name == JOIN_NAME else self.member_server


def peer_contexts(credentials: Credentials) -> PeerContexts:
    """Raises ssl.SSLError if certificate, key and CA do not fit together."""
    member_server = _context(ssl.PROTOCOL_TLS_SERVER, credentials, _MEMBER_ALPN)
    member_server.sni_callback = _serve_only(lambda name: name != JOIN_NAME)
    join_server = _context(ssl.PROTOCOL_TLS_SERVER, credentials, (Alpn.JOIN,))
    join_server.verify_mode = ssl.CERT_NONE
    join_server.sni_callback = _serve_only(lambda name: name == JOIN_NAME)
    return PeerContexts(
        member_server=member_server,
        join_server=join_server,
        member_client={
            alpn: _context(ssl.PROTOCOL_TLS_CLIENT, credentials, (alpn,)) for alpn in _MEMBER_ALPN
        },
    )


def join_client_context() -> ssl.SSLContext:
    """A stranger's: shows nothing, believes nothing.  The join protocol proves what it needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([Alpn.JOIN.value])
    return context


def web_context() -> ssl.SSLContext:
    """A client of the world: by host name, and the CAs of this machine (or `SSL_CERT_FILE`)."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # `TlsStream` relies on that
    context.set_alpn_protocols([Alpn.HTTP.value])
    return context


def _context(kind: int, credentials: Credentials, alpn: tuple[Alpn, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(kind)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # identity is the SAN, and `check_peer` reads it
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.load_verify_locations(cadata=credentials.ca_pem.decode("ascii"))
    _load_chain(context, credentials.private_key_pem + b"\n" + credentials.certificate_pem)
    context.set_alpn_protocols([name.value for name in alpn])
    if kind == ssl.PROTOCOL_TLS_SERVER:
        # Links are long-lived: nothing is resumed, and a ticket that a client never reads would
        # turn its orderly close into a reset.
        context.num_tickets = 0
    return context


_Sni = Callable[[ssl.SSLObject | ssl.SSLSocket, str | None, ssl.SSLContext], int | None]


def _serve_only(served: Callable[[str | None], bool]) -> _Sni:
    """Refuse a handshake whose server name belongs to the other context."""

    def check(
        _socket: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        return None if served(name) else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    return check


def _load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """Load key and certificates, which OpenSSL (through Python) reads only from a file.

    It opens the file twice, so a pipe will not do.  Linux has files in memory; elsewhere it is a
    private (0600) temporary file that is gone again before anybody knows its name.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("meshd", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{fd}"
        if os.path.exists(path):
            try:
                os.write(fd, pem)
                context.load_cert_chain(path)
            finally:
                os.close(fd)
            return
        os.close(fd)
    fd, path = tempfile.mkstemp(prefix="meshd-")
    try:
        os.write(fd, pem)
        context.load_cert_chain(path)
    finally:
        os.close(fd)
        os.unlink(path)
