"""Backups of a record that runs, and what a restored one is to the nodes."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd.errors import Refused
from meshd.ledger.backup import Backup, read_backup
from meshd.ledger.live_backup import back_up
from meshd.ledger.remedies import restore
from meshd.record.commands_registry import SetAlias
from meshd.testing.disk import MemoryDisk
from meshd.testing.world import until
from tests.unit.ledger.meshes import (
    LedgerNode,
    agree,
    aliases,
    ledgers,
    lose_journal,
    patient,
    settled,
)


async def backup_of(node: LedgerNode) -> Backup:
    mesh = node.place.mesh
    return read_backup(b"".join(await back_up(node.runs, mesh)), mesh)


async def test_a_backup_holds_what_was_acknowledged_anywhere_before_it(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        leader = mesh.leader()
        assert leader is not None
        follower = next(node for node in mesh.nodes.values() if node is not leader)
        await leader.runs.execute(SetAlias(alias="just now", model="m"))
        backup = read_backup(
            b"".join(await back_up(follower.runs, leader.place.mesh)), leader.place.mesh
        )
        assert backup.state.settings.aliases() == {"just now": "m"}
        assert backup.voters == tuple(sorted(node.id for node in mesh.nodes.values()))


async def test_without_a_majority_there_is_no_backup_and_it_says_why(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        mesh.cut("c")
        with pytest.raises(Refused, match="all that was acknowledged"):
            await backup_of(mesh["c"])


async def test_a_restored_record_is_what_nodes_get_that_have_none(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        await mesh["b"].runs.execute(SetAlias(alias="kept", model="m"))
        backup = read_backup(
            b"".join(await back_up(mesh["a"].runs, mesh["a"].place.mesh)), mesh["a"].place.mesh
        )
        await mesh["b"].runs.execute(SetAlias(alias="later", model="m"))
        for node in mesh.nodes.values():
            node.kill()
            node.disk = MemoryDisk()
        restore(patient(mesh["a"]), backup, voters_are_gone=True)
        for node in mesh.nodes.values():
            node.start()
        await mesh["c"].runs.execute(SetAlias(alias="new", model="m"), timeout_s=60)
        await settled(mesh)
        await agree(mesh)
        assert set(aliases(mesh, "c")) == {"kept", "new"}


async def test_nodes_with_the_former_record_are_never_taken_in_by_the_restored_one(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("ab") as mesh:
        await until(lambda: mesh["b"].state.nodes.is_founded, within_s=60.0)
        backup = read_backup(
            b"".join(await back_up(mesh["a"].runs, mesh["a"].place.mesh)), mesh["a"].place.mesh
        )
        await mesh["b"].runs.execute(SetAlias(alias="later", model="m"), timeout_s=60)
        await agree(mesh)
        mesh["a"].kill()
        mesh["a"].disk = MemoryDisk()
        restore(patient(mesh["a"]), backup)
        mesh["a"].start()
        await mesh["a"].runs.execute(SetAlias(alias="new", model="m"), timeout_s=60)
        await trio.sleep(30)
        assert aliases(mesh, "b") == {"later": "m"}
        mesh["b"].kill()  # as it was told: set aside, and start
        lose_journal(mesh["b"])
        mesh["b"].start()
        await until(lambda: aliases(mesh, "b") == {"new": "m"}, within_s=60.0)
