"""Byte streams over non-blocking sockets, plain and TLS.

Both wait on trio's readiness calls with nothing around them: `trio.SSLStream` with its locks and
its memory BIOs costs half of the two-hop throughput, and a cancel scope per read a third.  Closing
a socket under a waiter is how a wait ends early: `abort` notes the reason, tells trio, closes; the
waiter gets ClosedResourceError and turns it into StreamAborted with that reason.
"""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import suppress

import trio
from trio.lowlevel import (
    notify_closing,
    wait_readable,
    wait_task_rescheduled,
    wait_writable,
)

from meshd.errors import StreamAborted, StreamBroken
from meshd.machine.readiness import Readable
from meshd.ports import Remote

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s: closing sends RST
_RECORD_BYTES = 16384  # the most that one TLS record carries


class _Stream:
    """What plain and TLS streams have in common: closing, and what is unsent."""

    __slots__ = ("_fd", "_reason", "_sending", "_sock", "_unsent", "remote")

    def __init__(self, sock: socket.socket, remote: Remote) -> None:
        self.remote = remote
        self._sock = sock
        self._fd = sock.fileno()
        self._reason: str | None = None  # why this side closed it
        self._unsent = memoryview(b"")
        self._sending = False

    @property
    def unsent_bytes(self) -> int:
        return len(self._unsent)

    def abort(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
            self._close(reset=True)

    def close(self) -> None:
        if self._reason is None:
            self._reason = "this side had closed the connection"
            self._close(reset=bool(self._unsent) or self._sending)

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def is_stale(self) -> bool:
        if self._reason is not None:
            return True
        try:
            # Data is as bad as an end: nobody asked for it.  (On TLS this peeks at the records.)
            socket.socket.recv(self._sock, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def _close(self, *, reset: bool) -> None:
        sock = self._sock
        if reset:
            with suppress(OSError):  # the other side was faster
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        elif isinstance(sock, ssl.SSLSocket):
            with suppress(OSError, ValueError):
                sock.unwrap()  # sends close_notify; non-blocking, so it does not wait for theirs
        self._notify_closing()
        sock.close()

    def _notify_closing(self) -> None:
        notify_closing(self._fd)

    def _broken(self, error: BaseException) -> StreamBroken:
        if self._reason is not None:
            return StreamAborted(self._reason)
        return StreamBroken(f"the connection broke: {error}")


class SocketStream(_Stream):
    """Plain TCP, or a UNIX socket."""

    __slots__ = ("_readable",)

    def __init__(self, sock: socket.socket, remote: Remote) -> None:
        super().__init__(sock, remote)
        self._readable = Readable(self._fd)

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        if self._reason is not None:
            raise StreamAborted(self._reason)
        readable = self._readable
        while True:
            try:
                # Waiting first costs less than a try that mostly fails, and is a checkpoint.
                if readable.parks():
                    await wait_task_rescheduled(readable.cancelled)
                    if self._reason is not None:
                        raise StreamAborted(self._reason)
                else:
                    await readable.wait()
                data = self._sock.recv(max_bytes)
            except BlockingIOError:
                readable.emptied()
                continue
            except (OSError, trio.ClosedResourceError) as error:
                raise self._broken(error) from None
            if not data:
                readable.end()
            elif len(data) < max_bytes:
                readable.emptied()
            return data

    def _notify_closing(self) -> None:
        self._readable.close()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._reason is not None:
            raise StreamAborted(self._reason)
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        try:
            if self._unsent:
                await self._flush()
            sent = self._sock.send(data) if data else 0
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._broken(error) from None
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            await self._flush()

    def send_nowait(self, data: bytes) -> bool:
        if self._reason is not None:
            raise StreamAborted(self._reason)
        if self._unsent:
            return False
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._broken(error) from None
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
        return True

    async def _flush(self) -> None:
        """Send what is unsent.  If this is cancelled the rest stays, and stays in order."""
        self._sending = True
        try:
            while self._unsent:
                await wait_writable(self._fd)
                try:
                    self._unsent = self._unsent[self._sock.send(self._unsent) :]
                except BlockingIOError:
                    continue
        except (OSError, trio.ClosedResourceError) as error:
            raise self._broken(error) from None
        finally:
            self._sending = False


class AcceptedSocket(SocketStream):
    """A connection before its TLS handshake: who holds it can abort it while that goes on."""

    __slots__ = ()

    @property
    def sock(self) -> socket.socket:
        return self._sock

    def become(self, tls: ssl.SSLSocket) -> None:
        """`tls` has taken over the descriptor; closing goes there now."""
        self._sock = tls

    def finish(self, stream: TlsStream) -> TlsStream:
        """The handshake is done: `stream` owns the connection now."""
        self._reason = "taken over by TLS"
        self._readable.forget()  # TLS waits in trio's own way
        return stream

    def unfinished(self) -> bool:
        """Whether the connection is still this object's to close."""
        return self._reason is None

    def closed_reason(self) -> str | None:
        """Why this side closed it, None if it did not."""
        return self._reason


class TlsStream(_Stream):
    """TLS 1.3 over a non-blocking `ssl.SSLSocket` whose handshake is done.

    Reading may have to write (an answer to a key update), while trio lets only one task wait for
    writing; a reader that finds the sender there looks again until that is through.  Writing never
    has to read: TLS 1.3 has no renegotiation.
    """

    __slots__ = ("_tls",)

    def __init__(self, sock: ssl.SSLSocket, remote: Remote) -> None:
        super().__init__(sock, remote)
        self._tls = sock

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        if self._reason is not None:
            raise StreamAborted(self._reason)
        tls = self._tls
        max_bytes = min(max_bytes, _RECORD_BYTES)  # a read never yields more than one record
        try:
            if tls.pending():  # decrypted already: the socket would not become readable for it
                await trio.lowlevel.checkpoint()
                return tls.read(max_bytes)
            while True:
                await wait_readable(self._fd)
                try:
                    return tls.read(max_bytes)
                except ssl.SSLWantReadError:
                    continue  # a part of a record
                except ssl.SSLWantWriteError:
                    await self._wait_writable_beside_sender()
        except (OSError, ValueError, trio.ClosedResourceError) as error:
            raise self._broken(error) from None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._reason is not None:
            raise StreamAborted(self._reason)
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._unsent:
            await self._flush()
        if data:
            self._unsent = memoryview(data)
            if not self._push():
                await self._flush()

    def send_nowait(self, data: bytes) -> bool:
        if self._reason is not None:
            raise StreamAborted(self._reason)
        if self._unsent:
            return False
        if data:
            self._unsent = memoryview(data)
            self._push()
        return True

    def _push(self) -> bool:
        """Send without waiting; whether all of it went.

        OpenSSL wants a write that would block to be repeated with the same bytes: they stay at the
        front of what is unsent, and go out in pieces of a record each.
        """
        tls, unsent = self._tls, self._unsent
        try:
            while unsent:
                unsent = unsent[tls.write(unsent[:_RECORD_BYTES]) :]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return False
        except (OSError, ValueError) as error:
            raise self._broken(error) from None
        finally:
            self._unsent = unsent
        return True

    async def _flush(self) -> None:
        self._sending = True
        try:
            while self._unsent:
                await wait_writable(self._fd)
                self._push()
        except (OSError, trio.ClosedResourceError) as error:
            raise self._broken(error) from None
        finally:
            self._sending = False

    async def _wait_writable_beside_sender(self) -> None:
        while self._sending:  # noqa: ASYNC110 (too rare for an event per send)
            await trio.sleep(0.001)
        await wait_writable(self._fd)


async def do_handshake(tls: ssl.SSLSocket) -> None:
    """Run the handshake of a non-blocking TLS socket.

    Raises OSError (ssl.SSLError is one), or trio.ClosedResourceError if it is closed meanwhile.
    """
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await wait_readable(tls.fileno())
        except ssl.SSLWantWriteError:
            await wait_writable(tls.fileno())
        else:
            return
