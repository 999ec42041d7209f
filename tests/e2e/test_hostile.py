"""Bad bytes on every port of a real daemon: counted, logged rarely, closed, and nothing else."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import trio

from meshd import limits
from meshd.errors import MeshdError
from meshd.ids import Address
from meshd.machine import paths_for
from meshd.ports import Alpn
from meshd.testing.daemons import Daemon, Gguf, joined
from meshd.wire import gossip
from meshd.wire.control import PushPull, encode
from meshd.wire.framing import frame
from meshd.wire.join import JoinHello, JoinRefusal, Reason, decode_join, encode_join
from tests.e2e.attackers import (
    Impostor,
    as_json,
    ask,
    connect,
    count,
    ended,
    log_lines,
    port_of,
    read_to_end,
    rss_bytes,
    split,
    talk,
    tls,
)

BODY_BYTES = 64 * limits.KIB
MIB = limits.MIB


@dataclass
class Victims:
    """`a` founded the mesh and has the model `m`; `c` is in it; `b` is too, but is an impostor."""

    a: Daemon
    c: Daemon
    b: Impostor
    other: Impostor
    """Of another mesh."""
    token: str
    """That b and c joined with."""
    folder: Path

    @property
    def api_port(self) -> int:
        return port_of(self.a.api_url)

    @property
    def peer_port(self) -> int:
        return port_of(self.a.peer_address)


@pytest.fixture(scope="module")
def mesh(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    folder = tmp_path_factory.mktemp("hostile")
    settings = f"[limits]\nbody_bytes = {BODY_BYTES}"
    a = Daemon(folder / "a", "a", ggufs=[Gguf(models / "counter.gguf", "m")], settings=settings)
    b, c, other = (Daemon(folder / name, name) for name in ("b", "c", "other"))
    with ExitStack() as stack:
        for daemon in (a, b, c, other):
            stack.callback(daemon.close)
        a.start()
        other.start()
        joined(a, [b, c])
        assert (b.stop(), other.stop()) == (0, 0)
        for daemon in (a, c):
            daemon.wait_until(lambda s: s.models == 1, "it knows the model")
        yield Victims(a, c, Impostor(b.folder), Impostor(other.folder), b.token, folder)


@pytest.fixture(autouse=True)
def unharmed(mesh: Victims) -> Iterator[None]:
    """After every attack both members still answer, and nothing unforeseen is in their logs."""
    before = [len(log_lines(daemon)) for daemon in (mesh.a, mesh.c)]
    yield
    for daemon, lines in zip((mesh.a, mesh.c), before, strict=True):
        assert ask(daemon)
        new = log_lines(daemon)[lines:]
        assert not [line for line in new if "Traceback" in line or "Error" in line], new


def counts(daemon: Daemon, attack: Callable[[], object], *names: str) -> int:
    """By how much an attack moves these counters."""
    before = count(daemon, *names)
    attack()
    return count(daemon, *names) - before


# ---------------------------------------------------------------- client port: HTTP itself

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
OLLAMA = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
NOT_HTTP = {
    "random": os.urandom(2000),
    "zeros": bytes(2000),
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "control frames": b"\x00\x00\x00\x10" + bytes(16),
}
SMUGGLED = {
    "length and chunked": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
    "chunked and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET /",
    "two lengths": b"Content-Length: 3\r\nContent-Length: 30\r\n\r\nabc",
    "a signed length": b"Content-Length: +3\r\n\r\nabc",
    "a list of lengths": b"Content-Length: 3, 30\r\n\r\nabc",
    "a hidden coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding behind a tab": b"Transfer-Encoding:\tchunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "a coding and another": b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "a folded header": b"X: a\r\n Content-Length: 30\r\n\r\n",
    "a bare line feed": b"X: a\nContent-Length: 30\r\n\r\n",
    "a blank before the colon": b"Content-Length : 3\r\n\r\nabc",
    "two hosts": b"Host: evil.example\r\n\r\n",
    "a zero byte": b"X: a\0b\r\n\r\n",
    "a chunk size of nonsense": b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk too long": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("what", NOT_HTTP)
def test_what_is_not_http_is_refused_counted_and_closed(mesh: Victims, what: str) -> None:
    data = NOT_HTTP[what]
    assert counts(mesh.a, lambda: talk(mesh.api_port, data), "http_refused") == 1


@pytest.mark.parametrize("what", SMUGGLED)
def test_a_request_of_two_meanings_is_refused_in_the_dialect_and_ends_the_connection(
    mesh: Victims, what: str
) -> None:
    def attack() -> None:
        for head in (CHAT, OLLAMA):
            answer = talk(mesh.api_port, head + SMUGGLED[what], then_end=True)
            status, headers, body = split(answer)
            assert 400 <= status <= 501, answer
            assert headers["connection"] == "close"
            assert headers["x-request-id"]
            error = as_json(body)["error"]
            assert isinstance(error, dict if head is CHAT else str), body
            assert answer.count(b"HTTP/1.1 ") == 1, "nothing behind it was taken for a request"

    assert counts(mesh.a, attack, "http_refused") == 2


def openai_message(body: bytes) -> str:
    error = as_json(body)["error"]
    assert isinstance(error, dict)
    assert set(error) == {"message", "type", "param", "code"}
    message = error["message"]
    assert isinstance(message, str)
    return message


def ollama_message(body: bytes) -> str:
    message = as_json(body)["error"]
    assert isinstance(message, str)
    return message


CALLS = {
    "/v1/chat/completions": openai_message,
    "/v1/completions": openai_message,
    "/v1/embeddings": openai_message,
    "/api/chat": ollama_message,
    "/api/generate": ollama_message,
    "/api/embed": ollama_message,
    "/api/embeddings": ollama_message,
    "/api/show": ollama_message,
}


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize("way", ["announced", "chunked"])
def test_a_body_over_the_limit_is_413_in_the_dialect(mesh: Victims, path: str, way: str) -> None:
    body = b'{"model": "m", "x": "' + b"a" * BODY_BYTES + b'"}'
    content = (
        body if way == "announced" else iter([body[i : i + 9000] for i in range(0, 70_000, 9000)])
    )
    answer = httpx.post(f"{mesh.a.api_url}{path}", content=content, timeout=20)
    assert answer.status_code == 413, answer.text
    assert str(BODY_BYTES) in CALLS[path](answer.content)
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"X: " + b"a" * 200_000, 431),
        (b"X: y\r\n" * 5000, 431),
        (b"X" * 200_000, 431),
    ],
)
def test_a_huge_head_is_refused_in_the_dialect(mesh: Victims, head: bytes, status: int) -> None:
    for start, message in ((CHAT, openai_message), (OLLAMA, ollama_message)):
        got, _, body = split(talk(mesh.api_port, start + head + b"\r\n\r\n", then_end=True))
        assert got == status
        assert message(body)
    long = b"GET /v1/models/" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    got, _, body = split(talk(mesh.api_port, long, then_end=True))
    assert got == 414
    assert openai_message(body)


def test_slow_clients_are_cut_in_the_dialect_and_slow_nobody_down(mesh: Victims) -> None:
    """Each on its own port trickles; all of them are gone after the time that each port allows."""
    began = time.monotonic()
    with ExitStack() as stack:
        heads = [stack.enter_context(connect(mesh.api_port)) for _ in range(20)]
        peers = [stack.enter_context(connect(mesh.peer_port)) for _ in range(20)]
        for sock in heads:
            sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        for sock in peers:
            sock.sendall(b"\x16\x03\x01")
        while time.monotonic() - began < limits.HTTP_HEAD_S - 1:
            for sock in [*heads, *peers]:
                with suppress(OSError):
                    sock.sendall(b"a" if sock in heads else b"\x02")
            assert ask(mesh.a)
            time.sleep(0.5)  # a trickle takes its time
        for sock in peers:
            read_to_end(sock)
        for sock in heads:
            status, _, body = split(read_to_end(sock))
            assert status == 408
            assert openai_message(body)
    assert time.monotonic() - began < limits.HTTP_HEAD_S + 8


# ---------------------------------------------------------------- client port: bodies

BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"model=m&messages=hi",
    "cut": b'{"model": "m", "messages": [{"role": "us',
    "not UTF-8": b'{"model": "m\xff", "messages": []}',
    "an array": b"[]",
    "a number": b"7",
    "null": b"null",
    "deep": b'{"model": "m", "options": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep objects": b'{"x": ' * 4000 + b"1" + b"}" * 4000,
    "no model": b'{"messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"}',
    "a model of null": b'{"model": null}',
    "a model of a number": b'{"model": 7, "messages": [], "prompt": "x", "input": "x"}',
    "an empty model": b'{"model": "", "messages": [], "prompt": "x", "input": "x"}',
    "a huge number": b'{"model": "m", "temperature": 1e999, "messages": [], "input": "x"}',
    "wrong types": json.dumps(
        {"model": "m", "messages": "x", "prompt": {}, "input": {}, "options": 3}
    ).encode(),
    "a lone surrogate": b'{"model": "\\ud800", "messages": [], "prompt": 3, "input": 3}',
}


@pytest.mark.parametrize("what", BAD_BODIES)
def test_a_bad_body_is_a_4xx_in_the_dialect_and_the_connection_goes_on(
    mesh: Victims, what: str
) -> None:
    with httpx.Client(base_url=mesh.a.api_url, timeout=20) as client:
        for path, message in CALLS.items():
            if (path, what) == ("/api/show", "wrong types"):
                continue  # it takes nothing but the name
            answer = client.post(path, content=BAD_BODIES[what])
            assert 400 <= answer.status_code < 500, (path, answer.text)
            assert message(answer.content), path
        assert client.get("/v1/models").status_code == 200


def test_names_of_models_are_no_way_out_of_anything(mesh: Victims) -> None:
    ask = {"messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"}
    with httpx.Client(base_url=mesh.a.api_url, timeout=20) as client:
        for name in ("../../etc/passwd", "m\r\nX: y", "\x1b[2J", "m" * 600, "%2e%2e%2f", "m\0"):
            for path, message in CALLS.items():
                answer = client.post(path, json={"model": name, **ask})
                assert answer.status_code in (400, 404), (path, name, answer.text)
                assert message(answer.content)


# ---------------------------------------------------------------- mesh port, strangers

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


# ---------------------------------------------------------------- mesh port, members gone bad

FRAMES = {
    "garbage": b"\x00\x00\x00\x20" + os.urandom(32),
    "an empty frame": bytes(4),
    "a frame over the limit": (limits.CONTROL_FRAME_BYTES + 1).to_bytes(4, "big") + bytes(1000),
    "a frame of four gigabytes": b"\xff" * 4 + bytes(100_000),
    "nested without end": frame(b"\x91" * 100_000 + b"\xc0"),
    "a map of billions": frame(b"\xdf\xff\xff\xff\xff"),
    "HTTP": b"POST /mesh/v1/serve HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("what", FRAMES)
@pytest.mark.parametrize("greeted", [False, True])
async def test_bad_frames_of_a_member_cost_it_the_link(
    mesh: Victims, what: str, greeted: bool
) -> None:
    before = count(mesh.a, "peer_refused")
    async with mesh.b.stream(mesh.a, Alpn.CONTROL) as stream:
        if greeted:
            await stream.send_all(frame(encode(mesh.b.hello())))
        await stream.send_all(FRAMES[what])
        assert await ended(stream)
    assert count(mesh.a, "peer_refused") == before + 1


async def test_bad_requests_of_a_member_are_refused(mesh: Victims) -> None:
    shapes = {
        b"garbage\r\n\r\n": b"400",
        b"GET /mesh/v1/serve HTTP/1.1\r\nHost: x\r\n\r\n": b"405",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n": b"404",
        b"POST /mesh/v1/serve HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n\xc1\xc1\xc1": b"400",
        b"POST /mesh/v1/show HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n\x80": b"400",
        b"POST /mesh/v1/serve HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n": b"413",
    }
    for request, status in shapes.items():
        async with mesh.b.stream(mesh.a, Alpn.HTTP) as stream:
            await stream.send_all(request)
            with trio.fail_after(20):
                answer = await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 " + status), (request, answer)


UNDIALLABLE = ("a..b", ".", "..", "-", "a" * 64, "a.-b", "1" * 40, "::::", "999.999.999.999")


async def test_addresses_that_cannot_be_dialled_cost_nobody_anything(mesh: Victims) -> None:
    """A member's own word is signed and goes to everyone, whatever it says."""
    for number, start in enumerate(range(0, len(UNDIALLABLE), 4)):
        hosts = UNDIALLABLE[start : start + 4]
        await mesh.b.announce(
            mesh.a, *(Address(host, 1 + number) for host in hosts), incarnation=number + 1
        )
        for daemon in (mesh.a, mesh.c):
            daemon.wait_until(
                lambda s, host=hosts[0]: any(host in a for n in s.nodes for a in n.addresses),
                f"it believes that b is at {hosts[0]}",
            )
            assert ask(daemon)
    await trio.sleep(1)  # for dials of those addresses
    for daemon in (mesh.a, mesh.c):
        assert ask(daemon)


async def test_a_member_cannot_speak_for_another(mesh: Victims) -> None:
    c = mesh.c.status().node.id
    lie = gossip.make_word(
        c,  # type: ignore[arg-type]
        (2**40, 0),
        gossip.WordKind.LEFT,
        gossip.Profile("c", ()),
        lambda payload: mesh.b.key.sign(gossip.WORD_CONTEXT, payload),
    )
    async with mesh.b.link(mesh.a) as link:
        await link.say(PushPull(state=gossip.encode_packet([lie])), 1)
        await link.hear()
    states = {node.id: node.state for node in mesh.a.status().nodes}
    assert states[c] == "alive"


# ---------------------------------------------------------------- newcomers' door


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


# ---------------------------------------------------------------- datagrams


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


# ---------------------------------------------------------------- control socket


def test_bad_orders_are_refused_with_a_sentence_and_counted(mesh: Victims) -> None:
    path = str(paths_for(mesh.a.folder).socket)
    transport = httpx.HTTPTransport(uds=path)
    with httpx.Client(transport=transport, base_url="http://meshd", timeout=20) as client:
        for method, url, body, status in (
            ("POST", "/control/token", b"{nonsense", 400),
            ("POST", "/control/token", b'{"uses": "many"}', 400),
            ("POST", "/control/token", b'{"uses": 0}', 409),
            ("POST", "/control/token", b'{"ttl_s": -1}', 409),
            ("POST", "/control/token", b'{"ttl_s": 1e300}', 409),
            ("POST", "/control/approve", b"", 400),
            ("POST", "/control/approve", b'{"digits": "000000"}', 409),
            ("POST", "/control/drain", b'{"node": "nobody"}', 409),
            ("GET", "/control/secrets", b"", 404),
            ("DELETE", "/control/status", b"", 404),
        ):
            answer = client.request(method, url, content=body)
            assert answer.status_code == status, (url, body, answer.text)
            assert len(answer.json()["error"]) > 10
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.settimeout(20)
        sock.sendall(b"nonsense\r\n\r\n")
        status, _, said = split(read_to_end(sock))
        assert status == 400
        assert as_json(said)["error"]
    assert count(mesh.a, "control_refused") >= 1


def test_bad_orders_at_a_member_that_is_not_the_founder(mesh: Victims) -> None:
    path = str(paths_for(mesh.c.folder).socket)
    transport = httpx.HTTPTransport(uds=path)
    with httpx.Client(transport=transport, base_url="http://meshd", timeout=20) as client:
        for url, body in (
            ("/control/token", {"uses": 0}),
            ("/control/token", {"ttl_s": -1}),
            ("/control/token", {"ttl_s": 1e300}),
            ("/control/token", {"uses": 2**62}),
            ("/control/approve", {"digits": "1" * 5000}),
            ("/control/drain", {"node": "x" * 5000}),
        ):
            answer = client.post(url, json=body)
            assert answer.status_code == 409, (url, body, answer.text)
            assert len(answer.json()["error"]) > 10


# ---------------------------------------------------------------- floods


def test_a_flood_of_bad_requests_fills_neither_log_nor_memory(mesh: Victims) -> None:
    lines, before = len(log_lines(mesh.a)), rss_bytes(mesh.a)
    big = CHAT + b"Content-Length: 60000\r\n\r\n" + b"[" * 60_000

    def attack(number: int) -> None:
        talk(mesh.api_port, NOT_HTTP["random"])
        talk(mesh.api_port, CHAT + SMUGGLED["two lengths"])
        talk(mesh.api_port, big + b"GET nonsense\r\n\r\n")
        talk(mesh.peer_port, os.urandom(500))

    with ThreadPoolExecutor(8) as pool:
        assert (
            counts(
                mesh.a, lambda: list(pool.map(attack, range(100))), "http_refused", "peer_refused"
            )
            >= 300
        )
    assert len(log_lines(mesh.a)) - lines < 5
    assert rss_bytes(mesh.a) - before < 64 * MIB


def test_many_silent_connections_keep_nobody_out(mesh: Victims) -> None:
    """More than the mesh port has places, from one machine; members and newcomers still get in."""
    with ExitStack() as stack:
        for _ in range(limits.PEER_CONNECTIONS + 50):
            stack.enter_context(connect(mesh.peer_port))
        for _ in range(3):
            assert ask(mesh.c)

        async def dial() -> None:
            with trio.fail_after(4):
                async with mesh.b.link(mesh.a):
                    pass

        trio.run(dial)


# ---------------------------------------------------------------- what must not be seen


def test_no_secret_is_in_any_log_status_or_command_line(mesh: Victims) -> None:
    ring = [key.secret for key in mesh.b.identity.keyring.keys]
    secrets = [mesh.token, mesh.token.rpartition("-")[2]]
    secrets += [secret.hex() for secret in ring]
    secrets += [line for line in mesh.b.key.pem().decode().splitlines() if "--" not in line]
    for daemon in (mesh.a, mesh.c):
        assert daemon.process is not None
        child = psutil.Process(daemon.process.pid)
        seen = [
            "\n".join(log_lines(daemon)),
            daemon.order("GET", "/control/status").decode(),
            daemon.order("GET", "/control/doctor").decode(),
            *(" ".join(p.cmdline()) for p in [child, *child.children(recursive=True)]),
            *(repr(p.environ()) for p in child.children(recursive=True)),
        ]
        for secret in secrets:
            assert not [text for text in seen if secret in text], "a secret shows"


def test_private_files_are_0600_and_folders_0700(mesh: Victims) -> None:
    public = {"ca.crt", "node.crt", "mesh.json", "members", "generation", "daemon.log"}
    public |= {"config.toml", "lock"}
    for daemon in (mesh.a, mesh.c):
        assert paths_for(daemon.folder).socket.name
        assert os.stat(paths_for(daemon.folder).socket).st_mode & 0o777 == 0o600
        found = set()
        for path in daemon.folder.rglob("*"):
            mode = path.stat().st_mode & 0o777
            found.add(path.name)
            if path.is_dir():
                assert mode & 0o077 == 0, path
            elif path.name not in public:
                assert mode == 0o600, path
        assert {"node.key", "keyring.json", "mesh.json"} <= found
        wanted = {"ca.key", "tokens.json"}
        assert wanted <= found if daemon is mesh.a else not wanted & found


async def test_a_member_that_is_refused_is_told_why(mesh: Victims) -> None:
    """The other mesh's node is a stranger here, and hears no more than that."""
    with pytest.raises(MeshdError):
        async with mesh.other.stream(mesh.a, Alpn.CONTROL):
            pass
