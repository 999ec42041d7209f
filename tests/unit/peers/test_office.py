"""Orders for the mesh at any member: tokens, drains, labels, removals, leaving."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from meshd import control, limits
from meshd.errors import DialFailed, MeshdError, Refused
from meshd.identity import parse_token, read_certificate
from meshd.ids import NodeId
from meshd.peers.office import Undecided
from meshd.wire.control_mesh import (
    Leave,
    RenewRequest,
)
from meshd.wire.join import Admitted, JoinRefusal, Reason
from tests.unit.peers.desks import (
    pushed_out,
    request,
    version,
)
from tests.unit.peers.mesh import Mesh, settle, until


@pytest.mark.parametrize("at", ["f", "b"])
async def test_a_token_made_anywhere_is_on_record_and_names_the_door_it_was_made_at(
    at: str, autojump_clock: MockClock
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        made = await mesh[at].office.create_token(control.TokenOrder(ttl_s=60, uses=3))
        token = parse_token(made.token)
        assert token.ca == mesh.authority.mesh
        assert made.uses == 3
        assert made.expires_unix_s == pytest.approx(1_780_000_060.0, abs=1)
        assert made.join_addresses == [str(mesh[at].peer.address)]
        for member in mesh.members.values():
            (row,) = member.office.tokens()
            assert (row.id, row.uses, row.used_by, row.good) == (token.id, 3, [], True)


@pytest.mark.parametrize(("ttl_s", "uses"), [(0, 1), (-5, 1), (60, 0), (60, -1), (1e9, 1)])
async def test_a_token_that_makes_no_sense_is_refused_with_a_sentence(
    ttl_s: float, uses: int, autojump_clock: MockClock
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        with pytest.raises(Refused, match="above zero and at most"):
            await mesh["b"].office.create_token(control.TokenOrder(ttl_s=ttl_s, uses=uses))


async def test_with_as_many_good_tokens_as_there_may_be_it_is_said_what_helps(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TOKENS", 1)
    async with Mesh.open("f") as mesh:
        office = mesh["f"].office
        made = await office.create_token(control.TokenOrder())
        with pytest.raises(Refused, match="meshd token revoke"):
            await office.create_token(control.TokenOrder())
        await office.revoke_token(made.token)
        assert await office.create_token(control.TokenOrder())


async def test_a_token_is_revoked_by_its_id_or_by_itself_anywhere(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        for text in (lambda made: made.token, lambda made: parse_token(made.token).id):
            made = await mesh["f"].office.create_token(control.TokenOrder())
            await mesh["b"].office.revoke_token(text(made))
            assert mesh["f"].office.tokens() == []
            with pytest.raises(Refused, match="no token with the id"):
                await mesh["b"].office.revoke_token(text(made))


# ---------------------------------------------------------------- without a quorum


async def test_without_a_quorum_every_order_says_who_is_missing(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("attic", "b", "c") as mesh:
        await mesh.up()
        mesh["b"].record.quorum = False
        office = mesh["b"].office
        orders = [
            office.create_token(control.TokenOrder()),
            office.set_drained(mesh["c"].node, True),
            office.set_labels(mesh["c"].node, ["gpu"]),
            office.remove(mesh["c"].node),
        ]
        for order in orders:
            with pytest.raises(Undecided, match="Away: b, c"):
                await order
        assert version(mesh["b"]) == 3


async def test_without_a_quorum_nobody_is_let_in_and_the_newcomer_hears_why(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("attic", "b") as mesh:
        await mesh.up()
        mesh["attic"].record.quorum = False
        for member in mesh.members.values():
            began = trio.current_time()
            refusal = await member.office.admit(request(member))
            assert isinstance(refusal, JoinRefusal)
            assert refusal.known_reason is Reason.UNDECIDED
            assert "Away: b, c" in refusal.message
            assert trio.current_time() - began < limits.JOIN_S / 2
        assert version(mesh["attic"]) == 2


async def test_where_nobody_that_could_is_linked_the_newcomer_hears_whom_to_start(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("attic", "b") as mesh:
        mesh["b"].start()
        refusal = await mesh["b"].office.admit(request(mesh["b"]))
        assert isinstance(refusal, JoinRefusal)
        assert refusal.known_reason is Reason.UNDECIDED
        assert "attic could let machines in" in refusal.message
        with pytest.raises(DialFailed, match="attic could let machines in"):
            await mesh["b"].office.renew(mesh["b"].key.public)
        mesh["attic"].start()
        await until(lambda: mesh["b"].sees(mesh["attic"]))
        assert isinstance(await mesh["b"].office.admit(request(mesh["b"])), Admitted)


# ---------------------------------------------------------------- drains, labels, removals


@pytest.mark.parametrize("at", ["f", "b"])
async def test_a_drain_ordered_anywhere_holds_everywhere(
    at: str, autojump_clock: MockClock
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        node = mesh["c"].node
        for drained in (True, False):
            done = await mesh[at].office.set_drained(node, drained)
            assert done.message.startswith("c ")
            for member in mesh.members.values():
                row = member.registry.get(node)
                assert row is not None
                assert row.drained is drained


async def test_labels_are_set_whole(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        for labels in (["gpu", "attic", "gpu"], []):
            await mesh["b"].office.set_labels(mesh["f"].node, labels)
            row = mesh["b"].registry.get(mesh["f"].node)
            assert row is not None
            assert row.labels == tuple(sorted(set(labels)))
        for bad in ([""], ["x" * 65], [str(n) for n in range(17)], ["a\x1b[2J"]):
            with pytest.raises(Refused, match="at most 16 labels"):
                await mesh["b"].office.set_labels(mesh["f"].node, bad)


async def test_a_removal_cuts_links_rotates_keys_and_revokes_tokens_and_says_so(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        await mesh["f"].office.create_token(control.TokenOrder())
        mesh["c"].record.reached = False  # cut off from the record, not from the members
        done = await mesh["b"].office.remove(mesh["c"].node)
        assert done.message.startswith("c is no member any more")
        assert not mesh["f"].sees(mesh["c"])
        assert not mesh["b"].sees(mesh["c"])
        assert mesh["f"].office.tokens() == []
        await settle()
        assert mesh["f"].keys.keyring == mesh["b"].keys.keyring
        assert mesh["c"].keys.keyring == mesh.first_keyring, "the new keys are not for it"


async def test_a_removal_names_who_hears_of_it_later(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c", "d") as mesh:
        for name in "fbc":
            mesh[name].start()
        await until(lambda: mesh["f"].sees(mesh["b"], mesh["c"]))
        done = await mesh["f"].office.remove(mesh["c"].node)
        assert "(d: on return)" in done.message


async def test_a_node_does_not_remove_itself_nor_one_that_is_none_nor_the_last_that_admits(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        with pytest.raises(Refused, match="meshd leave"):
            await mesh["b"].office.remove(mesh["b"].node)
        with pytest.raises(Refused, match="no such node"):
            await mesh["b"].office.remove(NodeId("z" * 26))
        with pytest.raises(Refused, match="alone holds the key"):
            await mesh["b"].office.remove(mesh["f"].node)
        assert version(mesh["f"]) == 2


async def test_a_command_of_a_removed_node_is_refused(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        await mesh["c"].office.set_drained(mesh["b"].node, True)  # it has a session
        mesh["c"].record.reached = False
        await mesh["f"].office.remove(mesh["c"].node)
        with pytest.raises(Refused, match=r"no member|session"):
            await mesh["c"].office.set_drained(mesh["f"].node, True)
        assert mesh["f"].registry.get(mesh["f"].node).drained is False  # type: ignore[union-attr]


# ---------------------------------------------------------------- leaving, renewals


async def test_a_member_leaves_through_another_and_hears_that_it_has(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c", latency_s=0.05) as mesh:
        await mesh.up()
        mesh["b"].record.reached = False
        done = await mesh["b"].office.leave()
        assert done.message.startswith("left")
        assert pushed_out(mesh["f"], mesh["b"])
        assert pushed_out(mesh["c"], mesh["b"])
        await until(lambda: not mesh["f"].sees(mesh["b"]) and not mesh["c"].sees(mesh["b"]))
        await until(lambda: {mesh[name].keys.keyring.version for name in "fc"} == {2})
        await settle()
        assert mesh["b"].keys.keyring == mesh.first_keyring, "the new keys are not for it"


async def test_who_could_not_leave_and_is_removed_later_is_cut_at_once(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        for name in "fc":
            mesh[name].record.quorum = False
        mesh["b"].record.reached = False
        with pytest.raises(MeshdError, match="Away: b, c"):
            await mesh["b"].office.leave()
        assert not mesh["b"].office.leaving
        assert mesh["f"].sees(mesh["b"]), "it is still a member"
        for name in "fc":
            mesh[name].record.quorum = True
        await mesh["f"].office.remove(mesh["b"].node)
        await trio.testing.wait_all_tasks_blocked()
        assert not mesh["f"].links._answering.get(mesh["b"].node), "no last word for it"


async def test_who_alone_can_admit_leaves_last(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        with pytest.raises(Refused, match="cannot leave while"):
            await mesh["f"].office.leave()
        await mesh["b"].office.leave()
        await settle()


async def test_a_renewed_certificate_is_for_the_same_key_and_on_record(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        for member in mesh.members.values():
            certificate = read_certificate(await member.office.renew(member.key.public))
            assert certificate.node == member.node
            assert certificate.is_signed_by(mesh.authority.public)
            row = mesh["f"].record.state.nodes.member(member.node)
            assert row.certificates[-1].serial == certificate.serial


async def test_a_member_cannot_order_for_another(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        ask = mesh["b"].links.request
        founder, other = mesh["f"].node, mesh["c"]
        with pytest.raises(Refused, match="only take itself"):
            await ask(founder, Leave(node=other.node))
        with pytest.raises(Refused, match="only renew its own"):
            await ask(founder, RenewRequest(public_key=other.key.public.der))
        with pytest.raises(Refused, match="does not hold"):
            await ask(other.node, RenewRequest(public_key=mesh["b"].key.public.der))
        assert version(mesh["f"]) == 3
