"""SWIM with Lifeguard as a state machine: `(event, now)` in, directives out.  Pure.

It reads no clock, does no I/O and makes no randomness: time comes with each event, choices come
from the `Chance` it was given, and the time at which it wants to be called again is `wake_at`.  So
the same events give the same directives, and a thousand of them run in one process.

    core.handle(Received(...), now)  ->  [Send(...), Changed(...), ...]
    sleep until core.wake_at, or until something arrives;  core.handle(Tick(), now)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from meshd.ids import NodeId
from meshd.membership import events
from meshd.membership.constants import LAN, Settings
from meshd.membership.detector import Detector
from meshd.membership.events import Directive, Event, Send
from meshd.membership.ledger import Ledger, Verify
from meshd.membership.meetings import Meetings
from meshd.membership.members import Chance, Member, Members, State
from meshd.membership.outbox import BUDGET_BYTES, Outbox
from meshd.membership.own import Own, Sign
from meshd.wire.gossip import (
    Ack,
    Ask,
    Failed,
    Message,
    Nack,
    Ping,
    PingReq,
    Profile,
    Suspect,
    Word,
    WordKind,
)

_NEVER: Final = math.inf


class Core:
    """One member's view of the mesh.

    `generation` must be greater than in any earlier start of this node, and on disk.  Feed it
    `Admitted` before anything else: it listens to nobody who is not in the member list.
    """

    def __init__(
        self,
        node: NodeId,
        generation: int,
        profile: Profile,
        *,
        sign: Sign,
        verify: Verify,
        chance: Chance,
        now: float,
        settings: Settings = LAN,
    ) -> None:
        self.node = node
        self.counters: Counter[str] = Counter()
        self.members = Members(chance)
        self._settings = settings
        self._chance = chance
        self._outbox = Outbox(self.members, settings)
        self._own = Own(node, generation, profile, sign, settings, now)
        self._verify = verify
        self._ledger = Ledger(
            node, self.members, self._outbox, verify, chance, settings, self.counters
        )
        self._detector = Detector(self._ledger, self._outbox, chance, settings, self.counters, now)
        self._meetings = Meetings(self._ledger, self._outbox, chance, settings, now)
        self._gossip_at = _NEVER
        self._gossiped = now - settings.gossip_interval_s
        self._speak_at = _NEVER
        self._hinted: dict[NodeId, float] = {}
        self._departing = False
        self.wake_at = now
        """When to call `handle(Tick(), now)` if nothing else comes first."""
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            events.Tick: self._tick,
            events.Received: self._received,
            events.Merged: self._merged,
            events.TcpPinged: self._tcp_pinged,
            events.Admitted: self._admitted,
            events.Found: self._found,
            events.Suspected: self._suspected,
            events.ProfileChanged: self._profile_changed,
            events.Leave: self._leave,
            events.FallAsleep: self._fall_asleep,
            events.Froze: self._froze,
            events.Woke: self._woke,
        }

    # --- what others may look at

    @property
    def word(self) -> Word:
        """The last that this node said of itself."""
        return self._own.word

    @property
    def awareness(self) -> int:
        """How badly this node itself seems to be doing: 0 is well."""
        return self._detector.awareness.score

    @property
    def udp_blocked(self) -> list[NodeId]:
        """Members that answered over TCP only when they were last probed."""
        return sorted(self._detector.tcp_only)

    @property
    def admitted(self) -> frozenset[NodeId]:
        return self._ledger.admitted

    def state(self) -> tuple[Message, ...]:
        """All that this node knows, for an exchange."""
        messages: list[Message] = [self._own.word]
        for member in self.members:
            messages.append(member.word)
            if opinion := self._detector.opinion_of(member):
                messages.append(opinion)
        return tuple(messages)

    def handle(self, event: Event, now: float) -> list[Directive]:
        """Take an event in; what is to be done about it, in that order."""
        self._handlers[type(event)](event, now)
        self._gossip(now)
        if self._departing and not self._outbox.broadcasts.holds_word(self.node):
            self._departing = False
            self._outbox.put(events.Departed())
        if changes := self._ledger.take_changes():
            self._meetings.hurry_if_alone(now)
            for change in changes:
                self._outbox.put(change)
        self.wake_at = min(
            self._detector.wake_at,
            _NEVER if self._detector.paused else self._ledger.wake_at,
            self._meetings.wake_at,
            self._gossip_at,
            self._speak_at,
        )
        return self._outbox.drain()

    # --- time

    def _tick(self, event: events.Tick, now: float) -> None:
        self._detector.tick(now)
        if not self._detector.paused:
            for member in self._ledger.expire(now):
                self._detector.last_call(member)
        self._meetings.tick(now)
        if now >= self._speak_at:
            self._say(WordKind.ALIVE, now)

    def _gossip(self, now: float) -> None:
        """Tell a few random members what is new: at once after a lull, else once per interval."""
        broadcasts = self._outbox.broadcasts
        if not len(broadcasts):
            self._gossip_at = _NEVER
            return
        settings = self._settings
        self._gossip_at = self._gossiped + settings.gossip_interval_s
        if now < self._gossip_at:
            return
        dead_since = now - settings.gossip_to_dead_s

        def accept(member: Member) -> bool:
            if not member.destinations():
                return False
            if member.state is State.FAILED:
                return member.since >= dead_since  # so that it can refute
            return member.reachable

        targets = self.members.pick(settings.gossip_nodes, accept)
        if not targets:
            broadcasts.clear()  # alone: whoever comes gets it all in an exchange
        for target in targets:
            messages = self._outbox.gossip(BUDGET_BYTES)
            if not messages:
                break
            self._outbox.put(Send(target.node, target.destinations(), tuple(messages)))
        self._gossiped = now
        self._gossip_at = now + settings.gossip_interval_s if len(broadcasts) else _NEVER

    # --- what arrives

    def _received(self, event: events.Received, now: float) -> None:
        sender = self.members.get(event.sender)
        if sender is not None:
            sender.heard = now
        elif event.sender not in self._ledger.admitted:
            self.counters["packets_not_admitted"] += 1
            return
        else:
            self._meetings.found(event.sender, (event.address,), now)
        late: list[Ping | PingReq | Ack | Nack] = []
        for message in event.messages:
            if isinstance(message, Word):
                self._hear_word(message, now)
            elif isinstance(message, Suspect | Failed):
                self._hear_opinion(message, event, now)
            elif isinstance(message, Ask):
                self._hear_ask(message, event)
            else:
                late.append(message)  # so that an ack carries what the same packet brought about
        for request in late:
            if isinstance(request, Ping):
                self._detector.hear_ping(event, request, sender)
            elif isinstance(request, Ack):
                self._detector.hear_ack(event, request, sender, now)
            elif isinstance(request, PingReq):
                self._detector.hear_ping_req(event, request, now)
            else:
                self._detector.hear_nack(event, request)

    def _hear_word(self, word: Word, now: float, *, news: bool = True) -> None:
        if word.node != self.node:
            self._ledger.hear_word(word, now, news=news)
        elif self._own.overtaken_by(word):
            self._hear_of_double(word, now)

    def _hear_of_double(self, word: Word, now: float) -> None:
        """Something later than our own last word: an earlier life of ours, or a copy of us."""
        if not self._verify(word.node, word.payload, word.signature):
            self.counters["words_forged"] += 1
            return
        if self._own.renew(word, now):
            self.counters["generations_renewed"] += 1
            self._outbox.put(events.Renewed(self._own.version[0]))
            self._outbox.broadcasts.add(self.node, self._own.word)
        else:
            self._outbox.put(events.Warned(events.Trouble.CLONED, self.node))

    def _hear_opinion(self, opinion: Suspect | Failed, event: events.Received, now: float) -> None:
        if opinion.node == self.node:
            self._refute(opinion, event, now)
        elif isinstance(opinion, Suspect):
            self._ledger.hear_suspect(opinion.node, opinion.version, opinion.by, now)
        else:
            self._ledger.hear_failed(opinion.node, opinion.version, opinion.by, now)

    def _refute(self, opinion: Suspect | Failed, event: events.Received | None, now: float) -> None:
        """Somebody doubts that this node lives: say something later than what they know.

        Only doubts about the very last word count.  Older ones are overtaken, and later versions
        than our own nobody can have heard from us.
        """
        if self._own.kind is not WordKind.ALIVE:
            return
        if opinion.version == self._own.version:
            self.counters["refutations"] += 1
            self._detector.awareness.change(1)
            self._say(WordKind.ALIVE, now)
        elif (
            event is not None and opinion.by == event.sender and opinion.version < self._own.version
        ):
            # The accuser missed our last word, and gossip may be done with it.
            self._outbox.send(event.sender, (event.address,), self._own.word)

    def _hear_ask(self, ask: Ask, event: events.Received) -> None:
        if ask.node == self.node:
            word = self._own.word
        elif member := self.members.get(ask.node):
            word = member.word
        else:
            return
        if word.version > ask.version:
            self._outbox.send(event.sender, (event.address,), word)

    def _merged(self, event: events.Merged, now: float) -> None:
        """What the other side of an exchange knows.  Its `failed` counts as suspicion only: it may
        be the one that was cut off."""
        if event.sender not in self._ledger.admitted:
            self.counters["packets_not_admitted"] += 1
            return
        newcomer = not len(self.members)
        for message in event.messages:
            if isinstance(message, Word):
                self._hear_word(message, now, news=not newcomer)
            elif isinstance(message, Suspect | Failed):
                if message.node == self.node:
                    self._refute(message, None, now)
                else:
                    self._ledger.hear_suspect(message.node, message.version, event.sender, now)
        sender = self.members.get(event.sender)
        if sender is not None:
            sender.heard = now

    def _tcp_pinged(self, event: events.TcpPinged, now: float) -> None:
        self._detector.hear_tcp(event)

    # --- what this node's own side says

    def _admitted(self, event: events.Admitted, now: float) -> None:
        self._ledger.admit(event.nodes - {self.node}, now)
        self._meetings.forget(self._ledger.admitted)
        self._detector.tcp_only &= self._ledger.admitted
        self._hinted = {node: at for node, at in self._hinted.items() if node in event.nodes}

    def _found(self, event: events.Found, now: float) -> None:
        self._meetings.found(event.node, event.addresses, now)

    def _suspected(self, event: events.Suspected, now: float) -> None:
        """Suspect at once, and tell the suspect: if it lives, it refutes in one round trip."""
        member = self.members.get(event.node)
        if member is None or not member.reachable or now < self._ledger.frozen_until:
            return
        last = self._hinted.get(event.node, -math.inf)
        if now - last < self._settings.hint_interval_s:
            return
        self._hinted[event.node] = now
        self.counters["hints"] += 1
        self._ledger.hear_suspect(event.node, member.version, self.node, now)
        self._detector.ping(member)

    def _profile_changed(self, event: events.ProfileChanged, now: float) -> None:
        moved = event.profile.addresses != self._own.profile.addresses
        self._own.profile = event.profile
        if self._own.kind is not WordKind.ALIVE:
            return
        if self._own.in_a_hurry():
            self._say(WordKind.ALIVE, now)
        elif self._own.wants_to_speak():
            waits_s = self._settings.load_s(self.members.size)
            self._speak_at = max(now, self._own.said_at + waits_s)
            if self._speak_at <= now:
                self._say(WordKind.ALIVE, now)
        else:
            self._speak_at = _NEVER
        if moved:
            self._meetings.soon(1, now)

    def _say(self, kind: WordKind, now: float) -> None:
        self._speak_at = _NEVER
        self._outbox.broadcasts.add(self.node, self._own.say(kind, now))

    def _leave(self, event: events.Leave, now: float) -> None:
        self._go(WordKind.LEFT, now)
        self._departing = True

    def _fall_asleep(self, event: events.FallAsleep, now: float) -> None:
        if self._own.kind is WordKind.ALIVE:
            self._go(WordKind.ASLEEP, now)

    def _go(self, kind: WordKind, now: float) -> None:
        """Say goodbye: to a few directly, since there may be no time for gossip."""
        self._pause(True, now)
        self._say(kind, now)
        for member in self.members.pick(self._settings.leave_direct, lambda m: m.reachable):
            self._outbox.send(member.node, member.destinations(), self._own.word)

    def _pause(self, paused: bool, now: float) -> None:
        self._detector.paused = self._meetings.paused = paused
        self._detector.cancel(now + self._settings.probe_interval_s)

    def _froze(self, event: events.Froze, now: float) -> None:
        until = now + self._settings.probe_interval_s
        self._ledger.freeze(until, now)
        self._detector.cancel(until)

    def _woke(self, event: events.Woke, now: float) -> None:
        """Back among the living: judge nobody yet, say that we are here, and ask what happened."""
        if self._own.kind is WordKind.LEFT:
            return
        self.counters["wakes"] += 1
        self._pause(False, now)
        self._froze(events.Froze(), now)
        self._say(WordKind.ALIVE, now)
        self._meetings.soon(self._settings.wake_redials, now)
