"""A relay's machine to try, and three holders to name."""

from __future__ import annotations

from collections.abc import Callable

from meshd.ids import NodeId
from meshd.inference import (
    Failure,
    FailureKind,
    ModelInfo,
)
from meshd.relay.directives import Attempt
from meshd.relay.machine import Relay
from meshd.routing.catalogue import Target


def target(name: str) -> Target:
    return Target(NodeId(name * 26), "engine", "llama.cpp", 1, ModelInfo("tiny"))


A, B, C = target("a"), target("b"), target("c")


def relay(*, deadline_at: float = 100.0, may_retry: Callable[[float], bool] | None = None) -> Relay:
    return Relay(deadline_at=deadline_at, may_retry=may_retry or (lambda now: True))


def failure(kind: FailureKind, status: int = 502, wait_s: float | None = None) -> Failure:
    return Failure(kind, f"it was {kind}", status, retry_after_s=wait_s)


def asked(machine: Relay, holder: Target, *, others: int = 1, remote: bool = True) -> Attempt:
    (attempt,) = machine.picked(holder, others, remote, 0.0)
    assert isinstance(attempt, Attempt)
    return attempt
