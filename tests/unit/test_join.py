"""Joins by token as both sides see them, over streams in memory and in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd.errors import DialFailed, NotAdmitted, ProtocolError
from meshd.identity import PrivateKey, Token, read_certificate
from meshd.ids import Address
from meshd.peers.join_client import (
    Joined,
    join_with_token,
)
from meshd.peers.join_talk import JoinRefused
from meshd.testing.entropy import SeededEntropy
from meshd.wire.join import Admitted, JoinRefusal, JoinRequest, Part, Reason
from tests.joins import HOST, NOW_UNIX_S, JoinNetwork, Mesh, make_key, newcomer, node_of


async def by_token(net: JoinNetwork, token: Token, who: Any = None, seed: str = "") -> Joined:
    return await join_with_token(
        net.network, SeededEntropy(f"joiner {seed}"), HOST, token, who or newcomer()
    )


async def refused_by_token(mesh: Mesh, token: Token, who: Any = None) -> JoinRefused:
    """Join in vain; nothing at the member may have changed."""
    before = mesh.snapshot()
    async with trio.open_nursery() as nursery:
        with pytest.raises(JoinRefused) as caught:
            await by_token(mesh.network(nursery), token, who)
    assert mesh.snapshot() == before
    return caught.value


async def test_a_token_gives_a_newcomer_all_that_a_member_needs(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    who = newcomer()
    joined = await by_token(mesh.network(nursery), mesh.token(), who)
    assert joined.identity.mesh == mesh.authority.mesh
    assert joined.identity.mesh_name == "home"
    assert joined.identity.name == "laptop"
    assert joined.identity.keyring == mesh.identity.keyring
    assert joined.identity.certificate.node == node_of(who)
    assert joined.identity.certificate.not_after_unix_s > NOW_UNIX_S + 300 * 86_400
    assert joined.members == mesh.registry.signed
    member = mesh.registry.get(node_of(who))
    assert member is not None
    assert member.addresses == (Address("192.168.7.9", 11436),)
    assert mesh.names == ["attic", "laptop"]
    await trio.testing.wait_all_tasks_blocked()
    assert mesh.endings == [None]


async def test_an_admission_is_on_record_and_on_disk_before_the_newcomer_hears_of_it(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh = Mesh()
    joined = await by_token(mesh.network(nursery), mesh.token())
    assert mesh.store.load_members(mesh.authority.mesh) == joined.members.to_bytes()
    (row,) = mesh.record.state.tokens.rows()
    assert row.used_by == (joined.identity.certificate.node,)


async def test_a_join_works_when_every_byte_arrives_alone(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()

    def in_pieces(stream: Any) -> None:
        stream.pieces = 1

    joined = await by_token(mesh.network(nursery, tap=in_pieces), mesh.token())
    assert joined.identity.name == "laptop"


async def test_a_name_that_is_taken_gets_a_number(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    token = mesh.token(uses=3)
    net = mesh.network(nursery)
    for seed, expected in ((1, "attic-2"), (2, "attic-3")):
        joined = await by_token(net, token, newcomer(seed, "Attic" if seed == 2 else "attic"))
        assert joined.identity.name.lower() == expected


async def test_a_used_token_is_refused_as_used(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    token = mesh.token()
    await by_token(mesh.network(nursery), token, newcomer(1))
    refused = await refused_by_token(mesh, token, newcomer(2))
    assert refused.reason is Reason.USED_TOKEN
    assert "used up" in str(refused)


async def test_a_token_admits_the_same_machine_again_when_the_answer_was_lost(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh = Mesh()
    token = mesh.token()
    first = await by_token(mesh.network(nursery), token, newcomer(1))
    again = await by_token(mesh.network(nursery), token, newcomer(1), seed="again")
    assert again.identity.name == first.identity.name
    assert again.members == first.members
    assert mesh.names == ["attic", "laptop"]


async def test_an_expired_token_is_refused_as_expired(autojump_clock: MockClock) -> None:
    mesh = Mesh()
    token = mesh.token(ttl_s=100.0)
    mesh.pass_time(101.0)
    assert (await refused_by_token(mesh, token)).reason is Reason.EXPIRED_TOKEN


async def test_a_token_that_was_never_given_out_is_refused_as_wrong(
    autojump_clock: MockClock,
) -> None:
    mesh = Mesh()
    unknown = Token(mesh.authority.mesh, "aaaaaaaa", bytes(16))
    assert (await refused_by_token(mesh, unknown)).reason is Reason.WRONG_TOKEN


async def test_a_wrong_secret_is_refused_as_wrong_even_if_the_token_is_used_or_expired(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh = Mesh()
    token = mesh.token(ttl_s=100.0)
    await by_token(mesh.network(nursery), token, newcomer(1))
    mesh.pass_time(101.0)
    wrong = Token(token.ca, token.id, bytes(16))
    assert (await refused_by_token(mesh, wrong, newcomer(2))).reason is Reason.WRONG_TOKEN


async def test_another_meshs_token_is_refused_before_anything_about_it_is_sent(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh, other = Mesh(), Mesh("other")
    token = other.token()
    before = mesh.snapshot()
    net = mesh.network(nursery)
    with pytest.raises(JoinRefused) as caught:
        await by_token(net, token)
    assert caught.value.reason is Reason.OTHER_MESH
    sent = bytes(net.dialled[0].sent)
    assert token.id.encode() not in sent
    assert newcomer().key.public.der not in sent
    assert mesh.snapshot() == before


async def test_who_shows_the_right_ca_but_a_foreign_certificate_hears_nothing_of_the_token(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh, impostor = Mesh(), Mesh("impostor")
    token = mesh.token()
    net = mesh.network(nursery)
    net.certificate = lambda: impostor.identity.certificate_der
    with pytest.raises(NotAdmitted, match="not what it says"):
        await by_token(net, token)
    assert token.id.encode() not in bytes(net.dialled[0].sent)


async def test_a_removed_key_is_not_let_in_again(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    await by_token(mesh.network(nursery), mesh.token(), newcomer(1))
    mesh.remove(node_of(newcomer(1)))
    refused = await refused_by_token(mesh, mesh.token(), newcomer(1))
    assert refused.reason is Reason.REMOVED
    assert mesh.names == ["attic"]


async def test_whom_a_full_disk_kept_out_gets_in_by_the_same_token_later(
    autojump_clock: MockClock,
) -> None:
    mesh = Mesh()
    token = mesh.token()
    mesh.disk.broken = "it has died"
    async with trio.open_nursery() as nursery:
        with pytest.raises(JoinRefused, match="could not write to its disk") as caught:
            await by_token(mesh.network(nursery), token)
    assert caught.value.reason is Reason.FAILED
    mesh.disk.broken = None
    async with trio.open_nursery() as nursery:
        await by_token(mesh.network(nursery), token, seed="again")
    assert mesh.names == ["attic", "laptop"]


async def test_nobody_at_the_address_is_a_failed_dial(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    with pytest.raises(DialFailed):
        await join_with_token(
            mesh.network(nursery).network,
            SeededEntropy(1),
            Address("192.168.7.200", 1),
            mesh.token(),
            newcomer(),
        )


class NoQuorum:
    async def admit(self, request: JoinRequest) -> Admitted | JoinRefusal:
        return JoinRefusal(
            reason=Reason.UNDECIDED, message="2 of its 3 voters are needed. Away: attic"
        )


async def test_the_newcomer_hears_who_is_missing(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh = Mesh()
    mesh.server = mesh.make_server(NoQuorum)
    with pytest.raises(JoinRefused, match="Away: attic") as caught:
        await by_token(mesh.network(nursery), mesh.token())
    assert caught.value.reason is Reason.UNDECIDED


class ThroughTheWire:
    """The admitter of a member without the CA's key: all as maps, as on a control link."""

    def __init__(self, mesh: Mesh, via: PrivateKey) -> None:
        self.mesh, self.via = mesh, via

    async def admit(self, request: JoinRequest) -> Admitted | JoinRefusal:
        request = JoinRequest.from_fields(request.to_fields())
        answer = await self.mesh.desk.admit(request, self.via.public.node)
        if isinstance(answer, Admitted):
            return Admitted.from_fields(answer.to_fields())
        return JoinRefusal.from_fields(answer.to_fields())


async def member_of(mesh: Mesh, nursery: trio.Nursery) -> Mesh:
    """The same mesh as its second member serves it."""
    joined = await by_token(mesh.network(nursery), mesh.token(), newcomer("member", "shed"))
    member = Mesh()
    member.identity = joined.identity
    member.server = member.make_server(lambda: ThroughTheWire(mesh, newcomer("member").key))
    return member


async def test_a_member_without_the_key_lets_in_through_one_that_has_it(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh = Mesh()
    member = await member_of(mesh, nursery)
    joined = await by_token(member.network(nursery), mesh.token(), newcomer(2), seed="2")
    assert joined.members == mesh.registry.signed
    assert mesh.names == ["attic", "laptop", "shed"]


async def test_a_join_is_refused_when_another_member_passes_it_on_than_the_one_it_was_made_with(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    mesh = Mesh()
    member = await member_of(mesh, nursery)
    member.server = member.make_server(lambda: mesh)  # claims to be the founder's own
    before = mesh.registry.version
    token = mesh.token()
    with pytest.raises(JoinRefused) as caught:
        await by_token(member.network(nursery), token, newcomer(2), seed="2")
    assert caught.value.reason is Reason.MALFORMED
    assert mesh.registry.version == before


async def test_a_removed_member_can_bring_in_nobody(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    member = await member_of(mesh, nursery)
    mesh.remove(node_of(newcomer("member")))
    with pytest.raises(JoinRefused):
        await by_token(member.network(nursery), mesh.token(), newcomer(2), seed="2")
    assert mesh.names == ["attic"]


async def test_a_holder_of_the_key_renews_a_members_certificate_and_nobody_elses(
    autojump_clock: MockClock,
) -> None:
    mesh = Mesh()
    mesh.clock.jump_wall(200 * 86_400)
    renewed = read_certificate(await mesh.desk.renew(mesh.key.public.der))
    assert renewed.public_key == mesh.key.public
    assert renewed.not_after_unix_s > mesh.identity.certificate.not_after_unix_s
    with pytest.raises(Exception, match="is no member"):
        await mesh.desk.renew(make_key("stranger").public.der)


# --- what the newcomer does not take


class Tampering:
    """An admitter in the middle of whose answer something is exchanged."""

    def __init__(self, mesh: Mesh, **changes: Any) -> None:
        self.mesh, self.changes = mesh, changes

    async def admit(self, request: JoinRequest) -> Admitted | JoinRefusal:
        answer = await self.mesh.admit(request)
        assert isinstance(answer, Admitted)
        return Admitted.from_fields({**answer.to_fields(), **self.changes})


@pytest.mark.parametrize("field", ["certificate", "ca_certificate", "members", "keyring"], ids=str)
async def test_an_answer_with_a_part_from_elsewhere_is_refused_whole(
    autojump_clock: MockClock, nursery: trio.Nursery, field: str
) -> None:
    mesh, other = Mesh(), Mesh("other")
    changes: dict[str, Any] = {
        "certificate": other.identity.certificate_der,
        "ca_certificate": other.authority.certificate_der,
        "members": other.registry.signed.to_bytes(),
        "keyring": [b"short"],
    }
    mesh.server = mesh.make_server(lambda: Tampering(mesh, **{field: changes[field]}))
    with pytest.raises((ProtocolError, NotAdmitted)):
        await by_token(mesh.network(nursery), mesh.token())


def test_no_message_shows_its_contents() -> None:
    secret = b"secret" * 10
    shown = repr(
        [
            Part(data=secret, last=True),
            Admitted(
                certificate=b"x",
                ca_certificate=b"x",
                members=b"x",
                keyring_version=1,
                keyring=[secret],
            ),
        ]
    )
    assert "secret" not in shown
