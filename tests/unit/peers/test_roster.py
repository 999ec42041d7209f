"""The member list reaches everyone, and nothing but the mesh's own list is taken."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd.errors import DialFailed
from meshd.identity import PrivateKey
from meshd.peers.roster import NEWS_S
from meshd.ports import ByteStream
from meshd.record import RegistryChange, SignedMembers, sign
from meshd.record.commands_registry import ChangeNode, HoldCa
from meshd.record.members import SIGNATURE_CONTEXT
from meshd.wire.control import Done
from meshd.wire.control_mesh import MemberListPush, MemberListRequest
from tests.control_link import Raw
from tests.joins import NOW_UNIX_S, make_authority, make_key
from tests.member_lists import remove, set_drained
from tests.unit.peers.mesh import Member, Mesh, settle, until


def version(member: Member) -> int:
    return member.registry.version


async def raw_link(near: Member, far: Member) -> Raw:
    """A link on which a test can say what it likes in the name of `near`."""
    raw = await near.mesh.town.dial(near.peer, far.peer)
    await raw.greet(near._hello())
    return raw


async def test_what_the_record_says_is_on_the_list_in_the_step_that_applied_it(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:  # no link is up
        mesh["b"].order(ChangeNode(node=mesh["c"].node, drained=True))
        for member in mesh.members.values():
            assert version(member) == 4
            drained = member.registry.get(mesh["c"].node)
            assert drained is not None
            assert drained.drained


async def test_whom_the_record_does_not_reach_hears_it_signed(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c", latency_s=0.01) as mesh:
        await mesh.up()
        mesh["c"].record.reached = False
        mesh["b"].order(ChangeNode(node=mesh["c"].node, drained=True))
        assert version(mesh["c"]) == 3
        await until(lambda: version(mesh["c"]) == 4, within_s=0.1)
        await until(lambda: mesh["b"].registry.signed_version == 4, within_s=0.1)
        mesh["c"].record.reached = True
        mesh["c"].record.catch_up()
        assert version(mesh["c"]) == 4


async def test_a_new_holder_of_the_key_signs_what_nobody_signed(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        mesh["f"].holds_ca = False
        await mesh.up()
        mesh["b"].order(ChangeNode(node=mesh["c"].node, drained=True))
        await settle()
        assert {m.registry.signed_version for m in mesh.members.values()} == {3}
        mesh["b"].holds_ca = True
        mesh["b"].order(HoldCa(node=mesh["b"].node, holds=True))
        await until(lambda: {m.registry.signed_version for m in mesh.members.values()} == {5})


@pytest.mark.parametrize("late", ["b", "f"])
async def test_who_slept_through_a_change_has_it_as_soon_as_a_link_is_up(
    late: str, autojump_clock: MockClock
) -> None:
    """Whichever side is behind, and whichever side dials first."""
    async with Mesh.open("f", "b", "c") as mesh:
        newer = sign(set_drained(mesh.lists[-1], mesh["c"].node, True), mesh.authority.key)
        for name in {"f", "b", "c"} - {late}:
            assert mesh[name].registry.accept(newer)
        await mesh.up()
        await until(lambda: version(mesh[late]) == 4, within_s=1)


async def test_a_newer_list_is_passed_on_by_who_is_not_its_author(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        newer = sign(set_drained(mesh.lists[-1], mesh["c"].node, True), mesh.authority.key)
        mesh["b"].registry.accept(newer)
        for name in ("b", "c"):  # the founder is away
            mesh[name].start()
        await until(lambda: version(mesh["c"]) == 4)


async def test_an_older_list_changes_nothing(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        mesh["f"].links.notify(mesh["b"].node, MemberListPush(members=mesh.signed(0).to_bytes()))
        await settle()
        assert version(mesh["b"]) == 3
        assert mesh["b"].switchboard.counters["member_list_refused"] == 0


def forged(body: bytes, key: PrivateKey) -> bytes:
    return SignedMembers(body, key.sign(SIGNATURE_CONTEXT, body)).to_bytes()


def forgeries(mesh: Mesh) -> dict[str, bytes]:
    newer = remove(mesh.lists[-1], mesh["c"].node, NOW_UNIX_S)
    other = make_authority("elsewhere")
    good = sign(newer, mesh.authority.key)
    return {
        "signed by a member": forged(good.body, mesh["b"].key),
        "signed by another mesh's CA": forged(good.body, other.key),
        "signed as something else": SignedMembers(
            good.body, mesh.authority.key.sign(b"meshd word 1", good.body)
        ).to_bytes(),
        "its body changed": SignedMembers(good.body[:-1] + b"\x00", good.signature).to_bytes(),
        "its signature missing": SignedMembers(good.body, b"").to_bytes(),
        "garbage": b"\xc1\xff" * 20,
        "nothing": b"",
        "two of one number": sign(
            set_drained(mesh.lists[-2], mesh["b"].node, True), mesh.authority.key
        ).to_bytes(),
    }


async def test_forged_lists_are_refused_counted_and_logged_once(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        before = mesh["f"].registry.signed
        raw = await raw_link(mesh["b"], mesh["f"])
        lists = forgeries(mesh)
        for data in lists.values():
            for _ in range(20):
                await raw.say(MemberListPush(members=data))
        await settle()
        assert mesh["f"].registry.signed is before
        assert mesh["f"].switchboard.counters["member_list_refused"] == 20 * len(lists)
        lines = capsys.readouterr().out.splitlines()
        assert len([line for line in lines if "member list refused" in line]) == 1
        assert mesh["f"].sees(mesh["b"], mesh["c"])


async def test_a_list_by_a_ca_that_is_not_known_yet_is_taken_when_it_is(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        made = make_key("next ca").of_mesh(mesh.authority.public.mesh)
        newer = set_drained(mesh.lists[-1], mesh["b"].node, True)
        mesh["f"].links.notify(mesh["b"].node, MemberListPush(members=sign(newer, made).to_bytes()))
        await settle()
        assert mesh["b"].switchboard.counters["member_list_refused"] == 1
        assert "member list refused" not in capsys.readouterr().out
        mesh["b"].registry.trust(made.public)
        mesh["b"].roster.ca_changed()
        assert mesh["b"].registry.signed_version == newer.version
        assert mesh["b"].registry.is_signed


async def test_lists_by_who_does_not_become_the_ca_are_warned_about(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        newer = set_drained(mesh.lists[-1], mesh["b"].node, True)
        other = make_key("no ca").of_mesh(mesh.authority.public.mesh)
        push = MemberListPush(members=sign(newer, other).to_bytes())
        for _ in range(2):
            mesh["f"].links.notify(mesh["b"].node, push)
            await settle()
            assert "member list refused" not in capsys.readouterr().out
        await trio.sleep(NEWS_S)
        mesh["f"].links.notify(mesh["b"].node, push)
        await settle()
        assert "member list refused" in capsys.readouterr().out


async def test_a_full_disk_applies_nothing_and_costs_no_link(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        mesh["b"].full_disk = True
        mesh["b"].record.reached = False
        mesh["f"].order(ChangeNode(node=mesh["b"].node, drained=True))
        await settle()
        assert version(mesh["b"]) == 2
        assert mesh["b"].sees(mesh["f"])
        mesh["b"].full_disk = False
        mesh.town.world.reset(mesh["f"].peer.host.name, mesh["b"].peer.host.name)
        await until(lambda: version(mesh["b"]) == 3)


async def test_who_asks_gets_the_list_if_there_is_a_newer_one(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        ask = mesh["b"].links.request
        newest = MemberListPush(members=mesh.signed(-1).to_bytes())
        assert await ask(mesh["f"].node, MemberListRequest(have_version=1)) == newest
        for have in (2, 99):
            answer = await ask(mesh["f"].node, MemberListRequest(have_version=have))
            assert isinstance(answer, Done)


async def test_one_link_is_enough_and_the_list_crosses_it_once(autojump_clock: MockClock) -> None:
    """The founder has a newer list and cannot dial the member (a firewall, say)."""
    async with Mesh.open("f", "b", "c") as mesh:
        newer = sign(set_drained(mesh.lists[-1], mesh["c"].node, True), mesh.authority.key)
        mesh["f"].registry.accept(newer)
        accept, told = mesh["b"].registry.accept, []

        def count(signed: SignedMembers) -> bool:
            told.append(signed)
            return accept(signed)

        async def blocked(*_: object) -> ByteStream:
            raise DialFailed("nothing gets through")

        mesh["b"].registry.accept = count  # type: ignore[method-assign]
        mesh["f"].peer.host.dial_peer = blocked  # type: ignore[method-assign]
        mesh["f"].start()
        mesh["b"].start()
        await until(lambda: version(mesh["b"]) == 4, within_s=1)
        await settle()
        assert not mesh["f"].sees(mesh["b"])
        assert len(told) == 1


async def test_a_removed_member_is_cut_everywhere_and_told_nothing(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        changes: list[RegistryChange] = []
        mesh["c"].registry.subscribe(changes.append)
        await mesh.up()
        for name in "bc":  # both hear of it over links
            mesh[name].record.reached = False
        await mesh["f"].office.remove(mesh["c"].node)
        await until(lambda: not mesh["f"].sees(mesh["c"]) and not mesh["b"].sees(mesh["c"]))
        assert mesh["f"].sees(mesh["b"])
        await trio.sleep(1)
        assert mesh["c"].keys.keyring == mesh.first_keyring
        assert mesh["b"].keys.keyring.version == 2
