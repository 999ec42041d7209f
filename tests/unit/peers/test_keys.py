"""The keys of datagrams: alike at every member, and not at those who are none any more."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.identity import GOSSIP_KEY_BYTES, Keyring
from meshd.peers.keys import LOST_S
from meshd.record.commands_registry import Remove, RotateKeyring
from meshd.wire.control_mesh import KeyringPush, KeyringRequest
from tests.unit.peers.mesh import Mesh, settle, until
from tests.unit.peers.test_roster import raw_link


def newer(ring: Keyring, by: int = 1) -> KeyringPush:
    secret = (ring.version + by).to_bytes(GOSSIP_KEY_BYTES, "big")
    return KeyringPush(version=ring.version + by, secrets=[secret, ring.primary.secret])


@pytest.mark.parametrize("by", ["f", "b"])
async def test_a_removal_rotates_and_everyone_left_has_the_new_keys(
    by: str, autojump_clock: MockClock
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        await mesh[by].office.remove(mesh["c"].node)
        await settle()
        ring = mesh[by].keys.keyring
        assert ring.version == 2
        assert ring.primary != mesh.first_keyring.primary
        assert mesh.first_keyring.primary in ring.keys, "what is on its way can still be read"
        assert [mesh[name].used for name in "fb"] == [[ring], [ring]]
        assert mesh["c"].keys.keyring == mesh.first_keyring
        named = mesh["f"].record.state.nodes.mesh
        assert (named.keyring_generation, named.gossip_key) == (2, ring.primary.id)


async def test_other_changes_of_the_list_rotate_nothing(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        await mesh["f"].office.set_drained(mesh["b"].node, True)
        await settle()
        assert [m.keys.keyring.version for m in mesh.members.values()] == [1, 1]


async def test_who_slept_through_a_rotation_asks_for_the_keys_that_its_record_names(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        mesh["f"].start()
        await mesh["f"].office.remove(mesh["c"].node)
        mesh["b"].start()
        await until(lambda: mesh["b"].keys.keyring.version == 2)


async def test_who_does_not_know_of_the_removal_yet_does_not_take_the_keys_that_go_with_it(
    autojump_clock: MockClock,
) -> None:
    """It still has a link to the node that was removed, and would hand them on when asked."""
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        mesh["f"].holds_ca = False  # nobody signs the list
        for name in "bc":
            mesh[name].record.reached = False
        await mesh["f"].office.remove(mesh["c"].node)
        await settle()
        assert mesh["f"].keys.keyring.version == 2
        assert mesh["b"].sees(mesh["c"])
        mesh["c"].keys.ask()
        await settle()
        assert (mesh["b"].used, mesh["c"].used) == ([], [])
        mesh["b"].record.reached = True
        mesh["b"].record.catch_up()
        assert mesh["b"].used == [mesh["f"].keys.keyring]
        await settle()
        assert not mesh["b"].sees(mesh["c"])


async def test_a_key_that_died_with_its_author_is_made_anew_by_the_leader(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c", "d") as mesh:
        await mesh.up()
        mesh["f"].record.is_leader = True
        lost = Remove(node=mesh["d"].node, gossip_key=12345)  # b's, who made it, and is no more
        mesh["b"].order(lost)
        await settle()
        assert mesh["f"].keys.lacking
        assert mesh["c"].keys.keyring == mesh.first_keyring
        await until(lambda: mesh["c"].keys.keyring.version == 3)
        ring = mesh["f"].keys.keyring
        assert [mesh[name].keys.keyring for name in "bc"] == [ring, ring]
        assert not mesh["f"].keys.lacking
        assert mesh["d"].keys.keyring == mesh.first_keyring
        await trio.sleep(60)
        assert mesh["f"].record.state.nodes.mesh.keyring_generation == 3, "once is enough"


async def test_a_key_that_somebody_has_is_not_made_anew(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        for name in "fc":
            mesh[name].start()
        mesh["f"].record.is_leader = True
        key_id = mesh["b"].keys.make()
        mesh["c"].order(RotateKeyring(gossip_key=key_id, generation=2))
        await trio.sleep(LOST_S / 2)
        mesh["b"].start()  # it was cut off while it was named
        await until(lambda: mesh["f"].used == [mesh["b"].keys.keyring])
        await trio.sleep(60)
        assert mesh["f"].record.state.nodes.mesh.keyring_generation == 2


async def test_what_the_record_names_is_taken_though_another_keyring_has_a_higher_number(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        raw = await raw_link(mesh["c"], mesh["b"])
        await raw.say(newer(mesh.first_keyring, 9))
        await settle()
        assert mesh["b"].keys.keyring.version == 10
        await mesh["f"].office.remove(mesh["c"].node)
        await until(lambda: mesh["b"].keys.keyring == mesh["f"].keys.keyring)
        assert mesh["b"].keys.keyring.version == 2


async def test_another_key_under_the_number_that_the_record_has_given_is_not_taken(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        for name in "fb":
            mesh[name].record.is_leader = False
        mesh["f"].order(RotateKeyring(gossip_key=12345, generation=2))
        raw = await raw_link(mesh["c"], mesh["b"])
        await raw.say(newer(mesh.first_keyring))
        await settle()
        assert mesh["b"].used == []


async def test_who_meets_an_unknown_key_asks_any_member_while_the_founder_is_away(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        ring = mesh.first_keyring.rotate(bytes(GOSSIP_KEY_BYTES))
        mesh["b"].keys._use(ring)
        for name in ("b", "c"):
            mesh[name].start()
        await until(lambda: mesh["c"].sees(mesh["b"]))
        await trio.sleep(60)
        assert mesh["c"].keys.keyring.version == 1, "members hand on keys when asked"
        mesh["c"].keys.ask()  # as gossip does when a datagram names a key that is not here
        await until(lambda: mesh["c"].used == [ring], within_s=1)


async def test_asking_survives_members_that_cannot_answer(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        ring = mesh.first_keyring.rotate(bytes(GOSSIP_KEY_BYTES))
        mesh["b"].keys._use(ring)

        async def break_off(node: object, message: KeyringRequest) -> None:
            raise KeyError("nobody thought of this")

        mesh["f"].switchboard._answering[KeyringRequest] = break_off
        mesh["c"].keys.ask()
        await until(lambda: mesh["c"].used == [ring])


async def test_an_older_keyring_or_the_same_changes_nothing(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        raw = await raw_link(mesh["b"], mesh["f"])
        ring = mesh.first_keyring.rotate(bytes(GOSSIP_KEY_BYTES))
        mesh["f"].keys._use(ring)
        for version in (1, 2):
            await raw.say(KeyringPush(version=version, secrets=[b"k" * GOSSIP_KEY_BYTES]))
        await settle()
        assert mesh["f"].keys.keyring == ring
        assert mesh["f"].switchboard.counters["keyring_refused"] == 0


async def test_keyrings_that_cannot_be_are_refused_counted_and_logged_without_a_secret(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        raw = await raw_link(mesh["b"], mesh["f"])
        secret = b"k" * GOSSIP_KEY_BYTES
        bad = [
            KeyringPush(version=9, secrets=[b"k" * 16]),
            KeyringPush(version=9, secrets=[secret, secret]),
            newer(mesh.first_keyring, limits.MEMBERS_EVER + 1),
            KeyringPush(version=2**53 - 1, secrets=[secret]),
        ]
        for push in bad:
            await raw.say(push)
        await settle()
        assert mesh["f"].used == []
        assert mesh["f"].switchboard.counters["keyring_refused"] == len(bad)
        out = capsys.readouterr().out
        assert out.count("keyring refused") == 1
        assert "kkkk" not in out
        assert secret.hex() not in out


async def test_a_full_disk_does_not_keep_anyone_from_the_new_keys(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        mesh["b"].full_disk = True
        await mesh["f"].office.remove(mesh["c"].node)
        await settle()
        assert mesh["b"].keys.keyring.version == 2
        assert mesh["b"].sees(mesh["f"])
