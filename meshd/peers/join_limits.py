"""How often one address may knock.  Pure."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

from meshd import limits
from meshd.ids import Address


def source_of(address: Address | None) -> str:
    """What counts as one source: an IPv4 address, an IPv6 /64 (one machine may own it whole)."""
    if address is None:
        return "local"
    try:
        ip = ipaddress.ip_address(address.host.partition("%")[0])
    except ValueError:
        return address.host
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class SourceLimiter:
    """A token bucket for each source.

    At most `sources` are remembered; the one that has been quiet longest is forgotten first, which
    is as if it had been quiet long enough.
    """

    def __init__(
        self,
        *,
        per_s: float = limits.JOIN_PER_ADDRESS_PER_S,
        burst: int = limits.JOIN_BURST,
        sources: int = limits.JOIN_SOURCES,
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._sources = sources
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, source: str, now_s: float) -> float:
        """0 if this one may pass (and has passed now), else how long until the next one may."""
        level, at_s = self._buckets.pop(source, (float(self._burst), now_s))
        level = min(float(self._burst), level + max(0.0, now_s - at_s) * self._per_s)
        passes = level >= 1.0
        self._buckets[source] = (level - 1.0 if passes else level, now_s)
        while len(self._buckets) > self._sources:
            self._buckets.popitem(last=False)
        return 0.0 if passes else (1.0 - level) / self._per_s
