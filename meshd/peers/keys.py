"""The keys of the mesh's datagrams: kept alike at every member (trio shell).

The founder rotates when somebody is taken off the member list, and pushes; whoever slept through
it meets a datagram under a key it does not know and asks over its links (DESIGN.md, "Membership").
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from meshd import limits, logs
from meshd.errors import MeshdError, ProtocolError
from meshd.identity import GOSSIP_KEY_BYTES, Keyring
from meshd.ids import NodeId, short
from meshd.peers.links import ControlLinks
from meshd.peers.switchboard import Switchboard
from meshd.ports import Entropy
from meshd.record import MemberRegistry, RegistryChange
from meshd.wire.control import Message
from meshd.wire.control_mesh import KeyringPush, KeyringRequest

log = logs.get("keys")


class MeshKeys:
    """The current keyring, and how it changes."""

    def __init__(
        self,
        keyring: Keyring,
        registry: MemberRegistry,
        links: ControlLinks,
        switchboard: Switchboard,
        entropy: Entropy,
        *,
        rotates: bool,
        changed: Callable[[Keyring], None],
    ) -> None:
        """`rotates`: this node is the founder.

        `changed` uses a new keyring, and keeps it; it may raise OSError for the keeping alone.
        """
        self.keyring = keyring
        self._registry = registry
        self._links = links
        self._entropy = entropy
        self._rotates = rotates
        self._changed = changed
        self._counters = switchboard.counters
        self._complaints = logs.PerSource(log, trio.current_time)
        self._asked = trio.Event()
        switchboard.answer(KeyringPush, self._pushed)
        switchboard.answer(KeyringRequest, self._requested)
        switchboard.on_linked(self._linked)
        registry.subscribe(self._members_changed)

    def ask(self) -> None:
        """A datagram came under a key that is not here: somebody has a newer keyring."""
        self._asked.set()

    async def run(self) -> None:
        """Ask the linked members whenever `ask` was called."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            for node in self._links.up():
                try:
                    answer = await self._links.request(node, KeyringRequest())
                    if isinstance(answer, KeyringPush):
                        self._take(node, answer)
                except MeshdError as e:
                    log.debug("no keyring", node=short(node), why=str(e))

    def _members_changed(self, change: RegistryChange) -> None:
        if self._rotates and change.removed:
            self._use(self.keyring.rotate(self._entropy.token(GOSSIP_KEY_BYTES)))
            log.info("gossip key rotated", version=self.keyring.version)
            self._links.notify_all(self._push())

    def _linked(self, node: NodeId) -> None:
        if self._rotates:
            self._links.notify(node, self._push())

    def _push(self) -> KeyringPush:
        return KeyringPush(version=self.keyring.version, secrets=self.keyring.secrets)

    async def _pushed(self, node: NodeId, message: KeyringPush) -> Message | None:
        self._take(node, message)
        return None

    async def _requested(self, node: NodeId, message: KeyringRequest) -> Message:
        return self._push()

    def _take(self, node: NodeId, message: KeyringPush) -> None:
        if message.version <= self.keyring.version:
            return
        try:
            # It grows with each removal, and there are only so many.  Without a bound one member
            # could use up all numbers, and the founder could never take its keys away from it.
            ahead = message.version - self.keyring.version
            if ahead > limits.MEMBERS_EVER and node != self._registry.founder:
                raise ProtocolError(f"its version {message.version} is too far ahead")
            newer = Keyring.of(message.version, message.secrets)
        except ProtocolError as e:
            self._counters["keyring_refused"] += 1
            self._complaints.warning("keyring refused", short(node), why=str(e))
            return
        self._use(newer)
        log.info("gossip keyring", version=newer.version, told_by=short(node))

    def _use(self, keyring: Keyring) -> None:
        self.keyring = keyring
        try:
            self._changed(keyring)
        except OSError as e:
            # It is in use; after a restart the other members tell it again.
            log.error("the gossip keyring is not on disk", why=str(e))
