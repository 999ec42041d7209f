"""Going on with one copy of the record when most of its voters are gone."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd.consensus.replay import last_of
from meshd.errors import Refused
from meshd.ids import NodeId
from meshd.ledger.examination import read_stored, voters_of
from meshd.ledger.recovery import plan, recover, recovered
from meshd.record.commands_registry import SetAlias
from meshd.testing.world import until
from tests.unit.ledger.journals import HISTORY, ME, OTHERS, Kept
from tests.unit.ledger.meshes import LedgerMesh, LedgerNode, ledgers, patient

ALL = (ME, *OTHERS)


def test_the_log_stays_and_this_node_alone_has_a_vote_in_it() -> None:
    kept = Kept().write(*HISTORY, voters=ALL)
    before, digest = read_stored(kept.disk, kept.place), kept.state().digest()
    found = plan(kept.patient())
    assert [voter.node for voter in found.others] == sorted(NodeId(k.node) for k in OTHERS)
    assert f"after entry {found.last}" in " ".join(found.says(kept.place))
    told = recover(kept.patient(), found)
    after = read_stored(kept.disk, kept.place)
    assert after.entries[:-1] == before.entries
    assert voters_of(after) == (kept.place.me,)
    assert last_of(after).term == after.ballot.term > 2**20
    assert kept.state().digest() == digest
    assert "this one until" in " ".join(told)
    mark = recovered(kept.disk, kept.place)
    assert mark is not None
    assert mark.last == found.last


def test_a_void_vote_is_good_again_in_the_new_term() -> None:
    kept = Kept().write(*HISTORY, voters=OTHERS)
    kept.disk.write(kept.place.void_mark, b"", private=True)
    recover(kept.patient(), plan(kept.patient()))
    assert kept.disk.size(kept.place.void_mark) is None


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (Kept(), "no journal"),
        (Kept().write(*HISTORY), "alone has a vote"),
        (Kept().write(voters=ALL), "no record in the journal"),
        (Kept().write(*HISTORY, voters=ALL).damage(), "cannot be used"),
    ],
)
def test_it_is_refused_where_it_is_not_the_remedy(kept: Kept, why: str) -> None:
    before = kept.contents()
    with pytest.raises(Refused, match=why):
        plan(kept.patient())
    assert kept.contents() == before


def test_who_is_without_the_cas_key_is_told_what_that_means() -> None:
    def told(kept: Kept) -> str:
        kept.write(*HISTORY, voters=ALL)
        return " ".join(recover(kept.patient(), plan(kept.patient())))

    assert "no machine can be let in" in told(Kept(node=OTHERS[0]))
    assert "no machine can be let in" not in told(Kept())


# ---------------------------------------------------------------- with the others


async def of_five(mesh: LedgerMesh) -> list[LedgerNode]:
    """The voters of a mesh of seven."""
    await until(lambda: len(mesh.voters()) == 5, within_s=120.0)
    return [mesh[name] for name in sorted(mesh.voters())]


def aliases(node: LedgerNode) -> set[str]:
    return set(node.state.settings.aliases())


async def test_those_who_are_left_follow_by_themselves(autojump_clock: MockClock) -> None:
    async with ledgers("abcdefg") as mesh:
        one, two, *gone = await of_five(mesh)
        left = [node for node in mesh.nodes.values() if node not in gone]
        await one.runs.execute(SetAlias(alias="kept", model="m"), timeout_s=30.0)
        await until(lambda: all(aliases(node) == {"kept"} for node in left), within_s=30.0)
        for node in gone:
            node.kill()
        one.kill()
        recover(patient(one), plan(patient(one)))
        one.start()
        await one.runs.execute(SetAlias(alias="after", model="m"), timeout_s=30.0)
        await until(lambda: all(aliases(n) == {"kept", "after"} for n in left), within_s=60.0)
        await until(lambda: mesh.voters() > {one.name, two.name}, within_s=60.0)
        assert not {node.name for node in gone} & mesh.voters()
        gone[0].start()  # one that was given up comes back all the same
        await until(lambda: aliases(gone[0]) == {"kept", "after"}, within_s=60.0)


async def test_who_knows_more_stays_away_and_says_so(autojump_clock: MockClock) -> None:
    async with ledgers("abcd") as mesh:
        await until(lambda: len(mesh.voters()) == 3, within_s=60.0)
        await until(lambda: all(n.state.nodes.is_founded for n in mesh.nodes.values()))
        [follower] = [n for n in mesh.nodes.values() if n.name not in mesh.voters()]
        one, *gone = [mesh[name] for name in sorted(mesh.voters() - {mesh.leader().name})]  # type: ignore[union-attr]
        gone.append(mesh.leader())  # type: ignore[arg-type]
        mesh.cut(one.name)
        await gone[-1].runs.execute(SetAlias(alias="lost", model="m"), timeout_s=30.0)
        await until(lambda: aliases(follower) == {"lost"}, within_s=30.0)
        for node in (*gone, one):
            node.kill()
        recover(patient(one), plan(patient(one)))
        mesh.heal()
        one.start()
        await one.runs.execute(SetAlias(alias="after", model="m"), timeout_s=30.0)
        await trio.sleep(30)
        assert aliases(follower) == {"lost"}
        assert follower.runs.driver is not None
        assert follower.runs.driver.met_other_record
        follower.kill()
        follower.start()  # what it holds for committed was never more than said
        await until(lambda: aliases(follower) == {"after"}, within_s=60.0)
