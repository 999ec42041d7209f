"""The constants of membership, each with where it comes from.  Pure.

LAN values are memberlist's `DefaultLANConfig` (config.go, util.go) unless said otherwise; they are
part of how members treat each other, so they are the same on every node and not in the config.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """One profile of SWIM's constants.  Times in seconds."""

    probe_interval_s: float = 1.0
    probe_timeout_s: float = 0.5
    indirect_probes: int = 3
    nack_after: float = 0.8
    """The part of the probe timeout after which a relay sends a nack: late enough that the ack had
    its chance, early enough to arrive within the probe (Lifeguard, "local health aware probe";
    memberlist waits the whole timeout, so its nacks come late by a round trip)."""

    suspicion_mult: int = 4
    suspicion_max_mult: int = 6
    """The longest a suspicion lasts, as a multiple of the shortest."""
    awareness_max: int = 8

    gossip_interval_s: float = 0.2
    gossip_nodes: int = 3
    gossip_to_dead_s: float = 30.0
    retransmit_mult: int = 4

    push_pull_interval_s: float = 30.0
    push_pull_scale_from: int = 32
    """Above this many members the interval grows by one multiple per doubling (util.go)."""
    redial_interval_s: float = 30.0
    """How often a failed member may be tried (serf's ReconnectInterval; for ever, since whoever is
    in the member list is meant to come back)."""

    load_interval_s: float = 1.0
    """A change of load alone is told at most this often ..."""
    load_members_per_s: float = 20.0
    """... and at most so many members tell theirs per second, mesh-wide: each word is relayed by
    everybody, so 1,000 members speak every 50 s."""
    hint_interval_s: float = 10.0
    """Between two hints of the relay about the same member that are acted upon: an engine that
    hangs in a living daemon must not make its node flap."""
    exchange_interval_s: float = 5.0
    """Between two exchanges with the same member that were not on the clock."""
    leave_direct: int = 8
    """How many members hear of a leave directly, before gossip spreads it."""
    wake_redials: int = 3
    renewals: int = 3
    renewals_window_s: float = 600.0
    """More new generations than this in this time: somebody else runs with the same identity."""

    def probe_scale(self, members: int) -> float:
        """log10 of the size, at least 1 (util.go, suspicionTimeout)."""
        return max(1.0, math.log10(max(1, members)))

    def suspicion_min_s(self, members: int) -> float:
        """How long a suspicion lasts at least, in a mesh of so many members."""
        return self.suspicion_mult * self.probe_scale(members) * self.probe_interval_s

    def suspicion_max_s(self, members: int) -> float:
        """How long it lasts when nobody confirms it."""
        return self.suspicion_max_mult * self.suspicion_min_s(members)

    def confirmations(self, members: int) -> int:
        """How many others have to agree for the shortest suspicion (state.go: mult - 2, or none
        when there are not so many others)."""
        wanted = self.suspicion_mult - 2
        return wanted if members - 2 >= wanted else 0

    def retransmits(self, members: int) -> int:
        """How often one update is sent by each member that heard it (util.go)."""
        return self.retransmit_mult * math.ceil(math.log10(members + 1))

    def push_pull_s(self, members: int) -> float:
        """Time between two exchanges (util.go, pushPullScale)."""
        if members <= self.push_pull_scale_from:
            return self.push_pull_interval_s
        doublings = math.log2(members) - math.log2(self.push_pull_scale_from)
        return self.push_pull_interval_s * (math.ceil(doublings) + 1)

    def load_s(self, members: int) -> float:
        """Time between two words that change nothing but the load."""
        return max(self.load_interval_s, members / self.load_members_per_s)


LAN = Settings()
