"""Commands about jobs, as tests want them."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from meshd.record.commands_jobs import (
    Accept,
    ClaimNext,
    Complete,
    KeyFields,
    RequestFields,
    Submit,
)
from meshd.record.results import Code, RecordRefused
from tests.unit.record.logs import Log

LEASE_MS = 15_000
CHAT = RequestFields(digest=bytes(32), size_bytes=300, path="/v1/chat/completions", model="llama3")
WORK = RequestFields(digest=bytes(32), size_bytes=2, inline=b"{}")
RESULT = hashlib.sha256(b"result").digest()


def key(text: str = "k1", body: str = "a") -> KeyFields:
    return KeyFields(scope="local", key=text, fingerprint=hashlib.sha256(body.encode()).digest())


def accept(**changes: Any) -> Accept:
    fields: dict[str, Any] = {"key": key(), "request": CHAT, "lease_ms": LEASE_MS}
    return Accept(**fields | changes)


def submit(**changes: Any) -> Submit:
    fields: dict[str, Any] = {"queue": "bots", "request": WORK}
    return Submit(**fields | changes)


def take(**changes: Any) -> ClaimNext:
    fields: dict[str, Any] = {"queue": "bots", "lease_ms": LEASE_MS}
    return ClaimNext(**fields | changes)


def complete(job: int, fence: int, **changes: Any) -> Complete:
    fields: dict[str, Any] = {"job": job, "fence": fence, "digest": RESULT, "size_bytes": 6}
    return Complete(**fields | changes)


def refused(log: Log, command: Any, by: str = "mini") -> Code:
    """Why it was refused; that it changed nothing but its session is checked."""
    tables = ("jobs", "dead", "keys", "kept")
    before = [log.state._tables[name].hash_sum() for name in tables]
    with pytest.raises(RecordRefused) as caught:
        log.by(by, command)
    assert [log.state._tables[name].hash_sum() for name in tables] == before
    assert not log.events
    return caught.value.code
