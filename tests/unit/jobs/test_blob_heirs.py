"""A node that leaves stores what it has of blobs with the voters that stay."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.jobs.blob_heirs import hand_over
from meshd.jobs.blob_plan import put_s
from meshd.jobs.handing_over import NotHandedOver
from meshd.wire.control_record import BlobPart
from tests.unit.jobs.blob_nodes import LARGE, SMALL, BlobTown, blob_nodes


async def test_the_voters_have_afterwards_what_the_record_names_and_only_the_leaver_had(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("abc", voters="a") as town:
        named = await stored(town, [SMALL + bytes([n]) for n in range(9)] + [LARGE])
        town.names(*named)
        town.voters = "bc"
        await hand_over(town["a"].runs)
        assert {town.having(digest) for digest in named} == {"abc"}


async def test_what_a_voter_has_already_costs_no_more_than_a_part(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("ab", voters="ab") as town:
        town.names(*await stored(town, [LARGE]))
        town.voters = "b"
        town["b"].heard.clear()
        await hand_over(town["a"].runs)
        parts = [part for part in town["b"].heard if isinstance(part, BlobPart)]
        assert [len(part.data) for part in parts] == [limits.BLOB_PART_BYTES]


async def test_what_is_about_to_be_named_goes_with_it_and_what_nothing_names_does_not(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("ab", voters="a") as town:
        (old,) = await stored(town, [SMALL])
        await trio.sleep(limits.BLOB_GRACE_S + 1)
        (new,) = await stored(town, [LARGE])
        town.voters = "b"
        await hand_over(town["a"].runs)
        assert (town.having(old), town.having(new)) == ("a", "ab")


async def test_where_it_cannot_be_stored_it_ends_with_the_first_and_says_how_many_are_left(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("ab", voters="a") as town:
        town.names(*await stored(town, [LARGE + bytes([n]) for n in range(5)]))
        town.voters = "b"
        town.silent.add("b")
        began = trio.current_time()
        with pytest.raises(NotHandedOver, match="1 must") as caught:
            await hand_over(town["a"].runs)
        assert caught.value.count == 5
        assert trio.current_time() - began <= put_s(len(LARGE) + 1) + 1
        town.silent.clear()
        await hand_over(town["a"].runs)
        assert len(town["b"].files()) == 5


async def test_a_blob_that_was_lost_before_keeps_nobody_from_leaving(
    autojump_clock: MockClock,
) -> None:
    async with blob_nodes("ab", voters="a") as town:
        lost, kept = await stored(town, [SMALL, LARGE])
        town.names(lost, kept)
        (path,) = (path for path in town["a"].disk.files if path.name == lost.hex())
        del town["a"].disk.files[path]
        town.voters = "b"
        await hand_over(town["a"].runs)
        assert town.having(kept) == "ab"


async def stored(town: BlobTown, blobs: list[bytes]) -> list[bytes]:
    """Their digests; `a` stored them with the voters of then."""
    return [await town["a"].runs.put(data) for data in blobs]
