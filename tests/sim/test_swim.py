"""A hundred members in virtual time: what a mesh promises as a whole."""

from __future__ import annotations

import pytest

from meshd.ids import Address
from meshd.membership import events
from meshd.membership.members import State
from meshd.wire.gossip import Profile, WordKind
from tests.sim.swim_world import Node, Weather, World, node_id
from tests.sim.thousand import run

CALM = Weather()
LOSSY = Weather(loss=0.1, duplication=0.05)


def everybody_holds(world: World, node: Node, state: State) -> bool:
    return set(world.views(node).values()) == {state}


def failures(world: World) -> list[tuple[float, Node, events.Changed]]:
    """Declarations of failure, from now on."""
    seen: list[tuple[float, Node, events.Changed]] = []

    def watch(now: float, node: Node, change: events.Changed) -> None:
        if change.after is State.FAILED:
            seen.append((now, node, change))

    world.observers.append(watch)
    return seen


def test_a_hundred_members_meet_the_goals_of_a_thousand() -> None:
    outcome = run(seed=1, members=100, seconds=60.0, loss=0.10, crashes=20)
    assert outcome.missed() == []
    # Without suspicions of living members, no death of one proves nothing.
    assert outcome.false_suspicions > 0


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    def trace(seed: int) -> str:
        world = World(seed, weather=LOSSY, trace=True)
        nodes = world.build(20)
        world.at(3.0, lambda: world.crash(nodes[3]))
        world.at(5.0, lambda: world.sleep(nodes[5], 10.0))
        world.run(30.0)
        return world.digest()

    assert trace(7) == trace(7)
    assert trace(7) != trace(8)


def test_every_packet_fits_and_reads_back_as_it_was() -> None:
    world = World(3, weather=LOSSY, check_packets=True)
    nodes = world.build(60)
    for index in range(20):
        world.at(1.0 + index / 10, lambda index=index: world.crash(nodes[index]))
    world.run(40.0)
    assert world.packets > 1000


def introduce(world: World, newcomer: Node, member: Node) -> None:
    world.tell(newcomer, events.Found(member.id, (member.address,)))


def test_a_mesh_grows_from_one_contact_each() -> None:
    world = World(11, weather=LOSSY)
    nodes = [world.add(index) for index in range(30)]
    world.admit()
    for node in nodes[1:]:
        world.at(node.index * 0.2, lambda node=node: introduce(world, node, nodes[0]))
    world.run(40.0)
    for node in nodes:
        assert everybody_holds(world, node, State.ALIVE)


@pytest.mark.parametrize("members", [2, 3, 5])
def test_a_crash_in_a_small_mesh_is_found_within_a_few_seconds(members: int) -> None:
    world = World(members)
    nodes = world.build(members)
    world.run(5.0)
    world.crash(nodes[0])
    world.run(9.0)
    assert set(world.views(nodes[0]).values()) <= {State.SUSPECT, State.FAILED}
    world.run(30.0)
    assert everybody_holds(world, nodes[0], State.FAILED)


def test_who_restarts_is_back_with_its_next_generation() -> None:
    world = World(5, weather=LOSSY)
    nodes = world.build(10)
    world.crash(nodes[4])
    world.run(40.0)
    assert everybody_holds(world, nodes[4], State.FAILED)
    back = world.restart(nodes[4], generation=2)
    world.admit()
    introduce(world, back, nodes[0])
    world.run(50.0)
    assert everybody_holds(world, back, State.ALIVE)
    assert {node.core.members.get(back.id).version[0] for node in nodes if node.up} == {2}  # type: ignore[union-attr]


def test_a_restart_too_fast_to_be_noticed_is_an_ordinary_update() -> None:
    world = World(6)
    nodes = world.build(10)
    world.run(5.0)
    seen = failures(world)
    back = world.restart(nodes[4], generation=2)
    world.admit()
    introduce(world, back, nodes[0])
    world.run(20.0)
    assert everybody_holds(world, back, State.ALIVE)
    assert seen == []


def test_a_node_with_an_old_copy_of_its_disk_takes_a_generation_that_is_new() -> None:
    world = World(7)
    nodes = world.build(6)
    world.crash(nodes[2])
    for generation in (5, 3):  # the fifth start, then the disk of the second is put back
        node = world.restart(nodes[2], generation=generation)
        world.admit()
        introduce(world, node, nodes[0])
        world.run(world.now + 10.0)
    renewed = [what for _, _, what in world.directives if isinstance(what, events.Renewed)]
    assert renewed == [events.Renewed(6)]
    assert everybody_holds(world, node, State.ALIVE)


def test_two_machines_with_one_identity_are_reported_and_do_not_outbid_each_other_for_ever() -> (
    None
):
    world = World(8)
    nodes = world.build(6)
    copy = world.add(nodes[2].index)  # takes over the id in the world; the original goes on
    original = nodes[2]
    copy.address = Address("10.9.9.9", 11436)
    world.by_address[original.address] = original
    world.by_address[copy.address] = copy
    world.tell(copy, events.Admitted(frozenset(world.nodes)))
    world.tell(copy, events.ProfileChanged(Profile("copy", (copy.address,))))
    introduce(world, copy, nodes[0])
    world.run(300.0)
    troubles = {
        (what.trouble, what.node)
        for _, _, what in world.directives
        if isinstance(what, events.Warned)
    }
    assert (events.Trouble.CLONED, original.id) in troubles
    renewed = [what for _, _, what in world.directives if isinstance(what, events.Renewed)]
    assert 1 <= len(renewed) <= 2 * world.settings.renewals


def test_a_member_that_moves_house_stays_alive_and_is_found_at_its_new_address() -> None:
    world = World(9, weather=LOSSY)
    nodes = world.build(10)
    world.run(3.0)
    seen = failures(world)
    moved = Address("192.168.7.7", 11436)
    world.move(nodes[3], moved)
    world.run(60.0)
    assert seen == []
    for node in nodes:
        if node is not nodes[3]:
            member = node.core.members.get(nodes[3].id)
            assert member is not None
            assert member.word.profile.addresses == (moved,)
            assert member.state is State.ALIVE


def test_who_leaves_is_left_for_everybody_and_for_good() -> None:
    world = World(10, weather=LOSSY)
    nodes = world.build(30)
    world.run(2.0)
    world.tell(nodes[7], events.Leave())
    world.run(10.0)
    assert [what for _, node, what in world.directives if node == nodes[7].id] == [
        events.Departed()
    ]
    world.crash(nodes[7])
    world.run(90.0)
    assert everybody_holds(world, nodes[7], State.LEFT)


def test_who_goes_to_sleep_is_asleep_and_never_suspected_until_it_wakes() -> None:
    world = World(12)
    nodes = world.build(10)
    world.run(2.0)
    sleeper = nodes[1]
    world.tell(sleeper, events.FallAsleep())
    world.run(2.5)
    world.sleep(sleeper, 3600.0)
    world.run(1800.0)
    assert everybody_holds(world, sleeper, State.ASLEEP)
    world.run(3610.0)
    assert everybody_holds(world, sleeper, State.ALIVE)
    assert sleeper.core.word.kind is WordKind.ALIVE


def test_a_laptop_that_slept_without_a_word_accuses_nobody_when_it_wakes() -> None:
    world = World(13, weather=LOSSY)
    nodes = world.build(10)
    world.run(5.2)
    world.sleep(nodes[1], 600.0)
    world.run(600.0)
    assert everybody_holds(world, nodes[1], State.FAILED)
    seen = failures(world)
    world.run(640.0)
    assert everybody_holds(world, nodes[1], State.ALIVE)
    held = {nodes[1].core.members.get(node.id).state for node in nodes if node is not nodes[1]}  # type: ignore[union-attr]
    assert held == {State.ALIVE}
    assert seen == []


def test_two_halves_that_held_each_other_for_failed_find_each_other_again() -> None:
    world = World(14)
    nodes = world.build(12)
    one, other = nodes[:6], nodes[6:]
    world.cut(one, other)
    world.run(120.0)
    held = {node.core.members.get(peer.id).state for node in one for peer in other}  # type: ignore[union-attr]
    assert held == {State.FAILED}
    world.heal()
    world.run(300.0)
    for node in nodes:
        assert everybody_holds(world, node, State.ALIVE)


def test_a_link_broken_between_two_members_only_makes_neither_failed() -> None:
    world = World(15)
    nodes = world.build(8)
    seen = failures(world)
    world.cut([nodes[0]], [nodes[1]])
    world.run(120.0)
    assert seen == []


def test_a_member_that_hears_but_is_not_heard_is_found_out() -> None:
    world = World(16)
    nodes = world.build(8)
    world.cut([nodes[0]], nodes[1:], both_ways=False)
    world.run(60.0)
    assert everybody_holds(world, nodes[0], State.FAILED)
    assert {nodes[1].core.members.get(node.id).state for node in nodes[2:]} == {State.ALIVE}  # type: ignore[union-attr]


def test_a_member_behind_a_firewall_that_drops_datagrams_is_reported_and_lives() -> None:
    world = World(17)
    nodes = world.build(5)
    deaf = nodes[2]
    send = world._send
    world._send = lambda node, what: None if node is deaf else send(node, what)  # type: ignore[method-assign]
    seen = failures(world)
    world.run(60.0)
    assert seen == []
    warned = {
        (by, what)
        for _, by, what in world.directives
        if isinstance(what, events.Warned) and by != deaf.id
    }
    others = [node.id for node in nodes if node is not deaf]
    assert warned == {(by, events.Warned(events.Trouble.UDP_BLOCKED, deaf.id)) for by in others}


def test_a_hint_of_the_relay_is_known_to_all_within_a_second_and_a_wrong_one_is_refuted() -> None:
    world = World(18)
    nodes = world.build(20)
    world.run(3.0)
    world.crash(nodes[4])
    world.tell(nodes[9], events.Suspected(nodes[4].id, "connection reset"))
    world.run(4.0)
    assert everybody_holds(world, nodes[4], State.SUSPECT)
    world.tell(nodes[9], events.Suspected(nodes[5].id, "connection reset"))
    world.run(5.0)
    assert everybody_holds(world, nodes[5], State.ALIVE)
    assert nodes[5].core.counters["refutations"] == 1


def test_who_is_removed_from_the_member_list_is_forgotten_and_not_heard() -> None:
    world = World(19)
    nodes = world.build(6)
    world.run(2.0)
    world.admit(node.id for node in nodes[1:])
    world.run(20.0)
    assert set(world.views(nodes[0]).values()) == {None}
    assert nodes[1].core.counters["packets_not_admitted"] > 0
    assert node_id(0) == nodes[0].id
