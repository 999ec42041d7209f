"""What happens to voters: load, faults, changes, and then peace, all by the seed."""

from __future__ import annotations

from dataclasses import dataclass

from meshd.consensus.interface import TransferRefused
from meshd.ids import NodeId
from tests.sim.raft_images import keep_image, mend, put_back
from tests.sim.raft_nodes import Node, short
from tests.sim.raft_world import World


@dataclass(frozen=True, slots=True)
class Weather:
    """How a run goes.  Rates are per virtual second."""

    seconds: float = 20.0
    peace_s: float = 12.0
    """After the last fault: as long as everybody may take to converge."""
    commands: float = 30.0
    reads: float = 10.0
    faults: float = 1.5
    snapshots: float = 0.5
    changes: float = 0.0
    transfers: float = 0.1
    loss: float = 0.002
    doubling: float = 0.01
    strays: float = 0.3
    put_back: float = 0.0
    """Disks that are put back to what they were."""


def run(world: World, weather: Weather) -> World:
    """Faults, then peace, then the last judgement."""
    world.loss, world.doubling, world.strays = weather.loss, weather.doubling, weather.strays
    for rate, what in (
        (weather.commands, load),
        (weather.reads, read),
        (weather.faults, fault),
        (weather.snapshots, snapshot),
        (weather.changes, change),
        (weather.transfers, transfer),
        (weather.put_back, put_back),
        (weather.put_back and 5.0, keep_image),
        (4.0, dial),
        (weather.put_back and 5.0, mend),
    ):
        if rate:
            _repeat(world, weather, rate, what, 0.0 if what in _ALWAYS else 1.0)
    world.run_until(weather.seconds)
    make_peace(world)
    world.run_until(weather.seconds + weather.peace_s * 0.6)
    for node in world.up():
        world.propose(node, timeout_s=weather.peace_s * 0.3)
    world.run_until(weather.seconds + weather.peace_s)
    judge_the_end(world)
    return world


def _repeat(world: World, weather: Weather, rate: float, what: object, start: float) -> None:
    assert callable(what)
    end = weather.seconds + weather.peace_s if what in _ALWAYS else weather.seconds

    def again() -> None:
        what(world)
        delay_s = world.chance.expovariate(rate)
        if world.now + delay_s < end:
            world.after(delay_s, again)

    again.__name__ = getattr(what, "__name__", "again")
    world.at(start + world.chance.expovariate(rate), again)


def make_peace(world: World) -> None:
    world.say("peace")
    world.cut.clear()
    world.slow_s.clear()
    world.loss = world.doubling = world.strays = 0.0
    for node in world.nodes.values():
        node.disk.slow_s = 0.0
        world.start(node.id)
    world.reconnect_all()


def judge_the_end(world: World) -> None:
    """Voters, and those who follow them: all have what the leader that they agree on has."""
    judge, leader = world.judge, world.leader()
    if judge.violations:
        return
    if leader is None or leader.kernel is None:
        judge.violation("nobody leads in the end", world.now)
        return
    judge.at_the_end({node.id: node.machine.commands for node in world.nodes.values()})
    if not any(index > 1 for index in judge.acks.values()):
        judge.violation("nothing was ever acknowledged", world.seed)


# --- what happens


def load(world: World) -> None:
    if up := world.up():
        node = world.chance.choice(up)
        for _ in range(world.chance.choice([1, 1, 1, 12])):
            world.propose(node)


def read(world: World) -> None:
    if up := world.up():
        world.read(world.chance.choice(up))


def snapshot(world: World) -> None:
    if up := world.up():
        world.snapshot(world.chance.choice(up))


def dial(world: World) -> None:
    world.reconnect_all()


_ALWAYS = (dial, mend)
"""What goes on in peace."""


def transfer(world: World) -> None:
    node = world.leader()
    if node is None or node.kernel is None:
        return
    heir = world.chance.choice(node.kernel.status().voters)
    try:
        node.kernel.transfer(heir, node.clock(world.now))
    except TransferRefused:
        return
    world.say(f"{short(node.id)} hands over to {short(heir)}")
    world.turn(node)


def change(world: World) -> None:
    """One voter more or less; whoever is to become one learns the log first."""
    node = world.leader()
    if node is None or node.kernel is None:
        return
    kernel, clock = node.kernel, node.clock(world.now)
    voters = kernel.status().voters
    outside = [n for n in world.ids if n not in voters]
    removable = [n for n in voters if n != node.id]
    if removable and len(voters) > 1 and (not outside or world.chance.random() < 0.5):
        gone = world.chance.choice(removable)
        kernel.change_voters([v for v in voters if v != gone], clock, 3.0)
        world.say(f"{short(node.id)} removes {short(gone)}")
    elif outside:
        new = world.chance.choice(outside)
        kernel.set_learners([new], clock)
        for delay_s in (0.0, 0.2, 1.0):
            world.after(delay_s, _try_to_add, world, node, node.lives, new)
    world.turn(node)


def _try_to_add(world: World, node: Node, life: int, new: NodeId) -> None:
    if node.lives == life and node.kernel is not None:
        voters = node.kernel.status().voters
        if new not in voters:
            node.kernel.change_voters([*voters, new], node.clock(world.now), 3.0)
            world.say(f"{short(node.id)} adds {short(new)}")
            world.turn(node)


def fault(world: World) -> None:
    world.faults += 1
    chance = world.chance
    victim = chance.choice(world.ids)
    leader = world.leader()
    if leader is not None and chance.random() < 0.4:
        victim = leader.id
    kind = chance.random()
    if kind < 0.2:
        if len(world.up()) == len(world.ids) or chance.random() < 0.3:
            world.crash(victim)
            world.after(chance.uniform(0.05, 3.0), world.start, victim)
    elif kind < 0.25:
        for node in world.ids:  # the whole house loses power
            world.crash(node)
            world.after(chance.uniform(0.05, 1.0), world.start, node)
    elif kind < 0.45:
        other = chance.choice([n for n in world.ids if n != victim] or [victim])
        world.sever(victim, other)
        world.say(f"the link of {short(victim)} and {short(other)} breaks")
    elif kind < 0.7:
        side = {victim}
        if len(world.ids) > 3 and chance.random() < 0.5:
            side.add(chance.choice(world.ids))
        _cut_off(world, side, one_way=chance.random())
    elif kind < 0.85:
        other = chance.choice(world.ids)
        world.slow_s[victim, other] = chance.choice([0.05, 0.3, 1.0])
        world.after(2.0, _speed_up, world, victim, other)
    else:
        disk = world.nodes[victim].disk
        disk.slow_s = chance.choice([0.02, 0.1, 0.6])
        world.say(f"the disk of {short(victim)} takes {disk.slow_s} s")
        world.after(chance.uniform(0.2, 2.0), setattr, disk, "slow_s", 0.0)


def _speed_up(world: World, a: NodeId, b: NodeId) -> None:
    world.slow_s.pop((a, b), None)


def _cut_off(world: World, side: set[NodeId], one_way: float) -> None:
    """Nothing arrives across, in one direction or both; the ends notice late or never."""
    across = [(a, b) for a in sorted(side) for b in world.ids if b not in side]
    directions: list[tuple[NodeId, NodeId]] = []
    if one_way < 0.7:
        directions += across
    if not 0.35 <= one_way < 0.7:
        directions += [(b, a) for a, b in across]
    world.cut.update(directions)
    world.say("nothing arrives " + ", ".join(f"{short(a)}->{short(b)}" for a, b in directions))
    for a, b in across:
        if world.chance.random() < 0.5:
            world.sever(a, b)
    world.after(world.chance.uniform(0.3, 4.0), world.cut.difference_update, directions)
