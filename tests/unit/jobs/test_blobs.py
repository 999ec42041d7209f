"""Blobs of several nodes: stored on majorities, found anywhere, brought back where they lack."""

from __future__ import annotations

import hashlib
import random

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import LimitExceeded
from meshd.jobs.blob_store import BlobStore
from meshd.jobs.blobs import BlobNotStored
from meshd.testing.world import until
from meshd.wire.control import Message, Pong
from meshd.wire.control_record import BlobData, BlobHeld, BlobPart, BlobRequest
from tests.unit.jobs.blob_nodes import FOLDER, HOUR_MS, BlobTown, blob_nodes, node_id

SMALL = b"small " * 1000
LARGE = random.Random(1).randbytes(5 * limits.BLOB_PART_BYTES + 17)
SIZES = [1, limits.BLOB_PART_BYTES, limits.BLOB_PART_BYTES + 1, len(LARGE)]


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


async def looked(town: BlobTown) -> None:
    """Long enough that each node has looked at what the record names."""
    town.index += 1
    await trio.sleep(limits.BLOB_LOOK_S + 60)


# ---------------------------------------------------------------- storing


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


# ---------------------------------------------------------------- nonsense


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


# ---------------------------------------------------------------- keeping


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
