"""What the mesh agrees on: the member list, and the replicated record.  Pure.

See DESIGN.md beside this file.  Commands are in `commands_registry` and `commands_jobs`.
"""

from __future__ import annotations

from meshd.record.commands import Entry, Malformed, UnknownCommand, decode, encode
from meshd.record.frozen import FrozenState, StateDamaged, StateUnknown
from meshd.record.job_rows import JobState, job_name, parse_job_name
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
from meshd.record.results import Code, RecordRefused
from meshd.record.state import RecordState
from meshd.record.view import RecordRegistry, api_keys

__all__ = [
    "Code",
    "Entry",
    "FrozenState",
    "JobState",
    "Malformed",
    "Member",
    "MemberList",
    "MemberRegistry",
    "MeshFull",
    "NoSuchNode",
    "RecordRefused",
    "RecordRegistry",
    "RecordState",
    "Registry",
    "RegistryChange",
    "RemovedNode",
    "SignedMembers",
    "StateDamaged",
    "StateUnknown",
    "UnknownCommand",
    "admit",
    "api_keys",
    "clean_name",
    "decode",
    "encode",
    "found",
    "free_name",
    "is_address",
    "is_name",
    "job_name",
    "parse_job_name",
    "remove",
    "rename",
    "set_addresses",
    "set_drained",
    "set_labels",
    "sign",
    "verify",
]
