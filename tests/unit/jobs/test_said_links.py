"""What a run says, over a connection between two nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import ProtocolError
from meshd.http import Responder, Room, ServerRequest, Share
from meshd.ids import NodeId
from meshd.jobs.said import Answer, Broken, End, Listener, NotHeard, Said, Whole
from meshd.jobs.said_links import SaidLinks, serve_said
from meshd.wire.said import SAID_PATH, SaidKind, said_frame
from tests.unit.http.rig import Rig, Script, read_until, serving, upstream

NODE = NodeId("a" * 26)
JOB, FENCE = 7, 3
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@asynccontextmanager
async def run_elsewhere() -> AsyncIterator[tuple[Said, SaidLinks]]:
    said = Said(Share(Room()), limits.BLOB_BYTES)

    async def said_of(job: int, fence: int) -> Said:
        if (job, fence) != (JOB, FENCE):
            raise NotHeard("that run is not here")
        await trio.lowlevel.checkpoint()
        return said

    async def handle(request: ServerRequest, responder: Responder) -> None:
        assert request.path == SAID_PATH
        with suppress(ProtocolError):
            await serve_said(said_of, request, responder)

    async with serving(handle) as (rig, _):
        client = rig.client()
        yield said, SaidLinks(lambda node: client)


def links(rig: Rig) -> SaidLinks:
    client = rig.client()
    return SaidLinks(lambda node: client)


async def heard(listener: Listener) -> list[bytes | End]:
    pieces: list[bytes | End] = []
    while not pieces or isinstance(pieces[-1], bytes):
        pieces.append(await listener.next())
    return pieces


async def why_not(asking: SaidLinks, fence: int = FENCE, from_byte: int = 0) -> str:
    """The sentence with which it is not heard."""
    try:
        async with asking.listen(NODE, JOB, fence, from_byte) as listener:
            await heard(listener)
    except NotHeard as error:
        return str(error)
    raise AssertionError("it was heard")


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (Whole(), Whole()),
        (Broken(b"error"), Broken(b"error")),
        (Answer(503, [], b"busy"), Broken(b"")),
    ],
)
async def test_it_is_heard_from_any_byte_on_to_its_end(
    autojump_clock: MockClock, end: End, told: End
) -> None:
    async with run_elsewhere() as (said, asking):
        said.add(b"abc")
        for from_byte in (0, 2):
            async with asking.listen(NODE, JOB, FENCE, from_byte) as listener:
                assert await listener.next() == b"abc"[from_byte:]
        async with asking.listen(NODE, JOB, FENCE, 3) as listener:
            said.add(b"def")
            assert await listener.next() == b"def"
            said.quiet()
            assert await listener.next() == b""
            said.finish(end)
            assert await listener.next() == told


async def test_a_run_that_is_silent_for_long_is_still_heard(autojump_clock: MockClock) -> None:
    async with run_elsewhere() as (said, asking), trio.open_nursery() as nursery:

        async def speak() -> None:
            await trio.sleep(100 * limits.HOLDER_SILENT_S)
            said.add(b"at last")
            said.finish(Whole())

        async with asking.listen(NODE, JOB, FENCE, 0) as listener:
            nursery.start_soon(speak)
            assert await heard(listener) == [b"at last", Whole()]


async def test_much_of_it_comes_in_steps(autojump_clock: MockClock) -> None:
    async with run_elsewhere() as (said, asking):
        whole = bytes(range(256)) * 2048
        said.add(whole)
        said.finish(Whole())
        async with asking.listen(NODE, JOB, FENCE, 0) as listener:
            *pieces, end = await heard(listener)
        assert end == Whole()
        data = [piece for piece in pieces if isinstance(piece, bytes)]
        assert b"".join(data) == whole
        assert max(map(len, data)) == limits.SAID_STEP_BYTES


async def test_a_run_that_is_not_there_or_has_not_said_so_much_is_refused(
    autojump_clock: MockClock,
) -> None:
    async with run_elsewhere() as (said, asking):
        assert "that run is not here" in await why_not(asking, FENCE + 1)
        assert "said 0 bytes, and not 1" in await why_not(asking, from_byte=1)
        said.close()
        assert "not kept any more" in await why_not(asking)


async def test_one_that_listens_no_more_is_forgotten(autojump_clock: MockClock) -> None:
    async with run_elsewhere() as (said, asking):
        for _ in range(2 * limits.SAID_LISTENERS):
            async with asking.listen(NODE, JOB, FENCE, 0):
                pass
            # The other side notices at its next beat, at the latest.
            await trio.sleep(2 * limits.BEAT_S)
        with said.listen():
            pass


async def silent(stream: object) -> None:
    await trio.sleep_forever()


def answering(*pieces: bytes) -> Script:
    """A node that says this and then nothing, or closes after b""."""

    async def script(stream: object) -> None:
        await read_until(stream, b"\r\n\r\n")  # type: ignore[arg-type]
        for piece in pieces:
            if not piece:
                await stream.aclose()  # type: ignore[attr-defined]
                return
            await stream.send_all(piece)  # type: ignore[attr-defined]
        await trio.sleep_forever()

    return script


DATA = chunk(said_frame(SaidKind.DATA, b"x"))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (silent, "it gives no answer"),
        (answering(HEAD), "fallen silent"),
        (answering(HEAD + DATA), "fallen silent"),
        (answering(HEAD + DATA, b""), "went away"),
        (answering(HEAD + DATA + b"0\r\n\r\n"), "stopped in the middle"),
        (answering(HEAD + chunk(b"\x00\x00\x00\x01\xc1")), "malformed"),
        (answering(HEAD + chunk(b"\xff\xff\xff\xff")), "over the limit"),
        (answering(b"nonsense\r\n\r\n"), "cannot be asked"),
        (answering(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno"), "says: no"),
    ],
)
async def test_a_node_that_says_nothing_or_nonsense_is_not_heard(
    autojump_clock: MockClock, script: Script, why: str
) -> None:
    async with upstream(script) as rig:
        assert why in await why_not(links(rig))


async def test_a_node_that_cannot_be_reached_is_not_heard(autojump_clock: MockClock) -> None:
    async with upstream() as rig:
        await trio.testing.wait_all_tasks_blocked()
        assert "cannot be asked" in await why_not(links(rig))


async def test_a_listener_that_leaves_breaks_only_its_own_connection(
    autojump_clock: MockClock,
) -> None:
    async with run_elsewhere() as (said, asking), asking.listen(NODE, JOB, FENCE, 0) as staying:
        async with asking.listen(NODE, JOB, FENCE, 0) as leaving:
            said.add(b"x")
            assert (await staying.next(), await leaving.next()) == (b"x", b"x")
        said.add(b"y")
        said.finish(Whole())
        assert await heard(staying) == [b"y", Whole()]
