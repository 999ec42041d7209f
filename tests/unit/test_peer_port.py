"""Who is let in at the peer port, over TLS and in memory."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio
import trio.lowlevel
from cryptography import x509

from meshd.errors import DialFailed, NotAdmitted, StreamAborted, StreamBroken, WentAway
from meshd.ids import Address
from meshd.machine.network import RealNetwork
from meshd.machine.sockets import connect
from meshd.machine.tls import join_client_context, peer_contexts
from meshd.ports import Alpn, ByteStream, Credentials
from meshd.testing.network import MemoryNetwork
from tests.unit.network_worlds import World, open_world
from tests.unit.tiny_ca import TinyCa, trusting


@pytest.fixture(params=["tls", "memory peer"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with open_world(request.param) as opened:
        yield opened


@pytest.fixture
async def tls_world() -> AsyncIterator[World]:
    async with open_world("tls") as opened:
        yield opened


async def expect_refusal(world: World, *, far_text: str, near_text: str) -> None:
    """Both sides of one dial raise NotAdmitted, saying so."""

    async def accept() -> None:
        stream = await world.listener.accept()
        with pytest.raises(NotAdmitted, match=far_text):
            await world.listener.handshake(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(NotAdmitted, match=near_text):
            await world.dial()


@pytest.mark.parametrize("alpn", [Alpn.CONTROL, Alpn.HTTP])
async def test_both_sides_learn_who_the_other_is_and_what_for(world: World, alpn: Alpn) -> None:
    far_id = world.far_credentials.node
    near, far = await world.pair(lambda: world.near.dial_peer(far_id, [world.address], alpn, 10))
    assert near.remote.node == world.far_credentials.node
    assert far.remote.node == world.near_credentials.node
    assert near.remote.alpn is far.remote.alpn is alpn
    for remote, theirs in (
        (near.remote, world.far_credentials),
        (far.remote, world.near_credentials),
    ):
        certificate = x509.load_pem_x509_certificate(theirs.certificate_pem)
        assert x509.load_der_x509_certificate(remote.certificate_der) == certificate
    assert near.remote.address == world.address
    assert far.remote.address is not None


async def test_a_removed_node_is_told_so(world: World) -> None:
    world.ca.removed.add(world.near_credentials.node)
    await expect_refusal(world, far_text="removed", near_text="does not let this node in.*removed")


async def test_a_dialler_does_not_talk_to_a_removed_node(world: World) -> None:
    refusing = TinyCa.new()
    refusing.key, refusing.certificate = world.ca.key, world.ca.certificate
    refusing.mesh = world.ca.mesh
    refusing.removed = {world.far_credentials.node}
    world.near.use(trusting(world.near_credentials, refusing))

    async def accept() -> None:
        stream = await world.listener.accept()
        with suppress(StreamBroken):
            far = await world.listener.handshake(stream)
            assert await far.receive_some() == b"", "the dialler talked"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(NotAdmitted, match="removed"):
            await world.dial()


async def test_a_node_of_another_mesh_is_refused_by_whom_it_dials(world: World) -> None:
    other = TinyCa.new()
    world.near.use(trusting(other.credentials(), world.ca))
    await expect_refusal(
        world, far_text="not of this mesh", near_text="certificate|not of this mesh"
    )


async def test_a_dialler_refuses_a_node_of_another_mesh(world: World) -> None:
    world.near.use(trusting(world.near_credentials, TinyCa.new()))

    async def accept() -> None:
        stream = await world.listener.accept()
        with suppress(StreamBroken, NotAdmitted):
            (await world.listener.handshake(stream)).abort("the test is over")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(NotAdmitted, match=r"not (a member )?of this mesh"):
            await world.dial()


async def test_an_expired_certificate_still_links_since_check_peer_decides(world: World) -> None:
    world.near_credentials = world.ca.credentials(expired=True)
    world.far_credentials = world.ca.credentials(expired=True)
    world.near.use(world.near_credentials)
    world.far.use(world.far_credentials)
    near, far = await world.pair()
    assert far.remote.node == world.near_credentials.node
    assert near.remote.node == world.far_credentials.node


async def test_new_credentials_serve_the_next_handshake(world: World) -> None:
    await world.pair()
    world.near_credentials = world.ca.credentials()
    world.near.use(world.near_credentials)
    _, far = await world.pair()
    assert far.remote.node == world.near_credentials.node


async def test_somebody_else_at_that_address_is_not_who_was_meant(world: World) -> None:
    async def accept() -> None:
        stream = await world.listener.accept()
        with suppress(StreamBroken, NotAdmitted):
            (await world.listener.handshake(stream)).abort("the test is over")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(NotAdmitted, match="another member"):
            await world.near.dial_peer(
                world.near_credentials.node, [world.address], Alpn.CONTROL, 10
            )


async def test_a_stranger_gets_in_by_join_alone_and_nobody_is_proven(world: World) -> None:
    near, far = await world.pair(lambda: world.near.dial_join(world.address, 10))
    assert far.remote.alpn is near.remote.alpn is Alpn.JOIN
    assert far.remote.node is None
    assert near.remote.node is None
    assert far.remote.certificate_der == b""
    certificate = x509.load_pem_x509_certificate(world.far_credentials.certificate_pem)
    assert x509.load_der_x509_certificate(near.remote.certificate_der) == certificate
    await near.send_all(b"hello")
    assert await far.receive_some() == b"hello"


async def test_without_credentials_nobody_is_dialled_and_nobody_let_in() -> None:
    network = RealNetwork()
    listener = await network.listen_peers(0)
    assert listener.address is not None
    address = Address("127.0.0.1", listener.address.port)
    ca = TinyCa.new()
    with pytest.raises(NotAdmitted, match="in no mesh"):
        await network.dial_peer(ca.credentials().node, [address], Alpn.CONTROL, 1)

    async def accept() -> None:
        stream = await listener.accept()
        with pytest.raises(NotAdmitted, match="in no mesh"):
            await listener.handshake(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(DialFailed):
            await RealNetwork(ca.credentials()).dial_peer(
                ca.credentials().node, [address], Alpn.CONTROL, 10
            )
    await listener.aclose()


async def test_a_host_in_memory_without_credentials_lets_nobody_in() -> None:
    world = MemoryNetwork()
    near, far = world.host("near"), world.host("far")
    listener = await far.listen_peers(0)
    assert listener.address is not None
    ca = TinyCa.new()
    near.use(ca.credentials())

    async def accept() -> None:
        stream = await listener.accept()
        with pytest.raises(NotAdmitted, match="in no mesh"):
            await listener.handshake(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(NotAdmitted, match="in no mesh"):
            await near.dial_peer(ca.credentials().node, [listener.address], Alpn.CONTROL, 10)


async def test_a_dead_address_does_not_keep_a_dial_from_a_live_one(world: World) -> None:
    dead = Address("127.0.0.1" if world.kind == "tls" else world.near.interface_addresses()[0], 1)

    async def accept() -> None:
        world.streams.append(await world.listener.handshake(await world.listener.accept()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        near = await world.near.dial_peer(
            world.far_credentials.node, [dead, world.address], Alpn.CONTROL, 10
        )
    world.streams.append(near)
    assert near.remote.address == world.address


async def test_a_dial_to_no_address_fails_with_a_sentence(world: World) -> None:
    with pytest.raises(DialFailed, match="no address"):
        await world.near.dial_peer(world.far_credentials.node, [], Alpn.CONTROL, 10)


# --- what only TLS can get wrong


async def raw_tls(
    world: World, context: ssl.SSLContext, server_name: str | None
) -> tuple[BaseException | None, BaseException | None]:
    """One handshake by an own client; the errors of client and listener."""
    far_error: list[BaseException | None] = [None]
    near_error: BaseException | None = None

    async def accept() -> None:
        stream = await world.listener.accept()
        try:
            world.streams.append(await world.listener.handshake(stream))
        except (StreamBroken, NotAdmitted) as error:
            far_error[0] = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        tcp = await trio.open_tcp_stream("127.0.0.1", world.address.port)
        stream = trio.SSLStream(tcp, context, server_hostname=server_name)
        try:
            await stream.do_handshake()
            await stream.receive_some(1)
        except trio.BrokenResourceError as error:
            near_error = error.__cause__
        await trio.aclose_forcefully(stream)
    return near_error, far_error[0]


def client_context(credentials: Credentials, alpn: str) -> ssl.SSLContext:
    context = peer_contexts(credentials).member_client[Alpn.CONTROL]
    context.set_alpn_protocols([alpn])
    return context


async def test_a_member_connection_needs_a_certificate(tls_world: World) -> None:
    context = join_client_context()
    context.set_alpn_protocols(["meshd/1"])
    near, far = await raw_tls(tls_world, context, None)
    assert isinstance(far, NotAdmitted)
    assert "no certificate" in str(far)
    assert "CERTIFICATE_REQUIRED" in str(near)


@pytest.mark.parametrize("alpn", ["meshd/1", "http/1.1", "h2"])
async def test_join_speaks_nothing_but_join(tls_world: World, alpn: str) -> None:
    context = join_client_context()
    context.set_alpn_protocols([alpn])
    _, far = await raw_tls(tls_world, context, "join")
    assert isinstance(far, StreamBroken)
    assert "no protocol" in str(far)


@pytest.mark.parametrize("alpn", ["meshd-join/1", "h2"])
async def test_a_member_speaks_no_other_protocol(tls_world: World, alpn: str) -> None:
    context = client_context(tls_world.near_credentials, alpn)
    _, far = await raw_tls(tls_world, context, None)
    assert isinstance(far, StreamBroken)
    assert "no protocol" in str(far)


async def test_tls_1_2_is_not_spoken(tls_world: World) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    near, far = await raw_tls(tls_world, context, None)
    assert isinstance(far, StreamBroken)
    assert "PROTOCOL_VERSION" in str(near)


async def test_each_context_refuses_the_other_ones_name() -> None:
    """What the peeking at the ClientHello says is checked again by OpenSSL's own reading."""
    ca = TinyCa.new()
    contexts = peer_contexts(ca.credentials())
    for context, name in ((contexts.member_server, "join"), (contexts.join_server, "other")):
        client = join_client_context()
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        near = client.wrap_bio(to_client, to_server, server_hostname=name)
        far = context.wrap_bio(to_server, to_client, server_side=True)
        with pytest.raises(ssl.SSLWantReadError):
            near.do_handshake()
        with pytest.raises(ssl.SSLError, match=r"(?i)callback failed|unrecognized"):
            far.do_handshake()


def a_join() -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """A newcomer's side of a handshake, what it is told, and what it says: its hello so far."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = join_client_context().wrap_bio(to_client, to_server, server_hostname="join")
    with pytest.raises(ssl.SSLWantReadError):
        near.do_handshake()
    return near, to_client, to_server


async def test_a_client_hello_that_trickles_in_is_understood(tls_world: World) -> None:
    """Byte by byte: the peek must neither spin nor mistake a part for the whole."""
    near, to_client, to_server = a_join()
    hello = to_server.read()
    accepted: list[ByteStream] = []

    async def accept() -> None:
        stream = await tls_world.listener.accept()
        accepted.append(await tls_world.listener.handshake(stream))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        tcp = await trio.open_tcp_stream("127.0.0.1", tls_world.address.port)
        for at in range(0, len(hello), 7):
            await tcp.send_all(hello[at : at + 7])
            await trio.lowlevel.checkpoint()
        while not accepted:
            to_client.write(await tcp.receive_some())
            try:
                near.do_handshake()
            except ssl.SSLWantReadError:
                continue
            await tcp.send_all(to_server.read())
            break
    tls_world.streams += accepted
    assert accepted[0].remote.alpn is Alpn.JOIN
    await tcp.aclose()


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x02\x01\x00" + b"\0" * 40, b"\x16", b""],
    ids=["http", "malformed", "cut", "nothing"],
)
async def test_garbage_instead_of_a_handshake_ends_that_connection_alone(
    tls_world: World, garbage: bytes
) -> None:
    async def accept() -> None:
        stream = await tls_world.listener.accept()
        with pytest.raises(StreamBroken):
            await tls_world.listener.handshake(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        tcp = await trio.open_tcp_stream("127.0.0.1", tls_world.address.port)
        await tcp.send_all(garbage)
        await tcp.aclose()
    await tls_world.pair()


@pytest.mark.parametrize("said", ["nothing", "a byte", "its hello"])
async def test_who_hangs_up_before_its_handshake_is_over_went_away(
    tls_world: World, said: str
) -> None:
    """So do those who dial several addresses of one node: all but one of their connections."""
    hello = a_join()[2].read()[: {"nothing": 0, "a byte": 1}.get(said)]
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            stream = await tls_world.listener.accept()
            with pytest.raises(WentAway):
                await tls_world.listener.handshake(stream)

        nursery.start_soon(accept)
        tcp = await trio.open_tcp_stream("127.0.0.1", tls_world.address.port)
        await tcp.send_all(hello)
        await tcp.aclose()


async def test_a_stranger_who_says_nothing_is_ended_by_an_abort(tls_world: World) -> None:
    async with trio.open_nursery() as nursery:
        sock = await connect(tls_world.address, peer=False)
        stream = await tls_world.listener.accept()

        async def handshake() -> None:
            with pytest.raises(StreamAborted, match="took too long"):
                await tls_world.listener.handshake(stream)

        nursery.start_soon(handshake)
        await trio.testing.wait_all_tasks_blocked()
        stream.abort("the handshake took too long")
    sock.close()


async def test_the_private_key_is_not_in_the_repr_of_credentials() -> None:
    credentials = TinyCa.new().credentials()
    assert "PRIVATE" not in repr(credentials)
