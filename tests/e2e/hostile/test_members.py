"""Members gone bad: what they say costs them their link, and nobody else anything."""

from __future__ import annotations

import math
import os
from contextlib import suppress

import pytest
import trio

from meshd import limits
from meshd.errors import MeshdError, StreamBroken
from meshd.ids import Address
from meshd.inference import Kind, Request
from meshd.ports import Alpn
from meshd.wire import gossip
from meshd.wire.control import PushPull, encode
from meshd.wire.framing import frame
from meshd.wire.serve import AnswerForm, KeyedClaim, ServeRequest, encode_serve
from tests.e2e.attackers import ask, count, ended
from tests.e2e.hostile.victims import Victims

FRAMES = {
    "garbage": b"\x00\x00\x00\x20" + os.urandom(32),
    "an empty frame": bytes(4),
    "a frame over the limit": (limits.CONTROL_FRAME_BYTES + 1).to_bytes(4, "big") + bytes(1000),
    "a frame of four gigabytes": b"\xff" * 4 + bytes(100_000),
    "nested without end": frame(b"\x91" * 100_000 + b"\xc0"),
    "a map of billions": frame(b"\xdf\xff\xff\xff\xff"),
    "HTTP": b"POST /mesh/v1/serve HTTP/1.1\r\nHost: x\r\n\r\n",
}

_FORM = AnswerForm(path="/api/chat", request_id="r", unix_s=math.inf, model="m")
ENDLESS = encode_serve(
    ServeRequest(
        request_id="r",
        backend="",
        model="m",
        request=Request(Kind.CHAT, "m"),
        keyed=KeyedClaim(7, 5, _FORM),
    )
)
"""Whoever goes on with it in the entry's place would write that it was created at infinity."""


@pytest.mark.parametrize("what", FRAMES)
@pytest.mark.parametrize("greeted", [False, True])
async def test_bad_frames_of_a_member_cost_it_the_link(
    mesh: Victims, what: str, greeted: bool
) -> None:
    before = count(mesh.a, "peer_refused")
    async with mesh.b.stream(mesh.a, Alpn.CONTROL) as stream:
        if greeted:
            await stream.send_all(frame(encode(mesh.b.hello())))
        with suppress(StreamBroken):  # it may hang up before it has all of a large one
            await stream.send_all(FRAMES[what])
        assert await ended(stream)
    assert count(mesh.a, "peer_refused") == before + 1


async def test_bad_requests_of_a_member_are_refused(mesh: Victims) -> None:
    forwarded = b" HTTP/1.1\r\nHost: x\r\nX-Meshd-Forwarded: 1\r\n"
    serve = b"POST /mesh/v1/serve" + forwarded
    shapes = {
        b"garbage\r\n\r\n": b"400",
        b"GET /mesh/v1/serve" + forwarded + b"\r\n": b"405",
        b"POST /v1/chat/completions" + forwarded + b"Content-Length: 0\r\n\r\n": b"404",
        b"POST /mesh/v1/serve HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n": b"400",
        serve + b"Content-Length: 3\r\n\r\n\xc1\xc1\xc1": b"400",
        b"POST /mesh/v1/show" + forwarded + b"Content-Length: 1\r\n\r\n\x80": b"400",
        serve + b"Content-Length: 99999999999\r\n\r\n": b"413",
        serve + b"Content-Length: %d\r\n\r\n" % len(ENDLESS) + ENDLESS: b"400",
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


async def test_a_member_that_is_refused_is_told_why(mesh: Victims) -> None:
    """The other mesh's node is a stranger here, and hears no more than that."""
    with pytest.raises(MeshdError):
        async with mesh.other.stream(mesh.a, Alpn.CONTROL):
            pass
