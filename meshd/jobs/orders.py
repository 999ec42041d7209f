"""What programs outside ask for about jobs, as they send it.  Pure."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from meshd import limits
from meshd.errors import Refused
from meshd.record.fields import DedupeKey, LabelOrNone, NodeOrNone, QueueName, ShortLine, Small

RUN_QUEUE: Final = "mesh"
"""The queue of inference requests whose sender named none; nodes alone work on what is in it."""

Seconds = Annotated[float, Meta(ge=0, le=limits.LEASE_MAX_S)]


class Inference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request to run when there is room."""

    path: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings",
                  "/api/chat", "/api/generate", "/api/embed"]  # fmt: skip
    body: dict[str, Any]


class To(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a job is for, where it is not for anybody: one job for each."""

    all: bool = False
    label: LabelOrNone = ""
    node: NodeOrNone = ""


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /mesh/v1/jobs."""

    request: Inference | None = None
    payload: Any = msgspec.UNSET
    """For workers outside; anything JSON.  One of the two."""
    queue: str = ""
    priority: Small = 0
    delay_s: Annotated[float, Meta(ge=0, le=365 * 86_400)] = 0.0
    deadline_s: Annotated[float, Meta(ge=0, le=365 * 86_400)] = 0.0
    """From now; 0: none."""
    max_attempts: Annotated[int, Meta(ge=1, le=limits.JOB_ATTEMPTS)] = 3
    dedupe_key: DedupeKey = ""
    to: To = To()
    webhook: str = ""
    """Where its end is told; only at hosts that the node's config allows."""


class ClaimOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /mesh/v1/queues/{queue}/claim."""

    worker: ShortLine = ""
    lease_s: Annotated[float, Meta(ge=limits.LEASE_MIN_S, le=limits.LEASE_MAX_S)] = 30.0
    wait_s: Annotated[float, Meta(ge=0, le=limits.CLAIM_WAIT_S)] = 0.0
    """How long to wait for a job if there is none."""
    most: Annotated[int, Meta(ge=1, le=limits.CLAIMS_PER_COMMAND)] = 1


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker says of a job that it has."""

    job: str
    fence: int
    lease_s: Annotated[float, Meta(ge=limits.LEASE_MIN_S, le=limits.LEASE_MAX_S)] = 30.0
    result: Any = None
    reason: str = ""
    final: bool = False
    pause_s: Seconds = 0.0


def check_workers_queue(name: str) -> None:
    """Raises Refused for what can be no name of a queue for workers outside."""
    check_queue(name)
    if name == RUN_QUEUE:
        raise Refused(
            f"the queue {RUN_QUEUE!r} is the mesh's own, of requests to models, which its nodes "
            "run: workers and their jobs need a queue of another name"
        )


def check_queue(name: str) -> None:
    """Raises Refused for what can be no queue's name."""
    try:
        msgspec.convert(name, QueueName)
    except msgspec.ValidationError:
        raise Refused(
            f"a queue's name has 1 to {limits.QUEUE_NAME_CHARS} letters, digits, dots, dashes and "
            f"underscores, and {name[:80]!r} has not"
        ) from None
