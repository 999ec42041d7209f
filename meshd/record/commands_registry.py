"""The bodies of commands about nodes, access, sessions and the clock.  Pure.

What each does is with its reducer; what a person may want is checked there too, so that a refusal
is a result like any other.  Here are form and size only.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from meshd import limits
from meshd.record.fields import (
    Addresses,
    ApiKeyId,
    Boot,
    CertificateDer,
    CertificateSerial,
    Count,
    DerKey,
    Digest,
    GossipKeyId,
    KeyId,
    Labels,
    Line,
    ModelName,
    ModelOrNone,
    NodeName,
    PolicyName,
    ShortLine,
    Small,
    TokenId,
    TokenOrNone,
    UnixMs,
    VoteOrder,
)


class Command(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,
):
    """What all commands have: nothing.  Their fields are the keys of the body map."""


class NodeFields(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,
):
    """A node as a command describes it."""

    key: DerKey
    name: NodeName
    addresses: Addresses = ()
    labels: Labels = ()
    region: ShortLine = ""
    priority: Small = 0
    drained: bool = False
    joined_unix_ms: UnixMs = 0
    """0: now, by the record clock."""


# --- nodes


class Found(Command, frozen=True):
    """The first command of a record: the mesh, and its founder, who holds the CA's key."""

    mesh: KeyId
    mesh_name: NodeName
    ca_key: DerKey
    node: NodeFields
    unix_ms: UnixMs
    """Where the record clock starts."""
    gossip_key: GossipKeyId
    keyring_generation: Annotated[int, Meta(ge=1, le=2**53 - 1)] = 1
    registry_version: Count = 0
    """The number of the member list that this record takes over from."""
    ca_certificate: CertificateDer = b""


class Adopt(Command, frozen=True):
    """Take over members and removed ids of a member list that the record was not asked about.

    Without `list_version` who is there already stays as it is; with it the list is the later word.
    """

    nodes: Annotated[tuple[NodeFields, ...], Meta(max_length=128)] = ()
    removed: Annotated[tuple[tuple[KeyId, UnixMs], ...], Meta(max_length=512)] = ()
    list_version: Count = 0
    """The number of that list: the record counts on from there."""
    more: bool = False
    """More of the list follows; until then the registry has no new number."""
    keyring_generation: Count = 0
    """Of the gossip keys that are in use, where that is higher than the record's."""
    gossip_key: GossipKeyId = 0


class Admit(Command, frozen=True):
    """Let a node in, and use up one use of its token, if it came by one."""

    node: NodeFields
    token: TokenOrNone = ""


class Remove(Command, frozen=True):
    """Take a node out for good; the gossip key is another one from here on."""

    node: KeyId
    gossip_key: GossipKeyId
    """Of the new primary key, which its author hands to the members over their links."""


class ChangeNode(Command, frozen=True):
    """Change what is given, leave the rest."""

    node: KeyId
    name: NodeName | UnsetType = UNSET
    addresses: Addresses | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    region: ShortLine | UnsetType = UNSET
    priority: Small | UnsetType = UNSET
    drained: bool | UnsetType = UNSET
    vote: VoteOrder | UnsetType = UNSET


class Certify(Command, frozen=True):
    """A certificate was issued to a node."""

    node: KeyId
    serial: CertificateSerial
    not_after_unix_ms: UnixMs


class HoldCa(Command, frozen=True):
    """A node holds the CA's key from here on, or has deleted it."""

    node: KeyId
    holds: bool


class RotateCa(Command, frozen=True):
    """The mesh has another CA key, which one node holds so far."""

    node: KeyId
    ca_key: DerKey
    generation: Annotated[int, Meta(ge=2, le=2**53 - 1)]
    """The next one: of two that rotate at once, one is refused."""
    certificate: CertificateDer = b""
    """The new CA's own."""
    link: CertificateDer = b""
    """The new key, certified by the CA before."""


class RotateKeyring(Command, frozen=True):
    """The gossip key is another one from here on."""

    gossip_key: GossipKeyId
    generation: Annotated[int, Meta(ge=2, le=2**53 - 1)]
    """The next one, as in `RotateCa`."""


# --- access


class CreateToken(Command, frozen=True):
    """A join token: `key` is K, from which proofs are made (identity/tokens.py)."""

    id: TokenId
    key: Digest
    ttl_ms: Annotated[int, Meta(ge=1, le=int(limits.TOKEN_TTL_MAX_S) * 1000)]
    uses: Annotated[int, Meta(ge=1, le=limits.MEMBERS)]


class RevokeToken(Command, frozen=True):
    id: TokenId


class SetAlias(Command, frozen=True):
    """Another name for a model; "" takes it away."""

    alias: ModelName
    model: ModelOrNone = ""


class SetPolicy(Command, frozen=True):
    """A setting for the whole mesh; "" takes it away."""

    name: PolicyName
    value: Line = ""


class AddApiKey(Command, frozen=True):
    """A client's key, of which the record has the hash."""

    id: ApiKeyId
    name: ShortLine
    sha256: Digest
    created_unix_ms: UnixMs = 0
    """0: now."""


class RevokeApiKey(Command, frozen=True):
    id: ApiKeyId


# --- sessions, clock, versions


class Started(Command, frozen=True):
    """A node has started: opens its session, and closes that of its last start."""

    node: KeyId
    generation: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    boot: Boot


class EndSession(Command, frozen=True):
    """That start of a node is over; its results are forgotten."""

    node: KeyId
    generation: Annotated[int, Meta(ge=1, le=2**53 - 1)]


class Tick(Command, frozen=True):
    """The median of the nodes' wall clocks; the record clock follows it forwards."""

    unix_ms: UnixMs
    elapsed_ms: Count = 0
    """So much time has passed since the record clock last moved, by a clock of the leader that
    nobody can set, and that it has watched all the while; 0: it cannot say."""


class ConfirmClock(Command, frozen=True):
    """A person says that the step that is held is right: it is about this time now."""

    unix_ms: UnixMs


class RaiseFeature(Command, frozen=True):
    """All voters know this version of commands: it may be used."""

    version: Annotated[int, Meta(ge=1, le=127)]


class Trace(Command, frozen=True):
    """Requests that were answered without a job, for the history; the state keeps none of it."""

    rows: Annotated[
        tuple[Annotated[bytes, Meta(max_length=limits.TRACE_BYTES)], ...],
        Meta(max_length=limits.TRACES_PER_COMMAND),
    ]
    """Each packed by its entry; not looked into."""
    left_out: Count = 0
    """So many more requests there were."""
    number: Count = 0
    """Of the batch, each of a node's higher than its last: so that it counts once, over starts too;
    0: it may count as often as it comes."""
