"""A real engine as a child process: started, frozen, slowed and killed at a test's will."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Final

_START_S: Final = 30.0
_STOP_S: Final = 5.0


class EngineFailed(AssertionError):
    """An engine did not come up, or did not take a model; the text ends with its log."""


class EngineProcess:
    """A child process in a session of its own."""

    url = ""
    """Where it serves, once it was started."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the engine

    @property
    def pid(self) -> int:
        """Of its latest start."""
        assert self._process is not None
        return self._process.pid

    @property
    def log_text(self) -> str:
        """What it has said so far, the end of it."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-4000:]

    def kill(self) -> None:
        """kill -9, of the whole session: an Ollama alone would leave its runners behind."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def terminate(self) -> int:
        """SIGTERM and wait; the exit code."""
        self._signal(signal.SIGTERM)
        assert self._process is not None
        return self._process.wait(_STOP_S)

    def freeze(self) -> None:
        """SIGSTOP: it still accepts connections (the kernel does) and says nothing more."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def paced(self, *, on_s: float = 0.001, off_s: float = 0.020) -> Iterator[None]:
        """Slow it down, without burning a core, by stopping it most of the time.

        With the defaults and a model of dim 256 and 4 layers: about 45 tokens a second.
        """
        over = threading.Event()

        def beat() -> None:
            while not over.is_set():
                self.freeze()
                over.wait(off_s)
                self.thaw()
                over.wait(on_s)

        thread = threading.Thread(target=beat, name="pacer")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.thaw()

    def close(self) -> None:
        """Gone, whatever state it is in."""
        self.kill()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._log.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spawn(
        self, command: Sequence[str], *, stdin: int, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it, with an empty log; `environment` None: this process's own."""
        self._log.seek(0)
        self._log.truncate()
        self._process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=self._log,
            stderr=self._log,
            env=environment,
            start_new_session=True,
        )

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _await(self, pattern: str, what: str) -> re.Match[str]:
        """Until its log has that; raises EngineFailed."""
        assert self._process is not None
        give_up_at = time.monotonic() + _START_S
        while time.monotonic() < give_up_at:
            if found := re.search(pattern, self.log_text):
                return found
            if (code := self._process.poll()) is not None:
                raise EngineFailed(f"{what} ended with {code}:\n{self.log_text}")
            time.sleep(0.01)  # polling a real process; nothing depends on how often
        raise EngineFailed(f"{what} was not ready after {_START_S:.0f} s:\n{self.log_text}")
