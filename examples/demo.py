"""`make demo`: three daemons on this machine, three engines, and one of them killed.

Each daemon runs its own bundled engine (a real llama.cpp server) with two of three tiny generated
models, so every model is on two nodes.  They join by token; requests in both dialects go to each of
them.  Then `ben` is killed (-9) while it is the entry of some requests and the holder of streams.

Exit 0 only if every request through another entry was answered whole, those too whose streams ben
was at when it was killed: another node goes on where ben broke off.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import trio
from rich.console import Console
from rich.table import Table

from meshd.testing.daemons import Daemon, Gguf, joined
from meshd.testing.models import Recipe, build, expected_text

NAMES = ("anna", "ben", "cara")
MODELS = {"poet": ("anna", "ben"), "clerk": ("ben", "cara"), "coder": ("cara", "anna")}
SLOTS = 3
WORDS = 2000
RECIPE = Recipe(words=WORDS, context_tokens=8192, name="demo")
LONG_TOKENS = 1500
SHORT_TOKENS = 100
WENT_ON = "begun on the dead node, gone on with elsewhere: whole"
ASK = [{"role": "user", "content": "Count for me."}]

out = Console()


@dataclass
class Outcome:
    """What one client saw."""

    entry: str
    dialect: str
    model: str
    streamed: bool
    tokens: int
    holder: str = ""
    text: str = ""
    ended: str = "no answer"
    """whole | error | broken | cut | refused"""
    detail: str = ""
    began_at: float = 0.0
    last_at: float = 0.0

    @property
    def whole(self) -> bool:
        wanted = expected_text(RECIPE, max_tokens=self.tokens).strip()
        return self.ended == "whole" and self.text.strip() == wanted


# --------------------------------------------------------------------------- clients


async def ask(client: httpx.AsyncClient, url: str, outcome: Outcome) -> None:
    """One request as a client of that dialect would make it; never raises."""
    openai = outcome.dialect == "openai"
    path = "/v1/chat/completions" if openai else "/api/chat"
    body: dict[str, object] = {"model": outcome.model, "messages": ASK, "stream": outcome.streamed}
    if openai:
        body |= {"max_tokens": outcome.tokens, "temperature": 0}
    else:
        body |= {"options": {"num_predict": outcome.tokens, "temperature": 0}}
    try:
        async with client.stream("POST", url + path, json=body) as response:
            outcome.holder = response.headers.get("x-meshd-node", "")
            if response.status_code != 200:
                outcome.ended = "refused"
                outcome.detail = (await response.aread()).decode(errors="replace")[:200]
            elif outcome.streamed:
                await (_read_sse if openai else _read_ndjson)(response, outcome)
            else:
                _read_whole(json.loads(await response.aread()), outcome, openai)
    except httpx.HTTPError as e:
        outcome.ended, outcome.detail = "broken", type(e).__name__
    outcome.last_at = trio.current_time()


async def _read_sse(response: httpx.Response, outcome: Outcome) -> None:
    outcome.ended = "cut"
    async for data in _sse(response):
        chunk = json.loads(data)
        if "error" in chunk:
            outcome.ended, outcome.detail = "error", chunk["error"]["message"]
            return
        for choice in chunk["choices"]:
            _add(outcome, choice["delta"].get("content") or "")
            if choice.get("finish_reason"):
                outcome.ended = "whole"


async def _sse(response: httpx.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield line[6:]


async def _read_ndjson(response: httpx.Response, outcome: Outcome) -> None:
    outcome.ended = "cut"
    async for line in response.aiter_lines():
        part = json.loads(line)
        if "error" in part:
            outcome.ended, outcome.detail = "error", part["error"]
            return
        _add(outcome, part["message"]["content"])
        if part["done"]:
            outcome.ended = "whole"


def _read_whole(answer: dict[str, object], outcome: Outcome, openai: bool) -> None:
    message = answer["choices"][0]["message"] if openai else answer["message"]  # type: ignore[index]
    outcome.text = message["content"]  # type: ignore[index]
    outcome.ended = "whole"


def _add(outcome: Outcome, text: str) -> None:
    if text and not outcome.text:
        outcome.began_at = trio.current_time()
    outcome.text += text


# --------------------------------------------------------------------------- the two acts


async def everyone_answers(daemons: list[Daemon]) -> list[Outcome]:
    """Every node, every model, both dialects, streamed and not."""
    outcomes = [
        Outcome(daemon.name, dialect, model, streamed, SHORT_TOKENS)
        for daemon in daemons
        for model in MODELS
        for dialect in ("openai", "ollama")
        for streamed in (True, False)
    ]
    urls = {daemon.name: daemon.api_url for daemon in daemons}
    async with httpx.AsyncClient(timeout=60) as client, trio.open_nursery() as nursery:
        for outcome in outcomes:
            nursery.start_soon(ask, client, urls[outcome.entry], outcome)
    return outcomes


async def one_dies(daemons: list[Daemon], victim: Daemon) -> tuple[list[Outcome], float]:
    """Streams and whole answers through all entries, on ben's models; then ben is killed."""
    urls = {daemon.name: daemon.api_url for daemon in daemons}
    streams = [
        Outcome(entry, dialect, model, True, LONG_TOKENS)
        for model in ("poet", "clerk")
        for entry in ("anna", "cara", "ben")
        for dialect in ("openai", "ollama")
    ]
    waiting = [
        Outcome(entry, dialect, model, streamed, SHORT_TOKENS)
        for model in ("poet", "clerk")
        for entry in ("anna", "cara")
        for dialect in ("openai", "ollama")
        for streamed in (True, False)
    ]
    limits = httpx.Limits(max_connections=200)
    async with (
        httpx.AsyncClient(timeout=120, limits=limits) as client,
        trio.open_nursery() as nursery,
    ):
        for outcome in streams:
            nursery.start_soon(ask, client, urls[outcome.entry], outcome)
        await _until(lambda: sum(o.holder == victim.name and bool(o.text) for o in streams) >= 4)
        for outcome in waiting:
            nursery.start_soon(ask, client, urls[outcome.entry], outcome)
        # The second wave must have reached its entries (they count requests) before the kill.
        wanted = {e: sum(o.entry == e for o in streams + waiting) for e in ("anna", "cara")}
        for daemon in daemons:
            if daemon.name in wanted:
                total = wanted[daemon.name] + len(MODELS) * 4
                await _until(partial(_has_taken, daemon, total))
        killed_at = trio.current_time()
        victim.kill()
    return streams + waiting, killed_at


def _has_taken(daemon: Daemon, requests: int) -> bool:
    return daemon.status().counters.get("requests", 0) >= requests


async def _until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - it is other processes that are waited for
            await trio.sleep(0.02)


# --------------------------------------------------------------------------- judging


def judge(outcomes: list[Outcome], victim: str, killed_at: float) -> tuple[Counter[str], list[str]]:
    """Sort what the clients saw; what breaks the promise comes back as sentences."""
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    for o in outcomes:
        began_there = o.streamed and o.holder == victim and bool(o.text)
        about = f"{o.dialect} {o.model} via {o.entry}: {o.ended} {o.detail}".strip()
        if o.entry == victim and not o.whole:
            kinds["entry died: the client saw the connection break"] += 1
            if o.ended not in ("broken", "refused"):
                wrong.append(f"{about}: the entry died and the client did not see it")
        elif not o.whole:
            kinds["WRONG"] += 1
            wrong.append(f"{about}: not answered whole")
        elif began_there and o.last_at > killed_at:
            kinds[WENT_ON] += 1
        else:
            kinds["answered whole"] += 1
    return kinds, wrong


def main() -> int:
    """Run the demo; the exit code says whether every promise held."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="meshd-demo-") as folder, ExitStack() as stack:
        root = Path(folder)
        gguf = root / "demo.gguf"
        gguf.write_bytes(build(RECIPE))
        daemons = [
            Daemon(
                root / name,
                name,
                ggufs=[
                    Gguf(gguf, model, slots=SLOTS, context_tokens=SLOTS * 8192)
                    for model, holders in MODELS.items()
                    if name in holders
                ],
            )
            for name in NAMES
        ]
        for daemon in daemons:
            stack.callback(daemon.close)
        out.print("[bold]meshd demo[/bold]: three daemons, each with an engine of its own")
        anna, ben, cara = daemons
        anna.start()
        joined(anna, [ben, cara])
        for daemon in daemons:
            daemon.wait_until(lambda s: s.models == len(MODELS), "it knows every model")
        out.print(f"  joined by token and serving after {time.monotonic() - began:.1f} s")
        for model, holders in MODELS.items():
            out.print(f"  {model:<6} on {' and '.join(holders)}")

        first = trio.run(everyone_answers, daemons)
        bad = [o for o in first if not o.whole]
        out.print(
            f"\n{len(first) - len(bad)} of {len(first)} requests answered whole: every node, every "
            "model, both dialects, streamed and not"
        )
        for o in bad:
            out.print(f"  [red]{o.dialect} {o.model} via {o.entry}: {o.ended} {o.detail}[/red]")

        out.print("\nkilling [bold]ben[/bold] (-9) in the middle of its streams ...")
        second, killed_at = trio.run(one_dies, daemons, ben)
        kinds, wrong = judge(second, "ben", killed_at)
        table = Table("what the clients saw", "requests", box=None, header_style="bold")
        for kind, count in kinds.most_common():
            table.add_row(kind, str(count))
        table.add_row("cut silently", str(sum(o.ended == "cut" for o in second)))
        out.print(table)
        for sentence in wrong:
            out.print(f"  [red]{sentence}[/red]")
    good = not bad and not wrong and kinds[WENT_ON]
    out.print("[green]every promise held[/green]" if good else "[red]a promise was broken[/red]")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
