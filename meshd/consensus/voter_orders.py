"""What becomes of the votes when a person decides about one (`meshd voters promote`).  Pure.

Nothing is carried out here: the leader's policy (`voters.next_step`) is played through to its end
with what the person wants, and where that is no good the answer is a sentence instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from meshd.consensus.voters import (
    Demote,
    Elector,
    Learn,
    Promote,
    Standing,
    Transfer,
    Wish,
    next_step,
)
from meshd.errors import Refused
from meshd.ids import NodeId

_STEPS: Final = 64
"""More than any row of changes of seven votes takes."""


class Forecast(msgspec.Struct, frozen=True):
    """Who will have a vote, and who leads then."""

    voters: tuple[NodeId, ...]
    leader: NodeId


def forecast(
    leader: NodeId, voters: Sequence[NodeId], members: Mapping[NodeId, Elector]
) -> Forecast:
    """The votes once all steps that are due now are taken, if all goes well."""
    votes, known = list(voters), dict(members)
    for _ in range(_STEPS):
        step = next_step(leader, votes, known, since_change_s=0.0)
        match step:
            case None:
                break
            case Learn(node):
                known[node] = replace(known[node], caught_up=True, is_void=False)
            case Promote(node):
                votes.append(node)
            case Demote(node):
                votes.remove(node)
            case Transfer(node):
                leader = node
    return Forecast(tuple(sorted(votes)), leader)


def decide(
    node: NodeId,
    order: Wish,
    leader: NodeId,
    voters: Sequence[NodeId],
    members: Mapping[NodeId, Elector],
    name_of: Callable[[NodeId], str],
) -> Forecast:
    """What that order would lead to.  Raises Refused where it would not, or would do harm."""
    elector = members[node]
    name = name_of(node)
    if order is Wish.ALWAYS:
        _require_able(elector, name)
    after = forecast(leader, voters, {**members, node: replace(elector, order=order)})
    if order is Wish.ALWAYS and node not in after.voters:
        votes = ", ".join(map(name_of, after.voters))
        raise Refused(
            f"A mesh like this one has {_votes(len(after.voters))}, and those who have them "
            f"({votes}) were chosen as well. Demote one of them first (`meshd voters demote NODE`)"
        )
    if order is Wish.NEVER and node in after.voters:
        raise Refused(
            f"Nobody could take the vote of {name}: no other machine that may have one answers "
            "now and has the record"
        )
    settled = len(forecast(leader, voters, members).voters)
    if order is Wish.NEVER and len(after.voters) < settled:
        raise Refused(
            f"Without {name} the mesh would have {_votes(len(after.voters))} instead of "
            f"{settled}, and so bear fewer losses: let another machine join first, or one that "
            "is demoted have a vote again (`meshd voters auto NODE`)"
        )
    if len(after.voters) % 2 == 0:
        raise Refused(
            f"That would end with {_votes(len(after.voters))}, which bear no more losses than "
            f"{len(after.voters) - 1}: start the machines that are away first"
        )
    return after


def _require_able(elector: Elector, name: str) -> None:
    if elector.standing is not Standing.ALIVE or not elector.answering:
        raise Refused(f"{name} does not answer now, or its part of the record does not run")
    if elector.wish is Wish.NEVER:
        raise Refused(f'The config of {name} says `voter = "never"`, which wins: change it there')


def _votes(number: int) -> str:
    return f"{number} vote{'' if number == 1 else 's'}"
