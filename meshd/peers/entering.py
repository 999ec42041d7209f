"""How a node comes to be in a mesh: it founds one, is in one already, or joins one (trio shell).

Runs once, before anything of the node does.  What it returns is on disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from meshd import limits
from meshd.errors import DialFailed, ProtocolError, Refused
from meshd.identity import (
    GOSSIP_KEY_BYTES,
    KEY_SEED_BYTES,
    SERIAL_BYTES,
    Authority,
    IdentityStore,
    Keyring,
    MeshIdentity,
    PrivateKey,
    Token,
    parse_token,
    show_digits,
)
from meshd.ids import Address, NodeId, parse_address
from meshd.peers.join_client import (
    Joined,
    Newcomer,
    PairingOffer,
    join_by_pairing,
    join_with_token,
)
from meshd.ports import Ports
from meshd.record import MemberRegistry, SignedMembers, clean_name, first_list, sign
from meshd.screen import Screen, SightedMesh

TO_COME_BACK: Final = (
    "To let this machine in again, start it with a fresh data directory (--data-dir) and --join."
)

Browse = Callable[[], Awaitable[Sequence[SightedMesh]]]
"""Look around by mDNS for a few seconds."""
Reached = tuple[NodeId, Address]
"""A member, and where it answered."""


@dataclass(slots=True)
class Standing:
    """Who a node is, once it is in a mesh.  Its identity changes with each renewed certificate."""

    key: PrivateKey
    identity: MeshIdentity
    registry: MemberRegistry
    generation: int
    store: IdentityStore
    reached: Reached | None = None
    """The member that let us in just now, and where."""


class Entrance:
    """The way into a mesh for the node on one data directory."""

    def __init__(
        self,
        ports: Ports,
        data_dir: PurePath,
        screen: Screen,
        *,
        name: str,
        addresses: Sequence[Address],
        browse: Browse,
    ) -> None:
        """`name` is what this machine would like to be called; `addresses` where it listens."""
        self._ports = ports
        self._store = IdentityStore(ports.disk, data_dir)
        self._screen = screen
        self._name = name
        self._addresses = addresses
        self._browse = browse

    async def enter(self, join: str, token_text: str) -> Standing:
        """Found a mesh, go on in the one this node is in, or join one.

        `join` is HOST[:PORT], "auto" or empty.  Raises Refused (JoinRefused with a reason),
        DialFailed, NotAdmitted, TokenUnreadable, StoreDamaged or OSError, each with a sentence.
        """
        token = parse_token(token_text) if token_text and join else None
        key = self._store.load_key()
        identity = self._store.load_mesh(key) if key is not None else None
        if key is None:
            key = PrivateKey.from_random(self._ports.entropy.token(KEY_SEED_BYTES))
            self._store.save_key(key)
        reached: Reached | None = None
        if identity is None:
            if join:
                reached = await self._join(key, join, token)
            else:
                self._found(key)
        elif join:
            reached = await self._join_again(key, identity, join, token)
        return self._standing(key, reached)

    # ---------------------------------------------------------------- founding

    def _found(self, key: PrivateKey) -> None:
        entropy, now_unix_s = self._ports.entropy, self._ports.clock.wall()
        authority = Authority.found(
            seed=entropy.token(KEY_SEED_BYTES),
            serial=entropy.token(SERIAL_BYTES),
            now_unix_s=now_unix_s,
        )
        members = first_list(
            authority.mesh,
            self._name,
            key.public,
            name=self._name,
            addresses=self._addresses,
            now_unix_s=now_unix_s,
        )
        certificate = authority.issue(
            key.public, serial=entropy.token(SERIAL_BYTES), now_unix_s=now_unix_s
        )
        identity = MeshIdentity(
            name=members.members[0].name,
            mesh_name=members.mesh_name,
            certificate_der=certificate,
            ca_certificate_der=authority.certificate_der,
            keyring=Keyring.generate(entropy.token(GOSSIP_KEY_BYTES)),
            authority=authority,
            founder=True,
        )
        signed = sign(members, authority.key)
        self._store.save_mesh(identity, signed.to_bytes())
        self._screen.founded(
            name=identity.name,
            mesh=identity.mesh_name,
            join_addresses=[str(address) for address in self._addresses],
        )

    # ---------------------------------------------------------------- joining

    async def _join_again(
        self, key: PrivateKey, identity: MeshIdentity, join: str, token: Token | None
    ) -> Reached | None:
        """`--join` at a node that is in a mesh: fine from a mesh of one, else only if the same."""
        if token is not None and token.ca in (identity.ca.id, identity.mesh):
            self._screen.warning(f"this node is in {identity.mesh_name} already; going on")
            return None
        registry = self._registry(identity)
        ever_shared = len(registry.members()) > 1 or bool(registry.current.removed)
        if identity.founder and not ever_shared:
            return await self._join(key, join, token)
        destroy = " --destroy-mesh" if len(registry.members()) == 1 else ""
        if token is None and join != "auto":
            number = len(registry.members())
            self._screen.warning(
                f"--join {join} is ignored: this node is in mesh {identity.mesh_name} with "
                f"{number} {'member' if number == 1 else 'members'}, and goes on in it. To join "
                f"another, run `meshd leave{destroy}` first"
            )
            return None
        raise Refused(
            f"this node is a member of {identity.mesh_name}. To join another mesh, start it, run "
            f"`meshd leave{destroy}`, and start it again with --join."
        )

    async def _join(self, key: PrivateKey, join: str, token: Token | None) -> Reached:
        addresses = await self._find(join, token)
        if token is None and not self._screen.can_ask:
            raise Refused(
                "joining without a token asks a person to compare digits, and there is no "
                "terminal here: make a token with `meshd token create` on a member, put it into "
                "a file, and add --token-file FILE"
            )
        for address in addresses[:-1]:
            try:
                return await self._join_at(address, key, token)
            except DialFailed as e:
                self._screen.warning(f"{str(e).rstrip('.')}; trying another member")
        return await self._join_at(addresses[-1], key, token)

    async def _join_at(self, address: Address, key: PrivateKey, token: Token | None) -> Reached:
        """Join through the member there."""
        self._screen.joining(address=str(address), with_token=token is not None)
        newcomer = Newcomer(key, self._name, list(self._addresses))
        network, entropy = self._ports.network, self._ports.entropy
        if token is not None:
            joined = await join_with_token(network, entropy, address, token, newcomer)
        else:
            joined = await join_by_pairing(
                network, entropy, address, newcomer, self._confirm, self._wait
            )
        self._save(joined)
        return joined.member, address

    async def _confirm(self, offer: PairingOffer) -> bool:
        return await self._screen.confirm_digits(
            digits=show_digits(offer.digits), name=offer.mesh_name, address=str(offer.host)
        )

    def _wait(self, offer: PairingOffer) -> None:
        self._screen.waiting_for_approval(digits=show_digits(offer.digits))

    def _save(self, joined: Joined) -> None:
        self._store.save_mesh(joined.identity, joined.members.to_bytes())
        registry = MemberRegistry(joined.identity.ca, joined.members)
        wanted = clean_name(self._name)
        self._screen.joined(
            name=joined.identity.name,
            mesh=joined.identity.mesh_name,
            members=[member.name for member in registry.members()],
            wanted=wanted if wanted != joined.identity.name else "",
        )

    async def _find(self, join: str, token: Token | None) -> list[Address]:
        """Where to knock: any of them will do.  Not empty."""
        if join != "auto":
            try:
                return [parse_address(join, limits.PEER_PORT)]
            except ValueError as e:
                raise Refused(f"--join: {e}") from None
        sighted = await self._browse()
        if token is not None:
            sighted = [mesh for mesh in sighted if token.ca in (mesh.ca, mesh.mesh)]
        if not sighted:
            raise Refused(
                "no mesh is in sight: start meshd on the other machine first, or name it with "
                "--join HOST"
            )
        if len({mesh.mesh for mesh in sighted}) > 1:
            self._screen.meshes_in_sight(sighted, choose=True)
            raise Refused("which mesh is meant? Name one of its members with --join HOST")
        return [parse_address(mesh.address, limits.PEER_PORT) for mesh in sighted]

    # ---------------------------------------------------------------- standing

    def _standing(self, key: PrivateKey, reached: Reached | None) -> Standing:
        identity = self._store.load_mesh(key)
        assert identity is not None, "whoever entered is in a mesh"
        registry = self._registry(identity)
        if registry.is_removed(key.public.node):
            raise Refused(f"this node was removed from mesh {identity.mesh_name}. {TO_COME_BACK}")
        return Standing(
            key=key,
            identity=identity,
            registry=registry,
            generation=self._store.next_generation(self._ports.clock.wall()),
            store=self._store,
            reached=reached,
        )

    def _registry(self, identity: MeshIdentity) -> MemberRegistry:
        """The member list on disk, and where newer ones are kept.  Raises StoreDamaged."""
        store, mesh = self._store, identity.mesh
        try:
            return MemberRegistry(
                identity.ca,
                SignedMembers.from_bytes(store.load_members(mesh)),
                former=identity.former_keys(),
                applied=store.load_applied(mesh),
                persist=lambda signed: store.save_members(mesh, signed.to_bytes()),
                persist_applied=lambda body: store.save_applied(mesh, body),
            )
        except ProtocolError as e:
            raise store.members_damaged(mesh, e) from None
