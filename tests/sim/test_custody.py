"""The CA's key among whole nodes in memory: who has it, who gets it, who does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import Refused
from meshd.ids import NodeId
from meshd.testing.world import PATHS, Machine, World, until
from meshd.wire.control_mesh import CaKeyRequest
from tests.sim.test_record import three, voters


def key_file(machine: Machine) -> PurePosixPath:
    return PurePosixPath(PATHS.data) / machine.running.mesh.registry.mesh / "ca.key"


def has_key(machine: Machine) -> bool:
    """On its disk, in its memory and on its record."""
    node = machine.running
    row = node.record.ledger.state.nodes.get(node.mesh.id)
    on_disk = key_file(machine) in machine.disk.files
    in_memory = node.custody.authority() is not None
    assert not on_disk or key_file(machine) in machine.disk.private
    return on_disk and in_memory and row is not None and row.holds_ca


def count(machine: Machine, counter: str) -> int:
    return machine.running.mesh.switchboard.counters[counter]


async def test_all_three_voters_have_the_key_within_seconds(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        await until(lambda: all(has_key(m) for m in (a, b, c)), within_s=10.0)
        files = {m.disk.files[key_file(m)] for m in (a, b, c)}
        assert len(files) == 1
        assert sum(count(m, "ca_key_given") for m in (a, b, c)) == 2


async def test_a_member_without_a_vote_is_refused_the_key_and_counted(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        await until(lambda: all(has_key(m) for m in (a, b, c)), within_s=10.0)
        d = await world.start("d")
        await world.settled()
        await until(lambda: d.running.record.ledger.state.nodes.get(d.running.mesh.id) is not None)
        assert "d" not in voters(a)
        for holder in (a, b, c):
            with pytest.raises(Refused, match="is for voters"):
                await d.running.mesh.links.request(holder.running.mesh.id, CaKeyRequest())
            assert count(holder, "ca_key_refused") == 1
        assert not has_key(d)


async def test_a_voter_that_asks_again_at_once_is_refused(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        await until(lambda: all(has_key(m) for m in (a, b, c)), within_s=10.0)
        await trio.sleep(limits.CA_KEY_ASK_S)
        before = count(a, "ca_key_given")
        holder: NodeId = a.running.mesh.id
        links = b.running.mesh.links
        await links.request(holder, CaKeyRequest(), 5.0)
        with pytest.raises(Refused, match="once in 1 s"):
            await links.request(holder, CaKeyRequest(), 5.0)
        assert count(a, "ca_key_given") == before + 1


async def test_a_founder_whose_key_file_is_gone_gets_the_key_back(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        await until(lambda: all(has_key(m) for m in (a, b, c)), within_s=10.0)
        path = key_file(a)
        key = a.disk.files[path]
        a.kill()
        await a.until_over()
        a.disk.delete(path)
        await a.start()
        assert a.running.custody.authority() is None
        await until(lambda: has_key(a), within_s=30.0)
        assert a.disk.files[path] == key


async def test_whoever_loses_its_vote_deletes_the_key(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        await until(lambda: all(has_key(m) for m in (a, b, c)), within_s=10.0)
        path = key_file(c)
        c.kill()
        await c.until_over()
        c.config = replace(c.config, voter="never")
        await c.start()
        await until(lambda: path not in c.disk.files, within_s=60.0)
        assert "c" not in voters(c)
        assert c.running.custody.authority() is None
        row = a.running.record.ledger.state.nodes.get(c.running.mesh.id)
        assert row is not None
        assert not row.holds_ca
        assert row.held_ca == 1  # which is not forgotten
