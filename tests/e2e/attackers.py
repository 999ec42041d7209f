"""Who attacks the daemons of the end-to-end tests: strangers with sockets, members gone bad."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path, PurePath

import httpx
import psutil
import trio

from meshd import __version__
from meshd.errors import StreamBroken
from meshd.identity import IdentityStore, MeshIdentity, PrivateKey, check_peer, to_pem
from meshd.ids import Address, NodeId
from meshd.machine.disk import FileDisk
from meshd.machine.network import RealNetwork
from meshd.ports import Alpn, ByteStream, Credentials
from meshd.record import MemberRegistry, SignedMembers
from meshd.testing.daemons import Daemon
from meshd.wire import gossip
from meshd.wire.control import Hello, Message, PushPull
from meshd.wire.envelope import Envelope
from tests.control_link import Raw

ANSWER_S = 20.0
CLIENT = httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0))
"""Making one takes a while (certificates that nobody needs here)."""


# ---------------------------------------------------------------- strangers with sockets


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].strip("/"))


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
    sock.settimeout(ANSWER_S)
    return sock


def read_to_end(sock: socket.socket) -> bytes:
    """All that the other side says before it closes.  Fails if it does not close."""
    data = b""
    with suppress(ConnectionResetError, ssl.SSLError):
        while piece := sock.recv(65536):
            data += piece
    return data


def talk(port: int, data: bytes, *, then_end: bool = False) -> bytes:
    """Send bytes; what comes back until the other side closes."""
    with connect(port) as sock:
        with suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
            if then_end:
                sock.shutdown(socket.SHUT_WR)
        return read_to_end(sock)


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an HTTP answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    return int(lines[0].split(" ")[1]), headers, body


def tls(
    port: int,
    *,
    alpn: list[str],
    sni: str | None = None,
    chain: Path | None = None,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLSocket:
    """A TLS connection that believes everyone.  Raises OSError if the handshake fails."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    if alpn:
        context.set_alpn_protocols(alpn)
    if chain is not None:
        context.load_cert_chain(chain)
    return context.wrap_socket(connect(port), server_hostname=sni)


# ---------------------------------------------------------------- what must go on


def ask(daemon: Daemon, model: str = "m") -> str:
    """A normal request; its answer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 4,
        "temperature": 0,
    }
    answer = CLIENT.post(f"{daemon.api_url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def count(daemon: Daemon, *names: str) -> int:
    """The sum of some counters of its status."""
    counters = daemon.status().counters
    return sum(counters.get(name, 0) for name in names)


def rss_bytes(daemon: Daemon) -> int:
    assert daemon.process is not None
    size: int = psutil.Process(daemon.process.pid).memory_info().rss
    return size


def log_lines(daemon: Daemon) -> list[str]:
    return (daemon.folder / "daemon.log").read_text(errors="replace").splitlines()


# ---------------------------------------------------------------- a member gone bad


class Impostor:
    """A member's keys, taken from the data directory of a daemon that does not run."""

    def __init__(self, folder: Path) -> None:
        store = IdentityStore(FileDisk(), PurePath(folder))
        key = store.load_key()
        assert key is not None
        identity = store.load_mesh(key)
        assert identity is not None
        self.key: PrivateKey = key
        self.identity: MeshIdentity = identity
        members = SignedMembers.from_bytes(store.load_members(identity.mesh))
        self.registry = MemberRegistry(identity.ca, members)
        self.generation = store.next_generation(0)
        self.network = RealNetwork()
        self.network.use(self.credentials())

    @property
    def node(self) -> NodeId:
        return self.key.public.node

    def credentials(self) -> Credentials:
        return Credentials(
            node=self.node,
            mesh=self.identity.mesh,
            certificate_pem=to_pem(self.identity.certificate_der),
            private_key_pem=self.key.pem(),
            ca_pem=to_pem(self.identity.ca_certificate_der),
            check_peer=lambda der: check_peer(
                der,
                mesh=self.identity.mesh,
                ca_public_key=self.identity.ca,
                registered=self.registry.key_hash_of,
                removed=self.registry.is_removed,
                now_unix_s=0,
            ),
        )

    def chain(self, path: Path) -> Path:
        """Key and certificate in one file, for the `ssl` module."""
        path.write_bytes(self.key.pem() + b"\n" + to_pem(self.identity.certificate_der))
        return path

    def hello(self) -> Hello:
        return Hello(
            protocol_min=1,
            protocol_max=1,
            version=__version__,
            node=self.node,
            generation=self.generation,
            mesh=self.identity.mesh,
            name=self.identity.name,
            members_version=self.registry.version,
        )

    def word(self, *addresses: Address, incarnation: int = 0) -> gossip.Word:
        """What this node says of itself: that it lives at these addresses."""
        return gossip.make_word(
            self.node,
            (self.generation, incarnation),
            gossip.WordKind.ALIVE,
            gossip.Profile(self.identity.name, addresses),
            lambda payload: self.key.sign(gossip.WORD_CONTEXT, payload),
        )

    def envelope(self, generation: int | None = None) -> Envelope:
        ring = self.identity.keyring
        return Envelope(
            self.identity.mesh,
            self.node,
            generation or self.generation,
            {key.id: key.secret for key in ring.keys},
            ring.primary.id,
            known=lambda node: True,
        )

    @asynccontextmanager
    async def stream(self, daemon: Daemon, alpn: Alpn) -> AsyncIterator[ByteStream]:
        """A connection that is let in."""
        node = NodeId(daemon.status().node.id)
        address = Address("127.0.0.1", port_of(daemon.peer_address))
        stream = await self.network.dial_peer(node, [address], alpn, 5)
        try:
            yield stream
        finally:
            stream.abort("the attack is over")

    @asynccontextmanager
    async def link(self, daemon: Daemon) -> AsyncIterator[BadLink]:
        """A control link that is up."""
        async with self.stream(daemon, Alpn.CONTROL) as stream:
            link = BadLink(stream)
            await link.say(self.hello())
            assert isinstance((await link.hear())[0], Hello)
            yield link

    async def announce(self, daemon: Daemon, *addresses: Address, incarnation: int = 0) -> None:
        """Have that daemon believe, and tell everybody, that this node is at these addresses."""
        async with self.link(daemon) as link:
            state = gossip.encode_packet([self.word(*addresses, incarnation=incarnation)])
            await link.say(PushPull(state=state), 1)
            await link.hear()


class BadLink(Raw):
    """The same with a real daemon, which answers in time."""

    async def hear(self) -> tuple[Message, int]:
        with trio.fail_after(ANSWER_S):
            return await super().hear()


async def ended(stream: ByteStream) -> bool:
    """Whether the other side closes it, whatever it still says."""
    with trio.fail_after(ANSWER_S), suppress(StreamBroken):
        while await stream.receive_some():
            pass
    return True


def as_json(body: bytes) -> dict[str, object]:
    value = json.loads(body)
    assert isinstance(value, dict)
    return value
