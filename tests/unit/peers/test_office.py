"""Orders for the mesh: carried out by the founder, taken at any member."""

from __future__ import annotations

import pytest
import trio.testing
from trio.testing import MockClock

from meshd import control, limits
from meshd.errors import DialFailed, DiskFailed, Refused
from meshd.identity import parse_token, read_certificate
from meshd.ids import NodeId
from meshd.peers.join_admit import Admitter
from meshd.peers.join_server import Waiting
from meshd.wire.control_mesh import (
    Drain,
    Leave,
    PendingReply,
    PendingRequest,
    RenewRequest,
    TokenCreate,
)
from meshd.wire.join import Admitted, JoinRefusal, JoinRequest, Reason
from tests.joins import make_key
from tests.unit.peers.mesh import Member, Mesh, settle, until


class Desk:
    """A `JoinServer` with somebody waiting at it."""

    def __init__(self, *digits: str) -> None:
        self.waiting = [Waiting(d, f"laptop {d}", "10.0.0.9:1", 1.0, False) for d in digits]
        self.approved: list[str] = []
        self.tries = len(digits)

    def pending(self) -> list[Waiting]:
        return self.waiting

    def approve(self, digits: str) -> Waiting:
        for waiting in self.waiting:
            if waiting.digits == digits.replace(" ", ""):
                self.approved.append(waiting.digits)
                return waiting
        self.waiting = []
        raise Refused("nobody here shows these digits")

    def refuse_all(self) -> None:
        self.waiting = []

    def begun(self) -> int:
        return self.tries


def sit(member: Member, *digits: str) -> Desk:
    desk = Desk(*digits)
    member.office.use_door(desk)  # type: ignore[arg-type]
    return desk


def request(via: Member) -> JoinRequest:
    """A newcomer by pairing, at that member's door."""
    certificate = via.mesh.authority.issue(
        via.key.public, serial=bytes([1] * 16), now_unix_s=1_780_000_000.0
    )
    return JoinRequest(
        way="pairing",
        public_key=make_key("newcomer").public.der,
        name="laptop",
        addresses=[],
        server_certificate=certificate,
    )


def pushed_out(member: Member, other: Member) -> bool:
    return member.registry.get(other.node) is None


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize("at", ["f", "b"])
async def test_a_token_made_anywhere_is_the_founders_and_names_the_door_it_was_made_at(
    at: str, autojump_clock: MockClock
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        made = await mesh[at].office.create_token(control.TokenOrder(ttl_s=60, uses=3))
        token = parse_token(made.token)
        assert token.mesh == mesh.authority.mesh
        assert made.uses == 3
        assert made.expires_unix_s == pytest.approx(1_780_000_060.0, abs=1)
        assert made.join_addresses == [str(mesh[at].peer.address)]
        assert token.id.encode() in mesh["f"].tokens.to_bytes()


@pytest.mark.parametrize("at", ["f", "b"])
@pytest.mark.parametrize(("ttl_s", "uses"), [(0, 1), (-5, 1), (60, 0), (60, -1)])
async def test_a_token_that_makes_no_sense_is_refused_with_a_sentence_anywhere(
    at: str, ttl_s: float, uses: int, autojump_clock: MockClock
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        with pytest.raises(Refused, match="above zero"):
            await mesh[at].office.create_token(control.TokenOrder(ttl_s=ttl_s, uses=uses))


async def test_what_the_founder_refuses_comes_in_the_founders_words(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        with pytest.raises(Refused, match="at most 365 days"):
            await mesh["b"].office.create_token(control.TokenOrder(ttl_s=1e9))


# ---------------------------------------------------------------- the founder is away


async def test_without_the_founder_every_order_says_so_by_its_name(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("attic", "b") as mesh:
        mesh["b"].start()
        office = mesh["b"].office
        orders = [
            office.create_token(control.TokenOrder()),
            office.set_drained(mesh["b"].node, True),
            office.leave(),
            office.renew(mesh["b"].key.public),
        ]
        for order in orders:
            with pytest.raises(DialFailed, match="attic, which founded this mesh"):
                await order


async def test_without_the_founder_a_newcomer_hears_so(autojump_clock: MockClock) -> None:
    async with Mesh.open("attic", "b") as mesh:
        mesh["b"].start()
        admitter: Admitter = mesh["b"].office
        refusal = await admitter.admit(request(mesh["b"]))
        assert isinstance(refusal, JoinRefusal)
        assert refusal.known_reason is Reason.FOUNDER_UNREACHABLE
        assert "attic, which founded this mesh" in refusal.message


async def test_orders_work_again_as_soon_as_the_founder_is_back(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("attic", "b") as mesh:
        mesh["b"].start()
        with pytest.raises(DialFailed):
            await mesh["b"].office.create_token(control.TokenOrder())
        mesh["attic"].start()
        await until(lambda: mesh["b"].sees(mesh["attic"]))
        assert await mesh["b"].office.create_token(control.TokenOrder())


# ---------------------------------------------------------------- newcomers


@pytest.mark.parametrize("at", ["f", "b"])
async def test_a_newcomer_is_admitted_at_any_door(at: str, autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        admitted = await mesh[at].office.admit(request(mesh[at]))
        assert isinstance(admitted, Admitted)
        await until(lambda: all(len(m.registry.members()) == 3 for m in mesh.members.values()))


async def test_a_full_disk_at_the_founder_is_a_refusal_and_admits_nobody(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        mesh["f"].full_disk = True
        refusal = await mesh["b"].office.admit(request(mesh["b"]))
        assert isinstance(refusal, JoinRefusal)
        assert refusal.known_reason is Reason.FAILED
        assert "disk" in refusal.message
        for order in (
            mesh["b"].office.create_token(control.TokenOrder()),
            mesh["b"].office.set_drained(mesh["b"].node, True),
            mesh["b"].office.leave(),
        ):
            with pytest.raises(Refused, match="no space left"):
                await order
        assert [m.registry.version for m in mesh.members.values()] == [2, 2]
        mesh["f"].full_disk = False
        assert isinstance(await mesh["b"].office.admit(request(mesh["b"])), Admitted)


async def test_who_waits_is_listed_and_approved_from_any_member(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        at_b, at_c = sit(mesh["b"], "111222"), sit(mesh["c"], "333444")
        for member in mesh.members.values():
            rows = await member.office.pending()
            assert {row.digits for row in rows} == {"111222", "333444"}
        done = await mesh["f"].office.approve("333 444")
        assert "laptop 333444" in done.message
        assert (at_b.approved, at_c.approved) == ([], ["333444"])


async def test_a_member_that_cannot_list_hides_nobody_else(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        sit(mesh["c"], "333444")

        async def lies(node: NodeId, message: PendingRequest) -> PendingReply:
            row = {"digits": "x", "name": "y", "address": "z", "waiting_s": 1.0}
            reply = PendingReply(rows=[row])
            row["waiting_s"] = "soon"
            return reply

        mesh["b"].switchboard._answering[PendingRequest] = lies
        rows = await mesh["f"].office.pending()
        assert [row.digits for row in rows] == ["333444"]
        assert await mesh["f"].office.approve("333444")


@pytest.mark.parametrize("typed_at", ["f", "b", "c"])
async def test_digits_that_nobody_shows_burn_what_waits_anywhere(
    autojump_clock: MockClock, typed_at: str
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        desks = [sit(mesh["f"], "111222"), sit(mesh["b"], "333444", "555666"), sit(mesh["c"])]
        with pytest.raises(Refused, match="No waiting machine shows 999 999"):
            await mesh[typed_at].office.approve("999999")
        assert [desk.waiting for desk in desks] == [[], [], []]
        with pytest.raises(Refused, match="No machine is waiting"):
            await mesh[typed_at].office.approve("333444")
        assert not any(desk.approved for desk in desks)


async def test_digits_that_two_show_are_nobodys(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        desks = [sit(mesh["b"], "333444"), sit(mesh["c"], "333444")]
        with pytest.raises(Refused, match="No waiting machine"):
            await mesh["f"].office.approve("333444")
        assert [(desk.waiting, desk.approved) for desk in desks] == [([], []), ([], [])]


async def test_more_members_are_no_more_guesses(autojump_clock: MockClock) -> None:
    """Somebody in the middle tries until the digits match, at every member as often as it may."""
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        at_b, at_c = sit(mesh["b"], "111222"), sit(mesh["c"], "333444")
        at_b.tries = limits.PAIRING_TRIES - 1
        assert await mesh["f"].office.approve("111222"), "as many as at one member"
        at_c.tries = 2
        with pytest.raises(Refused, match=r"type this on the node .* \(b, c\)"):
            await mesh["f"].office.approve("333444")
        assert at_c.approved == [], "it may have been found by trying"
        assert await mesh["c"].office.approve("333444"), "of this node's own there were two"
        assert at_c.approved == ["333444"]


async def test_wrong_digits_in_a_crowd_burn_what_waits_at_this_member(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        here, there = sit(mesh["f"], "111222"), sit(mesh["b"], "333444")
        there.tries = limits.PAIRING_TRIES
        with pytest.raises(Refused, match="type this on the node"):
            await mesh["f"].office.approve("333444")
        assert here.waiting == []
        assert [w.digits for w in there.waiting] == ["333444"], "it was not looked at"


@pytest.mark.parametrize("digits", ["1" * 100_000, "", "12345", "１２３４５６", "12345a"])
async def test_what_is_no_six_digits_is_refused_and_burns_nothing(
    autojump_clock: MockClock, digits: str
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        desk = sit(mesh["f"], "111222")
        with pytest.raises(Refused, match="is not the 6 digits"):
            await mesh["f"].office.approve(digits)
        assert len(desk.waiting) == 1


# ---------------------------------------------------------------- drains, leaving, renewals


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
            await settle()
            for member in mesh.members.values():
                row = member.registry.get(node)
                assert row is not None
                assert row.drained is drained


async def test_a_member_leaves_through_the_founder_and_hears_that_it_has(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c", latency_s=0.05) as mesh:
        await mesh.up()
        done = await mesh["b"].office.leave()
        assert done.message.startswith("left")
        await until(lambda: pushed_out(mesh["f"], mesh["b"]) and pushed_out(mesh["c"], mesh["b"]))
        await until(lambda: not mesh["f"].sees(mesh["b"]) and not mesh["c"].sees(mesh["b"]))
        assert mesh["b"].keys.keyring == mesh.first_keyring, "the new keys are not for it"
        assert mesh["c"].keys.keyring.version == 2


async def test_who_could_not_leave_and_is_removed_later_is_cut_at_once(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        assert mesh["f"].desk is not None

        def full(members: object) -> bool:
            raise DiskFailed(28, "there is no space left")

        accept, mesh["f"].registry.accept = mesh["f"].registry.accept, full  # type: ignore[method-assign]
        with pytest.raises(Refused, match="no space"):
            await mesh["b"].office.leave()
        mesh["f"].registry.accept = accept  # type: ignore[method-assign]
        assert mesh["f"].sees(mesh["b"]), "it is still a member"
        mesh["f"].desk.remove(mesh["b"].node)
        await trio.testing.wait_all_tasks_blocked()
        assert not mesh["f"].links._answering.get(mesh["b"].node), "no last word for it"


async def test_the_founder_leaves_last(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        with pytest.raises(Refused, match="cannot leave while"):
            await mesh["f"].office.leave()
        await mesh["b"].office.leave()
        assert "dissolved" in (await mesh["f"].office.leave()).message


async def test_a_renewed_certificate_is_for_the_same_key(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        for member in mesh.members.values():
            certificate = read_certificate(await member.office.renew(member.key.public))
            assert certificate.node == member.node
            assert certificate.is_signed_by(mesh.authority.public)


async def test_a_member_cannot_order_for_another(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        ask = mesh["b"].links.request
        founder, other = mesh["f"].node, mesh["c"]
        with pytest.raises(Refused, match="only take itself"):
            await ask(founder, Leave(node=other.node))
        with pytest.raises(Refused, match="only renew its own"):
            await ask(founder, RenewRequest(public_key=other.key.public.der))
        with pytest.raises(Refused, match="member"):
            await ask(founder, Drain(node="z" * 26, on=True))
        assert mesh["f"].registry.version == 3


async def test_who_is_not_the_founder_decides_nothing(autojump_clock: MockClock) -> None:
    async with Mesh.open("attic", "b", "c") as mesh:
        await mesh.up()
        for order in (
            TokenCreate(ttl_s=60.0, uses=1),
            Drain(node=mesh["c"].node, on=True),
            Leave(node=mesh["b"].node),
        ):
            with pytest.raises(Refused, match="attic founded this mesh"):
                await mesh["b"].links.request(mesh["c"].node, order)
