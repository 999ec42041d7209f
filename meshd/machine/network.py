"""The real network: sockets and TLS behind `ports.Network`."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

import trio

from meshd.errors import DialFailed, HandshakeFailed, NotAdmitted
from meshd.ids import Address, NodeId
from meshd.machine import sockets
from meshd.machine.datagrams import UdpDatagrams
from meshd.machine.host import host_name
from meshd.machine.interfaces import interface_addresses
from meshd.machine.listeners import PeerListener, SocketListener, listen_unix
from meshd.machine.streams import SocketStream, TlsStream, do_handshake
from meshd.machine.tls import (
    JOIN_NAME,
    PeerContexts,
    join_client_context,
    peer_contexts,
    web_context,
)
from meshd.machine.verdict import MAX_BYTES, read_verdict
from meshd.ports import Alpn, ByteStream, Credentials, Datagrams, Listener, Remote

_REFUSING_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR")
"""What OpenSSL says when it likes our certificate not; the last, when another CA of that name
signed it."""


class RealNetwork:
    """This machine's sockets."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        """Without credentials there is only plain networking and `dial_join`, until `use`."""
        self._current: tuple[Credentials, PeerContexts] | None = None
        self._udp: dict[int, socket.socket] = {}  # bound with their TCP port, not yet asked for
        self._web_context: ssl.SSLContext | None = None
        if credentials is not None:
            self.use(credentials)

    def use(self, credentials: Credentials) -> None:
        """Take (new) credentials, for handshakes from now on.  Raises ssl.SSLError if unfit."""
        self._current = (credentials, peer_contexts(credentials))

    def _member(self) -> tuple[Credentials, PeerContexts]:
        if self._current is None:
            raise NotAdmitted("This node is in no mesh yet: it has no certificate to show.")
        return self._current

    # --- listening

    async def listen_peers(self, port: int) -> Listener:
        """TCP now; the same port number of UDP is bound with it, for `listen_datagrams`.

        A newcomer listens before it has credentials, to know its port; whoever knocks by then is
        turned away in the handshake.
        """
        tcp, udp = sockets.bind_pair(port)
        self._udp[tcp.getsockname()[1]] = udp
        return PeerListener(tcp, self._member)

    async def listen_datagrams(self, port: int) -> Datagrams:
        sock = self._udp.pop(port, None)
        return UdpDatagrams(sock or sockets.bind_everywhere(port, socket.SOCK_DGRAM))

    async def listen_clients(self, host: str, port: int) -> Listener:
        return SocketListener(sockets.listen_tcp(host, port))

    async def listen_control(self, path: PurePath) -> Listener:
        return listen_unix(str(path))

    # --- dialling

    async def dial_peer(
        self, node: NodeId, addresses: Sequence[Address], alpn: Alpn, timeout_s: float
    ) -> ByteStream:
        credentials, contexts = self._member()

        async def attempt(address: Address) -> TlsStream:
            tls, remote = await _dial_tls(address, contexts.member_client[alpn], alpn, None)
            try:
                found = credentials.check_peer(remote.certificate_der)
                if found != node:
                    raise NotAdmitted(f"{address} is another member ({found}, not {node}).")
                await _await_verdict(tls, address)
                return TlsStream(tls, replace(remote, node=found))
            except BaseException:  # also a cancel: it is closed; raised again
                tls.close()
                raise

        with trio.move_on_after(timeout_s):
            return await sockets.race(
                list(dict.fromkeys(addresses)), attempt, discard=lambda lost: lost.close()
            )
        raise DialFailed(f"{node} did not answer within {timeout_s:g} s.")

    async def dial_join(self, address: Address, timeout_s: float) -> ByteStream:
        with trio.move_on_after(timeout_s):
            tls, remote = await _dial_tls(address, join_client_context(), Alpn.JOIN, JOIN_NAME)
            return TlsStream(tls, remote)
        raise DialFailed(f"{address} did not answer within {timeout_s:g} s.")

    async def dial_plain(self, address: Address, timeout_s: float) -> ByteStream:
        with trio.move_on_after(timeout_s):
            sock = await sockets.connect(address, peer=False)
            return SocketStream(sock, Remote(address=address))
        raise DialFailed(f"{address} did not answer within {timeout_s:g} s.")

    async def dial_web(self, address: Address, timeout_s: float) -> ByteStream:
        with trio.move_on_after(timeout_s):
            if self._web_context is None:  # it reads all of this machine's CAs
                self._web_context = await trio.to_thread.run_sync(web_context)
            return TlsStream(*await _dial_web(address, self._web_context))
        raise DialFailed(f"{address} did not answer within {timeout_s:g} s.")

    def host_name(self) -> str:
        return host_name()

    def interface_addresses(self) -> list[str]:
        return interface_addresses()


async def _dial_tls(
    address: Address, context: ssl.SSLContext, alpn: Alpn, server_name: str | None
) -> tuple[ssl.SSLSocket, Remote]:
    sock = await sockets.connect(address, peer=True)
    tls = wrap(context, sock, address, server_name)
    try:
        await _handshake(tls, address)
        if tls.selected_alpn_protocol() != alpn:
            raise HandshakeFailed(f"{address} does not speak {alpn.value} there.")
    except BaseException:  # also a cancel: it is closed; raised again
        tls.close()
        raise
    certificate = tls.getpeercert(binary_form=True) or b""
    return tls, Remote(address=address, alpn=alpn, certificate_der=certificate)


async def _dial_web(address: Address, context: ssl.SSLContext) -> tuple[ssl.SSLSocket, Remote]:
    sock = await sockets.connect(address, peer=False)
    tls = wrap(context, sock, address, address.host)
    try:
        await do_handshake(tls)
    except ssl.SSLCertVerificationError as error:
        tls.close()
        raise NotAdmitted(
            f"The certificate of {address} is not trusted: {error.verify_message}."
        ) from None
    except (ssl.SSLError, OSError) as error:
        tls.close()
        reason = getattr(error, "reason", None) or error
        raise HandshakeFailed(f"{address}: TLS failed: {reason}.") from None
    except BaseException:  # also a cancel: it is closed; raised again
        tls.close()
        raise
    return tls, Remote(address=address)


def wrap(
    context: ssl.SSLContext, sock: socket.socket, address: Address, server_name: str | None
) -> ssl.SSLSocket:
    """The socket as the client's end of TLS, no handshake done; it is taken over also on failure.

    Raises HandshakeFailed if the connection was reset meanwhile: `ssl` looks whether it is there.
    """
    try:
        return context.wrap_socket(
            sock,
            server_hostname=server_name,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
    except OSError as error:
        sock.close()
        raise HandshakeFailed(f"{address} hung up: {error}.") from None


async def _handshake(tls: ssl.SSLSocket, address: Address) -> None:
    try:
        await do_handshake(tls)
    except ssl.SSLCertVerificationError as error:
        raise NotAdmitted(
            f"The machine at {address} is not a member of this mesh: {error.verify_message}."
        ) from None
    except ssl.SSLError as error:
        raise _refused_or_failed(address, error) from None
    except OSError as error:
        raise HandshakeFailed(f"{address}: the TLS handshake failed: {error}.") from None


async def _await_verdict(tls: ssl.SSLSocket, address: Address) -> None:
    """Whether the other side lets us in.  Raises NotAdmitted or DialFailed."""
    data = b""
    while True:
        try:
            piece = tls.read(MAX_BYTES)
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(tls.fileno())
            continue
        except ssl.SSLError as error:
            raise _refused_or_failed(address, error) from None
        except OSError as error:
            raise DialFailed(f"{address} ended the connection: {error}.") from None
        data += piece
        try:
            refused = read_verdict(data, address)
        except ValueError:
            if not piece:
                raise DialFailed(f"{address} ended the connection before a welcome.") from None
            if len(data) >= MAX_BYTES:
                raise DialFailed(f"{address} does not speak this protocol.") from None
            continue
        if refused is not None:
            raise refused
        return


def _refused_or_failed(address: Address, error: ssl.SSLError) -> NotAdmitted | DialFailed:
    reason = error.reason or str(error)
    if "ALERT" in reason and any(word in reason for word in _REFUSING_ALERTS):
        return NotAdmitted(f"{address} does not know this node's certificate ({reason}).")
    return HandshakeFailed(f"{address}: TLS failed: {reason}.")
