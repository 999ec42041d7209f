"""Machines of their own on one switch: network namespaces, veth pairs and a bridge."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

NET = "10.77.7"

_POST = """
import json, sys, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode() or None)
try:
    answer = urllib.request.urlopen(request, timeout=float(sys.argv[3]))
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, dict(answer.headers), answer.read().decode()]))
"""


def ip(*arguments: str) -> None:
    """Run `ip`; raises CalledProcessError with what it said."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@dataclass
class Machine:
    """A network namespace, plugged into the switch."""

    lan: Lan
    number: int
    namespace: str
    port: str
    """The switch's end of its cable."""
    address: str = ""

    @property
    def prefix(self) -> list[str]:
        """Runs a command on this machine."""
        return ["ip", "netns", "exec", self.namespace]

    def unplug(self) -> None:
        """Pull its cable."""
        ip("link", "set", self.port, "down")

    def plug(self) -> None:
        ip("link", "set", self.port, "up")

    def move(self, host: int) -> None:
        """Give it another address instead of the one it has, as DHCP may."""
        old, self.address = self.address, f"{NET}.{host}"
        ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "lan0")
        if old:
            ip("-n", self.namespace, "addr", "del", f"{old}/24", "dev", "lan0")
        # Multicast needs a way out; a route goes with the address that it was made for.
        ip("-n", self.namespace, "route", "replace", "default", "dev", "lan0")

    def ask(
        self, url: str, body: dict[str, Any] | None = None, timeout_s: float = 30
    ) -> tuple[int, dict[str, str], str]:
        """A client on this machine: status, headers (lower-case names), body."""
        command = [*self.prefix, sys.executable, "-c", _POST, url]
        command += [json.dumps(body) if body is not None else "", str(timeout_s)]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stderr
        status, headers, text = json.loads(said.stdout)
        return status, {name.lower(): value for name, value in headers.items()}, text


@dataclass
class Lan:
    """One switch and what is plugged into it."""

    bridge: str
    machines: list[Machine] = field(default_factory=list)

    def add(self) -> Machine:
        """One more machine, with an address and loopback."""
        number = len(self.machines) + 1
        name = f"{self.bridge}-{number}"
        machine = Machine(self, number, name, f"{name}s")
        self.machines.append(machine)
        ip("netns", "add", machine.namespace)
        ip("link", "add", machine.port, "type", "veth", "peer", "name", "lan0", "netns", name)
        ip("link", "set", machine.port, "master", self.bridge, "up")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", "lan0", "up")
        # Else the kernel takes all addresses of a network away with its first one.
        promote = "echo 1 > /proc/sys/net/ipv4/conf/all/promote_secondaries"
        subprocess.run([*machine.prefix, "sh", "-c", promote], check=True, capture_output=True)
        machine.move(number)
        return machine

    def remove(self) -> None:
        for machine in self.machines:
            subprocess.run(["ip", "netns", "del", machine.namespace], capture_output=True)
            subprocess.run(["ip", "link", "del", machine.port], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


@contextmanager
def lan() -> Iterator[Lan]:
    """A switch with nothing in it; skips the test, with the reason, where that is not allowed."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` here: network namespaces are Linux's")
    made = Lan(f"md{os.getpid() % 100_000}")
    try:
        try:
            ip("link", "add", made.bridge, "type", "bridge", "mcast_snooping", "0")
            ip("link", "set", made.bridge, "up")
            made.add()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
        yield made
    finally:
        made.remove()
