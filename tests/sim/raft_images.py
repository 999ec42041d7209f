"""A disk that is put back to what it was, and the way back to a vote.

The story is always the one that does harm: the leader and one other write something down, without
the third; the other's disk is put back, so that it has forgotten it; and the leader, having heard
that it starts, loses power.  A node that did not ask would now make a majority with the third.

What no node can see is left out: that all who remember are away, or have been started since.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from meshd.consensus.messages import Message, RecallAnswer
from meshd.consensus.replay import EMPTY
from meshd.ids import NodeId
from tests.sim.raft_nodes import Disk, Node, short

if TYPE_CHECKING:
    from tests.sim.raft_world import World

Image = tuple[float, int, Disk]
"""When, in which life, and what."""

_KEPT = 30


class Album:
    """Of all disks; one a world."""

    def __init__(self) -> None:
        self.of: dict[NodeId, list[Image]] = {}
        self.busy_until = 0.0
        """One such story at a time."""
        self.overheard: Callable[[NodeId, NodeId, Message], None] = lambda sender, to, message: None
        """Told of each message that arrived and was handled."""


def keep_image(world: World) -> None:
    node = world.nodes[world.chance.choice(world.ids)]
    if node.may_promise and not node.disk.vote_is_void:
        kept = world.album.of.setdefault(node.id, [])
        kept.append((world.now, node.lives, node.disk.image()))
        del kept[:-_KEPT]


def put_back(world: World) -> None:
    album, leader = world.album, world.leader()
    nodes = list(world.nodes.values())
    if (
        world.now < album.busy_until
        or leader is None
        or not all(node.may_promise and not node.disk.vote_is_void for node in nodes)
    ):
        return
    victim = world.chance.choice([node for node in nodes if node is not leader])
    others = [node for node in nodes if node is not victim]
    image = _remembered(victim, others, album.of.get(victim.id, []), world)
    if image is None:
        return
    album.busy_until = world.now + 8.0
    [third] = [node for node in others if node is not leader]
    for other in (leader, victim):
        world.cut |= {(third.id, other.id), (other.id, third.id)}
    world.say(f"{short(third.id)} is cut off")
    world.after(world.chance.uniform(0.2, 0.6), _forget, world, victim, image)


def _remembered(node: Node, others: list[Node], kept: list[Image], world: World) -> Image | None:
    """An image that somebody can tell from what the disk is now; or the disk as it is."""
    if world.chance.random() < 0.2:
        return world.now, node.lives, node.disk.image()
    sound = [
        image
        for image in kept
        if all(other.started_s < image[0] for other in others)
        or (
            image[1] < node.lives
            and all(other.machine.starts.get(node.id) == node.lives for other in others)
        )
    ]
    return world.chance.choice(sound) if sound else None


def _forget(world: World, node: Node, image: Image) -> None:
    """Power loss, and when it comes back the disk is as it was then."""
    world.crash(node.id)
    age_s = world.now - image[0]
    if age_s > 1.0:
        world.say(f"the disk of {short(node.id)} is put back by {age_s:.1f} s")
        node.disk = image[2].image()
        node.was_put_back = True
    world.album.overheard = lambda sender, to, message: _heard(world, node, sender, to, message)
    world.start(node.id)


def _heard(world: World, node: Node, sender: NodeId, to: NodeId, message: Message) -> None:
    """The leader told it what it had said; that was the last that it did."""
    leader = world.leader()
    if node.kernel is None or to != node.id or not isinstance(message, RecallAnswer):
        return
    if message.asked != node.kernel.rollback._number and not node.disk.vote_is_void:
        return  # of an earlier start
    if leader is not None and sender == leader.id:
        world.album.overheard = lambda sender, to, message: None
        world.cut.clear()
        world.reconnect_all()
        if world.chance.random() < 0.7:
            world.crash(sender)
            world.after(world.chance.uniform(1.5, 4.0), world.start, sender)


def begin_anew(world: World, node: Node) -> None:
    """What a ledger does with a journal that lacks what the node promised."""
    assert node.kernel is not None
    world.say(f"{short(node.id)} is behind: {node.kernel.why_behind}")
    world.set_aside += 1
    if not node.was_put_back:
        world.judge.violation("a sound journal was set aside", node.id, node.kernel.why_behind)
    node.was_put_back = False
    world.crash(node.id)
    node.disk = Disk(EMPTY)
    node.disk.vote_is_void = True
    world.start(node.id)


def mend(world: World) -> None:
    """What a ledger and a leader do: each start is written down; void votes are given anew."""
    leader = world.leader()
    for node in world.nodes.values():
        kernel = node.kernel
        if kernel is None or not node.may_promise:
            continue
        if node.disk.starts_known < node.lives:
            node.disk.starts_known = node.lives
            kernel.propose(
                b"start %s %d" % (node.id.encode(), node.lives), node.clock(world.now), 3
            )
            world.turn(node)
        if leader is None or leader.kernel is None or not leader.kernel.is_ready:
            continue
        if node is not leader:
            _give_anew(world, leader, node)


def _give_anew(world: World, leader: Node, node: Node) -> None:
    assert leader.kernel is not None
    assert node.kernel is not None
    lead, clock = leader.kernel.status(), leader.clock(world.now)
    if node.id in lead.voters:
        if node.disk.vote_is_void:
            rest = [voter for voter in lead.voters if voter != node.id]
            leader.kernel.change_voters(rest, clock, 3.0)
    elif node.id not in lead.learners:
        leader.kernel.set_learners([*lead.learners, node.id], clock)
    elif not node.disk.vote_is_void:
        leader.kernel.change_voters([*lead.voters, node.id], clock, 3.0)
    else:
        own = node.kernel.status()
        if own.voters and node.id not in own.voters and own.commit == own.last == lead.commit:
            world.say(f"{short(node.id)} may be given a vote again")
            node.kernel.regain_vote(node.clock(world.now))
            node.disk.vote_is_void = False
            world.turn(node)
    world.turn(leader)
