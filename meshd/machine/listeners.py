"""Accepting: plain TCP, UNIX sockets, and the peer port with its handshake."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable

import trio

from meshd.errors import ListenFailed, NotAdmitted, StreamAborted, StreamBroken, WentAway
from meshd.ids import Address
from meshd.machine.client_hello import MAX_BYTES, server_name
from meshd.machine.sockets import to_address, tune
from meshd.machine.streams import AcceptedSocket, SocketStream, TlsStream, do_handshake
from meshd.machine.tls import PeerContexts
from meshd.machine.verdict import refusal, welcome
from meshd.ports import Alpn, ByteStream, Credentials, Remote

_OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_OUT_OF_FILES_PAUSE_S = 0.1
_UNIX_PATH_BYTES = 104  # macOS; Linux has 108


class SocketListener:
    """Plain: there is no handshake."""

    def __init__(self, sock: socket.socket, *, peer: bool = False) -> None:
        self._sock = sock
        self._peer = peer
        self._address = to_address(sock.getsockname())
        self._closed = False

    @property
    def address(self) -> Address | None:
        return self._address

    async def accept(self) -> ByteStream:
        while True:
            if self._closed:
                raise StreamAborted("the listener is closed")
            try:
                await trio.lowlevel.wait_readable(self._sock.fileno())
                sock, sockaddr = self._sock.accept()
            except trio.ClosedResourceError:
                continue
            except OSError as error:
                if error.errno in _OUT_OF_FILES:  # some connection will end and free one
                    await trio.sleep(_OUT_OF_FILES_PAUSE_S)
                continue  # else the client was gone before it was accepted
            tune(sock, peer=self._peer)
            return self._stream(sock, Remote(address=to_address(sockaddr)))

    def _stream(self, sock: socket.socket, remote: Remote) -> ByteStream:
        return SocketStream(sock, remote)

    async def handshake(self, stream: ByteStream) -> ByteStream:
        return stream

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._sock.fileno())
            self._sock.close()
        await trio.lowlevel.checkpoint()


class ControlListener(SocketListener):
    """A UNIX socket that takes its file away again."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        super().__init__(sock)
        self._path = path
        self._inode = os.stat(path).st_ino

    async def aclose(self) -> None:
        if not self._closed:
            with contextlib.suppress(OSError):
                if os.stat(self._path).st_ino == self._inode:
                    os.unlink(self._path)
        await super().aclose()


def listen_unix(path: str) -> ControlListener:
    """Listen on a UNIX socket, mode 0600, in a folder that is made private if it is made.

    A socket file that nobody answers on is left over from a crash and replaced.  Raises
    ListenFailed.
    """
    if len(os.fsencode(path)) >= _UNIX_PATH_BYTES:
        raise ListenFailed(
            f"The path of the control socket is too long for this system ({path}): at most "
            f"{_UNIX_PATH_BYTES - 1} bytes fit.  Set a shorter data or runtime folder."
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        _remove_stale(path)
        before = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        sock.setblocking(False)
        sock.listen(64)
        return ControlListener(sock, path)
    except OSError as error:
        sock.close()
        raise ListenFailed(
            f"The control socket {path} cannot be made: {error.strerror or error}."
        ) from None
    except BaseException:  # also an interrupt: it is closed; raised again
        sock.close()
        raise


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenFailed(f"{path} is in the way of the control socket and is not a socket.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        code = probe.connect_ex(path)
    if code == 0 or code == errno.EAGAIN:
        raise ListenFailed(f"Another daemon answers on the control socket {path}.")
    if code == errno.ECONNREFUSED:
        os.unlink(path)


class PeerListener(SocketListener):
    """The peer port: TLS, members by certificate, strangers by SNI `join`."""

    def __init__(
        self, sock: socket.socket, current: Callable[[], tuple[Credentials, PeerContexts]]
    ) -> None:
        super().__init__(sock, peer=True)
        self._current = current

    def _stream(self, sock: socket.socket, remote: Remote) -> ByteStream:
        return AcceptedSocket(sock, remote)

    async def handshake(self, stream: ByteStream) -> ByteStream:
        assert isinstance(stream, AcceptedSocket)
        try:
            return await self._handshake(stream)
        except NotAdmitted:
            raise
        except trio.ClosedResourceError:
            raise StreamAborted(stream.closed_reason() or "closed") from None
        except ssl.SSLCertVerificationError as error:
            raise NotAdmitted(
                f"The certificate of {stream.remote.address} is not of this mesh: "
                f"{error.verify_message}."
            ) from None
        except ssl.SSLError as error:
            if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
                raise NotAdmitted(f"{stream.remote.address} shows no certificate.") from None
            if error.reason == "UNEXPECTED_EOF_WHILE_READING":
                raise WentAway("the other side hung up within the TLS handshake") from None
            raise StreamBroken(f"TLS handshake failed: {error.reason or error}") from None
        except ConnectionResetError:
            raise WentAway("the other side hung up within the TLS handshake") from None
        except (OSError, ValueError) as error:
            raise StreamBroken(f"TLS handshake failed: {error}") from None
        finally:
            if stream.unfinished():
                stream.close()

    async def _handshake(self, stream: AcceptedSocket) -> ByteStream:
        name = await _peek_server_name(stream.sock)
        credentials, contexts = self._current()
        tls = contexts.server(name).wrap_socket(
            stream.sock,
            server_side=True,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
        stream.become(tls)
        await do_handshake(tls)
        chosen = tls.selected_alpn_protocol()
        if chosen is None:
            raise StreamBroken("the other side offers no protocol that is spoken here")
        alpn = Alpn(chosen)
        address = stream.remote.address
        if alpn is Alpn.JOIN:
            return stream.finish(TlsStream(tls, Remote(address=address, alpn=alpn)))
        certificate = tls.getpeercert(binary_form=True)
        if not certificate:  # cannot be: the context demands one
            raise NotAdmitted(f"{address} shows no certificate.")
        try:
            node = credentials.check_peer(certificate)
        except NotAdmitted as error:
            with contextlib.suppress(OSError):
                tls.write(refusal(error))
            raise
        member = TlsStream(
            tls, Remote(address=address, node=node, alpn=alpn, certificate_der=certificate)
        )
        member.send_nowait(welcome())
        return stream.finish(member)


async def _peek_server_name(sock: socket.socket) -> str:
    """Read the server name out of the ClientHello, leaving it where it is."""
    seen = 0
    while True:
        await trio.lowlevel.wait_readable(sock.fileno())
        try:
            data = sock.recv(MAX_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        if len(data) <= seen:
            raise WentAway("the other side hung up within the ClientHello")
        name = server_name(data)
        if name is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            return name
        seen = len(data)
        # What was peeked at stays readable: without this the wait would return at once, for ever.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)
