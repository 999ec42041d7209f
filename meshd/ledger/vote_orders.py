"""A person decides about a node's vote: looked at here, written into the record (trio shell).

What the votes become of it is worked out first (`consensus.voter_orders`), and refused where it
would do harm.  The leader's care for the voters does the rest, whoever watches.
"""

from __future__ import annotations

from collections.abc import Callable

from meshd.consensus.voter_orders import Forecast, decide
from meshd.consensus.voters import Wish
from meshd.control import VotesDecided
from meshd.errors import Refused
from meshd.ids import NodeId
from meshd.ledger.ledger import Ledger
from meshd.record.commands_registry import ChangeNode


async def order_vote(
    ledger: Ledger, node: NodeId, order: Wish, name_of: Callable[[NodeId], str], problem: str
) -> VotesDecided:
    """Have a vote given to a node, or taken from it, or left to the mesh; what will come of it.

    `problem` is why the record cannot be written now, if it is so.  Raises Refused with the reason
    for which it would not do, and as `Ledger.execute`.
    """
    driver = ledger.driver
    status = driver.status() if driver is not None else None
    if driver is None or status is None or status.leader is None or problem:
        raise Refused(problem or "Nobody leads the record now: try again in a moment")
    electors = await ledger.electorate.electors(driver)
    if node not in electors:
        raise Refused(f"The mesh has so many nodes that {name_of(node)} is not asked for its vote")
    after = decide(node, order, status.leader, status.voters, electors, name_of)
    await ledger.execute(ChangeNode(node=node, vote=order.value))
    return VotesDecided(
        message=_what_comes(node, order, status.voters, after, name_of),
        voters=list(after.voters),
        done=set(after.voters) == set(status.voters),
    )


def _what_comes(
    node: NodeId,
    order: Wish,
    before: tuple[NodeId, ...],
    after: Forecast,
    name_of: Callable[[NodeId], str],
) -> str:
    name = name_of(node)
    gets = sorted(name_of(v) for v in after.voters if v not in before)
    loses = sorted(name_of(v) for v in before if v not in after.voters)
    changes = [f"{', '.join(gets)} will get a vote"] if gets else []
    changes += [f"{', '.join(loses)} will lose it"] if loses else []
    if not changes:
        has = "has a vote" if node in before else "has no vote"
        stays = "as its machine is suited" if order is Wish.AUTO else "and that stays so"
        return f"{name} {has}, {stays}"
    return f"{' and '.join(changes)}; the new voters are sent what they lack first"
