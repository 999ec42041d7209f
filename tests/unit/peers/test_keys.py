"""The keys of datagrams: alike at every member, and not at those who are none any more."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.identity import GOSSIP_KEY_BYTES, Keyring
from meshd.wire.control_mesh import KeyringPush, KeyringRequest
from tests.unit.peers.mesh import Mesh, settle, until
from tests.unit.peers.test_roster import raw_link


def newer(ring: Keyring, by: int = 1) -> KeyringPush:
    secret = (ring.version + by).to_bytes(GOSSIP_KEY_BYTES, "big")
    return KeyringPush(version=ring.version + by, secrets=[secret, ring.primary.secret])


async def test_the_founder_rotates_when_somebody_is_removed_and_everyone_left_has_the_new_keys(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        assert mesh["f"].desk is not None
        mesh["f"].desk.remove(mesh["c"].node)
        await settle()
        ring = mesh["f"].keys.keyring
        assert ring.version == 2
        assert ring.primary != mesh.first_keyring.primary
        assert mesh.first_keyring.primary in ring.keys, "what is on its way can still be read"
        assert mesh["b"].used == [ring]
        assert mesh["c"].keys.keyring == mesh.first_keyring


async def test_other_changes_of_the_list_rotate_nothing(autojump_clock: MockClock) -> None:
    async with Mesh.open("f", "b") as mesh:
        await mesh.up()
        assert mesh["f"].desk is not None
        mesh["f"].desk.set_drained(mesh["b"].node, True)
        await settle()
        assert [m.keys.keyring.version for m in mesh.members.values()] == [1, 1]


async def test_who_slept_through_a_rotation_gets_the_keys_with_the_founders_link(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        mesh["f"].start()
        assert mesh["f"].desk is not None
        mesh["f"].desk.remove(mesh["c"].node)
        mesh["b"].start()
        await until(lambda: mesh["b"].keys.keyring.version == 2)


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
        same = KeyringPush(version=1, secrets=[bytes(GOSSIP_KEY_BYTES)])
        for push in (same, KeyringPush(version=0, secrets=[bytes(GOSSIP_KEY_BYTES)])):
            await raw.say(push)
        await settle()
        assert mesh["f"].used == []
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


async def test_a_member_cannot_use_up_the_versions_so_that_the_founder_has_none_left(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        raw = await raw_link(mesh["c"], mesh["f"])
        for _ in range(10):
            await raw.say(newer(mesh["f"].keys.keyring, limits.MEMBERS_EVER))
            await settle()
        assert mesh["f"].desk is not None
        mesh["f"].desk.remove(mesh["c"].node)
        await settle()
        assert mesh["b"].keys.keyring == mesh["f"].keys.keyring
        assert mesh["b"].keys.keyring.version == 2 + 10 * limits.MEMBERS_EVER


async def test_a_full_disk_does_not_keep_anyone_from_the_new_keys(
    autojump_clock: MockClock,
) -> None:
    async with Mesh.open("f", "b", "c") as mesh:
        await mesh.up()
        mesh["b"].full_disk = True
        assert mesh["f"].desk is not None
        mesh["f"].desk.remove(mesh["c"].node)
        await settle()
        assert mesh["b"].keys.keyring.version == 2
        assert mesh["b"].sees(mesh["f"])
