"""A node leaves its mesh: what only it had goes to others first."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs
from trio.testing import MockClock

from meshd import limits
from meshd.errors import Refused
from meshd.jobs.blob_store import NoRoom
from meshd.record.commands_registry import SetAlias
from meshd.record.node_rows import NodeRow
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.world import Machine, World, until
from tests.sim.meshes import WHOLE, engine_of, mesh, pass_time, report, some_text, three, voters


async def test_a_leader_leaves_and_the_others_write_on_and_can_admit(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        await a.running.departure.leave()
        await until(lambda: voters(b) < {"b", "c"} and not report(b).problem, within_s=30.0)
        await c.running.record.ledger.execute(SetAlias(alias="x", model="m"), timeout_s=20.0)
        rows = b.running.record.ledger.state.nodes.rows()
        assert {row.name for row in rows} == {"b", "c"}
        assert any(row.holds_ca for row in rows)


async def test_when_one_that_has_the_ca_key_leaves_nothing_is_said_that_frightens_without_reason(
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as logs:
        async with World.open() as world:
            a, b, c = await three(world)
            d = await world.start("d")
            await world.settled()
            await until(lambda: sum(r.holds_ca for r in rows(a)) == 3, within_s=60.0)
            former = a.running.mesh.registry.ca
            await a.running.departure.leave()
            await until(lambda: {r.name for r in rows(d)} == {"b", "c", "d"}, within_s=30.0)
            by_others = [m.running.mesh.registry for m in (b, c, d)]
            await until(
                lambda: all(r.ca != former and r.is_signed for r in by_others), within_s=60.0
            )
            await until(lambda: sum(r.holds_ca for r in rows(b)) == 3, within_s=30.0)
    said = {line["event"] for line in logs if line["log_level"] in ("warning", "error")}
    assert not said & {"member list refused", "the CA's key was not given"}


def rows(machine: Machine) -> list[NodeRow]:
    return list(machine.running.record.ledger.state.nodes.rows())


async def test_the_only_one_that_can_hold_them_stays_and_names_the_way_to_end_the_mesh(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b = await world.start("a"), await world.start("b")
        await world.settled()
        await until(lambda: b.running.record.ledger.state.nodes.is_founded, within_s=60.0)
        b.crash()
        with pytest.raises(Refused, match="--destroy-mesh"):
            await a.running.departure.leave()
        assert voters(a) == {"a"}
        assert "1 other has not been told" in (await a.running.departure.destroy()).message


async def test_who_could_not_leave_in_time_hears_what_has_moved_and_what_to_do(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its vote and the lead go; the CA's key, by the record, stays with it alone."""
    async with World.open() as world:
        a, b, _ = await three(world)
        departure = a.running.departure
        monkeypatch.setattr(departure, "_holders", lambda: [a.running.mesh.id])
        with pytest.raises(Refused) as refused:
            await departure.leave()
        said = str(refused.value)
        assert "taken over the CA's key. This node is a member still; " in said
        assert "its vote and the lead went to others already" in said
        assert "`meshd voters promote a`" in said
        assert "a" not in voters(a)
        assert {row.vote for row in b.running.record.ledger.state.nodes.rows()} == {"auto"}


async def test_a_mesh_that_others_can_go_on_with_is_not_destroyed(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, *_ = await three(world)
        with pytest.raises(Refused, match="leave it"):
            await a.running.departure.destroy()
        assert {row.vote for row in a.running.record.ledger.state.nodes.rows()} == {"auto"}


async def test_a_mesh_of_one_is_only_ended_on_purpose(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a = await world.start("a")
        with pytest.raises(Refused, match="--destroy-mesh"):
            await a.running.departure.leave()
        assert "ended here" in (await a.running.departure.destroy()).message


async def test_who_asks_at_a_node_that_leaves_has_the_whole_answer_from_another_holder(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=10) as m:
        answer = m.ask(m.a)
        await some_text(answer)
        await m.a.running.departure.leave()
        assert (answer.how, answer.text, answer.attempts) == ("whole", WHOLE, 1), answer.error


async def test_what_runs_at_a_node_that_leaves_is_whole_for_those_who_asked_elsewhere(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=10) as m:
        answer = m.ask(m.a)
        holder = await m.busy()
        await some_text(answer)
        own = m.ask(holder)
        await until(lambda: m.running == 2)
        await holder.running.departure.leave()
        for of in (answer, own):
            await m.answered(of)
            assert (of.how, of.text, of.attempts) == ("whole", WHOLE, 1), of.error


async def test_what_does_not_end_in_time_ends_in_an_error_before_the_node_is_no_member(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=2, drain_timeout_s=5.0) as m:
        own = m.ask(m.b)
        await m.busy()
        of_others = m.ask(m.a)
        await until(lambda: m.running == 2)
        await some_text(own)
        await m.b.running.departure.leave()
        assert own.how == "error", (own.how, own.broken)
        assert "this node was stopped" in own.error
        await m.answered(of_others)
        assert of_others.how in ("whole", "error"), of_others.broken


async def test_a_node_that_could_not_be_taken_off_the_list_after_its_drain_serves_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def undecided() -> None:
        raise Refused("no majority")

    async with World.open() as world:
        a, b, _ = await three(world, engine_of("tiny"))
        monkeypatch.setattr(b.running.departure, "_take_out", undecided)
        with pytest.raises(Refused, match="no majority"):
            await b.running.departure.leave()
        await pass_time(2.0)
        for machine in (a, b):
            answer = machine.client.openai("tiny")
            await answer.run()
            assert (answer.how, answer.holder) == ("whole", "b"), answer.error
        keyed = b.client.openai("tiny", "idempotency-key: k1")
        await keyed.run()
        assert keyed.how == "whole", keyed.error


async def test_a_stored_answer_that_only_the_node_that_leaves_had_is_told_by_another_afterwards(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b = await two(world)
        first = await keyed(a)
        assert len(first.raw) > limits.INLINE_BYTES
        assert (voters(a), len(b.running.jobs.blobs.store.held)) == ({"a"}, 0)
        await a.running.departure.leave()
        await until(lambda: not report(b).problem, within_s=30.0)
        again = await keyed(b)
        assert again.raw == first.raw
        assert again.headers["x-meshd-replayed"] == "true"


async def test_who_cannot_hand_over_its_answers_stays_says_how_many_and_serves_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise NoRoom("the disk is full")

    async with World.open() as world:
        a, b = await two(world)
        first = await keyed(a)
        monkeypatch.setattr(b.running.jobs.blobs.store, "take_part", full)
        with pytest.raises(Refused) as refused:
            await a.running.departure.leave()
        said = str(refused.value)
        assert "up to 1 answer or request that this node keeps would be lost" in said
        assert "the disk is full" in said
        assert "`meshd remove a` at another node" in said
        assert {row.vote for row in rows(a)} == {"auto"}
        for machine in (a, b):
            assert (await keyed(machine)).raw == first.raw
        monkeypatch.undo()
        await a.running.departure.leave()
        await until(lambda: {row.name for row in rows(b)} == {"b"}, within_s=30.0)
        assert (await keyed(b)).raw == first.raw


async def test_a_small_answer_that_only_the_node_that_leaves_had_heard_of_is_told_afterwards(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`b` came after the log had forgotten it, by a snapshot."""
    monkeypatch.setattr(limits, "RECORD_SNAPSHOT_EVERY", 5)
    monkeypatch.setattr(limits, "RAFT_TRAILING", 5)
    async with World.open() as world:
        a = await world.start("a", engine_of("tiny"))
        await world.settled()
        first = await keyed(a, max_tokens=5)
        for number in range(20):
            await keyed(a, f"other{number}", max_tokens=1)
        b = await world.start("b")
        await world.settled()
        await until(lambda: b.running.record.ledger.state.nodes.is_founded, within_s=60.0)
        assert await b.running.jobs.service.finished_here(first.headers["x-meshd-job"]) is None
        await a.running.departure.leave()
        await until(lambda: not report(b).problem, within_s=30.0)
        again = await keyed(b, max_tokens=5)
        assert again.raw == first.raw
        assert again.headers["x-meshd-replayed"] == "true"


async def test_small_answers_that_the_others_heard_of_are_not_stored_with_them_again(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world, engine_of("tiny"))
        first = await keyed(a, max_tokens=5)
        await a.running.departure.leave()
        assert not b.running.jobs.blobs.store.held
        assert (await keyed(c, max_tokens=5)).raw == first.raw


async def two(world: World) -> tuple[Machine, Machine]:
    """`a` has the only vote, and the engine."""
    a, b = await world.start("a", engine_of("tiny")), await world.start("b")
    await world.settled()
    await until(lambda: b.running.record.ledger.state.nodes.is_founded, within_s=60.0)
    return a, b


async def keyed(machine: Machine, key: str = "k1", **more: Any) -> MemoryAnswer:
    """The answer of one key, whole."""
    answer = machine.client.openai("tiny", f"idempotency-key: {key}", **more)
    await answer.run()
    assert answer.how == "whole", (answer.status, answer.error, answer.broken)
    return answer
