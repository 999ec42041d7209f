"""Orders for the mesh: taken at any member, decided by the record."""

from __future__ import annotations

import hashlib

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from trio.testing import MockClock

from meshd import control, limits
from meshd.errors import DialFailed, MeshdError, Refused
from meshd.identity import PrivateKey, Token, make_proof, parse_token, read_certificate
from meshd.ids import NodeId
from meshd.peers.join_server import Waiting
from meshd.peers.office import Undecided
from meshd.record.commands_registry import HoldCa
from meshd.record.members import MEMBER_BYTES
from meshd.wire.control_mesh import (
    Leave,
    PendingReply,
    PendingRequest,
    RenewRequest,
)
from meshd.wire.join import Admitted, JoinRefusal, JoinRequest, Reason
from tests.joins import NOW_UNIX_S, make_key
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
    member.office.consents.use_door(desk)  # type: ignore[arg-type]
    return desk


def request(via: Member, seed: str = "", key: PrivateKey | None = None) -> JoinRequest:
    """A newcomer by pairing, at that member's door."""
    return JoinRequest(
        way="pairing",
        public_key=(key or make_key(f"newcomer {seed}")).public.der,
        name="laptop",
        addresses=[],
        server_certificate=certificate_of(via),
    )


def by_token(
    via: Member, token: Token, seed: str = "", key: PrivateKey | None = None
) -> JoinRequest:
    """The same with a token."""
    asked = request(via, seed, key)
    nonces = {"newcomer_nonce": b"n" * 32, "member_nonce": b"m" * 32}
    proof = make_proof(
        token.key,
        server_certificate_hash=hashlib.sha256(asked.server_certificate).digest(),
        public_key_der=asked.public_key,
        token_id=token.id,
        **nonces,
    )
    return replace(asked, way="token", token=token.id, proof=proof, **nonces)


def certificate_of(member: Member) -> bytes:
    return member.mesh.authority.issue(
        member.key.public, serial=bytes([1] * 16), now_unix_s=1_780_000_000.0
    )


def hold(member: Member) -> None:
    """It has the CA's key from here on."""
    member.holds_ca = True
    member.order(HoldCa(node=member.node, holds=True))


def version(member: Member) -> int:
    return member.registry.version


def pushed_out(member: Member, other: Member) -> bool:
    return member.registry.get(other.node) is None


# ---------------------------------------------------------------- tokens


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


# ---------------------------------------------------------------- newcomers


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


# ---------------------------------------------------------------- consent


async def test_who_waits_is_listed_and_approved_from_any_member(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        at_b, at_c = sit(mesh["b"], "111222"), sit(mesh["c"], "333444")
        for member in mesh.members.values():
            rows = await member.office.consents.pending()
            assert {row.digits for row in rows} == {"111222", "333444"}
        done = await mesh["f"].office.consents.approve("333 444")
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
        rows = await mesh["f"].office.consents.pending()
        assert [row.digits for row in rows] == ["333444"]
        assert await mesh["f"].office.consents.approve("333444")


@pytest.mark.parametrize("typed_at", ["f", "b", "c"])
async def test_digits_that_nobody_shows_burn_what_waits_anywhere(
    autojump_clock: MockClock, typed_at: str
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        desks = [sit(mesh["f"], "111222"), sit(mesh["b"], "333444", "555666"), sit(mesh["c"])]
        with pytest.raises(Refused, match="No waiting machine shows 999 999"):
            await mesh[typed_at].office.consents.approve("999999")
        assert [desk.waiting for desk in desks] == [[], [], []]
        with pytest.raises(Refused, match="No machine is waiting"):
            await mesh[typed_at].office.consents.approve("333444")
        assert not any(desk.approved for desk in desks)


async def test_digits_that_two_show_are_nobodys(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        desks = [sit(mesh["b"], "333444"), sit(mesh["c"], "333444")]
        with pytest.raises(Refused, match="No waiting machine"):
            await mesh["f"].office.consents.approve("333444")
        assert [(desk.waiting, desk.approved) for desk in desks] == [([], []), ([], [])]


async def test_more_members_are_no_more_guesses(autojump_clock: MockClock) -> None:
    """Somebody in the middle tries until the digits match, at every member as often as it may."""
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        at_b, at_c = sit(mesh["b"], "111222"), sit(mesh["c"], "333444")
        at_b.tries = limits.PAIRING_TRIES - 1
        assert await mesh["f"].office.consents.approve("111222"), "as many as at one member"
        at_c.tries = 2
        with pytest.raises(Refused, match=r"type this on the node .* \(b, c\)"):
            await mesh["f"].office.consents.approve("333444")
        assert at_c.approved == [], "it may have been found by trying"
        done = await mesh["c"].office.consents.approve("333444")
        assert done, "of this node's own there were two"
        assert at_c.approved == ["333444"]


async def test_wrong_digits_in_a_crowd_burn_what_waits_at_this_member(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        here, there = sit(mesh["f"], "111222"), sit(mesh["b"], "333444")
        there.tries = limits.PAIRING_TRIES
        with pytest.raises(Refused, match="type this on the node"):
            await mesh["f"].office.consents.approve("333444")
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
            await mesh["f"].office.consents.approve(digits)
        assert len(desk.waiting) == 1


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
