"""Carries out what the core directs: datagrams, timers, exchanges (trio shell)."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
import trio

from meshd import limits
from meshd.beat import beat_after
from meshd.errors import MeshdError, ProtocolError, StreamAborted
from meshd.ids import Address, NodeId, short
from meshd.logs import PerSource
from meshd.membership import events
from meshd.membership.core import Core
from meshd.membership.events import Changed, Directive, Event, Trouble
from meshd.membership.sleep import POLL_S, SleepWatch
from meshd.membership.views import Change, MemberView, view_of
from meshd.ports import Clock, Datagrams
from meshd.wire.envelope import PAYLOAD_BYTES, Envelope, EnvelopeRefused, Replayed, UnknownKey
from meshd.wire.gossip import (
    PACKET_HEAD_BYTES,
    Message,
    Profile,
    Word,
    decode_packet,
    encode,
    encode_packet,
    join,
)

log = structlog.get_logger()

EXCHANGE_S: Final = 10.0
"""How long an exchange may take (memberlist's TCPTimeout)."""
LEAVE_S: Final = 5.0
"""How long a leave may take to spread (serf's BroadcastTimeout)."""
SEND_QUEUE: Final = 1024
"""Datagrams waiting to be sent; on top of that the oldest are lost, as a full buffer loses them."""
KEYRING_HINT_S: Final = 10.0
KEEP_S: Final = 5.0
"""How soon a generation that the disk did not take is written again."""

TcpPing = Callable[[NodeId, Sequence[Address]], Awaitable[bool]]
"""Whether that member answers over the peer link.  A MeshdError counts as no."""
PushPull = Callable[[NodeId, bytes], Awaitable[bytes]]
"""Hand that member our state over the peer link; its answer.  Raises MeshdError."""


class Agent:
    """Runs one core on one socket.

    `core` must have been made with the same generation as `envelope`, on this event loop's time
    (`trio.current_time()`).  `persist_generation` writes to disk and returns when it is there, or
    raises OSError; then no datagram leaves until it is there.
    """

    def __init__(
        self,
        core: Core,
        datagrams: Datagrams,
        clock: Clock,
        envelope: Envelope,
        *,
        tcp_ping: TcpPing,
        push_pull: PushPull,
        persist_generation: Callable[[int], None],
        on_unknown_key: Callable[[], None] = lambda: None,
        on_woke: Callable[[float], None] = lambda slept_s: None,
    ) -> None:
        self._core = core
        self._datagrams = datagrams
        self._clock = clock
        self._envelope = envelope
        self._tcp_ping = tcp_ping
        self._push_pull = push_pull
        self._persist_generation = persist_generation
        self._on_unknown_key = on_unknown_key
        self._on_woke = on_woke
        self._subscribers: list[Callable[[Change], None]] = []
        self._nursery: trio.Nursery | None = None
        self._early: list[Directive] = []
        """What was directed before `run`."""
        self._outgoing: deque[tuple[bytes, tuple[Address, ...]]] = deque(maxlen=SEND_QUEUE)
        self._to_send = trio.Event()
        self._rearm = trio.Event()
        self._armed_for = math.inf
        self._departed = trio.Event()
        self._exchanging: set[NodeId] = set()
        self._counters: Counter[str] = Counter()
        self._complaints = PerSource(log, trio.current_time)
        self._unknown_key_at = -math.inf
        self._cloned_at = -math.inf
        self._unkept: int | None = None
        """A generation that is not on disk yet: a restart could use it, and its nonces, again."""
        self._keep_at = math.inf
        self._sleep = SleepWatch(clock.suspended_s())

    # --- what others use

    async def run(self) -> None:
        """Take part until cancelled (or until the socket is closed)."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                early, self._early = self._early, []
                self._carry_out(early)
                nursery.start_soon(self._send_loop)
                nursery.start_soon(self._time_loop)
                await self._receive_loop()
                nursery.cancel_scope.cancel()
            finally:
                self._nursery = None

    def subscribe(self, callback: Callable[[Change], None]) -> None:
        """Call this for every change of a member, in the order in which they happen.

        It must not raise; it may call back into the agent.
        """
        self._subscribers.append(callback)

    def members(self) -> list[MemberView]:
        """All other members that were ever heard of, by id."""
        now = trio.current_time()
        views = [view_of(member, now) for member in self._core.members]
        return sorted(views, key=lambda view: view.node)

    def member(self, node: NodeId) -> MemberView | None:
        """What is known of that member; None if nothing (or if it is this node)."""
        member = self._core.members.get(node)
        return None if member is None else view_of(member, trio.current_time())

    @property
    def word(self) -> Word:
        """The last that this node said of itself."""
        return self._core.word

    def counters(self) -> dict[str, int]:
        """Everything that is counted, for status."""
        return dict(sorted((self._core.counters + self._counters).items()))

    def problems(self) -> list[str]:
        """What a person should know, as sentences; empty: nothing."""
        found = []
        if trio.current_time() - self._cloned_at < 600:
            found.append(
                "Another machine runs with this node's identity (a copied data directory): "
                "give one of them a new one by `meshd leave`."
            )
        if self._unkept is not None:
            found.append(
                "The disk does not take this node's new generation: until it does, this node "
                "sends no datagrams, and the others find it over TCP alone."
            )
        for node in self._core.udp_blocked:
            found.append(
                f"Node {short(node)} answers over TCP but not over UDP: let UDP through to the "
                "peer port on both machines."
            )
        return found

    def admitted(self, nodes: frozenset[NodeId]) -> None:
        """The member list, at the start and whenever it changes."""
        for node in self._core.admitted - nodes:
            self._envelope.forget(node)
        self._tell(events.Admitted(nodes))

    def found(self, node: NodeId, addresses: Sequence[Address]) -> None:
        """That member may be there (mDNS, addresses kept on disk, a new connection)."""
        self._tell(events.Found(node, tuple(addresses)))

    def suspect(self, node: NodeId, reason: str) -> None:
        """A connection to that member broke: suspect it now."""
        log.debug("member suspected", node=short(node), why=reason)
        self._tell(events.Suspected(node, reason))

    def set_profile(self, profile: Profile) -> None:
        """Say this of this node from now on (load alone: when it is time)."""
        self._tell(events.ProfileChanged(profile))

    async def leave(self, timeout_s: float = LEAVE_S) -> bool:
        """Say goodbye for good; whether it was told often enough within that time."""
        self._tell(events.Leave())
        with trio.move_on_after(timeout_s):
            await self._departed.wait()
            while self._outgoing:  # sending never waits, so this is a few turns at most
                await trio.lowlevel.checkpoint()
            return True
        return False

    async def handle_push_pull(self, node: NodeId, state: bytes) -> bytes:
        """A member's half of an exchange; ours, with what its half brought about.

        Raises ProtocolError for bytes that cannot be read.
        """
        self._merge(node, state)
        await trio.lowlevel.checkpoint()
        return self._state()

    # --- the core and its directives

    def _tell(self, event: Event) -> None:
        """One event to the core, after what it has to know about sleep."""
        now = trio.current_time()
        if now >= self._keep_at:
            self._keep()
        slept = self._sleep.observe(now, self._clock.suspended_s())
        if slept is not None:
            self._carry_out(self._core.handle(slept, now))
            if isinstance(slept, events.Woke):
                log.info("woke up", slept_s=round(slept.slept_s))
                self._on_woke(slept.slept_s)
        self._carry_out(self._core.handle(event, now))
        if self._core.wake_at < self._armed_for:
            self._rearm.set()

    def _carry_out(self, directives: list[Directive]) -> None:
        """In order: a new generation is on disk before anything is sealed with it."""
        if self._nursery is None:
            self._early += directives
            return
        for directive in directives:
            if isinstance(directive, events.Send):
                self._seal(directive)
            elif isinstance(directive, Changed):
                self._changed(directive)
            elif isinstance(directive, events.TcpPing):
                self._nursery.start_soon(self._ping_by_tcp, directive)
            elif isinstance(directive, events.Exchange):
                self._nursery.start_soon(self._exchange, directive)
            elif isinstance(directive, events.Renewed):
                log.warning("generation was used before", new=directive.generation)
                self._unkept = directive.generation
                self._keep()
            elif isinstance(directive, events.Warned):
                self._warned(directive)
            else:
                self._departed.set()

    def _keep(self) -> None:
        """Have the new generation on disk, and only then in datagrams; a full disk ends nothing."""
        assert self._unkept is not None
        try:
            self._persist_generation(self._unkept)
        except OSError as error:
            if self._keep_at == math.inf:
                log.warning("generation not kept; no datagrams until it is", why=str(error))
            self._keep_at = trio.current_time() + KEEP_S
            return
        self._envelope.set_generation(self._unkept)
        self._unkept, self._keep_at = None, math.inf

    def _seal(self, send: events.Send) -> None:
        if self._unkept is not None:
            self._counters["datagrams_held_back"] += 1
            return
        datagram = self._envelope.seal(encode_packet(send.messages))
        self._outgoing.append((datagram, send.addresses))
        self._to_send.set()

    def _changed(self, change: Changed) -> None:
        member = self._core.members.get(change.node)
        view = None if member is None else view_of(member, trio.current_time())
        if change.before is not change.after:
            log.info("member", node=short(change.node), was=change.before, now=change.after)
        for callback in self._subscribers:
            callback(Change(change.node, change.before, change.after, view))

    def _warned(self, warned: events.Warned) -> None:
        if warned.trouble is Trouble.CLONED:
            self._cloned_at = trio.current_time()
        self._complaints.warning(warned.trouble.value, source=short(warned.node))

    # --- tasks

    async def _receive_loop(self) -> None:
        while True:
            try:
                datagram, address = await self._datagrams.receive()
            except StreamAborted:
                return
            try:
                sender, payload = self._envelope.open(datagram)
                packet = decode_packet(payload, max_bytes=PAYLOAD_BYTES)
            except ProtocolError as error:
                self._refused(error, address)
                continue
            self._counters["datagrams_received"] += 1
            self._counters["messages_unknown"] += packet.unknown
            self._tell(events.Received(sender, address, packet.messages))

    def _refused(self, error: ProtocolError, address: Address) -> None:
        name = error.counter if isinstance(error, EnvelopeRefused) else "datagrams_malformed"
        self._counters[name] += 1
        if isinstance(error, Replayed):
            return  # also what arrives when one datagram was sent to two addresses of a member
        self._complaints.warning("datagram refused", source=address.host, why=str(error))
        now = trio.current_time()
        if isinstance(error, UnknownKey) and now - self._unknown_key_at >= KEYRING_HINT_S:
            self._unknown_key_at = now
            self._on_unknown_key()

    async def _send_loop(self) -> None:
        while True:
            await self._to_send.wait()
            self._to_send = trio.Event()
            while self._outgoing:
                datagram, addresses = self._outgoing.popleft()
                for address in addresses:
                    self._counters["datagrams_sent"] += 1
                    await self._datagrams.send(datagram, address)

    async def _time_loop(self) -> None:
        while True:
            self._rearm = trio.Event()
            self._armed_for = min(self._core.wake_at, beat_after(trio.current_time(), POLL_S))
            with trio.move_on_at(self._armed_for) as wait:
                await self._rearm.wait()
            if wait.cancelled_caught:
                self._tell(events.Tick())

    async def _ping_by_tcp(self, ping: events.TcpPing) -> None:
        answered = False
        with trio.move_on_at(ping.deadline):
            try:
                answered = await self._tcp_ping(ping.node, ping.addresses)
            except MeshdError as error:
                log.debug("no answer over TCP", node=short(ping.node), why=str(error))
        self._tell(events.TcpPinged(ping.node, ping.sequence, answered))

    async def _exchange(self, exchange: events.Exchange) -> None:
        node = exchange.node
        if node in self._exchanging or len(self._exchanging) >= limits.GOSSIP_EXCHANGES:
            return
        self._exchanging.add(node)
        try:
            with trio.move_on_after(EXCHANGE_S):
                self._merge(node, await self._push_pull(node, self._state()))
        except MeshdError as error:
            self._counters["exchanges_failed"] += 1
            log.debug("no exchange", node=short(node), why=str(error))
        finally:
            self._exchanging.discard(node)

    def _merge(self, node: NodeId, state: bytes) -> None:
        packet = decode_packet(state, max_bytes=limits.GOSSIP_STATE_BYTES)
        self._counters["exchanges"] += 1
        self._tell(events.Merged(node, packet.messages))

    def _state(self) -> bytes:
        return encode_state(self._core.state())


def encode_state(messages: Sequence[Message]) -> bytes:
    """A packet for an exchange: all of them, or as many as `limits.GOSSIP_STATE_BYTES` allow."""
    budget_bytes = limits.GOSSIP_STATE_BYTES - PACKET_HEAD_BYTES
    encoded = []
    for message in messages:
        data = encode(message)
        budget_bytes -= len(data)
        if budget_bytes < 0:
            break
        encoded.append(data)
    return join(encoded)
