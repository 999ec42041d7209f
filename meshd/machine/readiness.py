"""Waiting until a socket is readable, cheaply when many are.

trio's `wait_readable` arms a one-shot epoll registration for every wait: a system call, and a
registration object made and dropped.  With dozens of busy sockets that is a fifth of the CPU of a
proxied request.  So busy processes wait differently: every stream is registered once,
edge-triggered, in an epoll of our own; one system task waits (through trio) for that epoll, and
wakes the tasks of all sockets that have something.  With one busy socket this is dearer, since each
wake takes a step of that system task, so then trio's own wait is used:

    light   wait_readable(fd)                                  level-triggered, one at a time
    busy    park; the system task wakes whoever has an edge    edge-triggered, many at a time

The mode is chosen by counting: sockets with edges over some hundred waits, edges per wake of the
system task.  What keeps it right: edges tell only of change, so `maybe_readable` is true unless a
read has just shown that nothing is there; after that every new byte, end or error is a new edge;
and every edge is looked at, in either mode, before anybody parks.

Where there is no epoll (macOS) it is always light.
"""

from __future__ import annotations

import select
from contextlib import suppress

import trio
from trio.lowlevel import current_task, wait_readable

_LOOK_AFTER_WAITS = 256
_LOOK_AFTER_WAITS_MOST = 65_536
"""It doubles up to this while busyness turns out to be none: many sockets, one at a time."""
_BUSY_SOCKETS = 12
_LOOK_AFTER_POLLS = 256
_BUSY_EVENTS_PER_POLL = 2
_BATCH = 512
_ENDS = (
    getattr(select, "EPOLLRDHUP", 0)
    | getattr(select, "EPOLLHUP", 0)
    | getattr(select, "EPOLLERR", 0)
)


class Readable:
    """The reading side of one socket."""

    __slots__ = ("_fd", "_poller", "ended", "maybe_readable", "task")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poller = _poller()
        self.maybe_readable = True
        self.ended = False
        """An end or an error has been seen coming: no edge will tell of it again."""
        self.task: trio.lowlevel.Task | None = None
        if self._poller is not None:
            self._poller.add(fd, self)

    def emptied(self) -> None:
        """A read has just shown that nothing more is there."""
        self.maybe_readable = self.ended

    def end(self) -> None:
        """A read has just shown the end."""
        self.maybe_readable = self.ended = True

    def parks(self) -> bool:
        """Whether this task is to park: then `await wait_task_rescheduled(self.cancelled)`.

        Else `await self.wait()`.  Two calls instead of one that is awaited, since a coroutine
        between the reader and its wait is paid for in every wait.
        """
        poller = self._poller
        if poller is None or not poller.busy or self.maybe_readable:
            return False
        if self.task is not None:
            raise trio.BusyResourceError("another task is reading this stream")
        self.task = current_task()
        poller.parked += 1
        if poller.idle is not None:
            poller.idle.set()
        return True

    async def wait(self) -> None:
        """Until it is worth reading; always a checkpoint."""
        poller = self._poller
        if poller is not None and poller.busy:
            await trio.lowlevel.checkpoint()
            return
        self.maybe_readable = True  # edges are not followed in this mode
        if poller is not None:
            poller.count_wait()
        await wait_readable(self._fd)

    def cancelled(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """The wait is cancelled by trio."""
        assert self._poller is not None
        self.task = None
        self._poller.parked -= 1
        return trio.lowlevel.Abort.SUCCEEDED

    def close(self) -> None:
        """Before the socket is closed: ends a wait."""
        trio.lowlevel.notify_closing(self._fd)
        self.forget()
        if self._poller is not None and self.task is not None:
            self._poller.wake(self)

    def forget(self) -> None:
        """Nobody waits here any more; the socket may live on in other hands."""
        if self._poller is not None:
            self._poller.remove(self._fd, self)


class _Poller:
    """The epoll of one trio run, and the system task that waits for it."""

    def __init__(self) -> None:
        self.busy = False
        self.parked = 0
        """How many tasks wait for the system task to wake them."""
        self._epoll = select.epoll()
        self._sockets: dict[int, Readable] = {}
        self.idle: trio.Event | None = None
        """Set by the first who parks, while the system task has nobody to wake."""
        self._waits = 0
        self._look_after_waits = _LOOK_AFTER_WAITS

    def add(self, fd: int, socket: Readable) -> None:
        self._sockets[fd] = socket
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)

    def remove(self, fd: int, socket: Readable) -> None:
        if self._sockets.get(fd) is not socket:
            return  # it was forgotten before, and the number may be another socket's by now
        del self._sockets[fd]
        if not self._epoll.closed:
            with suppress(OSError):  # closed by whoever took it over: epoll forgot it with that
                self._epoll.unregister(fd)

    def count_wait(self) -> None:
        """In light mode: look now and then whether it has become busy."""
        self._waits += 1
        if self._waits >= self._look_after_waits:
            self._waits = 0
            self.busy = self._dispatch() >= _BUSY_SOCKETS

    def wake(self, socket: Readable) -> None:
        task, socket.task = socket.task, None
        assert task is not None
        self.parked -= 1
        trio.lowlevel.reschedule(task)

    async def run(self) -> None:
        """The system task."""
        try:
            polls = events = 0
            while True:
                if not self.parked:
                    self.idle = trio.Event()
                    await self.idle.wait()
                    self.idle = None
                    continue
                await wait_readable(self._epoll.fileno())
                events += self._dispatch()
                polls += 1
                if polls == _LOOK_AFTER_POLLS:
                    if events < _BUSY_EVENTS_PER_POLL * polls:
                        self._relax()
                    else:
                        self._look_after_waits = _LOOK_AFTER_WAITS
                    polls = events = 0
        finally:
            self._epoll.close()

    def _dispatch(self) -> int:
        batch = self._epoll.poll(0, _BATCH)
        for fd, flags in batch:
            socket = self._sockets.get(fd)
            if socket is not None:
                socket.maybe_readable = True
                if flags & _ENDS:
                    socket.ended = True
                if socket.task is not None:
                    self.wake(socket)
        return len(batch)

    def _relax(self) -> None:
        """Back to light mode.  Who is parked wakes for nothing, and waits in trio's way."""
        self.busy = False
        self._look_after_waits = min(2 * self._look_after_waits, _LOOK_AFTER_WAITS_MOST)
        for socket in self._sockets.values():
            if socket.task is not None:
                socket.maybe_readable = True
                self.wake(socket)


_current: trio.lowlevel.RunVar[_Poller] = trio.lowlevel.RunVar("meshd readiness")


def _poller() -> _Poller | None:
    if not hasattr(select, "epoll"):
        return None
    try:
        return _current.get()
    except LookupError:
        poller = _Poller()
        _current.set(poller)
        trio.lowlevel.spawn_system_task(poller.run, name="meshd readiness")
        return poller
