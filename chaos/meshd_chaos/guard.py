"""What ends the processes of a run when the harness itself cannot any more.

    python guard.py FOLDER

A child of the harness, which writes one line to its stdin for each process: `+PID`, and `-PID` when
that one is over; `.` before an orderly end.  When its stdin ends without that, the harness was
killed: every process named (each leads a session of its own) is killed and the folder removed.

It imports nothing of the package, so that it runs as a plain file and starts quickly.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Read until the harness is gone, then clear up behind it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    alive: set[int] = set()
    for line in sys.stdin:
        word = line.strip()
        if word == ".":
            return
        if word.startswith("+"):
            alive.add(int(word[1:]))
        elif word.startswith("-"):
            alive.discard(int(word[1:]))
    for pid in alive:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
