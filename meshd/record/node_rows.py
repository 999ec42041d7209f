"""What the record holds about nodes and the mesh: rows, their tables, and what a key is.  Pure."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from meshd import limits
from meshd.record.fields import (
    Addresses,
    CertificateDer,
    CertificateSerial,
    Count,
    DerKey,
    GossipKeyId,
    KeyId,
    Labels,
    NodeName,
    NodeOrNone,
    ShortLine,
    Small,
    UnixMs,
    VoteOrder,
)
from meshd.record.results import Code, Refuse
from meshd.record.table import Row, Table

# Every P-256 SubjectPublicKeyInfo with an uncompressed point begins with these bytes (RFC 5480).
_SPKI_HEAD: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_P: Final = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_B: Final = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B


class FormerCa(Row, frozen=True):
    """A CA that the mesh had before."""

    certificate: CertificateDer
    link: CertificateDer
    """The CA after it, certified by it."""


class MeshRow(Row, frozen=True):
    """What there is one of."""

    mesh: KeyId
    mesh_name: NodeName
    ca_key: DerKey
    gossip_key: GossipKeyId
    keyring_generation: Count
    registry_version: Count
    """Counts the changes of nodes, as the member list did."""
    keyring_author: NodeOrNone = ""
    """Who made the newest gossip key, and hands it out."""
    ca_generation: Count = 1
    ca_must_rotate: bool = False
    """A node that once held the CA's key was removed since it was made."""
    feature: Annotated[int, Meta(ge=1, le=127)] = 1
    """The newest version of commands that may be used."""
    ca_certificate: CertificateDer = b""
    """Of the CA of now."""
    former_cas: Annotated[tuple[FormerCa, ...], Meta(max_length=limits.FORMER_CAS)] = ()
    """The latest first."""


class Certificate(Row, frozen=True):
    serial: CertificateSerial
    not_after_unix_ms: UnixMs


class NodeRow(Row, frozen=True):
    id: KeyId
    key: DerKey
    name: NodeName
    joined_unix_ms: UnixMs
    addresses: Addresses = ()
    labels: Labels = ()
    region: ShortLine = ""
    priority: Small = 0
    drained: bool = False
    vote: VoteOrder = "auto"
    """Whether it is to have a vote in keeping the record; `auto`: as its machine is suited."""
    founder: bool = False
    holds_ca: bool = False
    """Has the CA's key now, and can admit."""
    held_ca: Count = 0
    """The newest generation of the CA's key that it ever had."""
    generation: Count = 0
    """Its newest start; 0: none on record."""
    certificates: Annotated[
        tuple[Certificate, ...], Meta(max_length=limits.CERTIFICATES_PER_NODE)
    ] = ()
    """The newest last."""
    traced: Count = 0
    """The number of its last batch of traces."""


class RemovedRow(Row, frozen=True):
    id: KeyId
    removed_unix_ms: UnixMs


def mesh_table() -> Table[int, MeshRow]:
    return Table("mesh", MeshRow, lambda row: 0)


def node_table() -> Table[str, NodeRow]:
    return Table("nodes", NodeRow, lambda row: row.id)


def removed_table() -> Table[str, RemovedRow]:
    return Table("removed", RemovedRow, lambda row: row.id)


def check_key(der: bytes) -> None:
    """Raise Refuse unless it is a point on P-256.

    Counted here and not by a library, whose next version may judge otherwise.
    """
    point = der.removeprefix(_SPKI_HEAD)
    x, y = int.from_bytes(point[:32], "big"), int.from_bytes(point[32:], "big")
    if len(point) != 64 or max(x, y) >= _P or (y * y - x * x * x + 3 * x - _B) % _P:
        raise Refuse(Code.BAD_KEY)
