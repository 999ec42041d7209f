"""Announcing and finding: what a TXT record says, and the real thing on the loopback interface."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from meshd.ids import Address, MeshId, NodeId
from meshd.membership import mdns
from meshd.membership.mdns import Mdns, MdnsFailed
from meshd.membership.sightings import Announcement, Sighting, read_sighting

MESH = MeshId("m" * 26)
ALICE = Announcement(MESH, NodeId("a" * 26), "alice", 11436, (1, 2), "k" * 26)
BOB = Announcement(MESH, NodeId("b" * 26), "bob", 11437, (1, 1), "k" * 26)
LOOPBACK = ["127.0.0.1"]


# --- what a record says


def record(**changes: str | None) -> dict[bytes, bytes | None]:
    fields: dict[str, str | None] = {**ALICE.text(), **changes}
    return {
        key.encode(): None if value is None else value.encode() for key, value in fields.items()
    }


def test_what_is_announced_reads_back() -> None:
    sighting = read_sighting(record(), ["192.168.1.5", "fd00::5"], 11436)
    assert sighting == Sighting(
        MESH,
        ALICE.node,
        "alice",
        (Address("192.168.1.5", 11436), Address("fd00::5", 11436)),
        (1, 2),
        "k" * 26,
    )


def test_the_record_holds_these_keys_and_no_others() -> None:
    assert set(ALICE.text()) == {"mesh", "node", "name", "port", "proto", "ca"}
    assert all(len(key) + len(value) < 255 for key, value in ALICE.text().items())


@pytest.mark.parametrize(
    "changes",
    [
        {"mesh": "short"},
        {"node": None},
        {"node": "A" * 26},
        {"proto": "1"},
        {"proto": "a-b"},
        {"proto": "1-" + "9" * 20},
    ],
)
def test_a_record_that_is_not_one_of_ours_is_nobody(changes: dict[str, str | None]) -> None:
    assert read_sighting(record(**changes), ["192.168.1.5"], 11436) is None


def test_a_node_that_cannot_be_reached_is_nobody() -> None:
    assert read_sighting(record(), [], 11436) is None
    assert (
        read_sighting(record(), ["fe80::1%eth0", "fe80::1", "0.0.0.0", "224.0.0.1"], 11436) is None
    )
    assert read_sighting(record(), ["192.168.1.5"], None) is None
    assert read_sighting(record(), ["192.168.1.5"], 0) is None


def test_what_a_terminal_must_not_see_is_left_out() -> None:
    sighting = read_sighting(record(name="a\x1b[2J", ca="x" * 65), ["192.168.1.5"], 1)
    assert sighting is not None
    assert sighting.name == ""
    assert sighting.ca == ""


def test_bytes_that_are_no_text_hurt_nobody() -> None:
    text = {**record(), b"\xff\xfe": b"\xff", b"name": b"\xff\xfe" * 500}
    sighting = read_sighting(text, ["192.168.1.5"] * 40, 1)
    assert sighting is not None
    assert len(sighting.name) <= 64
    assert len(sighting.addresses) <= 16


# --- the real thing


@pytest.fixture
async def multicast() -> None:
    """Skips where the loopback interface does not carry multicast."""
    heard = trio.Event()
    speaker = Mdns(ALICE, lambda: LOOPBACK, interfaces=LOOPBACK)
    listener = Mdns(
        None, lambda: LOOPBACK, interfaces=LOOPBACK, on_sighting=lambda sighting: heard.set()
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(speaker.run)
        nursery.start_soon(listener.run)
        with trio.move_on_after(5.0):
            await heard.wait()
        nursery.cancel_scope.cancel()
    if not heard.is_set():
        pytest.skip(f"no multicast on loopback here ({speaker.failure or 'nothing was heard'})")


@asynccontextmanager
async def announced(announcement: Announcement) -> AsyncIterator[trio.CancelScope]:
    async with trio.open_nursery() as nursery:
        node = Mdns(announcement, lambda: LOOPBACK, interfaces=LOOPBACK)
        nursery.start_soon(node.run)
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()


async def until(condition: functools.partial[bool]) -> None:
    """Wait for what other threads bring about."""
    with trio.fail_after(30.0):
        while not condition():  # noqa: ASYNC110 (there is no event to wait for)
            await trio.sleep(0.02)


def sees(looker: Mdns, *nodes: NodeId) -> functools.partial[bool]:
    return functools.partial(lambda: {s.node for s in looker.found()} == set(nodes))


async def test_nodes_see_each_other_come_and_go_and_never_themselves(multicast: None) -> None:
    sightings: list[Sighting] = []
    looker = Mdns(BOB, lambda: LOOPBACK, interfaces=LOOPBACK, on_sighting=sightings.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looker.run)
        async with announced(ALICE):
            await until(sees(looker, ALICE.node))
            assert looker.found() == [
                Sighting(
                    MESH, ALICE.node, "alice", (Address("127.0.0.1", 11436),), (1, 2), "k" * 26
                )
            ]
        await until(sees(looker))
        assert [sighting.node for sighting in sightings] == [ALICE.node]
        assert looker.failure is None
        nursery.cancel_scope.cancel()


async def test_one_may_look_around_without_announcing_anything(multicast: None) -> None:
    async with announced(ALICE):
        looker = Mdns(None, lambda: LOOPBACK, interfaces=LOOPBACK)
        with trio.fail_after(30.0):
            while not (found := await looker.browse(1.0)):
                pass
        assert [sighting.node for sighting in found] == [ALICE.node]
        assert looker.found() == []


async def test_a_record_of_a_former_start_does_not_keep_a_node_from_announcing(
    multicast: None,
) -> None:
    looker = Mdns(None, lambda: LOOPBACK, interfaces=LOOPBACK)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looker.run)
        moved = Announcement(MESH, ALICE.node, "alice", 22222, (1, 2))
        async with announced(ALICE):  # it was killed, and its record still is in the caches
            await until(sees(looker, ALICE.node))
            async with announced(moved):
                await until(
                    functools.partial(
                        lambda: any(s.addresses[0].port == 22222 for s in looker.found())
                    )
                )
        nursery.cancel_scope.cancel()


async def test_a_change_of_addresses_is_announced(
    multicast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mdns, "POLL_S", 0.05)
    hosts = ["127.0.0.1"]
    looker = Mdns(None, lambda: LOOPBACK, interfaces=LOOPBACK)
    mover = Mdns(ALICE, lambda: list(hosts), interfaces=LOOPBACK)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looker.run)
        nursery.start_soon(mover.run)
        await until(sees(looker, ALICE.node))
        hosts[:] = ["10.1.2.3"]
        # The old address stays behind the new one for the second that mDNS grants it.
        await until(
            functools.partial(
                lambda: [s.addresses[0] for s in looker.found()] == [Address("10.1.2.3", 11436)]
            )
        )
        nursery.cancel_scope.cancel()


async def test_without_a_network_looking_around_fails_with_a_sentence_and_running_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**options: object) -> object:
        raise OSError(65, "No route to host")

    monkeypatch.setattr("meshd.membership.mdns.zeroconf.Zeroconf", refuse)
    node = Mdns(ALICE, list)
    with pytest.raises(MdnsFailed, match="No route to host"):
        await node.browse(0.1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        await until(functools.partial(lambda: node.failure is not None))
        assert node.found() == []
        nursery.cancel_scope.cancel()
