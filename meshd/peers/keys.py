"""The keys of the mesh's datagrams: kept alike at every member (trio shell).

Which key is the newest is in the record, by number and id; the key itself only members hand to each
other.  Whoever proposes a new one, with a removal, hands it out as soon as the record has named it.
Who lacks it asks over its links: since the record says that there is a newer one, or since a
datagram came under a key that is not here.  If its author died with it,
the leader finds nobody who has it, and makes another.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from meshd import limits, logs
from meshd.errors import MeshdError, ProtocolError, Refused
from meshd.identity import GOSSIP_KEY_BYTES, GossipKey, Keyring
from meshd.ids import NodeId, short
from meshd.peers.links import ControlLinks
from meshd.peers.mesh_record import MeshRecord
from meshd.peers.switchboard import Switchboard
from meshd.ports import Entropy
from meshd.record import MemberRegistry, RegistryChange
from meshd.record.commands_registry import RotateKeyring
from meshd.wire.control import Message
from meshd.wire.control_mesh import KeyringPush, KeyringRequest

log = logs.get("keys")

ASK_AGAIN_S = 2.0
"""Between two rounds of questions for a key that the record names and that is not here."""
ANSWER_S = 2.0
"""Who takes longer to answer such a question is passed over in this round."""
LOST_S = 10.0
"""A key that nobody has handed out for so long, and that nobody linked has, is made anew."""
MADE_MAX = 8
"""Keys that were made here and that the record has not named: proposals whose end is unknown."""


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
        changed: Callable[[Keyring], None],
    ) -> None:
        """`changed` uses a new keyring, and keeps it: it may raise OSError for that alone."""
        self.keyring = keyring
        self._registry = registry
        self._links = links
        self._entropy = entropy
        self._changed = changed
        self._record: MeshRecord | None = None
        self._named: tuple[int, int] | None = None
        """The newest that the record names: its number, the id of its primary key."""
        self._lacking_since = math.inf
        self._made: dict[int, bytes] = {}
        """Secrets of keys that were made here and may be named, by their ids."""
        self._early: tuple[NodeId, KeyringPush] | None = None
        """What came before the member list that it goes with."""
        self._counters = switchboard.counters
        self._complaints = logs.PerSource(log, trio.current_time)
        self._asked = trio.Event()
        switchboard.answer(KeyringPush, self._pushed)
        switchboard.answer(KeyringRequest, self._requested)
        switchboard.on_linked(self._linked)
        registry.subscribe(self._members_changed)

    def use_record(self, record: MeshRecord) -> None:
        """Where a key that is lost can be replaced."""
        self._record = record

    def make(self) -> int:
        """Make a new key; its id, for a command.  It is used once the record has named it."""
        secret = self._entropy.token(GOSSIP_KEY_BYTES)
        key_id = GossipKey.of(secret).id
        self._made[key_id] = secret
        if len(self._made) > MADE_MAX:
            del self._made[next(iter(self._made))]
        return key_id

    def named(self, generation: int, key_id: int) -> None:
        """The record, as it is applied here, says that this is the newest key.

        To be called when whoever was removed with it has been cut off.
        """
        if self._named is not None and generation <= self._named[0]:
            return  # nothing new, or a record that is being opened anew
        self._named = (generation, key_id)
        secret = self._made.get(key_id)
        if secret is not None:
            self._made.clear()
            self._use(self.keyring.rotate(secret, generation))
            log.info("gossip key rotated", version=generation)
            self._links.notify_all(self._push())
        self._look()

    def ask(self) -> None:
        """A datagram came under a key that is not here: somebody has a newer keyring."""
        self._asked.set()

    async def run(self) -> None:
        """Ask the linked members whenever `ask` was called, and while a key is lacking."""
        while True:
            with trio.move_on_after(ASK_AGAIN_S if self.lacking else math.inf):
                await self._asked.wait()
            self._asked = trio.Event()
            await self._ask_around()
            if trio.current_time() - self._lacking_since >= LOST_S:
                await self._replace()

    @property
    def lacking(self) -> bool:
        """Whether the record names a key that is not here."""
        return self._named is not None and not self._is_named(self.keyring)

    # ---------------------------------------------------------------- inside

    def _is_named(self, keyring: Keyring) -> bool:
        return (keyring.version, keyring.primary.id) == self._named

    def _look(self) -> None:
        """Note since when a key is lacking; ask for it if one is."""
        if not self.lacking:
            self._lacking_since = math.inf
        elif self._lacking_since == math.inf:
            self._lacking_since = trio.current_time()
            self._asked.set()

    async def _ask_around(self) -> None:
        before = self.keyring
        for node in self._links.up():
            try:
                answer = await self._links.request(node, KeyringRequest(), ANSWER_S)
            except MeshdError as e:
                log.debug("no keyring", node=short(node), why=str(e))
                continue
            if isinstance(answer, KeyringPush):
                self._take(node, answer)
            if self.keyring is not before and not self.lacking:
                return

    async def _replace(self) -> None:
        """At the leader: nobody that can be reached has the key that the record names."""
        record, named = self._record, self._named
        if record is None or named is None or not self.lacking or not record.leads():
            return
        log.warning("the newest gossip key is lost; making another", version=named[0] + 1)
        command = RotateKeyring(gossip_key=self.make(), generation=named[0] + 1)
        try:
            await record.execute(command)
        except MeshdError as e:
            log.info("the gossip key could not be replaced yet", why=str(e))

    def _linked(self, node: NodeId) -> None:
        if self.lacking:
            self._asked.set()

    def _members_changed(self, change: RegistryChange) -> None:
        early, self._early = self._early, None
        if early is not None and self._registry.get(early[0]) is not None:
            self._take(*early)

    def _push(self) -> KeyringPush:
        return KeyringPush(
            version=self.keyring.version,
            secrets=self.keyring.secrets,
            members_version=self._registry.version,
        )

    async def _pushed(self, node: NodeId, message: KeyringPush) -> Message | None:
        self._take(node, message)
        return None

    async def _requested(self, node: NodeId, message: KeyringRequest) -> Message:
        if self._registry.get(node) is None:  # it may be let in, and not be on the list here yet
            raise Refused("the keys of datagrams are for members")
        return self._push()

    def _take(self, node: NodeId, message: KeyringPush) -> None:
        try:
            newer = Keyring.of(message.version, message.secrets)
            if not self._is_wanted(newer):
                return
            # Its number grows with each removal, and there are only so many.  Without a bound one
            # member could use them up, and leave the record's own behind.
            if newer.version - self.keyring.version > limits.MEMBERS_EVER:
                raise ProtocolError(f"its version {message.version} is too far ahead")
        except ProtocolError as e:
            self._counters["keyring_refused"] += 1
            self._complaints.warning("keyring refused", short(node), why=str(e))
            return
        if message.members_version > self._registry.version:
            # Who has the new keys knows who must not get them: this node does not, yet.
            self._early = (node, message)
            return
        self._use(newer)
        self._look()
        log.info("gossip keyring", version=newer.version, told_by=short(node))

    def _is_wanted(self, newer: Keyring) -> bool:
        """What the record names goes before all else; beyond that the higher version wins."""
        if self._named is not None:
            if self._is_named(newer):
                return self.lacking
            if newer.version == self._named[0]:
                return False
        return newer.version > self.keyring.version

    def _use(self, keyring: Keyring) -> None:
        self.keyring = keyring
        try:
            self._changed(keyring)
        except OSError as e:
            # It is in use; after a restart the other members tell it again.
            log.error("the gossip keyring is not on disk", why=str(e))
