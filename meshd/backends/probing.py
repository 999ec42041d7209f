"""What all probes of engines share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshd.backends import listing
from meshd.backends.control import BackendFailed, failed
from meshd.backends.failures import failure_of
from meshd.inference import FailureKind

if TYPE_CHECKING:
    from meshd.backends.exchange import Answer


@dataclass(frozen=True, slots=True)
class Known:
    """What this node knows of an engine without asking it."""

    slots: int | None = None
    """From the config."""
    digest: str = ""
    """Of the one model file of a bundled engine."""


class IsMeshd(BackendFailed):
    """What answers is a meshd: serving from it would go in circles."""


def refuse_meshd(answer: Answer) -> None:
    """Raises IsMeshd if the answer shows itself as meshd's."""
    if answer.meshd_node is not None:
        node = answer.meshd_node.decode("latin-1")[:32]
        raise IsMeshd(
            failed(FailureKind.BACKEND, f"it is a meshd itself (node {node})", 502).failure
        )


def read_object(answer: Answer) -> dict[str, Any]:
    """The object that an engine answers with 200.  Raises BackendFailed."""
    refuse_meshd(answer)
    if not answer.ok:
        raise BackendFailed(failure_of(answer.status, answer.body))
    try:
        return listing.json_object(answer.body)
    except listing.Unreadable as error:
        raise failed(FailureKind.BACKEND, str(error), 502) from None
