"""Who is let in, by which member, and who is not."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from meshd import control, limits
from meshd.identity import Token, parse_token, read_certificate
from meshd.record.members import MEMBER_BYTES
from meshd.wire.join import Admitted, JoinRefusal, Reason
from tests.joins import NOW_UNIX_S
from tests.unit.peers.desks import (
    by_token,
    hold,
    request,
    version,
)
from tests.unit.peers.mesh import Mesh, until


@pytest.mark.parametrize("at", ["f", "b"])
async def test_a_newcomer_is_admitted_at_any_door(at: str, autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        admitted = await mesh[at].office.admit(request(mesh[at]))
        assert isinstance(admitted, Admitted)
        certificate = read_certificate(admitted.certificate)
        for member in mesh.members.values():
            assert member.registry.get(certificate.node) is not None
        row = mesh["b"].record.state.nodes.member(certificate.node)
        assert [c.serial for c in row.certificates] == [certificate.serial]


async def test_any_holder_of_the_key_admits_when_the_founder_is_away(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("attic", "b", "c") as mesh:
        hold(mesh["b"])
        for name in "bc":
            mesh[name].start()
        await until(lambda: mesh["c"].sees(mesh["b"]))
        for name in "bc":
            assert isinstance(await mesh[name].office.admit(request(mesh[name], name)), Admitted)
        assert {m.name for m in mesh["b"].registry.members()} >= {"laptop", "laptop-2"}


async def test_a_holder_that_cannot_decide_is_not_the_last_that_is_asked(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("attic", "b", "c") as mesh:
        hold(mesh["b"])
        await mesh.up()
        mesh["attic"].record.quorum = False  # cut off from the other voters, not from c
        mesh["b"].record.catch_up()
        assert isinstance(await mesh["c"].office.admit(request(mesh["c"])), Admitted)


async def test_a_door_whose_own_record_does_not_run_asks_another_holder(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("attic", "b") as mesh:
        hold(mesh["b"])
        await mesh.up()
        mesh["attic"].record.is_open = mesh["attic"].record.quorum = False  # its disk is full
        assert isinstance(await mesh["attic"].office.admit(request(mesh["attic"])), Admitted)
        assert await mesh["attic"].office.renew(mesh["attic"].key.public)


async def test_who_has_given_the_key_away_sends_the_newcomer_on(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("attic", "b", "c") as mesh:
        await mesh.up()
        hold(mesh["b"])
        mesh["attic"].holds_ca = False  # the record does not say so yet
        assert isinstance(await mesh["c"].office.admit(request(mesh["c"])), Admitted)


async def test_of_two_desks_the_record_lets_one_have_a_tokens_last_use(
    autojump_clock: MockClock,
) -> None:
    """Both have found it good before either has written."""
    async with Mesh.open("f", "b") as mesh:
        hold(mesh["b"])
        await mesh.up()
        token = parse_token((await mesh["f"].office.create_token(control.TokenOrder())).token)
        answers: dict[str, Admitted | JoinRefusal] = {}

        async def join(at: str) -> None:
            answers[at] = await mesh[at].office.admit(by_token(mesh[at], token, at))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(join, "f")
            nursery.start_soon(join, "b")
        refused = [one for one in answers.values() if isinstance(one, JoinRefusal)]
        assert [one.known_reason for one in refused] == [Reason.USED_TOKEN]
        assert version(mesh["f"]) == version(mesh["b"])
        assert len(mesh["f"].registry.members()) == 3


async def test_tokens_are_refused_for_what_they_are(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        office = mesh["b"].office
        revoked, expired = [
            parse_token((await office.create_token(control.TokenOrder(ttl_s=60))).token)
            for _ in range(2)
        ]
        await office.revoke_token(revoked.id)
        mesh.record.tick(int((NOW_UNIX_S + 61) * 1000))
        for token, reason in (
            (revoked, Reason.WRONG_TOKEN),
            (expired, Reason.EXPIRED_TOKEN),
            (Token(expired.ca, expired.id, b"x" * 16), Reason.WRONG_TOKEN),
        ):
            answer = await office.admit(by_token(mesh["b"], token))
            assert isinstance(answer, JoinRefusal)
            assert answer.known_reason is reason


async def test_who_has_used_up_a_token_gets_no_keys_in_the_name_of_a_member(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        token = parse_token((await mesh["f"].office.create_token(control.TokenOrder())).token)
        assert isinstance(await mesh["f"].office.admit(by_token(mesh["f"], token)), Admitted)
        theirs = by_token(mesh["f"], token, key=mesh["b"].key)
        answer = await mesh["f"].office.admit(theirs)
        assert isinstance(answer, JoinRefusal)
        assert answer.known_reason is Reason.USED_TOKEN


async def test_a_removed_node_does_not_come_back_under_its_key(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        await mesh["b"].office.remove(mesh["c"].node)
        token = parse_token((await mesh["f"].office.create_token(control.TokenOrder())).token)
        for again in (
            by_token(mesh["f"], token, key=mesh["c"].key),
            request(mesh["f"], key=mesh["c"].key),
        ):
            answer = await mesh["f"].office.admit(again)
            assert isinstance(answer, JoinRefusal)
            assert answer.known_reason is Reason.REMOVED
        assert mesh["f"].office.tokens()[0].used_by == []


async def test_the_word_of_a_member_that_was_removed_a_moment_ago_lets_nobody_in(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        mesh["f"].record.reached = False  # it has not heard of the removal
        await mesh["b"].office.remove(mesh["c"].node)
        answer = await mesh["f"].desk.admit(request(mesh["c"]), mesh["c"].node)
        assert isinstance(answer, JoinRefusal)
        assert answer.known_reason is Reason.MALFORMED
        assert "can bring in nobody" in answer.message


async def test_a_newcomer_with_a_members_name_gets_another(autojump_clock: MockClock) -> None:
    async with Mesh.open("laptop", "b") as mesh:
        await mesh.up()
        assert isinstance(await mesh["b"].office.admit(request(mesh["b"])), Admitted)
        assert {m.name for m in mesh["b"].registry.members()} == {"laptop", "b", "laptop-2"}


async def test_a_list_that_could_not_travel_takes_nobody_on(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Mesh.open("f") as mesh:
        monkeypatch.setattr(limits, "MEMBER_LIST_BYTES", MEMBER_BYTES)
        answer = await mesh["f"].office.admit(request(mesh["f"]))
        assert isinstance(answer, JoinRefusal)
        assert answer.known_reason is Reason.MESH_FULL
        assert version(mesh["f"]) == 1
