"""Which addresses other machines can reach this one at."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

import psutil

_BRIDGES = ("docker", "br-", "veth", "virbr", "cni", "flannel", "vmnet", "bridge", "vboxnet", "lxc")
"""Interfaces that lead to containers and virtual machines of this host."""
_TUNNELS = ("utun", "tun", "tap", "wg", "tailscale", "zt", "ppp")


def interface_addresses() -> list[str]:
    """This machine's IP addresses, those that others most likely reach first."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = [
        (name, entry.address)
        for name, entries in psutil.net_if_addrs().items()
        if name in up
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    return rank(found)


def rank(found: Iterable[tuple[str, str]]) -> list[str]:
    """Order (interface, address) pairs; drops what leads nowhere.  Pure.

    Wired and wireless before tunnels before bridges; v4 before v6; private before public.
    Loopback counts only if there is nothing else.
    """
    usable: list[tuple[tuple[int, bool, bool], str]] = []
    loopback: list[str] = []
    for name, text in found:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue  # a link-local with its zone, on some systems
        if address.is_loopback:
            loopback.append(text)
        elif not (address.is_link_local or address.is_multicast or address.is_unspecified):
            kind = 2 if name.startswith(_BRIDGES) else 1 if name.startswith(_TUNNELS) else 0
            usable.append(((kind, address.version == 6, not address.is_private), text))
    usable.sort(key=lambda entry: entry[0])
    ordered = [text for _, text in usable] or sorted(loopback, key=lambda text: ":" in text)
    return list(dict.fromkeys(ordered))
