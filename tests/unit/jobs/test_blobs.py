"""Blobs of several nodes: stored on majorities, and found anywhere."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import LimitExceeded
from meshd.jobs.blobs import BlobNotStored
from meshd.testing.world import until
from tests.unit.jobs.blob_nodes import (
    FOLDER,
    LARGE,
    SIZES,
    SMALL,
    blob_nodes,
    node_id,
    sha,
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("at", "ad")
async def test_what_was_stored_is_on_all_voters_and_found_at_every_node(
    autojump_clock: MockClock, size: int, at: str
) -> None:
    async with blob_nodes("abcd") as town:
        data = LARGE[:size]
        digest = await town[at].runs.put(data)
        assert digest == sha(data)
        await until(lambda: town.having(digest) == "abc")
        for name in "abcd":
            assert await town[name].runs.get(digest) == data
        assert town.having(digest) == "abc"


async def test_it_is_on_a_majority_when_put_returns_whoever_loses_power_then(
    autojump_clock: MockClock,
) -> None:
    for lost in ("a", "b", "c"):
        async with blob_nodes("abcd") as town:
            digest = await town["d"].runs.put(LARGE)
            for name in "abc":
                town[name].kill(power=True)
            assert len(town.having(digest)) >= 2
            for name in set("abc") - {lost}:
                town[name].start()
            await trio.sleep(1)
            assert await town["d"].runs.get(digest) == LARGE


async def test_one_voter_that_is_away_or_does_not_answer_delays_nobody(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abcd") as town:
        town["c"].kill()
        began = trio.current_time()
        assert await town["d"].runs.put(LARGE) == sha(LARGE)
        town["c"].start()
        town.silent = {"c"}
        assert await town["a"].runs.put(SMALL) == sha(SMALL)
        assert trio.current_time() - began < 0.1


async def test_without_a_majority_nothing_is_stored_and_who_is_missing_is_said(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abcd") as town:
        town.cut("a", "d")
        for name in "ad":
            with pytest.raises(BlobNotStored, match="must") as caught:
                await town[name].runs.put(SMALL)
            assert set(caught.value.missing) == {node_id("b"), node_id("c")}
            assert (caught.value.stored, caught.value.needed) == (0, 2)
        assert town.having(sha(SMALL)) == ""


async def test_a_majority_that_falls_silent_is_waited_for_no_longer_than_allowed(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abc") as town:
        town.silent = {"b", "c"}
        began = trio.current_time()
        with pytest.raises(BlobNotStored) as caught:
            await town["a"].runs.put(SMALL)
        assert set(caught.value.missing) == {node_id("b"), node_id("c")}
        assert caught.value.stored == 1
        assert trio.current_time() - began <= limits.BLOB_PUT_S + 1


async def test_a_node_without_a_record_stores_nothing(autojump_clock: MockClock) -> None:
    async with blob_nodes("a", voters="") as town:
        with pytest.raises(BlobNotStored, match="does not run at this node"):
            await town["a"].runs.put(SMALL)


async def test_what_is_too_large_or_nothing_is_refused(autojump_clock: MockClock) -> None:
    async with blob_nodes("a", voters="a") as town:
        for data in (b"", bytes(limits.BLOB_BYTES + 1)):
            with pytest.raises(LimitExceeded, match="over the limit"):
                await town["a"].runs.put(data)
        assert await town["a"].runs.put(bytes(limits.BLOB_BYTES))


async def test_a_full_disk_counts_as_a_voter_that_is_missing(autojump_clock: MockClock) -> None:
    async with blob_nodes("abc") as town:
        town["b"].disk.capacity_bytes = limits.BLOBS_SPARE_BYTES
        digest = await town["a"].runs.put(LARGE)
        assert town.having(digest) == "ac"
        town["c"].disk.capacity_bytes = limits.BLOBS_SPARE_BYTES + 10_000
        with pytest.raises(BlobNotStored, match="nearly full") as caught:
            await town["a"].runs.put(LARGE + b"!")
        assert set(caught.value.missing) == {node_id("b"), node_id("c")}
        town["b"].disk.capacity_bytes = None
        digest = await town["a"].runs.put(LARGE + b"!")  # again does no harm
        assert town.having(digest) == "ab"


async def test_many_at_once_from_everywhere_arrive(autojump_clock: MockClock) -> None:
    async with blob_nodes("abcd") as town:
        sizes = random.Random(2)
        blobs = [sizes.randbytes(sizes.choice([5000, 70_000, 300_000])) for _ in range(40)]
        async with trio.open_nursery() as nursery:
            for number, data in enumerate(blobs):
                nursery.start_soon(town["abcd"[number % 4]].runs.put, data)
                nursery.start_soon(town["d"].runs.put, data)  # and each from two sides
        await trio.sleep(60)
        for data in blobs:
            assert town.having(sha(data)) == "abc"
        for name in "abc":
            store = town[name].runs.store
            assert store.size_bytes == sum(len(data) for data in blobs)
            assert not store.is_any_coming
            assert not [path for path in town[name].disk.files if path.name.startswith(".")]


async def test_a_caller_who_gives_up_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with blob_nodes("abc") as town:
        town.silent = {"b", "c"}
        with trio.move_on_after(0.5):
            await town["a"].runs.put(LARGE)
        town.silent = set()
        await trio.sleep(limits.BLOB_STALL_S * 3)
        assert set(town.having(sha(LARGE))) <= {"a"}
        assert await town["a"].runs.put(LARGE) == sha(LARGE)


# ---------------------------------------------------------------- getting


async def test_what_nobody_has_is_none(autojump_clock: MockClock) -> None:
    async with blob_nodes("abc") as town:
        assert await town["a"].runs.get(sha(b"?")) is None
        town.cut("a")
        assert await town["a"].runs.get(sha(b"?")) is None


async def test_wrong_bytes_on_this_disk_are_replaced_by_right_ones(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abc") as town:
        digest = await town["a"].runs.put(LARGE)
        await until(lambda: town.having(digest) == "abc")
        path = FOLDER / digest.hex()
        for damaged in (LARGE[:-1], b"", bytes(len(LARGE))):
            town["a"].disk.files[path] = damaged
            assert await town["a"].runs.get(digest) == LARGE
            assert town["a"].disk.files[path] == LARGE
            assert town["a"].runs.standing.size_bytes == len(LARGE)
        assert town["a"].runs.counters["blobs_damaged"] == 3


async def test_wrong_bytes_of_another_node_are_not_taken(autojump_clock: MockClock) -> None:
    async with blob_nodes("abcd") as town:
        digest = await town["a"].runs.put(LARGE)
        await until(lambda: town.having(digest) == "abc")
        for name in "ab":
            town[name].disk.files[FOLDER / digest.hex()] = bytes(len(LARGE))
        assert await town["d"].runs.get(digest) == LARGE
        town["c"].disk.files[FOLDER / digest.hex()] = bytes(len(LARGE))
        assert await town["d"].runs.get(digest) is None
        assert town["d"].runs.counters["blobs_wrong"] >= 3


async def test_a_copy_that_was_damaged_is_not_taken_for_one_when_it_is_stored_again(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abc") as town:
        digest = await town["a"].runs.put(LARGE)
        await until(lambda: town.having(digest) == "abc")
        for name in "abc":
            town[name].disk.files[FOLDER / digest.hex()] = bytes(len(LARGE))
        await town["b"].runs.put(LARGE)
        await until(
            lambda: all(n.disk.files[FOLDER / digest.hex()] == LARGE for n in town.nodes.values())
        )


async def test_a_node_that_is_no_voter_keeps_no_copy_of_what_it_gets(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abcd") as town:
        digest = await town["a"].runs.put(SMALL)
        assert await town["d"].runs.get(digest) == SMALL
        assert not town["d"].files()
