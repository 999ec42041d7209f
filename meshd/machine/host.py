"""This process and this machine: limits, names, other processes, the service manager."""

from __future__ import annotations

import gc
import os
import platform
import resource
import socket
import time
from contextlib import suppress

import psutil

from meshd.ports import Power

OPEN_FILES_WANTED = 16_384
"""A connection of a client and one to an engine or node for each of the many streams."""


def host_name() -> str:
    """The short name of this machine, without `.local` or a domain."""
    return (platform.node() or "meshd").split(".")[0] or "meshd"


class RealHost:
    """`meshd.ports.Host`, real."""

    def power(self) -> Power:
        battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
        if battery is None:
            return Power()
        # None: it does not say whether it is plugged in.
        return Power(portable=True, on_mains=battery.power_plugged is not False)

    def uptime_s(self) -> float:
        return max(0.0, time.time() - psutil.boot_time())


def open_files_limit() -> int:
    """How many files and sockets this process may have open."""
    return _shown(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def raise_open_files_limit(wanted: int = OPEN_FILES_WANTED) -> int:
    """Raise the soft limit as far as the hard one allows; what it is now.

    macOS gives a shell 256.  Never lowers it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < top:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
    return open_files_limit()


def _shown(limit: int) -> int:
    return OPEN_FILES_WANTED if limit == resource.RLIM_INFINITY else limit


def settle_garbage() -> None:
    """Let Python never again look at what is there now, modules above all, for garbage in cycles.

    Looks stay frequent and short.  Seldom ones (after 50,000 new objects instead of 700) stop the
    loop for 40 ms each under load, for a gain that is lost in noise.
    """
    gc.collect()
    gc.freeze()


def wait_until_gone(pid: int, timeout_s: float) -> bool:
    """Wait for a process of anybody's to end; False if it is still there after `timeout_s`."""
    try:
        psutil.Process(pid).wait(timeout_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def tell_service_manager(state: str) -> None:
    """systemd's sd_notify: `READY=1`, `STOPPING=1`.  Nothing happens without one, ever."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
