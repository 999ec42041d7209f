"""What others are told of members.  Pure."""

from __future__ import annotations

import msgspec

from meshd.ids import NodeId
from meshd.membership.members import Member, State
from meshd.wire.gossip import Profile, Version


class MemberView(msgspec.Struct, frozen=True):
    """What is known of one other member at one moment."""

    node: NodeId
    state: State
    since_s: float
    """How long it has been in that state."""
    heard_s: float
    """How long ago something of its own last arrived."""
    version: Version
    profile: Profile


class Change(msgspec.Struct, frozen=True):
    """A member appeared, changed or went.  `view` is None when it is forgotten."""

    node: NodeId
    before: State | None
    after: State | None
    view: MemberView | None


def view_of(member: Member, now: float) -> MemberView:
    """It, as of `now`."""
    return MemberView(
        node=member.node,
        state=member.state,
        since_s=now - member.since,
        heard_s=now - member.heard,
        version=member.version,
        profile=member.word.profile,
    )
