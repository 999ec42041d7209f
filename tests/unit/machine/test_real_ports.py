"""The real ports are put together, each of the kind that `meshd.ports` promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from meshd.machine import paths_for, real_ports
from meshd.ports import Clock, Disk, Engines, Entropy, Network, Ports


def test_a_node_gets_one_of_each() -> None:
    ports: Ports = real_ports()
    network: Network = ports.network
    clock: Clock = ports.clock
    disk: Disk = ports.disk
    entropy: Entropy = ports.entropy
    engines: Engines = ports.engines
    assert len({type(port) for port in (network, clock, disk, entropy, engines)}) == 5


def test_a_command_that_needs_no_network_loads_none() -> None:
    code = (
        "import sys, meshd.machine\n"
        "meshd.machine.paths_for()\n"
        "print([name for name in ('ssl', 'trio', 'cryptography') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_way_to_write_a_folder_means_the_same_daemon(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert paths_for(tmp_path / "link") == paths_for(tmp_path / "x" / ".." / "real")
