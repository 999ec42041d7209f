"""The record of several nodes, in virtual time: real kernels, journals and reducers."""

from __future__ import annotations

import errno
from pathlib import PurePath

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.consensus.driver import ProposalRefused
from meshd.consensus.entries import Rebase
from meshd.consensus.interface import CommandTooLarge, Settings
from meshd.consensus.journal import open_journal, set_aside
from meshd.consensus.messages import (
    MESSAGE_BYTES,
    AppendAnswer,
    AppendEntries,
    SnapshotAnswer,
    encode,
)
from meshd.consensus.replay import last_of
from meshd.errors import DiskFailed, Refused
from meshd.ledger.backup import Backup, read_backup
from meshd.ledger.live_backup import back_up
from meshd.ledger.remedies import Patient, restore
from meshd.ledger.session import MaybeWritten, NotWritten
from meshd.record.commands import Malformed
from meshd.record.commands_jobs import ClaimNext, RequestFields, Submit
from meshd.record.commands_registry import RaiseFeature, SetAlias
from meshd.record.results import RecordRefused
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from meshd.testing.world import until
from meshd.wire.codec import pack
from tests.joins import NOW_UNIX_S
from tests.unit.ledger.meshes import FOLDER, LedgerMesh, LedgerNode, ledgers


async def settled(mesh: LedgerMesh, voters: int = 3) -> None:
    await until(lambda: len(mesh.voters()) == voters, within_s=60.0)


async def agree(mesh: LedgerMesh) -> None:
    """All that run have the same state."""
    await until(
        lambda: len({n.state.digest() for n in mesh.nodes.values() if n.ledger}) == 1,
        within_s=30.0,
    )


def aliases(mesh: LedgerMesh, name: str) -> dict[str, str]:
    return mesh[name].state.settings.aliases()


async def backup_of(node: LedgerNode) -> Backup:
    mesh = node.place.mesh
    return read_backup(b"".join(await back_up(node.runs, mesh)), mesh)


async def test_a_record_of_one_is_founded_and_written(autojump_clock: MockClock) -> None:
    async with ledgers("a") as mesh:
        await mesh["a"].runs.execute(SetAlias(alias="best", model="llama3.2"))
        assert aliases(mesh, "a") == {"best": "llama3.2"}
        assert mesh.voters() == {"a"}


async def test_the_third_node_makes_three_voters_and_all_hold_the_same(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        for name in "abc":  # written at any of them
            await mesh[name].runs.execute(SetAlias(alias=name, model="llama3.2"))
        await agree(mesh)
        assert set(aliases(mesh, "b")) == {"a", "b", "c"}


async def test_two_nodes_have_one_voter_and_both_read_and_write(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("ab") as mesh:
        await mesh["b"].runs.execute(SetAlias(alias="x", model="m"), timeout_s=60)
        await agree(mesh)
        assert mesh.voters() == {"a"}
        assert aliases(mesh, "a") == {"x": "m"}


async def test_what_was_acknowledged_outlives_the_leaders_power_loss(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        leader = mesh.leader()
        assert leader is not None
        await leader.runs.execute(SetAlias(alias="kept", model="m"))
        leader.kill(power=True)
        await until(lambda: mesh.leader() not in (None, leader), within_s=10.0)
        other = mesh.leader()
        assert other is not None
        await other.runs.read_barrier()
        assert "kept" in aliases(mesh, other.name)
        leader.start()
        await agree(mesh)


async def test_a_minority_refuses_and_says_so_and_writes_nothing(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        mesh.cut("c")
        with pytest.raises((NotWritten, MaybeWritten)):
            await mesh["c"].runs.execute(SetAlias(alias="lost", model="m"), timeout_s=5)
        await mesh["a"].runs.execute(SetAlias(alias="kept", model="m"), timeout_s=30)
        mesh.heal()
        await agree(mesh)
        assert set(aliases(mesh, "c")) == {"kept"}


async def test_all_lose_power_at_once_and_nothing_acknowledged_is_lost(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        for n in range(20):
            await mesh["b"].runs.execute(SetAlias(alias=f"x{n}", model="m"))
        for node in mesh.nodes.values():
            node.kill(power=True)
        await trio.sleep(5)
        for node in mesh.nodes.values():
            node.start()
        await until(lambda: mesh.leader() is not None, within_s=30.0)
        await mesh["c"].runs.execute(SetAlias(alias="after", model="m"), timeout_s=30)
        await agree(mesh)
        assert set(aliases(mesh, "a")) == {f"x{n}" for n in range(20)} | {"after"}


async def test_a_voter_that_stays_away_is_replaced(autojump_clock: MockClock) -> None:
    async with ledgers("abcd") as mesh:
        await settled(mesh)
        [spare] = set("abcd") - mesh.voters()
        gone = next(v for v in mesh.voters() if mesh[v] is not mesh.leader())
        mesh[gone].kill()
        mesh[gone].away_since -= limits.REPLACE_VOTER_AFTER_S - 30.0
        await trio.sleep(15.0)
        assert gone in mesh.voters()
        await until(lambda: spare in mesh.voters() and gone not in mesh.voters(), within_s=60.0)
        assert len(mesh.voters()) == 3


async def test_a_refusal_of_the_record_is_told_as_such(autojump_clock: MockClock) -> None:
    async with ledgers("a") as mesh:
        with pytest.raises(RecordRefused):
            await mesh["a"].runs.execute(SetAlias(alias="nothing"))


async def test_a_disk_that_fills_up_stops_the_record_here_and_not_elsewhere(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        leader = mesh.leader()
        assert leader is not None
        leader.disk.broken = "no space left on the disk"
        others = [node for node in mesh.nodes.values() if node is not leader]
        await others[0].runs.execute(SetAlias(alias="x", model="m"), timeout_s=30)
        await until(lambda: leader.runs.driver is None)
        assert "no space" in str(leader.runs.problem)
        leader.disk.broken = None
        await agree(mesh)
        assert aliases(mesh, leader.name) == {"x": "m"}


def lose_journal(node: LedgerNode) -> None:
    """What `meshd record repair --set-aside` does."""
    set_aside(node.disk, FOLDER)
    node.disk.write(node.place.void_mark, b"", private=True)


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


async def test_a_command_that_this_version_does_not_know_is_refused_and_nothing_stops(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        later = pack([9, "what", "comes", {"then": 1}])
        for name in "abc":
            before = mesh[name].state.index
            driver = mesh[name].runs.driver
            assert driver is not None
            with pytest.raises(ProposalRefused, match="version 9, this meshd knows 1: update it"):
                await driver.propose(later)
            with pytest.raises(NotWritten, match="knows 1: update it"):
                await mesh[name].runs.execute(RaiseFeature(version=9), timeout_s=30.0)
            assert mesh[name].state.index - before <= 2  # no more than a session and the like
        await mesh["a"].runs.execute(SetAlias(alias="x", model="m"))
        await agree(mesh)


async def test_an_oversized_command_is_refused_and_nothing_changes(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("a") as mesh:
        await mesh["a"].runs.execute(SetAlias(alias="x", model="m"))
        before = mesh["a"].state.index
        large = RequestFields(digest=bytes(32), size_bytes=1, inline=bytes(limits.INLINE_BYTES + 1))
        driver = mesh["a"].runs.driver
        assert driver is not None
        with pytest.raises(Malformed, match="inline"):
            await mesh["a"].runs.execute(Submit(queue="bots", request=large))
        with pytest.raises(CommandTooLarge, match="over the limit of 32768"):
            await driver.propose(bytes(limits.RAFT_COMMAND_BYTES + 1))
        assert mesh["a"].state.index == before


async def test_what_is_no_command_of_a_job_is_refused_where_it_is_made(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("a") as mesh:
        await mesh["a"].runs.execute(SetAlias(alias="x", model="m"))
        before = mesh["a"].state.digest()
        request = RequestFields(digest=bytes(32), size_bytes=1, inline=b"x")
        with pytest.raises(Malformed, match="lease_ms"):
            await mesh["a"].runs.execute(ClaimNext(queue="bots", lease_ms=-1))
        with pytest.raises(Malformed, match="queue"):
            await mesh["a"].runs.execute(Submit(queue="q" * 10_240, request=request))
        assert mesh["a"].state.digest() == before


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"form": 2, "feature": 1, "index": 5, "digest": bytes(32), "rows": 1}, "later version"),
        ({"form": 1, "feature": 1, "index": 5, "digest": bytes(32), "rows": 0}, "hash differs"),
    ],
)
async def test_a_state_that_cannot_be_used_stops_the_record_here_and_says_why(
    autojump_clock: MockClock, state: dict[str, object], why: str
) -> None:
    """A meshd that was put back to an earlier version, say."""
    async with ledgers("a") as mesh:
        await mesh["a"].runs.execute(SetAlias(alias="x", model="m"))
        mesh["a"].kill()
        await trio.sleep(1.0)
        disk, place = mesh["a"].disk, mesh["a"].place
        opened = open_journal(disk, place.folder, place.owner, SeededEntropy(1))
        head, last = pack(state), last_of(opened.stored)
        frozen = len(head).to_bytes(4, "big") + head
        opened.journal.snapshots.save(last, [mesh["a"].id], [frozen])
        opened.journal.write([Rebase(last, keep_after=True)])
        opened.journal.close()
        mesh["a"].start()
        await until(lambda: why in (mesh["a"].runs.problem or ""), within_s=10.0)
        assert mesh["a"].runs.driver is None


async def test_nonsense_from_a_follower_is_refused_and_nothing_changes(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        await mesh["a"].runs.execute(SetAlias(alias="x", model="m"))
        await agree(mesh)
        leader = mesh.leader()
        assert leader is not None
        assert leader.runs.driver is not None
        other = next(node for node in mesh.nodes.values() if node is not leader)
        status, digest = leader.runs.driver.status(), leader.state.digest()
        nonsense = (
            b"",
            b"\xff" * 100,
            bytes(MESSAGE_BYTES + 1),
            encode(SnapshotAnswer(term=status.term, round=1, index=1, held=2**40)),
            encode(AppendAnswer(status.term, 10**9, ok=True, index=10**9, rejected=0)),
            encode(
                AppendEntries(
                    term=status.term, round=1, prev_index=0, prev_term=0, commit=9, entries=()
                )
            ),
        )
        for data in nonsense:
            leader.runs.received(other.id, data)
        refused = leader.runs.driver.counters["record_refused"]
        assert refused >= len(nonsense) - 1  # an answer about no snapshot concerns nobody
        assert leader.state.digest() == digest
        assert leader.runs.driver.status().term == status.term
        await mesh["b"].runs.execute(SetAlias(alias="y", model="m"))
        await agree(mesh)


def patient(node: LedgerNode) -> Patient:
    return Patient(
        node.disk, node.place, SeededEntropy(node.name), now_unix_s=NOW_UNIX_S, founder=True
    )


async def test_more_commands_at_once_than_the_record_keeps_results_for_all_get_through(
    autojump_clock: MockClock,
) -> None:
    count = limits.SESSION_RESULTS + 200
    written = []
    async with ledgers("a") as mesh:

        async def write(number: int) -> None:
            await mesh["a"].runs.execute(SetAlias(alias="best", model=f"m{number}"))
            written.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(write, number)
    assert sorted(written) == list(range(count))


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


async def test_a_node_that_comes_later_takes_part_within_moments(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("ab") as mesh:
        await settled(mesh, voters=1)
        mesh["b"].kill()
        await trio.sleep(60.0)  # nothing is to be done, and nobody looks for long
        mesh["b"].start()
        began = trio.current_time()
        await mesh["b"].runs.execute(SetAlias(alias="x", model="m"), timeout_s=30.0)
        assert trio.current_time() - began < 3.0
