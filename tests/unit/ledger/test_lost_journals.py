"""Nodes without their journal, and a founder without its first record."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd.consensus.journal import open_journal, set_aside
from meshd.record.commands_registry import SetAlias
from meshd.testing.entropy import SeededEntropy
from meshd.testing.world import until
from tests.unit.ledger.meshes import (
    FOLDER,
    agree,
    aliases,
    ledgers,
    lose_journal,
    settled,
)


@pytest.mark.parametrize("which", ["leader", "other"])
async def test_a_voter_without_its_journal_comes_back_as_a_learner_and_gets_its_vote_anew(
    which: str, autojump_clock: MockClock
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        await mesh["a"].runs.execute(SetAlias(alias="kept", model="m"))
        leader = mesh.leader()
        assert leader is not None
        lost = (
            leader
            if which == "leader"
            else next(node for node in mesh.nodes.values() if node is not leader)
        )
        lost.kill()
        lose_journal(lost)
        lost.start()
        await until(lambda: lost.runs.own_machine().is_void, within_s=5.0)
        await until(lambda: not lost.void and lost.name not in mesh.voters(), within_s=60.0)
        await settled(mesh)
        await agree(mesh)
        assert aliases(mesh, lost.name) == {"kept": "m"}
        assert lost.name in mesh.voters()


async def test_a_voter_without_its_journal_elects_nobody_who_lacks_what_was_acknowledged(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        leader = mesh.leader()
        assert leader is not None
        behind, lost = (node for node in mesh.nodes.values() if node is not leader)
        mesh.cut(behind.name)
        await leader.runs.execute(SetAlias(alias="kept", model="m"))  # by these two alone
        for node in (leader, lost):
            node.kill()
        lose_journal(lost)
        lost.start()
        mesh.heal()
        await trio.sleep(120)
        assert mesh.leader() is None  # as a majority they would have forgotten it
        leader.start()
        await until(lambda: not lost.void, within_s=60.0)
        await agree(mesh)
        assert aliases(mesh, behind.name) == {"kept": "m"}


async def test_a_founder_that_lost_its_journal_by_itself_knows_that(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        mesh["a"].kill()
        set_aside(mesh["a"].disk, FOLDER)
        mesh["a"].start()
        await until(lambda: mesh["a"].void, within_s=5.0)
        await until(lambda: not mesh["a"].void, within_s=60.0)
        await settled(mesh)
        await agree(mesh)


async def test_a_founder_that_died_before_it_wrote_its_first_record_founds_after_all(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("a") as mesh:
        node = mesh["a"]
        await until(lambda: node.runs.driver is not None, within_s=5.0)
        node.kill()
        for name in node.disk.names(FOLDER):
            node.disk.delete(FOLDER / name)
        node.disk.delete(node.place.founded_mark)
        open_journal(node.disk, FOLDER, node.place.owner, SeededEntropy(1)).journal.close()
        node.start()
        await node.runs.execute(SetAlias(alias="x", model="m"))
