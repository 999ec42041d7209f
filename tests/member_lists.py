"""Member lists for tests: one in, the next one out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from meshd.identity import PublicKey
from meshd.ids import Address, NodeId
from meshd.record import Member, MemberList, clean_name, free_name, usable


def admit(
    current: MemberList,
    key: PublicKey,
    *,
    name: str,
    addresses: Iterable[Address] = (),
    now_unix_s: float,
    labels: tuple[str, ...] = (),
) -> MemberList:
    """With one more member."""
    taken = [member.name for member in current.members]
    free = free_name(clean_name(name), taken)
    member = Member(key, free, usable(addresses), int(now_unix_s), labels=labels)
    return _next(current, [*current.members, member])


def remove(current: MemberList, node: NodeId, now_unix_s: float) -> MemberList:
    """Without that member."""
    changed = _next(current, [m for m in current.members if m.id != node])
    return dataclasses.replace(changed, removed={**current.removed, node: int(now_unix_s)})


def set_drained(current: MemberList, node: NodeId, drained: bool) -> MemberList:
    """With that member drained or not."""
    return change(current, node, drained=drained)


def change(current: MemberList, node: NodeId, **fields: object) -> MemberList:
    """With other fields of that member."""
    changed = dataclasses.replace(current.by_id[node], **fields)  # type: ignore[arg-type]
    return _next(current, [changed if m.id == node else m for m in current.members])


def _next(current: MemberList, members: Sequence[Member]) -> MemberList:
    return dataclasses.replace(
        current,
        version=current.version + 1,
        members=tuple(sorted(members, key=lambda member: member.id)),
    )
