"""What goes into the core (events) and what comes out (directives), as data.  Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from meshd.ids import Address, NodeId
from meshd.membership.members import State
from meshd.wire.gossip import Message, Profile, Version

# --- events


class Tick(msgspec.Struct, frozen=True):
    """The time that `Core.wake_at` named has come."""


class Received(msgspec.Struct, frozen=True):
    """A datagram, opened: `sender` is a member (by the mesh's key), `address` where it is from."""

    sender: NodeId
    address: Address
    messages: tuple[Message, ...]


class Merged(msgspec.Struct, frozen=True):
    """All that `sender` knows, from an exchange over the peer link (either side of it)."""

    sender: NodeId
    messages: tuple[Message, ...]


class TcpPinged(msgspec.Struct, frozen=True):
    """How a `TcpPing` ended."""

    node: NodeId
    sequence: int
    answered: bool


class Admitted(msgspec.Struct, frozen=True):
    """Who is in the member list now.  Whoever is not, is forgotten and not listened to."""

    nodes: frozenset[NodeId]


class Found(msgspec.Struct, frozen=True):
    """Somebody (mDNS, a file, a flag) says that a member can be reached there.  Proves nothing."""

    node: NodeId
    addresses: tuple[Address, ...]


class Suspected(msgspec.Struct, frozen=True):
    """The data plane saw a connection to this member break: suspect it now."""

    node: NodeId
    reason: str


class ProfileChanged(msgspec.Struct, frozen=True):
    """What this node says of itself is different: name, addresses, inventory, load."""

    profile: Profile


class Leave(msgspec.Struct, frozen=True):
    """This node leaves for good (until its next generation)."""


class FallAsleep(msgspec.Struct, frozen=True):
    """The machine says that it will sleep."""


class Froze(msgspec.Struct, frozen=True):
    """The machine was asleep until just now, and may be so again in a moment: judge nobody."""


class Woke(msgspec.Struct, frozen=True):
    """The machine slept so long, and is awake to stay."""

    slept_s: float


Event = (
    Tick
    | Received
    | Merged
    | TcpPinged
    | Admitted
    | Found
    | Suspected
    | ProfileChanged
    | Leave
    | FallAsleep
    | Froze
    | Woke
)

# --- directives


class Send(msgspec.Struct, frozen=True):
    """Send these messages as one datagram, to each of the addresses (the receiver takes one)."""

    to: NodeId
    addresses: tuple[Address, ...]
    messages: tuple[Message, ...]


class TcpPing(msgspec.Struct, frozen=True):
    """Ask that member over the peer link whether it lives; `TcpPinged` by the deadline."""

    node: NodeId
    addresses: tuple[Address, ...]
    sequence: int
    deadline: float


class Exchange(msgspec.Struct, frozen=True):
    """Exchange all that is known with that member over the peer link; then `Merged`."""

    node: NodeId
    addresses: tuple[Address, ...]


class Changed(msgspec.Struct, frozen=True):
    """A member's state or word is different now.

    `before` is None for a new member, `after` is None for one that is forgotten (removed from the
    member list).  Both equal: its word changed (addresses, inventory, load).
    """

    node: NodeId
    before: State | None
    after: State | None


class Renewed(msgspec.Struct, frozen=True):
    """This node's generation was used before: write the new one to disk, then seal with it.

    Happens when the data directory was restored from an older copy.  Directives behind this one
    are to be carried out after it.
    """

    generation: int


class Trouble(StrEnum):
    """What a person should know about this node's membership."""

    CLONED = "cloned"
    """Another machine runs with this node's identity: a copied data directory."""
    UDP_BLOCKED = "udp_blocked"
    """A member answers over TCP but not over UDP."""


class Warned(msgspec.Struct, frozen=True):
    """Something is wrong that the mesh cannot mend by itself."""

    trouble: Trouble
    node: NodeId


class Departed(msgspec.Struct, frozen=True):
    """This node's leave has been told often enough; it may stop."""


Directive = Send | TcpPing | Exchange | Changed | Renewed | Warned | Departed

__all__ = [
    "Admitted",
    "Changed",
    "Departed",
    "Directive",
    "Event",
    "Exchange",
    "FallAsleep",
    "Found",
    "Froze",
    "Leave",
    "Merged",
    "ProfileChanged",
    "Received",
    "Renewed",
    "Send",
    "Suspected",
    "TcpPing",
    "TcpPinged",
    "Tick",
    "Trouble",
    "Version",
    "Warned",
    "Woke",
]
