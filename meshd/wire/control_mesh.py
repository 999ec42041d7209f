"""Messages of the control link about who is in the mesh: members, newcomers, keys.  Pure.

`control` has their numbers, and reads and writes them.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meshd import limits
from meshd.wire.fields import Count, KeyId, Line, Name, ShortLine, SmallBytes
from meshd.wire.message import Message, SecretMessage


class MemberListPush(Message, frozen=True):
    """The signed member list (proto/join.md): told when it changes, and asked for."""

    members: Annotated[bytes, Meta(max_length=limits.MEMBER_LIST_BYTES + 256)]
    """With its signature around it."""


class MemberListRequest(Message, frozen=True):
    """Asks for `MemberListPush`; answered by `Done` if there is none newer than `have_version`."""

    have_version: Count


class AdmitRequest(SecretMessage, frozen=True):
    """A newcomer's request, passed on to a node that holds the CA's key (proto/join.md)."""

    request: dict[str, Any]


class AdmitReply(SecretMessage, frozen=True):
    """That node's word: exactly one of the two."""

    admitted: dict[str, Any] | None = None
    refusal: dict[str, Any] | None = None


class PendingRequest(Message, frozen=True):
    """Who waits for consent?"""


class PendingRow(msgspec.Struct):
    """What a row of `PendingReply` must have at least: all of it is shown to a person."""

    digits: ShortLine
    name: Name
    address: Line
    waiting_s: Annotated[float, Meta(ge=0)]


class PendingReply(Message, frozen=True):
    """Those who wait, each as a map of `meshd.control.PendingRow`'s fields."""

    rows: Annotated[list[dict[str, Any]], Meta(max_length=limits.PAIRINGS_PENDING)]
    begun: Count | None = None
    """How many pairings were begun there within `limits.PAIRING_S`, however they ended."""

    def __post_init__(self) -> None:
        try:
            msgspec.convert(self.rows, list[PendingRow])
        except msgspec.ValidationError as error:
            raise ValueError(f"rows: {error}") from error


class Approve(Message, frozen=True):
    """Consent to the newcomer whose screen shows these digits; answered by `Done`."""

    digits: ShortLine
    refuse: bool | None = None
    """No consent: the digits fit nobody, so all that wait are sent away."""


class Leave(Message, frozen=True):
    """Take that node off the member list for good; answered by `Done`."""

    node: KeyId


class KeyringRequest(Message, frozen=True):
    """Asks for `KeyringPush`."""


class KeyringPush(SecretMessage, frozen=True):
    """The keys of the mesh's datagrams, the primary first: on each rotation, and asked for."""

    version: Count
    secrets: Annotated[list[SmallBytes], Meta(min_length=1, max_length=limits.KEYRING_KEYS)]
    members_version: Count = 0
    """Of the member list that its sender has: whoever has an older one does not use them yet."""


class RenewRequest(Message, frozen=True):
    """Asks for a new certificate, for a key that the member list already has."""

    public_key: SmallBytes


class Renewed(Message, frozen=True):
    """The new certificate, DER."""

    certificate: Annotated[bytes, Meta(max_length=limits.CERTIFICATE_BYTES)]


class CaKeyRequest(Message, frozen=True):
    """A voter asks one that has the CA's key for it."""


class CaKeyReply(SecretMessage, frozen=True):
    """The key that signs the mesh's certificates: whoever has it can let nodes in."""

    key: SmallBytes
    """PKCS#8, DER."""
