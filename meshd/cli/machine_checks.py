"""Checks of `meshd doctor` about the machine: clock, disk, firewall, local network, sleep."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence

from meshd import limits
from meshd.cli.words import listed
from meshd.control import Finding, NodeRow
from meshd.ids import Address, parse_address
from meshd.machine.probes import Probes
from meshd.paths import Paths

A_DAY_IN_2025 = 1_735_700_000.0
LITTLE_SPACE_BYTES = 1024 * limits.MIB
NO_SPACE_BYTES = 64 * limits.MIB
ENOUGH_OPEN_FILES = 1024
MACOS_NO_ROUTE = 65
"""EHOSTUNREACH on macOS: what Local Network Privacy answers instead of sending."""
DIALS = 16

SOCKETFILTERFW = "/usr/libexec/ApplicationFirewall/socketfilterfw"
LOCAL_NETWORK_REMEDY = (
    "macOS keeps programs that launchd starts for a user from the local network.\n"
    "Start meshd from Terminal, or install it as a LaunchDaemon: packaging/macos.md"
)


def clock(probes: Probes) -> Iterator[Finding]:
    """`clock`: the date is possible, and somebody keeps it right."""
    if probes.wall() < A_DAY_IN_2025:
        yield Finding(
            "clock",
            "fail",
            "this machine's date is years in the past",
            "Set it: certificates and tokens have dates.",
        )
        return
    synchronised = None
    if probes.platform.startswith("linux"):
        synchronised = probes.run("timedatectl", "show", "--property=NTPSynchronized", "--value")
    if synchronised is not None and synchronised.text.strip() == "no":
        yield Finding(
            "clock",
            "warn",
            "nothing keeps this machine's clock right",
            "Switch on time synchronisation: sudo timedatectl set-ntp true",
        )
    else:
        yield Finding("clock", "ok", "the date is possible")


def disk_free(paths: Paths, probes: Probes) -> Iterator[Finding]:
    """`disk-free`: there is room for lists and logs."""
    free = probes.free_bytes(paths.data)
    if free is None:
        return
    said = f"{free // limits.MIB} MiB are free where {paths.data} is"
    if free < NO_SPACE_BYTES:
        yield Finding("disk-free", "fail", said, "Free some space: nothing could be kept.")
    elif free < LITTLE_SPACE_BYTES:
        yield Finding("disk-free", "warn", said, "Free some space before it runs out.")
    else:
        yield Finding("disk-free", "ok", f"{free // (1024 * limits.MIB)} GiB are free")


def open_files(probes: Probes) -> Iterator[Finding]:
    """`open-files`: many clients at once are possible."""
    limit = probes.open_files()
    if probes.platform != "darwin" and limit < ENOUGH_OPEN_FILES:
        yield Finding(
            "open-files",
            "warn",
            f"a process may have {limit} files and sockets open",
            "Raise it: ulimit -n 16384 in the shell, LimitNOFILE= in a systemd unit.",
        )
    else:
        # macOS starts shells with 256, which a daemon may raise for itself, and does.
        yield Finding("open-files", "ok", f"{limit} files and sockets may be open")


def firewall(port: int, probes: Probes) -> Iterator[Finding]:
    """`firewall`: whether one runs that could keep other nodes out."""
    if probes.platform == "darwin":
        yield from _macos_firewall(probes)
    else:
        yield from _linux_firewall(port, probes)


def _macos_firewall(probes: Probes) -> Iterator[Finding]:
    said = probes.run(SOCKETFILTERFW, "--getglobalstate")
    state = re.search(r"State = (\d)", said.text) if said is not None else None
    if state is None or state[1] == "0":
        yield Finding("firewall", "ok", "the macOS firewall is off")
        return
    block_all = probes.run(SOCKETFILTERFW, "--getblockall")
    if state[1] == "2" or (
        block_all is not None and re.search(r"(?:set to enabled|enabled!)", block_all.text)
    ):
        yield Finding(
            "firewall",
            "fail",
            "the macOS firewall blocks all incoming connections",
            "System Settings > Network > Firewall > Options: switch that off.",
        )
        return
    yield Finding(
        "firewall",
        "warn",
        "the macOS firewall is on: it must allow the Python that runs meshd",
        "Click Allow when it asks, or type:\n"
        f"    sudo {SOCKETFILTERFW} --add {probes.python}\n"
        f"    sudo {SOCKETFILTERFW} --unblockapp {probes.python}",
    )


def _linux_firewall(port: int, probes: Probes) -> Iterator[Finding]:
    firewalld = probes.run("firewall-cmd", "--state")
    if firewalld is not None and firewalld.code == 0:
        for kind in ("tcp", "udp"):
            answer = probes.run("firewall-cmd", f"--query-port={port}/{kind}")
            if answer is None or answer.code != 0:
                yield Finding(
                    "firewall",
                    "warn",
                    f"firewalld runs, and {kind.upper()} port {port} is not among the open ones",
                    f"sudo firewall-cmd --permanent --add-port={port}/tcp --add-port={port}/udp\n"
                    "sudo firewall-cmd --reload",
                )
                return
        yield Finding("firewall", "ok", f"firewalld lets port {port} in")
        return
    ufw = probes.run("ufw", "status")  # says nothing to users but root
    if ufw is not None and ufw.code == 0 and "Status: active" in ufw.text:
        if re.search(rf"^{port}(?:/\S+)?\s+ALLOW", ufw.text, re.MULTILINE):
            yield Finding("firewall", "ok", f"ufw lets port {port} in")
        else:
            yield Finding(
                "firewall",
                "warn",
                f"ufw runs and does not name port {port}",
                f"sudo ufw allow {port}",
            )
        return
    yield Finding("firewall", "ok", "no firewall was found that this user can see")


def sleep(probes: Probes) -> Iterator[Finding]:
    """`sleep`: whether this Mac falls asleep while on mains, and its models with it."""
    if probes.platform != "darwin":
        return
    said = probes.run("pmset", "-g", "custom")
    if said is None:
        return
    section = said.text.partition("AC Power:")[2] or said.text
    minutes = re.search(r"^\s*sleep\s+(\d+)", section, re.MULTILINE)
    if minutes is None or minutes[1] == "0":
        yield Finding("sleep", "ok", "this Mac stays awake on mains")
    else:
        yield Finding(
            "sleep",
            "warn",
            f"this Mac sleeps after {minutes[1]} min on mains; a sleeping node serves nobody",
            "To keep it awake on mains: sudo pmset -c sleep 0",
        )


def local_network(mdns: bool, nodes: Sequence[NodeRow], probes: Probes) -> Iterator[Finding]:
    """`local-network`, `mdns`: packets to neighbours leave this machine.

    The signature of macOS Local Network Privacy: loopback works, neighbours and multicast answer
    errno 65 at once.
    """
    echo = probes.multicast_echo()
    denied = [f"multicast ({_reason(echo.errno)})"] if echo.errno == MACOS_NO_ROUTE else []
    if probes.platform == "darwin":
        others = [node for node in nodes if node.state in ("alive", "suspect", "failed")]
        for node in others[:DIALS]:
            for address in _addresses(node)[:2]:
                if probes.dial(address) == MACOS_NO_ROUTE:
                    denied.append(f"{node.name} at {address}")
        if denied:
            yield Finding(
                "local-network",
                "fail",
                f"no route to {listed(denied)}, while this machine itself answers",
                LOCAL_NETWORK_REMEDY,
            )
            return
        yield Finding("local-network", "ok", "macOS lets this terminal reach the local network")
    if not mdns:
        return
    if echo.heard:
        yield Finding("mdns", "ok", "multicast on the local network comes back")
    elif echo.errno:
        yield Finding(
            "mdns",
            "warn",
            f"mDNS cannot be used here: {_reason(echo.errno)}",
            "Nodes find each other by --join HOST all the same.",
        )
    else:
        yield Finding(
            "mdns",
            "warn",
            "a multicast packet that this machine sent did not come back to it",
            "Some Wi-Fi networks, VPNs and containers filter it; join by --join HOST.",
        )


def _addresses(node: NodeRow) -> list[Address]:
    found = []
    for text in node.addresses:
        try:
            found.append(parse_address(text, limits.PEER_PORT))
        except ValueError:
            continue
    return found


def _reason(number: int) -> str:
    known = {errno.EADDRINUSE: "another program has port 5353 for itself"}
    return f"{known.get(number) or os.strerror(number)}, errno {number}"
