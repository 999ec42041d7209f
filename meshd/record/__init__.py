"""What the mesh agrees on: for now the member list.  Pure.  See DESIGN.md beside this file."""

from __future__ import annotations

from meshd.record.members import (
    Member,
    MemberList,
    MeshFull,
    NoSuchNode,
    RemovedNode,
    SignedMembers,
    admit,
    found,
    is_address,
    remove,
    rename,
    set_addresses,
    set_drained,
    set_labels,
    sign,
    verify,
)
from meshd.record.names import clean_name, free_name, is_name
from meshd.record.registry import MemberRegistry, Registry, RegistryChange

__all__ = [
    "Member",
    "MemberList",
    "MemberRegistry",
    "MeshFull",
    "NoSuchNode",
    "Registry",
    "RegistryChange",
    "RemovedNode",
    "SignedMembers",
    "admit",
    "clean_name",
    "found",
    "free_name",
    "is_address",
    "is_name",
    "remove",
    "rename",
    "set_addresses",
    "set_drained",
    "set_labels",
    "sign",
    "verify",
]
