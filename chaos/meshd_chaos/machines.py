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
from meshd.machine import paths_for
from meshd.testing.daemons import Daemon
from meshd.testing.engines import RealLlama
from meshd_chaos.addresses import HOST, bound_pair, free_port
from meshd_chaos.guardian import Guardian
from meshd_chaos.pacer import Pacer

ANSWER_S: Final = 2.0
"""For a daemon to say how it is; one that takes longer is in trouble."""
STOP_S: Final = 45.0
"""For a daemon to drain (`drain_timeout_s` is 30) and end."""


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
        self.is_frozen = False
        self.guardian.began(self.pid)

    def kill(self) -> None:
        """kill -9 of the daemon: its engines go on."""
        if self.runs:
            self.daemon.kill()
            self.guardian.over(self.pid)
        self.is_frozen = False

    async def stop(self) -> int:
        """SIGTERM: it drains and says goodbye; its exit code.  Raises TimeoutExpired."""
        code = await trio.to_thread.run_sync(lambda: self.daemon.stop(STOP_S))
        self.guardian.over(self.pid)
        return code

    def freeze(self) -> None:
        """SIGSTOP: the kernel still accepts connections, and nothing answers."""
        self._signal(signal.SIGSTOP)
        self.is_frozen = self.runs

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        self.is_frozen = False

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

    async def ask(
        self, method: str, path: str, body: object = None, timeout_s: float = ANSWER_S
    ) -> bytes | None:
        """One order over its control socket; None: no answer, or a refusal."""
        if not self.runs or self.is_frozen:
            return None
        socket = str(paths_for(self.daemon.folder).socket)
        content = msgspec.json.encode(body) if body is not None else None
        transport = httpx.AsyncHTTPTransport(uds=socket, verify=False)
        try:
            async with httpx.AsyncClient(transport=transport, timeout=timeout_s) as client:
                answer = await client.request(method, f"http://meshd{path}", content=content)
        except (httpx.HTTPError, OSError):
            return None
        return answer.content if answer.status_code == 200 else None

    async def new_token(self, uses: int) -> str | None:
        """A token for newcomers; None: it gives none now."""
        made = await self.ask("POST", "/control/token", control.TokenOrder(uses=uses), 10.0)
        return None if made is None else msgspec.json.decode(made, type=control.TokenMade).token

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Every process of it is gone, whatever state it was in."""
        self.kill()
        for engine in self.engines:
            self.kill_engine(engine)
            engine.process.close()
        self.daemon.close()


def in_flight(status: control.StatusReport) -> int:
    """How many requests of clients that daemon is at as their entry."""
    ended = ("answered", "failed", "failed_in_stream", "client_gone")
    count = status.counters.get
    return count("requests", 0) - sum(count(end, 0) for end in ended)
