"""Disks that are full for one process: the kernel refuses its writes to files, and no others."""

from __future__ import annotations

import resource
import subprocess
import sys


def allow_writes(pid: int, allowed: bool) -> None:
    """Whether that process, one of ours, may write to files, by a limit on their size.

    Raises OSError where that cannot be set.
    """
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most if allowed else 0, most))


def why_no_limits() -> str:
    """Why a running process cannot be kept from writing here, as a sentence; "": it can."""
    if not hasattr(resource, "prlimit"):
        return f"{sys.platform} sets no limits of a process that runs already"
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            allow_writes(other.pid, False)
        except (OSError, ValueError) as error:
            return f"the limits of another process cannot be set here: {error}"
        finally:
            other.kill()
    return ""
