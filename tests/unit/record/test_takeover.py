"""What a signed member list says that the record does not know is taken into it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshd import limits
from meshd.identity import Keyring
from meshd.ids import Address
from meshd.record import MemberList
from meshd.record.commands_registry import ChangeNode
from meshd.record.takeover import taken_over
from meshd.record.view import member_list
from tests.member_lists import admit, remove, set_drained
from tests.unit.record.logs import START_MS, Log, id_of, key_of

RING = Keyring.generate(bytes(32))
NOW_UNIX_S = START_MS / 1000


def with_one_more(current: MemberList, name: str) -> MemberList:
    return admit(current, key_of(name), name=name, now_unix_s=NOW_UNIX_S)


def take_over(log: Log, members: MemberList, keyring: Keyring = RING) -> int:
    """How many commands it took."""
    for count in range(100):
        command = taken_over(members, log.state, keyring)
        if command is None:
            log.state.check()
            return count
        log.by("attic", command)
    raise AssertionError("it never ends")


def test_a_list_that_was_made_of_the_record_has_nothing_new() -> None:
    log = Log("mini")
    members = member_list(log.state)
    assert taken_over(members, log.state, RING) is None
    log.by("attic", ChangeNode(node=id_of("mini"), drained=True))
    assert taken_over(members, log.state, RING) is None, "it is older"


def test_a_founder_s_list_goes_on_as_the_record_s() -> None:
    """A data directory of the meshd before: the record has adopted members, and nothing else."""
    log = Log("mini", "studio", "shed")
    members = set_drained(member_list(log.state), id_of("mini"), True)
    members = with_one_more(remove(members, id_of("studio"), NOW_UNIX_S), "laptop")
    ring = RING.rotate(b"k" * 32)
    assert take_over(log, members, ring) == 1
    now = member_list(log.state)
    assert now.version == members.version + 1
    assert now.members == members.members
    assert now.removed == members.removed
    mesh = log.state.nodes.mesh
    assert (mesh.keyring_generation, mesh.gossip_key) == (ring.version, ring.primary.id)


@pytest.mark.parametrize("version", [0, 5])
def test_of_one_number_or_a_later_one_the_list_is_heard(version: int) -> None:
    log = Log("mini")
    known = member_list(log.state)
    gone = remove(known, id_of("mini"), NOW_UNIX_S)
    gone = replace(gone, version=known.version + version)
    assert take_over(log, gone) == 1
    assert log.state.nodes.is_removed(id_of("mini"))
    assert log.state.nodes.mesh.registry_version == known.version + version + 1


def test_a_long_list_is_taken_over_in_parts_and_counts_once() -> None:
    log = Log()
    version = log.state.nodes.mesh.registry_version
    members = member_list(log.state)
    many = [Address("h" * limits.HOST_CHARS, port) for port in range(1, 17)]
    for n in range(20):
        members = admit(
            members, key_of(f"n{n}"), name=f"n{n}", addresses=many, now_unix_s=NOW_UNIX_S
        )
    first = taken_over(members, log.state, RING)
    assert first is not None
    assert first.more
    log.by("attic", first)
    assert log.state.nodes.mesh.registry_version == version
    assert take_over(log, members) > 1
    assert member_list(log.state).members == members.members
    assert log.state.nodes.mesh.registry_version == members.version + 1


def test_a_list_that_takes_out_the_only_one_that_can_admit_is_not_heard_in_that() -> None:
    log = Log("mini")
    members = remove(member_list(log.state), id_of("attic"), NOW_UNIX_S)
    assert take_over(log, members) == 1
    assert log.state.nodes.get(id_of("attic")) is not None
