"""Real daemons on this machine, for end-to-end tests, the demo and the chaos harness.

Each has a folder of its own with everything in it, free ports, and no mDNS, so that nothing of a
daemon that the machine may already run is touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx
import msgspec

from meshd import control
from meshd.machine import paths_for

START_S = 30.0
POLL_S = 0.03


class DaemonFailed(AssertionError):
    """A daemon did not do what was expected of it; the text ends with its log."""


@dataclass(frozen=True, slots=True)
class Gguf:
    """A model for a daemon's bundled engine."""

    path: Path
    alias: str
    slots: int = 4
    context_tokens: int = 16384
    embedding: bool = False


@dataclass(eq=False)
class Daemon:
    """One `meshd start`, as a child process."""

    folder: Path
    name: str
    ggufs: Sequence[Gguf] = ()
    backends: Sequence[str] = ()
    join: str = ""
    token: str = ""
    flags: Sequence[str] = ()
    api_port: int = 0
    port: int = 0
    settings: str = ""
    """More lines of its config file."""
    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    """What to run it under, e.g. `ip netns exec NAME`."""
    process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] | None = None
    _last: control.StatusReport | None = None

    # ------------------------------------------------------------------ life

    def start(self, *, wait: bool = True) -> Daemon:
        """Start it (again); returns when it serves clients."""
        self.write_config()
        environment = {**os.environ, **self.environment}
        for name in ("MESHD_TOKEN", "MESHD_DATA_DIR", "MESHD_CONFIG"):
            environment.pop(name, None)
        if self.token:
            environment["MESHD_TOKEN"] = self.token
        command = [*self.prefix, sys.executable, "-m", "meshd.cli.main", "start"]
        command += ["--data-dir", str(self.folder)]
        command += ["--join", self.join] if self.join else []
        command += list(self.flags)
        self._log = (self.folder / "daemon.log").open("ab")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        if wait:
            self.wait_until(lambda status: True, "it serves")
        return self

    def kill(self) -> None:
        """kill -9: no goodbye."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM and wait; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """Whatever state it is in, it is gone afterwards."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.kill()
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ talking to it

    def status(self) -> control.StatusReport:
        """What `meshd status --json` prints."""
        self._last = msgspec.json.decode(
            self.order("GET", "/control/status"), type=control.StatusReport
        )
        return self._last

    def order(self, method: str, path: str, body: object = None) -> bytes:
        """One order over the control socket; raises httpx.HTTPError or DaemonFailed."""
        socket = str(paths_for(self.folder).socket)
        # No TLS on this socket; reading the machine's certificates takes longer than the order.
        transport = httpx.HTTPTransport(uds=socket, verify=False)
        with httpx.Client(transport=transport, timeout=30) as client:
            content = msgspec.json.encode(body) if body is not None else None
            response = client.request(method, f"http://meshd{path}", content=content)
        if response.status_code != 200:
            raise DaemonFailed(f"{self.name}: {method} {path}: {response.text}")
        return response.content

    def create_token(self, uses: int = 1) -> str:
        """A token for newcomers."""
        made = self.order("POST", "/control/token", control.TokenOrder(uses=uses))
        return msgspec.json.decode(made, type=control.TokenMade).token

    @property
    def api_url(self) -> str:
        """Where clients reach it, e.g. "http://127.0.0.1:40123"."""
        return (self._last or self.status()).client_url

    @property
    def peer_address(self) -> str:
        """Where newcomers knock."""
        return f"127.0.0.1:{(self._last or self.status()).peer_port}"

    def wait_until(
        self, is_so: Callable[[control.StatusReport], bool], what: str, timeout_s: float = START_S
    ) -> control.StatusReport:
        """Ask for the status until it is as wanted; raises DaemonFailed with the log if never."""
        give_up_at = time.monotonic() + timeout_s
        status: control.StatusReport | None = None
        while time.monotonic() < give_up_at:
            if self.process is not None and (code := self.process.poll()) is not None:
                raise DaemonFailed(f"{self.name} ended with {code}:\n{self.log_text()}")
            with suppress(httpx.HTTPError, OSError):
                status = self.status()
                if is_so(status):
                    return status
            time.sleep(POLL_S)  # polling a real process; nothing depends on how often
        raise DaemonFailed(
            f"{self.name}: not so within {timeout_s:.0f} s: {what}\n{status}\n{self.log_text()}"
        )

    def log_text(self, last_bytes: int = 6000) -> str:
        """The end of its log."""
        path = self.folder / "daemon.log"
        return path.read_text(errors="replace")[-last_bytes:] if path.exists() else "(no log)"

    def write_config(self) -> None:
        """Make its folder and what `start` would write there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f'name = "{self.name}"',
            f"api_port = {self.api_port}",
            f"port = {self.port}",
            "detect = false",
            "mdns = false",
            self.settings,
        ]
        for url in self.backends:
            lines += ["[[backend]]", f'url = "{url}"']
        for gguf in self.ggufs:
            lines += [
                "[[engine.gguf]]",
                f'path = "{gguf.path}"',
                f'alias = "{gguf.alias}"',
                f"slots = {gguf.slots}",
                f"context_tokens = {gguf.context_tokens}",
                f"embedding = {str(gguf.embedding).lower()}",
            ]
        (self.folder / "config.toml").write_text("\n".join(lines) + "\n")


def joined(
    founder: Daemon, newcomers: Sequence[Daemon], *, timeout_s: float = START_S
) -> list[Daemon]:
    """Start the newcomers into the founder's mesh; returns all, when each sees each alive."""
    token = founder.create_token(uses=len(newcomers))
    for daemon in newcomers:
        daemon.join, daemon.token = founder.peer_address, token
        daemon.start(wait=False)
    everyone = [founder, *newcomers]
    for daemon in everyone:
        daemon.wait_until(
            lambda status: sum(n.state in ("alive", "self") for n in status.nodes) == len(everyone),
            f"it sees {len(everyone)} nodes",
            timeout_s,
        )
    return everyone
