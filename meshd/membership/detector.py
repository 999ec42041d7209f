"""Finds out who does not answer: pings, pings by others, and what follows.  Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Final

from meshd import limits
from meshd.ids import NodeId
from meshd.membership.awareness import Awareness
from meshd.membership.constants import Settings
from meshd.membership.events import Received, TcpPing, TcpPinged, Trouble, Warned
from meshd.membership.ledger import Ledger
from meshd.membership.members import Chance, Member, State
from meshd.membership.outbox import Outbox
from meshd.membership.probe import Probe, Relayed
from meshd.wire.gossip import (
    SEQUENCE_END,
    Ack,
    Ask,
    Failed,
    Message,
    Nack,
    Ping,
    PingReq,
    Suspect,
)

_RELAY_ADDRESSES: Final = 4
"""How many addresses of the target a ping request names, for a relay that does not know it."""


class Detector:
    """One probe at a time, and the pings that this node sends on behalf of others."""

    def __init__(
        self,
        ledger: Ledger,
        outbox: Outbox,
        chance: Chance,
        settings: Settings,
        counters: Counter[str],
        now: float,
    ) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._chance = chance
        self._settings = settings
        self._counters = counters
        self.awareness = Awareness(settings.awareness_max)
        self.paused = False
        """While this node is asleep or leaving it probes nobody; it still answers."""
        self.probe: Probe | None = None
        # Members that start together must not probe in step.
        self.probe_at = now + chance.random() * settings.probe_interval_s
        self._sequence = chance.randrange(SEQUENCE_END)
        self._relayed: dict[int, Relayed] = {}
        self._relay_times: list[tuple[float, int]] = []
        self.tcp_only: set[NodeId] = set()

    @property
    def wake_at(self) -> float:
        at = self.probe.wake_at if self.probe is not None else self.probe_at
        return min(at, self._relay_times[0][0]) if self._relay_times else at

    def tick(self, now: float) -> None:
        if self._relay_times and self._relay_times[0][0] <= now:
            self._mind_relayed(now)
        probe = self.probe
        if probe is None:
            if now >= self.probe_at:
                self._start(now)
        elif now >= probe.wake_at:
            if probe.indirect:
                self._end(probe, now)
            else:
                self._ask_others(probe, now)

    def cancel(self, at: float) -> None:
        """Forget the probe in progress; the next one starts then."""
        self.probe = None
        self.probe_at = at

    def ping(self, member: Member) -> None:
        """A ping out of turn, whose only use is to tell a suspect that it is one."""
        self._send_ping(member, self._next_sequence())

    def last_call(self, member: Member) -> None:
        """Ask the suspect itself, and a few others, before it is declared failed."""
        self.ping(member)
        others = self._ledger.members.pick(
            self._settings.indirect_probes,
            lambda other: other.state is State.ALIVE and other is not member,
        )
        for other in others:
            self._outbox.send(other.node, other.destinations(), Ask(member.node, member.version))

    # --- this node's own probe

    def _start(self, now: float) -> None:
        self.probe_at = now + self._settings.probe_interval_s
        if self.paused:
            return
        if now < self._ledger.frozen_until:
            self.probe_at = self._ledger.frozen_until
            return
        get = self._ledger.members.get
        node = self._ledger.ring.next(lambda node: (m := get(node)) is not None and m.reachable)
        member = None if node is None else get(node)
        if member is None:
            return
        self._counters["probes"] += 1
        self.probe = Probe(
            member,
            self._next_sequence(),
            now,
            self.awareness.scale(self._settings.probe_timeout_s),
            self.awareness.scale(self._settings.probe_interval_s),
        )
        self._send_ping(member, self.probe.sequence)

    def _send_ping(self, member: Member, sequence: int) -> None:
        """With the news that it is suspected, if so, in front: it refutes in one round trip."""
        messages: list[Message] = [Ping(sequence, member.node)]
        if opinion := self.opinion_of(member):
            messages.append(opinion)
        self._outbox.send(member.node, member.destinations(), *messages)

    def opinion_of(self, member: Member) -> Suspect | Failed | None:
        """What this node would tell that member about itself."""
        if member.state is State.SUSPECT:
            return Suspect(member.node, member.version, self._ledger.me)
        if member.state is State.FAILED:
            return Failed(member.node, member.version, self._ledger.me)
        return None

    def _ask_others(self, probe: Probe, now: float) -> None:
        probe.indirect = True
        member = self._ledger.members.get(probe.target)
        if member is None:
            return
        relays = self._ledger.members.pick(
            self._settings.indirect_probes,
            lambda other: other.state is State.ALIVE and other is not member,
        )
        probe.relays = tuple(relay.node for relay in relays)
        addresses = member.word.profile.addresses
        request = PingReq(probe.sequence, probe.target, addresses[:_RELAY_ADDRESSES])
        for relay in relays:
            self._outbox.send(relay.node, relay.destinations(), request)
        if member.path is not None:  # the only address tried so far: it may have moved
            self._outbox.send(member.node, addresses, Ping(probe.sequence, probe.target))
        self._outbox.put(TcpPing(probe.target, addresses, probe.sequence, probe.deadline))

    def _end(self, probe: Probe, now: float) -> None:
        """No ack came over UDP, by any way."""
        member = self._ledger.members.get(probe.target)
        self._finish(now)
        if probe.tcp_answered:
            self.awareness.change(-1)
            if probe.target not in self.tcp_only:
                self.tcp_only.add(probe.target)
                self._outbox.put(Warned(Trouble.UDP_BLOCKED, probe.target))
            return
        self._counters["probes_failed"] += 1
        self.awareness.change(probe.missed_nacks if probe.relays else 1)
        if member is not None:
            member.path = None
            self._ledger.hear_suspect(probe.target, probe.version, self._ledger.me, now)

    def _finish(self, now: float) -> None:
        self.probe = None
        self.probe_at = max(self.probe_at, now)

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) % SEQUENCE_END
        return self._sequence

    # --- what arrives

    def hear_ping(self, event: Received, ping: Ping, sender: Member | None) -> None:
        if ping.target != self._ledger.me:
            self._counters["pings_for_others"] += 1  # this address was somebody else's before
            return
        messages: list[Message] = [Ack(ping.sequence)]
        if sender is not None and (opinion := self.opinion_of(sender)):
            messages.append(opinion)
        self._outbox.send(event.sender, (event.address,), *messages)

    def hear_ping_req(self, event: Received, request: PingReq, now: float) -> None:
        if request.target == self._ledger.me:
            self._outbox.send(event.sender, (event.address,), Ack(request.sequence))
            return
        if request.target not in self._ledger.admitted:
            return
        if len(self._relayed) >= limits.GOSSIP_RELAYED_PINGS:
            self._counters["relays_refused"] += 1
            return
        sequence = self._next_sequence()
        timeout_s = self._settings.probe_timeout_s
        relayed = Relayed(
            event.sender,
            event.address,
            request.sequence,
            request.target,
            nack_at=now + timeout_s * self._settings.nack_after,
            expires=now + self._settings.probe_interval_s,
        )
        self._relayed[sequence] = relayed
        heapq.heappush(self._relay_times, (relayed.nack_at, sequence))
        target = self._ledger.members.get(request.target)
        if target is not None:
            self._send_ping(target, sequence)
        else:
            self._outbox.send(request.target, request.addresses, Ping(sequence, request.target))

    def hear_ack(self, event: Received, ack: Ack, sender: Member | None, now: float) -> None:
        probe = self.probe
        if probe is not None and probe.answered_by(event.sender, ack.sequence):
            if sender is not None and event.sender == probe.target:
                sender.path = event.address
                self.tcp_only.discard(event.sender)
            self.awareness.change(-1)
            self._finish(now)
            return
        relayed = self._relayed.get(ack.sequence)
        if relayed is not None and relayed.target == event.sender:
            del self._relayed[ack.sequence]
            self._outbox.send(relayed.requester, (relayed.address,), Ack(relayed.sequence))

    def hear_nack(self, event: Received, nack: Nack) -> None:
        if self.probe is not None:
            self.probe.nack(event.sender, nack.sequence)

    def hear_tcp(self, event: TcpPinged) -> None:
        """An answer over TCP.  The probe goes on: UDP may yet work, which is better to know."""
        probe = self.probe
        if event.answered and probe is not None and event.sequence == probe.sequence:
            probe.tcp_answered = True

    def _mind_relayed(self, now: float) -> None:
        """Send the nacks that are due, forget the pings that nobody waits for any more."""
        while self._relay_times and self._relay_times[0][0] <= now:
            _, sequence = heapq.heappop(self._relay_times)
            relayed = self._relayed.get(sequence)
            if relayed is None:
                continue
            if relayed.nacked:
                del self._relayed[sequence]
                continue
            relayed.nacked = True
            self._outbox.send(relayed.requester, (relayed.address,), Nack(relayed.sequence))
            heapq.heappush(self._relay_times, (relayed.expires, sequence))
