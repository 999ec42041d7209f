"""The real ports: this machine's sockets, files, clocks, randomness and child processes.

`real_ports` hands a node one of each; imports are made there, so that `meshd status` does not load
TLS and the engines' launcher.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from meshd.machine.places import platform_places
from meshd.paths import Paths, resolve

if TYPE_CHECKING:
    from meshd.ports import Ports

__all__ = ["paths_for", "platform_places", "real_ports"]


def paths_for(
    data_dir: PurePath | None = None,
    *,
    config: PurePath | None = None,
    environ: Mapping[str, str] | None = None,
) -> Paths:
    """Where the daemon on that data directory keeps its things (None: the platform's place).

    Links and dots in `data_dir` are resolved, so that each way to write it finds the same daemon.
    """
    places = platform_places(os.environ if environ is None else environ)
    resolved = None if data_dir is None else Path(data_dir).resolve()
    return resolve(places, data_dir=resolved, config=config)


def real_ports() -> Ports:
    """One of each real port."""
    from meshd.machine.clock import SystemClock
    from meshd.machine.databases import RealDatabases
    from meshd.machine.disk import FileDisk
    from meshd.machine.engines import RealEngines
    from meshd.machine.entropy import SystemEntropy
    from meshd.machine.host import RealHost
    from meshd.machine.network import RealNetwork
    from meshd.ports import Ports

    return Ports(
        network=RealNetwork(),
        clock=SystemClock(),
        disk=FileDisk(),
        entropy=SystemEntropy(),
        engines=RealEngines(),
        host=RealHost(),
        databases=RealDatabases(),
    )
