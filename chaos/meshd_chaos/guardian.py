"""The harness's end of `guard.py`: whatever happens to the harness, its processes end."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path


class Guardian:
    """Names processes to a child that outlives this one if it must."""

    def __init__(self, folder: Path) -> None:
        """`folder` is removed if this process dies."""
        guard = Path(__file__).with_name("guard.py")
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(guard), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
            bufsize=1,
        )

    def began(self, pid: int) -> None:
        """This process, which leads a session of its own, belongs to the run."""
        self._say(f"+{pid}")

    def over(self, pid: int) -> None:
        """It has ended, and its number may become somebody else's."""
        self._say(f"-{pid}")

    def close(self) -> None:
        """All processes have ended in an orderly way."""
        self._say(".")
        with suppress(OSError):
            if self._child.stdin is not None:
                self._child.stdin.close()
        self._child.wait()

    def _say(self, line: str) -> None:
        with suppress(OSError):  # it was killed: then nobody is on guard
            if self._child.stdin is not None:
                self._child.stdin.write(line + "\n")
