"""Models with known answers, and how real engines are asked for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import trio

from meshd.backends import Backend, Backends, RunControl
from meshd.config import BackendConfig
from meshd.http import Sweeper
from meshd.inference import (
    Delta,
    Kind,
    Message,
    ModelInfo,
    Request,
    Sampling,
    TokenLogprob,
    ToolCall,
    Usage,
)
from meshd.machine import real_ports
from meshd.testing.engines import RealLlama, why_no_llama
from meshd.testing.models import ModelKind, Recipe

needs_llama = pytest.mark.skipif(bool(why_no_llama()), reason=why_no_llama())

COUNTER = Recipe()
THINKING = Recipe(
    kind=ModelKind.SCRIPT,
    script=(b"<think>", b" let", b" me", b" see", b"</think>", b" the", b" answer", b" is", b" 42"),
    think_template=True,
)
HALVES = Recipe(
    kind=ModelKind.SCRIPT, script=(b" caf", b"\xc3", b"\xa9 ", b"\xf0\x9f", b"\x98\x80", b" end")
)
WHITE = Recipe(
    kind=ModelKind.SCRIPT,
    script=(
        *(b"One", b".\n\n", b" two", b" \n", b" caf", b"\xc3", b"\xa9", b" =", b"   ", b" x"),
        *(b":\n", b"\xf0\x9f\x98", b"\x80", b" ok", b"\n\n\n", b"end", b"  "),
    ),
)
"""White space at both ends of tokens and by itself, and characters in halves.

Each piece is cut off as a token wherever the text ends behind it (llama-bpe's own rules).
"""
PONDERING = Recipe(
    kind=ModelKind.SCRIPT,
    script=(
        *(
            b"<think>",
            b" let",
            b" me",
            b".\n\n",
            b" see",
            b" \n",
            b"</think>",
            b" so",
            b":",
            b" the",
        ),
        *(b" answer", b" is", b"...\n", b" forty"),
    ),
    think_template=True,
)
"""The same with thoughts."""
SLOW = Recipe(dim=128, layers=4, words=2000)
Start = Callable[..., RealLlama]


Serve = Callable[..., AbstractAsyncContextManager[Backends]]
Url = Callable[[Recipe], str]


@asynccontextmanager
async def serving(
    claims: Path, *urls: str, bundled: Sequence[Path] = ()
) -> AsyncIterator[Backends]:
    """The manager under test, looking at these engines."""
    sweeper = Sweeper()
    backends = Backends(
        real_ports(),
        sweeper=sweeper,
        node="n" * 26,
        generation=1,
        configured=[BackendConfig(url) for url in urls],
        detect=False,
        claims_dir=claims,
        on_change=lambda: None,
    )
    for path in bundled:
        backends.add_bundled(path, alias="tiny", slots=2, context_tokens=2048, embedding=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        nursery.start_soon(backends.run)
        await backends.first_probe_done()
        yield backends
        nursery.cancel_scope.cancel()


@dataclass
class Answer:
    text: str = ""
    reasoning: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    usage: Usage | None = None

    async def emit(self, events: Sequence[Delta | Usage]) -> None:
        assert events
        for event in events:
            if isinstance(event, Usage):
                assert event is events[-1]
                self.usage = event
                continue
            assert self.finish is None, "nothing comes after the end"
            self.text += event.text
            self.reasoning += event.reasoning
            self.logprobs += event.logprobs
            self.finish = event.finish_reason
            for call in event.tool_calls:
                self._call(call)

    def _call(self, call: ToolCall) -> None:
        known = self.calls.setdefault(call.index, ["", ""])
        known[0] += call.name
        known[1] += call.arguments


def holder(backends: Backends, name: str) -> tuple[Backend, ModelInfo]:
    found = backends.holders(name)
    assert found, f"nobody has {name}: {backends.rows()}"
    return found[0]


async def ask(backends: Backends, request: Request, control: RunControl | None = None) -> Answer:
    backend, model = holder(backends, request.model)
    answer = Answer()
    await backend.run(request, model, answer.emit, control or RunControl())
    return answer


def chat(model: str = "tiny", **changed: object) -> Request:
    settings: dict[str, object] = {"messages": [Message("user", "hi")], **changed}
    settings.setdefault("sampling", Sampling(temperature=0))
    return Request(Kind.CHAT, model, **settings)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    """Until it is so; the test's own timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - looking at real processes
        await trio.sleep(0.02)


async def get(url: str) -> object:
    return (await trio.to_thread.run_sync(lambda: httpx.get(url, timeout=30))).json()


async def all_slots_idle(engine: RealLlama) -> None:
    while True:
        slots = await get(engine.url + "/slots")
        assert isinstance(slots, list)
        if not any(slot["is_processing"] for slot in slots):
            return
