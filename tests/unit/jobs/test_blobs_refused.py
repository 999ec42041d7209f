"""Nonsense and floods from peers: nothing is stored by them, and nothing grows."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.jobs.blob_store import BlobStore
from meshd.jobs.blobs import BlobNotStored
from meshd.wire.control import Message, Pong
from meshd.wire.control_record import BlobData, BlobHeld, BlobPart
from tests.unit.jobs.blob_nodes import (
    FOLDER,
    LARGE,
    SMALL,
    blob_nodes,
    node_id,
    sha,
)


@pytest.mark.parametrize(
    "answer",
    [
        Pong(),
        BlobHeld(upto=0, whole=False),
        BlobHeld(upto=len(LARGE), whole=False),
        BlobHeld(upto=limits.BLOB_BYTES, whole=False),
        BlobData(size_bytes=0, data=b""),
    ],
)
async def test_a_voter_that_answers_nonsense_has_not_stored_it(
    autojump_clock: MockClock, answer: Message
) -> None:
    async with blob_nodes("abc") as town:
        for name in "bc":
            town[name].answer = lambda sender, message: answer
        with pytest.raises(BlobNotStored) as caught:
            await town["a"].runs.put(LARGE)
        assert set(caught.value.missing) == {node_id("b"), node_id("c")}
        assert len(town["b"].heard) <= 20


@pytest.mark.parametrize(
    "answer",
    [
        Pong(),
        BlobData(size_bytes=10, data=b""),
        BlobData(size_bytes=10, data=b"x" * 11),
        BlobData(size_bytes=limits.BLOB_PART_BYTES + 1, data=b"x" * limits.BLOB_PART_BYTES),
        BlobData(size_bytes=10, data=b"x" * 10),
    ],
)
async def test_a_node_that_sends_too_much_or_nonsense_is_passed_over(
    autojump_clock: MockClock, answer: Message
) -> None:
    async with blob_nodes("abcd", voters="abc") as town:
        digest = await town["a"].runs.put(SMALL)
        town["a"].answer = lambda sender, message: answer
        assert await town["d"].runs.get(digest) == SMALL
        assert len(town["a"].heard) <= 2


async def test_parts_that_do_not_fit_are_refused_and_leave_nothing(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("ab", voters="ab") as town:
        part = limits.BLOB_PART_BYTES

        async def send(size: int, offset: int, data: bytes) -> Message:
            return await town["b"].hear(
                node_id("a"),
                BlobPart(digest=sha(LARGE), size_bytes=size, offset=offset, data=data),
            )

        size = len(LARGE)
        assert await send(size, part, LARGE[:part]) == BlobHeld(upto=0, whole=False)
        assert await send(size, 0, LARGE[:part]) == BlobHeld(upto=part, whole=False)
        assert await send(size, 0, LARGE[:part]) == BlobHeld(upto=part, whole=False)
        for bad in [(size - 1, part), (size, size - 1), (size + 1, part)]:
            assert "do not fit" in str(await send(*bad, LARGE[part : 2 * part]))
            assert not town["b"].disk.files
            assert await send(size, 0, LARGE[:part]) == BlobHeld(upto=part, whole=False)
        for offset in range(part, size, part):
            said = await send(size, offset, bytes(min(part, size - offset)))
        assert "do not have its digest" in str(said)
        assert "do not have its digest" in str(await send(3, 0, b"abc"))
        store = town["b"].runs.store
        assert (store.size_bytes, dict(store.held), town["b"].disk.files) == (0, {}, {})


async def test_a_peer_that_begins_many_and_ends_none_is_bounded_and_forgotten(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abc") as town:

        async def begin(number: int) -> Message:
            digest = number.to_bytes(32, "big")
            message = BlobPart(digest=digest, size_bytes=2**25, offset=0, data=b"x")
            return await town["b"].hear(node_id("a"), message)

        said = [await begin(number) for number in range(20)]
        begun = [answer for answer in said if isinstance(answer, BlobHeld)]
        assert len(begun) == limits.BLOBS_COMING_PER_NODE
        assert "too many blobs" in str(said[-1])
        assert await town["c"].runs.put(LARGE) == sha(LARGE)  # others are not in its way
        await trio.sleep(2 * limits.BLOB_STALL_S + 1)
        assert isinstance(await begin(99), BlobHeld)
        assert len([path for path in town["b"].disk.files if path.name.startswith(".")]) == 1


async def test_a_store_that_is_full_refuses_and_takes_again_when_there_is_room(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("a", voters="a") as town:
        for bounds in ({"max_bytes": 2 * len(SMALL)}, {"max_count": 2}):
            town["a"].runs.store = BlobStore(town["a"].disk, FOLDER, **bounds)
            digest = await town["a"].runs.put(SMALL)
            await town["a"].runs.put(SMALL[1:])
            with pytest.raises(BlobNotStored, match="no room for more blobs"):
                await town["a"].runs.put(SMALL[2:])
            assert await town["a"].runs.put(SMALL) == digest  # it is there already
