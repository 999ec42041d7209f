"""One machine of a mesh: a real daemon, real engines, and the addresses by which others know it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import msgspec
import trio

from meshd import control
from meshd.errors import MeshdError
from meshd.machine import paths_for
from meshd.testing.daemons import Daemon
from meshd.testing.engines import RealLlama
from meshd_chaos import disks
from meshd_chaos.addresses import HOST, bound_pair, free_port
from meshd_chaos.guardian import Guardian
from meshd_chaos.pacer import Pacer

ANSWER_S: Final = 2.0
"""For a daemon to say how it is; one that takes longer is in trouble."""
TOKEN_S: Final = 10.0
"""For a token to be written down, if need be after an election."""
LEAVE_S: Final = 60.0
"""For a vote and the CA's key to go to another node."""
STOP_S: Final = 45.0
"""For a daemon to drain (`drain_timeout_s` is 30) and end."""


class DaemonRefused(MeshdError):
    """A daemon did not do what it was told; the text says why."""


@dataclass(eq=False)
class Engine:
    """A real engine and the pacer before it."""

    model: str
    process: RealLlama
    pacer: Pacer
    runs: bool = False


@dataclass(eq=False)
class Machine:
    """A daemon and its engines; everything here is done to processes of our own."""

    name: str
    folder: Path
    guardian: Guardian
    settings: str
    environment: Mapping[str, str]
    engines: list[Engine] = field(default_factory=list)
    is_frozen: bool = False
    has_left: bool = False
    """It is no member any more, and does not come back."""
    _may_write: bool = True
    _may_end: bool = True
    """The daemon was told to end, or never started: that it does not run is no surprise."""

    def __post_init__(self) -> None:
        self.listener, self.datagrams = bound_pair()
        """The sockets of its public address; the proxies take them over."""
        self.public = f"{HOST}:{self.listener.getsockname()[1]}"
        """The only address at which the others see it."""
        self.peer_port, self.api_port = free_port(), free_port()
        self.daemon = Daemon(
            self.folder / self.name,
            self.name,
            port=self.peer_port,
            api_port=self.api_port,
            settings=f'advertise = ["{self.public}"]\n{self.settings}',
            environment=dict(self.environment),
        )
        self.url = f"http://{HOST}:{self.api_port}"
        """Where its clients reach it."""

    # ---------------------------------------------------------------- the daemon

    @property
    def runs(self) -> bool:
        """Whether its daemon's process is there, frozen or not."""
        process = self.daemon.process
        return process is not None and process.poll() is None

    @property
    def pid(self) -> int:
        """Of the daemon that runs."""
        assert self.daemon.process is not None
        return self.daemon.process.pid

    async def start(self) -> None:
        """Start the daemon (again); returns when it was spawned."""
        self.daemon.backends = [engine.pacer.url for engine in self.engines]
        await trio.to_thread.run_sync(lambda: self.daemon.start(wait=False))
        self.is_frozen = self._may_end = False
        self._may_write = True
        self.guardian.began(self.pid)

    def kill(self) -> None:
        """kill -9 of the daemon: its engines go on."""
        self._may_end = True
        if self.runs:
            self.daemon.kill()
            self.guardian.over(self.pid)
        self.is_frozen = False

    async def stop(self) -> int:
        """SIGTERM: it drains and says goodbye; its exit code.  Raises TimeoutExpired."""
        self._may_end = True
        code = await trio.to_thread.run_sync(lambda: self.daemon.stop(STOP_S))
        self.guardian.over(self.pid)
        return code

    async def leave(self) -> None:
        """Have it leave the mesh for good, and wait for its end.  Raises DaemonRefused."""
        self._may_end = True
        await self.order("POST", "/control/leave", control.LeaveOrder(), LEAVE_S)
        self.has_left = True
        assert self.daemon.process is not None
        await trio.to_thread.run_sync(self.daemon.process.wait, STOP_S)
        self.guardian.over(self.pid)

    def surprise(self) -> str:
        """That the daemon ended though nobody told it to, as a sentence; "": it did not."""
        if self.runs or self._may_end:
            return ""
        assert self.daemon.process is not None
        self._may_end = True
        last = self.daemon.log_text().strip().splitlines()[-1:]
        said = f": {last[0]}" if last else ""
        return f"{self.name}'s daemon ended by itself, with {self.daemon.process.returncode}{said}"

    def freeze(self) -> None:
        """SIGSTOP: the kernel still accepts connections, and nothing answers."""
        self._signal(signal.SIGSTOP)
        self.is_frozen = self.runs

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        self.is_frozen = False

    def allow_writes(self, allowed: bool) -> None:
        """Whether the daemon that runs may write to files; else each write fails.

        Raises OSError where `disks.why_no_limits` says why.
        """
        if self.runs and allowed is not self._may_write:
            with suppress(ProcessLookupError):  # it has just ended
                disks.allow_writes(self.pid, allowed)
            self._may_write = allowed

    def _signal(self, number: signal.Signals) -> None:
        if self.runs:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    # ---------------------------------------------------------------- its engines

    async def start_engine(self, engine: Engine) -> None:
        """Start it (again), on the same address."""
        await trio.to_thread.run_sync(engine.process.start)
        self.guardian.began(engine.process.pid)
        port = engine.process.url.rpartition(":")[2]
        engine.pacer.target = (HOST, int(port))
        engine.runs = True

    def kill_engine(self, engine: Engine) -> int:
        """kill -9; how many connections of the daemon that broke."""
        engine.pacer.target = None
        if engine.runs:
            engine.process.kill()
            self.guardian.over(engine.process.pid)
        engine.runs = False
        engine.pacer.thaw()
        return engine.pacer.break_off()

    def freeze_engine(self, engine: Engine) -> None:
        """SIGSTOP, and what it had said before its pace let it through is held as well."""
        engine.process.freeze()
        engine.pacer.freeze()

    def thaw_engine(self, engine: Engine) -> None:
        """SIGCONT."""
        engine.process.thaw()
        engine.pacer.thaw()

    # ---------------------------------------------------------------- asking it

    async def status(self) -> control.StatusReport | None:
        """How the mesh looks from here; None: its daemon does not answer."""
        data = await self.ask("GET", "/control/status")
        return None if data is None else msgspec.json.decode(data, type=control.StatusReport)

    async def record(self) -> control.RecordReport | None:
        """The record as it has it; None: its daemon does not answer."""
        data = await self.ask("GET", "/control/record")
        return None if data is None else msgspec.json.decode(data, type=control.RecordReport)

    async def ask(self, method: str, path: str) -> bytes | None:
        """What it says to one order over its control socket; None: nothing, or no."""
        try:
            return await self.order(method, path)
        except DaemonRefused:
            return None

    async def order(
        self, method: str, path: str, body: object = None, timeout_s: float = ANSWER_S
    ) -> bytes:
        """One order over its control socket.  Raises DaemonRefused, also if it does not answer."""
        if not self.runs or self.is_frozen:
            raise DaemonRefused(f"{self.name}'s daemon does not run")
        socket = str(paths_for(self.daemon.folder).socket)
        content = msgspec.json.encode(body) if body is not None else None
        transport = httpx.AsyncHTTPTransport(uds=socket, verify=False)
        try:
            async with httpx.AsyncClient(transport=transport, timeout=timeout_s) as client:
                answer = await client.request(method, f"http://meshd{path}", content=content)
        except (httpx.HTTPError, OSError) as error:
            raise DaemonRefused(f"{self.name}'s daemon does not answer: {error!r}") from None
        if answer.status_code != 200:
            raise DaemonRefused(f"{self.name}'s daemon says: {answer.text}")
        return answer.content

    async def new_token(self) -> str:
        """A token for a newcomer.  Raises DaemonRefused."""
        made = await self.order("POST", "/control/token", control.TokenOrder(), TOKEN_S)
        return msgspec.json.decode(made, type=control.TokenMade).token

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Every process of it is gone, whatever state it was in."""
        self.kill()
        for engine in self.engines:
            self.kill_engine(engine)
            engine.process.close()
        self.daemon.close()
