"""Strangers on the mesh port: at the door, with joins, with datagrams."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from meshd import limits
from meshd.ids import Address
from meshd.testing.daemons import Daemon
from meshd.wire import gossip
from meshd.wire.framing import frame
from meshd.wire.join import JoinHello, JoinRefusal, Reason, decode_join, encode_join
from tests.e2e.attackers import Impostor, ask, count, log_lines, port_of, read_to_end, talk, tls
from tests.e2e.hostile.victims import Victims, counts

# --- mesh port, strangers


HELLO_CUT = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)
KNOCKS: dict[str, Callable[[Victims], object]] = {
    "random bytes": lambda m: talk(m.peer_port, os.urandom(3000)),
    "HTTP": lambda m: talk(m.peer_port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "nothing": lambda m: talk(m.peer_port, b"", then_end=True),
    "a hello cut short": lambda m: talk(m.peer_port, HELLO_CUT, then_end=True),
    "a hello of no end": lambda m: talk(m.peer_port, b"\x16\x03\x01\xff\xff" + bytes(70_000)),
    "no certificate": lambda m: handshake(m, ["meshd/1"]),
    "no certificate, forwarding": lambda m: handshake(m, ["http/1.1"]),
    "another mesh's certificate": lambda m: handshake(m, ["meshd/1"], m.other),
    "a member's certificate, unknown ALPN": lambda m: handshake(m, ["h2"], m.b),
    "a member's certificate, no ALPN": lambda m: handshake(m, [], m.b),
    "TLS 1.2": lambda m: handshake(m, ["meshd/1"], m.b, newest=ssl.TLSVersion.TLSv1_2),
    "a member's ALPN at the newcomers' door": lambda m: handshake(m, ["meshd/1"], sni="join"),
    "the newcomers' ALPN at the members' door": lambda m: handshake(m, ["meshd-join/1"]),
}


def handshake(
    mesh: Victims,
    alpn: list[str],
    who: Impostor | None = None,
    *,
    sni: str | None = None,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> None:
    """A handshake that must not get as far as a welcome."""
    chain = who.chain(mesh.folder / f"{who.node}.pem") if who else None
    said = b""
    with (
        suppress(OSError),
        tls(mesh.peer_port, alpn=alpn, chain=chain, sni=sni, newest=newest) as sock,
    ):
        said = read_to_end(sock)
    assert said[:1] != b"\x01", "it was let in"


@pytest.mark.parametrize("knock", KNOCKS)
def test_whoever_is_no_member_is_not_let_in_and_is_counted(mesh: Victims, knock: str) -> None:
    assert counts(mesh.a, lambda: KNOCKS[knock](mesh), "peer_refused") == 1


# --- newcomers' door


def join_talk(mesh: Victims, data: bytes) -> JoinRefusal:
    """What the door says to that; asked again while it says that this address asks too often."""
    for _ in range(100):
        with tls(mesh.peer_port, alpn=["meshd-join/1"], sni="join") as sock:
            sock.sendall(data)
            said = decode_join(sock.recv(65536)[4:])
        assert isinstance(said, JoinRefusal), said
        if said.known_reason is not Reason.BUSY:
            return said
        time.sleep(said.retry_after_ms / 1000)  # as it asks
    raise AssertionError("the door is busy for ever")


JOINS = {
    "garbage": b"\x00\x00\x00\x10" + os.urandom(16),
    "a frame over the limit": (limits.JOIN_FRAME_BYTES + 1).to_bytes(4, "big"),
    "a frame of four gigabytes": b"\xff" * 4,
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "an empty frame": bytes(4),
}


def test_bad_joins_are_refused_and_counted(mesh: Victims) -> None:
    for data in JOINS.values():
        assert join_talk(mesh, data).known_reason is Reason.MALFORMED
    assert count(mesh.a, "join_broken") >= len(JOINS)


def test_a_flood_of_joins_is_turned_away_and_keeps_no_member_and_no_newcomer_out(
    mesh: Victims, tmp_path: Path
) -> None:
    token = mesh.a.create_token()
    hello = frame(encode_join(JoinHello(protocol_min=1, protocol_max=1)))
    lines = len(log_lines(mesh.a))

    def knock(_: int) -> Reason | None:
        with suppress(OSError), tls(mesh.peer_port, alpn=["meshd-join/1"], sni="join") as sock:
            sock.sendall(hello)
            if data := sock.recv(65536):
                first = decode_join(data[4:])
                return first.known_reason if isinstance(first, JoinRefusal) else None
        return Reason.BUSY  # closed without a word: turned away at the door

    before = count(mesh.a, "join_refused: busy")
    with ThreadPoolExecutor(32) as pool:
        outcomes = list(pool.map(knock, range(150)))
        assert ask(mesh.c), "forwarded meanwhile"
    assert outcomes.count(Reason.BUSY) > 100
    assert count(mesh.a, "join_refused: busy") - before > 100
    assert len(log_lines(mesh.a)) - lines < 5
    with Daemon(tmp_path / "d", "d", join=mesh.a.peer_address, token=token) as d:
        assert {n.name for n in d.status().nodes} >= {"a", "c", "d"}
        assert d.stop() == 0


# --- datagrams


def udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def test_strangers_datagrams_are_dropped_and_counted_by_kind(mesh: Victims) -> None:
    good = gossip.encode_packet([gossip.Ping(1, mesh.b.node)])
    foreign = mesh.other.envelope().seal(good)
    ours = mesh.b.envelope().seal(good)
    unknown = ours[:5] + b"z" * 26 + ours[31:]
    flipped = ours[:-1] + bytes([ours[-1] ^ 1])
    datagrams = {
        "datagrams_garbage": [b"", b"x", os.urandom(20), os.urandom(2000)],
        "datagrams_wrong_version": [b"\x09" + os.urandom(200)],
        "datagrams_unknown_key": [foreign, b"\x01" + os.urandom(200)],
        "datagrams_unknown_sender": [unknown],
        "datagrams_unauthenticated": [flipped],
    }
    lines = len(log_lines(mesh.a))
    with udp() as sock:
        for counter, samples in datagrams.items():
            before = count(mesh.a, counter)
            for sent in range(1, 11):  # no more at once than the kernel keeps
                for data in samples * 5:
                    sock.sendto(data, ("127.0.0.1", mesh.peer_port))
                wanted = before + sent * 5 * len(samples)
                mesh.a.wait_until(
                    lambda s, name=counter, wanted=wanted: s.counters.get(name, 0) >= wanted,
                    f"{counter} counts them",
                )
    assert len(log_lines(mesh.a)) - lines < 5


async def test_real_datagrams_that_are_sent_again_are_dropped(mesh: Victims) -> None:
    """b is said to be at a relay, which keeps what members send there and gives it to others."""
    relay = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with relay:
        await relay.bind(("127.0.0.1", 0))
        await mesh.b.announce(mesh.a, Address("127.0.0.1", relay.getsockname()[1]), incarnation=20)
        captured: list[bytes] = []
        with trio.fail_after(20):
            while len(captured) < 3:
                captured.append((await relay.recvfrom(2000))[0])
    before = count(mesh.c, "datagrams_replayed"), count(mesh.a, "datagrams_replayed")
    with udp() as sock:
        for data in captured * 40:
            for daemon in (mesh.a, mesh.c):
                sock.sendto(data, ("127.0.0.1", port_of(daemon.peer_address)))
    want = 39 * len(captured)  # c has not seen them: one of each may pass, and says nothing to it
    for daemon, was in zip((mesh.c, mesh.a), before, strict=True):
        daemon.wait_until(
            lambda s, was=was: s.counters.get("datagrams_replayed", 0) - was >= want,
            "they are recognised",
        )
        states = {node.name: node.state for node in daemon.status().nodes}
        assert states["a"] in ("alive", "self")
        assert states["c"] in ("alive", "self")


async def test_sealed_nonsense_of_a_member_is_dropped(mesh: Victims) -> None:
    envelope = mesh.b.envelope(mesh.b.generation + 1)
    before = count(mesh.a, "datagrams_malformed")
    samples = [b"\xc1", b"\x91\x92\x05\x80", b"\x80", os.urandom(600), b"\x91" * 500 + b"\xc0"]
    with udp() as sock:
        for data in samples * 10:
            sock.sendto(envelope.seal(data), ("127.0.0.1", mesh.peer_port))
    mesh.a.wait_until(
        lambda s: s.counters.get("datagrams_malformed", 0) - before >= 10 * len(samples),
        "they are counted",
    )
