"""Blobs in the long run: brought to voters that lack them, and deleted when nothing names them."""

from __future__ import annotations

import random

import trio
from trio.testing import MockClock

from meshd import limits
from meshd.testing.world import until
from meshd.wire.control_record import BlobData, BlobRequest
from tests.unit.jobs.blob_nodes import (
    HOUR_MS,
    LARGE,
    SMALL,
    blob_nodes,
    looked,
    node_id,
    sha,
)


async def test_a_new_voter_gets_what_the_record_names_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abcd") as town:
        named = [await town["a"].runs.put(LARGE + bytes([n])) for n in range(10)]
        other = await town["a"].runs.put(SMALL)
        town.names(*named)
        await looked(town)
        assert not town["d"].files()
        town["c"].kill()
        town.voters = "abd"
        await until(lambda: town["d"].files() == set(named), within_s=60)
        assert other not in town["d"].files()


async def test_a_voter_that_comes_back_without_its_disk_gets_everything_again(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abc") as town:
        named = [await town["a"].runs.put(LARGE + bytes([n])) for n in range(5)]
        town.names(*named)
        town["b"].kill()
        town["b"].disk.files.clear()
        town["b"].start()
        await until(lambda: town["b"].files() == set(named), within_s=60)
        await until(lambda: town["b"].runs.standing.missing == 0)


async def test_what_is_missing_is_brought_at_a_bounded_rate(autojump_clock: MockClock) -> None:
    async with blob_nodes("ab", voters="a") as town:
        data = random.Random(3).randbytes(4 * limits.MIB)
        named = [await town["a"].runs.put(data + bytes([n])) for n in range(8)]
        town.names(*named)
        began = trio.current_time()
        town.voters = "ab"
        await until(lambda: len(town["b"].files()) == 8, within_s=60)
        seconds = 7 * len(data) / limits.BLOB_HEAL_BYTES_PER_S
        assert trio.current_time() - began >= seconds


async def test_what_cannot_be_got_is_counted_and_tried_again(autojump_clock: MockClock) -> None:
    async with blob_nodes("ab", voters="a") as town:
        digest = await town["a"].runs.put(LARGE)
        town.names(digest)
        town.cut("a")
        town.voters = "ab"
        await trio.sleep(30)
        assert town["b"].runs.standing.missing == 1
        town.cut()
        await until(lambda: town["b"].files() == {digest}, within_s=60)
        await until(lambda: town["b"].runs.standing.missing == 0)


async def test_what_nothing_names_goes_after_a_day_of_record_time_and_not_before(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abc") as town:
        kept, gone = await town["a"].runs.put(LARGE), await town["a"].runs.put(SMALL)
        town.names(kept, gone)
        for _ in range(48):
            town.tick(HOUR_MS)
            await looked(town)
        assert town.having(gone) == "abc"
        town.names(kept)
        for _ in range(24):
            await looked(town)
            assert town.having(gone) == "abc"
            town.tick(HOUR_MS)
        await looked(town)
        assert (town.having(kept), town.having(gone)) == ("abc", "")
        assert town["a"].runs.standing.count == 1
        assert town["a"].runs.standing.size_bytes == len(LARGE)


async def test_a_machine_that_starts_every_morning_comes_to_the_end_of_a_day_too(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abc") as town:
        digest = await town["a"].runs.put(SMALL)
        await looked(town)
        for _ in range(4):
            assert town.having(digest) == "abc"
            for node in town.nodes.values():
                node.kill(power=True)
                node.start()
            town.tick(6 * HOUR_MS)
            await looked(town)
        await trio.sleep(limits.BLOB_GRACE_S)
        await looked(town)
        assert town.having(digest) == ""


async def test_who_is_behind_deletes_nothing(autojump_clock: MockClock) -> None:
    """It does not know what the record has named meanwhile."""
    async with blob_nodes("abc") as town:
        digest = await town["a"].runs.put(SMALL)
        town.names(digest)
        town["c"].is_behind = True
        for _ in range(4):
            town.tick(12 * HOUR_MS)
            await looked(town)
        assert town.having(digest) == "abc"


async def test_what_is_stored_again_begins_its_time_anew(autojump_clock: MockClock) -> None:
    async with blob_nodes("abc") as town:
        digest = await town["a"].runs.put(SMALL)
        await looked(town)
        town.tick(23 * HOUR_MS)
        await town["b"].runs.put(SMALL)
        await trio.sleep(1)
        for node in town.nodes.values():  # also if it starts just then
            node.kill(power=True)
            node.start()
        for _ in range(23):
            town.tick(HOUR_MS)
            await looked(town)
            assert town.having(digest) == "abc"
        town.tick(2 * HOUR_MS)
        await looked(town)
        assert town.having(digest) == ""


async def test_what_was_stored_just_now_stays_however_far_the_clock_jumps(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abc") as town:
        await looked(town)
        digest = await town["a"].runs.put(SMALL)
        town["a"].runs.store._unnamed.look([digest], town.now_ms)
        town.tick(1000 * HOUR_MS)
        assert await town["a"].runs.store.collect(town.now_ms) == 0
        await trio.sleep(limits.BLOB_GRACE_S + 1)
        assert await town["a"].runs.store.collect(town.now_ms) == 1


async def test_nothing_happens_while_nothing_changes(autojump_clock: MockClock) -> None:
    async with blob_nodes("abc") as town:
        digest = await town["a"].runs.put(LARGE)
        town.names(digest)
        await trio.sleep(700)
        steps: list[str] = []
        for node in town.nodes.values():
            node.heard.clear()
            node.disk.on_step = lambda name, path: steps.append(name)
        await trio.sleep(7200)
        assert not steps
        assert not [message for node in town.nodes.values() for message in node.heard]


# ---------------------------------------------------------------- disks


async def test_a_folder_that_cannot_be_read_is_tried_again_and_others_serve_meanwhile(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abc") as town:
        digest = await town["a"].runs.put(LARGE)
        await until(lambda: town.having(digest) == "abc")
        town["a"].kill()
        town["a"].disk.broken = "the disk reports an error"
        town["a"].start()
        await trio.sleep(1)
        assert "reports an error" in town["a"].runs.standing.problem
        assert await town["a"].runs.get(digest) == LARGE
        assert await town["a"].runs.put(SMALL) == sha(SMALL)
        assert isinstance(await town["c"].hear(node_id("a"), BlobRequest(digest=digest, offset=0)),
                          BlobData)  # fmt: skip
        town["a"].disk.broken = None
        town.names(digest, sha(SMALL))
        await until(lambda: town["a"].files() == {digest, sha(SMALL)}, within_s=120)
        assert town["a"].runs.standing.problem == ""
