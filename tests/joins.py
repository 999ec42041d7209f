"""A small world for the tests of joins: a mesh, its founder, newcomers, streams in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, cast

import trio
import trio.testing

from meshd import limits
from meshd.errors import DialFailed, StreamAborted, StreamBroken
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
    new_token,
)
from meshd.ids import Address, NodeId
from meshd.peers.admission import AdmissionDesk, Admitter
from meshd.peers.join_client import Newcomer
from meshd.peers.join_server import JoinServer, Waiting
from meshd.ports import Alpn, ByteStream, Network, Remote
from meshd.record import MemberList, MemberRegistry, SignedMembers, first_list, member_list, sign
from meshd.record.commands_registry import CreateToken, Found, Remove
from meshd.record.takeover import fields_of
from meshd.testing.clock import SimClock
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from meshd.wire.join import Admitted, JoinRefusal, JoinRequest
from tests.records import SharedRecord

NOW_UNIX_S = 1_780_000_000.0
HOST = Address("192.168.7.1", limits.PEER_PORT)
CLIENT = Address("192.168.7.9", 50123)


def make_key(seed: int | str) -> PrivateKey:
    return PrivateKey.from_random(SeededEntropy(f"key {seed}").token(KEY_SEED_BYTES))


def make_authority(seed: int | str = 0) -> Authority:
    entropy = SeededEntropy(f"authority {seed}")
    return Authority.found(
        seed=entropy.token(KEY_SEED_BYTES),
        serial=entropy.token(SERIAL_BYTES),
        now_unix_s=NOW_UNIX_S,
    )


class MemoryStream:
    """`ports.ByteStream` over one end of a trio memory pipe."""

    def __init__(self, pipe: trio.StapledStream[Any, Any], remote: Remote) -> None:
        self._pipe = pipe
        self.remote = remote
        self.aborted: str | None = None
        self.sent = bytearray()
        self.pieces: int | None = None
        """Deliver at most so many bytes at once."""

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        self._check()
        try:
            data = await self._pipe.receive_some(min(max_bytes, self.pieces or max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._check()
            raise StreamBroken("reset") from error
        return bytes(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._check()
        self.sent += data
        try:
            await self._pipe.send_all(bytes(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._check()
            raise StreamBroken("reset") from error

    def send_nowait(self, data: bytes) -> bool:
        return False

    def abort(self, reason: str) -> None:
        self.aborted = self.aborted or reason
        self._pipe.send_stream.close()
        self._pipe.receive_stream.close()

    async def aclose(self) -> None:
        await self._pipe.aclose()

    def _check(self) -> None:
        if self.aborted is not None:
            raise StreamAborted(self.aborted)


def stream_pair(
    server_certificate: bytes, client: Address = CLIENT
) -> tuple[MemoryStream, MemoryStream]:
    """Both ends of a join connection: the newcomer's, the member's."""
    a, b = trio.testing.memory_stream_pair()
    return (
        MemoryStream(a, Remote(HOST, alpn=Alpn.JOIN, certificate_der=server_certificate)),
        MemoryStream(b, Remote(client, alpn=Alpn.JOIN)),
    )


@dataclass
class JoinNetwork:
    """The one method of `ports.Network` that a newcomer uses."""

    nursery: trio.Nursery
    serve: Callable[[MemoryStream], Any]
    certificate: Callable[[], bytes]
    address: Address = CLIENT
    tap: Callable[[MemoryStream], None] = lambda stream: None
    dialled: list[MemoryStream] = field(default_factory=list)

    async def dial_join(self, address: Address, timeout_s: float) -> ByteStream:
        if address != HOST:
            raise DialFailed(f"nobody listens on {address}")
        ours, theirs = stream_pair(self.certificate(), self.address)
        self.tap(ours)
        self.dialled.append(ours)

        async def serve() -> None:
            try:
                await self.serve(theirs)
            finally:
                theirs.abort("the visit is over")

        self.nursery.start_soon(serve)
        return cast(ByteStream, ours)

    @property
    def network(self) -> Network:
        return cast(Network, self)


class Mesh:
    """A mesh with its founder, whose join server answers at HOST."""

    def __init__(self, seed: int | str = 0) -> None:
        self.entropy = SeededEntropy(f"mesh {seed}")
        self.clock = SimClock(wall_unix_s=NOW_UNIX_S)
        self.authority = make_authority(seed)
        self.key = make_key(f"founder {seed}")
        certificate = self.authority.issue(
            self.key.public, serial=bytes(SERIAL_BYTES), now_unix_s=NOW_UNIX_S
        )
        self.identity = MeshIdentity(
            name="attic",
            mesh_name="home",
            certificate_der=certificate,
            ca_certificate_der=self.authority.certificate_der,
            keyring=Keyring.generate(self.entropy.token(GOSSIP_KEY_BYTES)),
            authority=self.authority,
            founder=True,
        )
        self.disk = MemoryDisk()
        self.store = IdentityStore(self.disk, PurePosixPath("/data"))
        members = first_list(
            self.authority.mesh,
            "home",
            self.key.public,
            name="attic",
            addresses=[HOST],
            now_unix_s=NOW_UNIX_S,
        )
        first = sign(members, self.authority.key)
        self.store.save_key(self.key)
        self.store.save_mesh(self.identity, first.to_bytes())
        self.registry = MemberRegistry(
            self.authority.public,
            first,
            persist=lambda signed: self.store.save_members(self.authority.mesh, signed.to_bytes()),
        )
        self.shared = SharedRecord(found_of(self.authority, members, self.identity.keyring))
        self.record = self.shared.member(self.key.public.node)
        self.desk = AdmissionDesk(
            authority=lambda: self.identity.authority,
            registry=self.registry,
            sign=self._sign,
            record=self.record,
            keyring=lambda: self.identity.keyring,
            clock=self.clock,
            entropy=self.entropy,
        )
        self.shown: list[Waiting] = []
        self.somebody_waits = trio.Event()
        self.server = self.make_server(lambda: self)
        self.endings: list[BaseException | None] = []

    def _sign(self, members: MemberList) -> SignedMembers:
        self.registry.apply(members)
        self.registry.sign(self.authority.key)
        return self.registry.signed

    async def admit(self, request: JoinRequest) -> Admitted | JoinRefusal:
        """As the founder's own door has it decided."""
        return await self.desk.admit(request, self.key.public.node)

    def make_server(self, admitter: Callable[[], Admitter]) -> JoinServer:
        return JoinServer(
            identity=lambda: self.identity,
            admitter=admitter,
            entropy=self.entropy,
            on_waiting=self._waits,
        )

    def _waits(self, waiting: Waiting) -> None:
        self.shown.append(waiting)
        self.somebody_waits.set()

    async def serve(self, stream: MemoryStream) -> None:
        """As the mesh port does: whatever a join ends with is noted, and ends nothing else."""
        try:
            await self.server.serve(cast(ByteStream, stream))
            self.endings.append(None)
        except Exception as error:
            self.endings.append(error)

    def network(self, nursery: trio.Nursery, **kwargs: Any) -> JoinNetwork:
        return JoinNetwork(nursery, self.serve, lambda: self.identity.certificate_der, **kwargs)

    def token(self, *, ttl_s: float = 3600.0, uses: int = 1) -> Token:
        token = new_token(self.authority.mesh, self.entropy.token(5), self.entropy.token(16))
        ttl_ms = int(ttl_s * 1000)
        self.record.commit(CreateToken(id=token.id, key=token.key, ttl_ms=ttl_ms, uses=uses))
        return token

    def remove(self, node: NodeId) -> None:
        """That member is out."""
        self.record.commit(Remove(node=node, gossip_key=7))
        self._sign(member_list(self.record.state))

    def pass_time(self, seconds: float) -> None:
        """By all clocks, the record's among them."""
        self.clock.jump_wall(seconds)
        self.shared.tick(int(self.clock.wall() * 1000))

    def snapshot(self) -> object:
        """Everything that a refused join must leave as it was."""
        nodes = self.record.state.nodes.rows()
        tokens = self.record.state.tokens.rows()
        return (self.registry.signed.body, nodes, tokens, dict(self.disk.files))

    @property
    def names(self) -> list[str]:
        return sorted(member.name for member in self.registry.members())


def found_of(authority: Authority, members: MemberList, keyring: Keyring) -> Found:
    """The first command of that mesh's record."""
    return Found(
        mesh=authority.mesh,
        mesh_name=members.mesh_name,
        ca_key=authority.public.der,
        node=fields_of(members.members[0]),
        unix_ms=int(NOW_UNIX_S * 1000),
        gossip_key=keyring.primary.id,
        keyring_generation=keyring.version,
        registry_version=members.version - 1,  # founding counts
    )


def newcomer(seed: int | str = 1, name: str = "laptop") -> Newcomer:
    return Newcomer(make_key(f"newcomer {seed}"), name, [Address("192.168.7.9", 11436)])


async def closed(stream: MemoryStream) -> bool:
    """Whether the other side has ended the stream (everything before that is read away)."""
    with suppress(StreamBroken):
        while await stream.receive_some():
            pass
    return True


def node_of(who: Newcomer) -> NodeId:
    return who.key.public.node
