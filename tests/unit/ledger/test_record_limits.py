"""What the record refuses, at the node where it is asked or for one node alone, and goes on."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.consensus.driver import ProposalRefused
from meshd.consensus.entries import Rebase
from meshd.consensus.interface import CommandTooLarge
from meshd.consensus.journal import open_journal
from meshd.consensus.messages import (
    MESSAGE_BYTES,
    AppendAnswer,
    AppendEntries,
    SnapshotAnswer,
    encode,
)
from meshd.consensus.replay import last_of
from meshd.ledger.session import NotWritten
from meshd.record.commands import Malformed
from meshd.record.commands_jobs import ClaimNext, RequestFields, Submit
from meshd.record.commands_registry import RaiseFeature, SetAlias
from meshd.testing.entropy import SeededEntropy
from meshd.testing.world import until
from meshd.wire.codec import pack
from tests.unit.ledger.meshes import (
    agree,
    ledgers,
    settled,
)


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
