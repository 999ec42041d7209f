"""What the mesh agrees on: the member list, and the replicated record.  Pure.

See DESIGN.md beside this file.  Commands are in `commands_registry` and `commands_jobs`.
"""

from __future__ import annotations

from meshd.record.commands import Entry, Malformed, UnknownCommand, decode, encode
from meshd.record.frozen import FrozenState, StateDamaged, StateUnknown
from meshd.record.job_rows import JobState, job_name, parse_job_name
from meshd.record.members import (
    ListTooLarge,
    Member,
    MemberList,
    NoSuchNode,
    SignedMembers,
    first_list,
    is_address,
    sign,
    usable,
    verify,
)
from meshd.record.names import clean_name, free_name, is_name
from meshd.record.registry import MemberRegistry, Registry, RegistryChange
from meshd.record.results import Code, RecordRefused
from meshd.record.state import RecordState
from meshd.record.view import api_keys, member_list

__all__ = [
    "Code",
    "Entry",
    "FrozenState",
    "JobState",
    "ListTooLarge",
    "Malformed",
    "Member",
    "MemberList",
    "MemberRegistry",
    "NoSuchNode",
    "RecordRefused",
    "RecordState",
    "Registry",
    "RegistryChange",
    "SignedMembers",
    "StateDamaged",
    "StateUnknown",
    "UnknownCommand",
    "api_keys",
    "clean_name",
    "decode",
    "encode",
    "first_list",
    "free_name",
    "is_address",
    "is_name",
    "job_name",
    "member_list",
    "parse_job_name",
    "sign",
    "usable",
    "verify",
]
