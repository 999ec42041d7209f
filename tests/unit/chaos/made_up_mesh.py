"""A mesh of two nodes in memory, as the stage of a run: everything is as it should be, at first."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from meshd.control import NodeRow, StatusReport
from meshd_chaos.excuses import Places
from meshd_chaos.records import NotTested
from meshd_chaos.schedule import Step
from meshd_chaos.stage import Injected
from meshd_chaos.workload import Planned

TEXT = " one two"


@dataclass
class Mesh:
    """What its nodes say, which tests change."""

    said: dict[str, str] = field(default_factory=lambda: {"anna": TEXT, "ben": TEXT})
    states: dict[str, str] = field(default_factory=lambda: {"anna": "done", "ben": "done"})
    running: dict[str, int] = field(default_factory=lambda: {"anna": 0, "ben": 0})
    status: dict[str, int] = field(default_factory=lambda: {"anna": 200, "ben": 200})
    raw: dict[str, bytes] = field(default_factory=dict)
    """What they answer with instead, byte by byte."""
    resumed: int = 0
    """Answers that went on over another link, by each node's own count."""
    away: set[str] = field(default_factory=set)
    """Nobody listens there."""
    jobs: dict[str, str] = field(default_factory=dict)
    """Ids, by key."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """(node, path, key), in order."""
    models: tuple[str, ...] = ("poet",)
    nodes: tuple[str, ...] = ("anna", "ben")
    headers: Mapping[str, str] = field(default_factory=dict)

    def answer(self, request: httpx.Request) -> httpx.Response:
        name, key = request.url.host, request.headers.get("idempotency-key", "")
        self.asked.append((name, request.url.path, key))
        if name in self.away:
            raise httpx.ConnectError("refused")
        if self.status[name] != 200:
            return httpx.Response(self.status[name], json={"error": {"message": "not now"}})
        if name in self.raw:
            return httpx.Response(200, content=_pieces(self.raw[name]))
        if request.url.path == "/mesh/v1/jobs":
            is_new = key not in self.jobs
            job = self.jobs.setdefault(key, f"j{len(self.jobs) + 1}")
            return httpx.Response(201, json={"id": job, "state": "queued", "new": is_new})
        if request.url.path.startswith("/mesh/v1/jobs/"):
            if self.states[name] == "gone":
                return httpx.Response(404, json={"error": {"message": "no such job"}})
            view = {"state": self.states[name], "result": self._body(name)}
            return httpx.Response(200, json=view)
        return httpx.Response(200, content=json.dumps(self._body(name)))

    def _body(self, name: str) -> dict[str, Any]:
        choice = {"message": {"content": self.said[name]}, "finish_reason": "length"}
        return {"id": "c", "created": 1, "model": "poet", "choices": [choice]}

    def entries(self) -> Mapping[str, str]:
        return {name: f"http://{name}" for name in self.nodes}

    def prompt(self, request: str) -> str:
        return request

    def fit(self, requests: Sequence[Planned]) -> list[Planned]:
        return list(requests)

    def expected(self, planned: Planned) -> tuple[str | None, str | None]:
        return TEXT, "length"

    async def places(self) -> Places:
        return Places(holders={}, voters=[])

    def not_tested(self, names: set[str]) -> list[NotTested]:
        return []

    async def inject(self, step: Step) -> Injected:
        raise NotImplementedError

    async def heal(self, step: Step) -> None:
        raise NotImplementedError

    async def whole_again(self, timeout_s: float) -> list[str]:
        return []

    def notes(self, *, keep: bool) -> list[str]:
        return []

    async def statuses(self) -> Mapping[str, StatusReport]:
        counters = {"went_on_by_resume": self.resumed}
        return {name: report(name, count, counters) for name, count in self.running.items()}


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


def report(name: str, running: int, counters: dict[str, int]) -> StatusReport:
    zero: dict[str, Any] = {"models": 1, "warm": 1, "queued": 0, "slots": 4, "seen_s": None}
    node = NodeRow(
        id=name, name=name, addresses=[], state="self", version="1", founder=False, drained=False,
        running=running, **zero,
    )  # fmt: skip
    about: dict[str, Any] = {"version": "1", "mesh": "m", "members_version": 1, "client_url": ""}
    return StatusReport(
        node=node, peer_port=1, pid=1, uptime_s=1.0, nodes=[], backends=[], models=1,
        counters=counters, problems=[], **about,
    )  # fmt: skip
