"""What kind of machine a simulated one is."""

from __future__ import annotations

from meshd.ports import Power


class SimHost:
    """`meshd.ports.Host`: what a test says it is.  A machine that has been on mains for days."""

    def __init__(self, *, power: Power = Power(), uptime_s: float = 3 * 86_400.0) -> None:  # noqa: B008
        self.is_powered = power
        self.up_s = uptime_s

    def power(self) -> Power:
        return self.is_powered

    def uptime_s(self) -> float:
        return self.up_s
