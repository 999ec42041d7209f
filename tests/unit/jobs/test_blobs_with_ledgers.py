"""Blobs beside real records and over real links, in virtual time."""

from __future__ import annotations

import hashlib
import random
from pathlib import PurePath

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import DialFailed
from meshd.ids import NodeId
from meshd.jobs.blobs import BlobNotStored, Blobs, Record, record_of
from meshd.ledger.ledger import Ledger
from meshd.peers.switchboard import Switchboard
from meshd.record.commands_jobs import ClaimNext, Complete, RequestFields, Submit
from meshd.testing.disk import MemoryDisk
from meshd.testing.world import until
from meshd.wire.control import Message
from meshd.wire.control_record import BlobPart, BlobRequest
from tests.unit.ledger.meshes import LedgerMesh, ledgers
from tests.unit.peers.rig import A, B, C, Town, hello_of

FOLDER = PurePath("/data/record/mesh.blobs")
LARGE = random.Random(1).randbytes(2_000_000)


# --- beside real records


class Keepers:
    """A blob service at each node of a mesh of ledgers."""

    def __init__(self, mesh: LedgerMesh) -> None:
        self.mesh = mesh
        self.at: dict[str, Blobs] = {}
        for name in mesh.nodes:
            self.start(name)

    def start(self, name: str) -> None:
        mesh, node = self.mesh, self.mesh[name]

        async def ask(to: NodeId, message: Message, timeout_s: float) -> Message:
            other = mesh.by_id(to)
            await trio.sleep(0.002)
            if not mesh.is_linked(node, other):
                raise DialFailed(f"node {other.name} cannot be reached now")
            if isinstance(message, BlobPart):
                return await self.at[other.name].take_part(node.id, message)
            assert isinstance(message, BlobRequest)
            return await self.at[other.name].give_part(node.id, message)

        blobs = self.at[name] = Blobs(
            node.disk,
            FOLDER,
            node.id,
            record_of(node.runs),
            linked=lambda: [n.id for n in mesh.nodes.values() if mesh.is_linked(node, n)],
            ask=ask,
            choose=random.Random(1).randrange,
        )
        mesh.nursery.start_soon(blobs.run)

    def holders(self, digest: bytes) -> set[str]:
        return {name for name, node in self.mesh.nodes.items() if FOLDER / digest.hex() in
                node.disk.files}  # fmt: skip


def job_for(data: bytes) -> Submit:
    request = RequestFields(digest=hashlib.sha256(data).digest(), size_bytes=len(data))
    return Submit(queue="bots", request=request)


async def finish_with(runs: Ledger, data: bytes) -> None:
    """A job that was small, and whose result is this."""
    small = RequestFields(digest=hashlib.sha256(b"1").digest(), size_bytes=1, inline=b"1")
    await runs.execute(Submit(queue="bots", request=small))
    claimed = await runs.execute(ClaimNext(queue="bots", lease_ms=15_000))
    digest = hashlib.sha256(data).digest()
    [job] = claimed["jobs"]
    await runs.execute(
        Complete(job=job, fence=claimed["fence"], digest=digest, size_bytes=len(data))
    )


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_body_or_a_result_outlives_the_loss_of_any_voter_and_moves_to_its_successor(
    autojump_clock: MockClock, is_over: bool
) -> None:
    async with ledgers("abcd") as mesh:
        await until(lambda: len(mesh.voters()) == 3, within_s=60)
        keepers = Keepers(mesh)
        await trio.sleep(1)
        [spare] = set("abcd") - mesh.voters()
        digest = await keepers.at[spare].put(LARGE)
        assert len(keepers.holders(digest)) >= 2
        if is_over:
            await finish_with(mesh[spare].runs, LARGE)
        else:
            await mesh[spare].runs.execute(job_for(LARGE))
        await until(lambda: keepers.holders(digest) == mesh.voters())
        gone = next(v for v in mesh.voters() if mesh[v] is not mesh.leader())
        mesh[gone].kill(power=True)
        mesh[gone].away_since -= limits.REPLACE_VOTER_AFTER_S
        await until(lambda: spare in mesh.voters() and gone not in mesh.voters(), within_s=60)
        await until(lambda: spare in keepers.holders(digest), within_s=60)
        assert await keepers.at[spare].get(digest) == LARGE


async def test_what_the_record_names_stays_and_the_rest_goes(autojump_clock: MockClock) -> None:
    async with ledgers("a") as mesh:
        await until(lambda: mesh.voters() == {"a"}, within_s=60)
        keepers = Keepers(mesh)
        await trio.sleep(1)
        named, other = await keepers.at["a"].put(LARGE), await keepers.at["a"].put(LARGE[1:])
        await mesh["a"].runs.execute(job_for(LARGE))
        await trio.sleep(limits.BLOB_LOOK_S + limits.BLOB_GRACE_S)
        store = keepers.at["a"].store
        assert set(store.held) == {named, other}
        day_ms = limits.BLOB_KEPT_S * 1000
        assert await store.collect(mesh["a"].state.clock.now_unix_ms + day_ms) == 1
        assert set(store.held) == {named}


async def test_a_minority_stores_nothing(autojump_clock: MockClock) -> None:
    async with ledgers("abc") as mesh:
        await until(lambda: len(mesh.voters()) == 3, within_s=60)
        keepers = Keepers(mesh)
        await trio.sleep(1)
        mesh.cut("c")
        with pytest.raises(BlobNotStored):
            await keepers.at["c"].put(LARGE)
        assert await keepers.at["a"].put(LARGE)


# --- over real links


async def linked(town: Town) -> dict[NodeId, Blobs]:
    """Three members, all voters, with their links, boards and disks."""
    found: dict[NodeId, Blobs] = {}
    for node in (A, B, C):
        board = Switchboard(hello_of(node).mesh, lambda node=node: hello_of(node))
        peer = await town.live(node, board)
        found[node] = blobs = Blobs(
            MemoryDisk(),
            FOLDER,
            node,
            Record(lambda: [A, B, C], lambda: 1, lambda: 1, lambda: iter(()), trio.sleep_forever),
            linked=peer.links.up,
            ask=peer.links.request,
            choose=random.Random(1).randrange,
        )
        blobs.answer(board)
        town.nursery.start_soon(blobs.run)
    for node in found:
        town.peers[node].links.want(set(found) - {node})
    await until(lambda: all(len(town.peers[node].links.up()) == 2 for node in found))
    return found


async def test_blobs_go_over_control_links(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        blobs = await linked(town)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                data = LARGE[number : number + [5_000, 300_000][number % 2]]
                nursery.start_soon(blobs[[A, B, C][number % 3]].put, data)
        digest = await blobs[A].put(LARGE)
        await until(lambda: all(digest in at.store.held for at in blobs.values()))
        assert all(len(at.store.held) == 21 for at in blobs.values())
        await blobs[C].store._drop(digest)
        assert await blobs[C].get(digest) == LARGE


async def test_a_refusal_comes_back_as_its_reason(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        blobs = await linked(town)
        for node in (B, C):
            disk = blobs[node]._disk
            assert isinstance(disk, MemoryDisk)
            disk.capacity_bytes = 1000
        with pytest.raises(BlobNotStored, match="the disk is nearly full"):
            await blobs[A].put(LARGE)


async def test_a_link_that_breaks_meanwhile_and_comes_back_is_no_failure(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        blobs = await linked(town)

        async def cut() -> None:
            await until(lambda: blobs[B].store.is_any_coming or blobs[C].store.is_any_coming)
            for node in (B, C):
                town.peers[A].links.cut(node, "cut")

        town.nursery.start_soon(cut)
        digest = await blobs[A].put(LARGE)
        assert digest in {**blobs[B].store.held, **blobs[C].store.held}
