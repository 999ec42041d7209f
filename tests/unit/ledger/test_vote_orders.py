"""A person decides who has a vote, in the record of several nodes."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from meshd.consensus.voters import Wish
from meshd.control import VotesDecided
from meshd.errors import Refused
from meshd.ledger.vote_orders import order_vote
from meshd.testing.world import until
from tests.unit.ledger.meshes import LedgerMesh, ledgers, settled


async def decide(mesh: LedgerMesh, at: str, node: str, order: Wish) -> VotesDecided:
    def name_of(wanted: str) -> str:
        return next(n.name for n in mesh.nodes.values() if n.id == wanted)

    return await order_vote(mesh[at].runs, mesh[node].id, order, name_of, "")


async def test_who_is_promoted_at_any_node_has_a_vote_soon_and_keeps_it(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abcd") as mesh:
        await settled(mesh)
        [spare] = set("abcd") - mesh.voters()
        told = await decide(mesh, spare, spare, Wish.ALWAYS)
        assert f"{spare} will get a vote" in told.message
        assert not told.done
        wanted = {mesh.by_id(v).name for v in told.voters}  # type: ignore[arg-type]
        await until(lambda: mesh.voters() == wanted, within_s=30.0)
        again = await decide(mesh, "b", spare, Wish.ALWAYS)
        assert again.done
        assert "that stays so" in again.message


async def test_a_demoted_leader_hands_over(autojump_clock: MockClock) -> None:
    async with ledgers("abcd") as mesh:
        await settled(mesh)
        leader = mesh.leader()
        assert leader is not None
        await decide(mesh, "b", leader.name, Wish.NEVER)
        others = set("abcd") - {leader.name}
        await until(lambda: mesh.voters() == others, within_s=60.0)
        back = await decide(mesh, "b", leader.name, Wish.AUTO)
        assert back.done
        assert "as its machine is suited" in back.message


async def test_a_demotion_that_does_harm_changes_nothing(autojump_clock: MockClock) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        with pytest.raises(Refused, match="1 vote instead of 3"):
            await decide(mesh, "a", "b", Wish.NEVER)
        assert {row.vote for row in mesh["a"].state.nodes.rows()} == {"auto"}
