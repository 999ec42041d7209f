"""Wall clocks that can be set wrong, one for each machine, while its daemon runs.

A few lines of C (`clock_shim.c`), compiled on the spot and preloaded into the daemons, add to the
wall clock what a file says.  Timers go by another clock, which is left alone: a machine whose clock
was set is not one that slept.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("clock_shim.c")
_COMPILER: Final = "cc"
_COMPILE_S: Final = 60
_OFFSET: Final = struct.Struct("=q")


@cache
def why_no_clocks() -> str:
    """Why clocks cannot be set wrong here, as a sentence; "": they can."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} lets no library be loaded before a program's own"
    if shutil.which(_COMPILER) is None:
        return f"there is no C compiler ({_COMPILER}) for the library that sets clocks wrong"
    return ""


class Clocks:
    """The library, and the clocks' files."""

    def __init__(self, folder: Path) -> None:
        """Compile the library into this folder, if this machine allows it."""
        self._folder = folder
        self._library = folder / "clock_shim.so"
        self.problem = why_no_clocks() or self._compile()
        """Why there are none; "": there are."""

    def environment(self, name: str) -> dict[str, str]:
        """What the daemon of that machine needs in its environment; its clock is right."""
        if self.problem:
            return {}
        self.set(name, 0.0)
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._file(name))}

    def set(self, name: str, ahead_s: float) -> None:
        """Let that machine's wall clock be so far ahead, from now on, if it can be."""
        if self.problem:
            return
        # Not replaced: the daemon has this very file mapped.
        with self._file(name).open("r+b" if self._file(name).exists() else "w+b") as file:
            file.write(_OFFSET.pack(round(ahead_s * 1e9)))

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.clock"

    def _compile(self) -> str:
        options = ["-shared", "-fPIC", "-O1", "-o", str(self._library), str(_SOURCE), "-ldl"]
        try:
            done = subprocess.run(
                [_COMPILER, *options], capture_output=True, text=True, timeout=_COMPILE_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{_COMPILER} did not work: {error}"
        return f"{_COMPILER} failed: {done.stderr[-300:]}" if done.returncode else ""
