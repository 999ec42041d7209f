"""What the leader does about time, beside real records in virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd.consensus.driver import ProposalRefused, ProposalUnknown
from meshd.consensus.outcomes import Committed, Why
from meshd.jobs.duties import LOOK_S, Duties
from meshd.jobs.leases import AGAIN_S
from meshd.record.commands import decode
from meshd.record.commands_jobs import ClaimNext, Expire, RequestFields, Submit
from meshd.record.job_rows import JobState
from meshd.testing.world import until
from tests.unit.ledger.meshes import LedgerMesh, LedgerNode, ledgers

LEASE_S = 10.0
ELECTION_S = 5.0
"""In which another one leads, at most."""
REQUEST = RequestFields(digest=bytes(32), size_bytes=2, inline=b"{}")


def at_work(mesh: LedgerMesh) -> None:
    """Duties at each node."""
    for node in mesh.nodes.values():
        duties = Duties(node.runs, lambda: 1_790_000_000.0 + trio.current_time(), trio.current_time)
        node.listeners.append(duties.happened)
        mesh.nursery.start_soon(duties.run)


async def leader_of(mesh: LedgerMesh) -> LedgerNode:
    """When all nodes are voters."""
    await until(lambda: mesh.voters() == set(mesh.nodes), within_s=60.0)
    leader = mesh.leader()
    assert leader is not None
    return leader


async def claim(node: LedgerNode, count: int) -> None:
    """New jobs, with leases that end together and that nobody will renew."""
    for _ in range(count):
        await node.runs.execute(Submit(queue="bots", request=REQUEST))
    await node.runs.execute(ClaimNext(queue="bots", lease_ms=int(LEASE_S * 1000), most=count))


def states(node: LedgerNode) -> list[JobState]:
    return [row.state for row in node.state.jobs.live.page(0, 100, lambda row: True)]


@pytest.mark.parametrize("error", [ProposalRefused(Why.QUEUE_FULL), ProposalUnknown(Why.TIMED_OUT)])
async def test_a_lease_ends_though_its_end_could_not_be_written_at_once(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    error: ProposalRefused | ProposalUnknown,
) -> None:
    async with ledgers("a") as mesh:
        at_work(mesh)
        node = await leader_of(mesh)
        driver = node.runs.driver
        assert driver is not None
        propose, failed = driver.propose, list[int]()

        async def fails_once(command: bytes, *rest: float) -> Committed:
            if isinstance(decode(command).body, Expire) and not failed:
                failed.append(1)
                raise error
            return await propose(command, *rest)

        monkeypatch.setattr(driver, "propose", fails_once)
        await claim(node, 1)
        await trio.sleep(LEASE_S - 0.1)
        assert states(node) == [JobState.CLAIMED]
        await trio.sleep(0.1 + LOOK_S + AGAIN_S)
        assert failed
        assert states(node) == [JobState.QUEUED]


async def test_who_leads_no_more_ends_no_lease(autojump_clock: MockClock) -> None:
    async with ledgers("abc") as mesh:
        old = await leader_of(mesh)
        at_work(mesh)
        await claim(old, 5)
        await trio.sleep(LEASE_S - 0.5)
        mesh.cut(old.name)
        await until(lambda: mesh.leader() not in (old, None), within_s=ELECTION_S)
        mesh.heal()
        await trio.sleep(LEASE_S - LOOK_S)
        assert states(old) == [JobState.CLAIMED] * 5
        await until(lambda: states(old) == [JobState.QUEUED] * 5, within_s=ELECTION_S)
