"""Logs that are shortened, and snapshots to nodes that were away: whatever fails on the way."""

from __future__ import annotations

import errno
from pathlib import PurePath

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.consensus.interface import Settings
from meshd.errors import DiskFailed
from meshd.record.commands_registry import SetAlias
from meshd.testing.disk import MemoryDisk
from meshd.testing.world import until
from tests.unit.ledger.meshes import (
    LedgerMesh,
    LedgerNode,
    agree,
    aliases,
    ledgers,
    settled,
)


async def test_the_log_is_shortened_and_who_was_away_gets_the_snapshot(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECORD_SNAPSHOT_EVERY", 40)
    monkeypatch.setattr(limits, "RAFT_PER_STEP", 8)
    async with ledgers("abc", settings=Settings(trailing=0)) as mesh:
        await settled(mesh)
        away = next(n for n in mesh.nodes.values() if n is not mesh.leader())
        away.kill()
        for n in range(200):
            other = next(m for m in mesh.nodes.values() if m.ledger is not None)
            await other.runs.execute(SetAlias(alias=f"x{n % 7}", model=f"m{n}"), timeout_s=30)
        leader = mesh.leader()
        assert leader is not None
        await until(lambda: any("snap" in p.name for p in leader.disk.files))
        away.start()
        await agree(mesh)
        for node in mesh.nodes.values():  # and all come back from what they keep
            node.kill(power=True)
        await trio.sleep(1)
        for node in mesh.nodes.values():
            node.start()
        await until(lambda: mesh.leader() is not None, within_s=30.0)
        await agree(mesh)
        assert aliases(mesh, away.name)["x3"] == "m199"


async def behind_a_snapshot(mesh: LedgerMesh) -> tuple[LedgerNode, LedgerNode]:
    """Leader, and one that is away and needs the leader's snapshot."""
    await settled(mesh)
    away = next(n for n in mesh.nodes.values() if n is not mesh.leader())
    away.kill()
    for n in range(100):
        other = next(m for m in mesh.nodes.values() if m.ledger is not None)
        await other.runs.execute(SetAlias(alias=f"x{n % 7}", model=f"m{n}"), timeout_s=30)
    leader = mesh.leader()
    assert leader is not None
    await until(lambda: bool(snapshots_on(leader)))
    return leader, away


def snapshots_on(node: LedgerNode) -> list[str]:
    return [path.name for path in node.disk.files if path.name.endswith(".snapshot")]


def fail_at(disk: MemoryDisk, step: str) -> list[str]:
    """Let that step of handling snapshots fail on that disk; what failed is in the list."""
    failed: list[str] = []
    before = [""]

    def on_step(name: str, path: PurePath) -> None:
        concerns = before[0] if name == "sync folder" else path.name
        before[0] = path.name
        if name == step and "snapshot" in concerns:
            failed.append(path.name)
            raise DiskFailed(errno.ENOSPC, "the disk is full; free some space")

    disk.on_step = on_step
    return failed


@pytest.fixture
def short_logs(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with which a snapshot comes soon and goes in many parts."""
    monkeypatch.setattr(limits, "RECORD_SNAPSHOT_EVERY", 40)
    monkeypatch.setattr(limits, "RAFT_PER_STEP", 8)
    return Settings(trailing=0, chunk_bytes=200)


@pytest.mark.parametrize("step", ["create", "append", "sync", "rename", "sync folder"])
async def test_who_cannot_write_a_leaders_snapshot_stays_what_it_was_and_gets_it_later(
    autojump_clock: MockClock, short_logs: Settings, step: str
) -> None:
    async with ledgers("abc", settings=short_logs) as mesh:
        _, away = await behind_a_snapshot(mesh)
        failed = fail_at(away.disk, step)
        away.start()
        await until(lambda: bool(failed), within_s=30.0)
        assert "x1" not in aliases(mesh, away.name)
        away.disk.on_step = None
        await until(lambda: aliases(mesh, away.name).get("x1") == "m99", within_s=120.0)
        await agree(mesh)


async def test_a_snapshot_that_rots_at_the_leader_is_refused_and_nothing_changes(
    autojump_clock: MockClock, short_logs: Settings
) -> None:
    async with ledgers("abc", settings=short_logs) as mesh:
        leader, away = await behind_a_snapshot(mesh)
        sound = leader.disk.misread

        def rotten(path: PurePath, data: bytes) -> bytes:
            if path.name.endswith(".snapshot"):
                return data[:-60] + bytes([data[-60] ^ 1]) + data[-59:]
            return data

        leader.disk.misread = rotten
        away.start()
        await trio.sleep(20.0)
        assert "x1" not in aliases(mesh, away.name)
        leader.disk.misread = sound
        await until(lambda: aliases(mesh, away.name).get("x1") == "m99", within_s=120.0)
        await agree(mesh)


@pytest.mark.parametrize("step", ["create", "append", "sync", "rename", "sync folder"])
async def test_power_lost_at_any_step_of_a_snapshot_leaves_the_old_one_or_the_new(
    autojump_clock: MockClock, short_logs: Settings, step: str
) -> None:
    async with ledgers("abc", settings=short_logs) as mesh:
        _, away = await behind_a_snapshot(mesh)
        failed = fail_at(away.disk, step)
        away.start()
        await until(lambda: bool(failed), within_s=30.0)
        away.kill(power=True)
        away.disk.on_step = None
        await trio.sleep(1.0)
        away.start()
        await until(lambda: aliases(mesh, away.name).get("x1") == "m99", within_s=120.0)
        await agree(mesh)
