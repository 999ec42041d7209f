"""Queued and keyed requests on three real daemons with real engines, and what a kill -9 leaves."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest

from meshd.control import RecordReport
from meshd.testing.daemons import Daemon, Gguf, joined
from meshd.testing.models import expected_text

JOBS = "/mesh/v1/jobs"
ASK = [{"role": "user", "content": "Count, please."}]
TOKENS = 20
COUNTED = expected_text(max_tokens=TOKENS).strip()


def votes(daemon: Daemon) -> int:
    report = msgspec.json.decode(daemon.order("GET", "/control/record"), type=RecordReport)
    return sum(row.part in ("leads", "votes") for row in report.voters) if report.leader else 0


@pytest.fixture(scope="module")
def trio_of_daemons(
    models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Daemon]]:
    """Three daemons with three votes: `counter` is at each, `long` only at c."""
    folder = tmp_path_factory.mktemp("trio")
    counter = Gguf(models / "counter.gguf", "counter", slots=2, context_tokens=2048)
    long = Gguf(models / "long.gguf", "long", slots=1, context_tokens=32_768)
    a, b = (Daemon(folder / name, name, ggufs=[counter]) for name in "ab")
    c = Daemon(folder / "c", "c", ggufs=[counter, long])
    with ExitStack() as stack:
        for daemon in (a, b, c):
            stack.callback(daemon.close)
        a.start()
        joined(a, [b, c])
        for daemon in (a, b, c):
            daemon.wait_until(
                lambda status, daemon=daemon: status.models == 2 and votes(daemon) == 3,  # type: ignore[misc]
                "it knows both models, and that three have a vote",
            )
            # Where it is to be found after a kill.
            daemon.flags = ["--port", daemon.peer_address.rpartition(":")[2]]
            daemon.join = daemon.token = ""
        yield [a, b, c]


def chat(model: str = "counter", max_tokens: int = TOKENS) -> dict[str, Any]:
    body = {"model": model, "messages": ASK, "max_tokens": max_tokens, "temperature": 0}
    return {"path": "/v1/chat/completions", "body": body}


def submit(daemon: Daemon, **order: Any) -> str:
    answer = httpx.post(f"{daemon.api_url}{JOBS}", json=order, timeout=30)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def until_state(daemon: Daemon, job: str, state: str) -> dict[str, Any]:
    """Follow the job's events to that state."""
    view: dict[str, Any] = {}
    path = f"{daemon.api_url}{JOBS}/{job}/events"
    with httpx.stream("GET", path, timeout=30) as events:
        for line in events.iter_lines():
            if line.startswith("data: "):
                view = msgspec.json.decode(line[6:], type=dict[str, Any])
                if view["state"] == state:
                    return view
    raise AssertionError(f"it never was {state}: {view}")


def known(daemon: Daemon, job: str) -> None:
    """Until that node has heard of the job, which another one took."""
    answer = httpx.get(f"{daemon.api_url}{JOBS}/{job}?read=linear", timeout=30)
    while answer.status_code == 503:  # no leader yet
        answer = httpx.get(f"{daemon.api_url}{JOBS}/{job}?read=linear", timeout=30)
    assert answer.status_code == 200, answer.text


def test_a_job_put_in_at_one_node_is_read_at_another(trio_of_daemons: list[Daemon]) -> None:
    a, b, _ = trio_of_daemons
    job = submit(a, request=chat())
    known(b, job)
    view = until_state(b, job, "done")
    assert view["node"] in ("a", "b", "c")
    assert view["result"]["choices"][0]["message"]["content"].strip() == COUNTED


def test_cancelling_at_one_node_stops_the_generation_at_another(
    trio_of_daemons: list[Daemon],
) -> None:
    a, b, c = trio_of_daemons
    job = submit(a, request=chat("long", 30_000))
    assert until_state(a, job, "claimed")["node"] == "c"
    c.wait_until(lambda status: status.node.running == 1, "it runs the job")
    known(b, job)
    answer = httpx.delete(f"{b.api_url}{JOBS}/{job}", timeout=30)
    assert answer.json()["state"] == "cancelled", answer.text
    c.wait_until(lambda status: status.node.running == 0, "it has stopped")
    # The engine itself is free: its one slot answers another.
    after = httpx.post(f"{c.api_url}/v1/chat/completions", json=chat("long", 5)["body"], timeout=10)
    assert after.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_one_key_at_two_nodes_is_one_answer_to_the_byte(
    trio_of_daemons: list[Daemon], stream: bool
) -> None:
    answers = []
    for daemon in trio_of_daemons[:2]:
        with openai.OpenAI(base_url=f"{daemon.api_url}/v1", api_key="none") as client:
            made = client.chat.completions.with_raw_response.create(
                model="counter",
                messages=[{"role": "user", "content": "Count."}],
                max_tokens=200,  # streamed, that is too large for the log
                temperature=0.9,
                stream=stream,
                extra_headers={"Idempotency-Key": f"one-{stream}"},
            )
            answers.append((made.http_response.read(), made.headers.get("x-meshd-replayed")))
    (first, ran), (again, replayed) = answers
    assert first == again
    assert (ran, replayed) == (None, "true")


def test_the_command_line_puts_in_waits_lists_and_cancels(trio_of_daemons: list[Daemon]) -> None:
    a, b, _ = trio_of_daemons

    def meshd(daemon: Daemon, *words: str) -> str:
        command = [sys.executable, "-m", "meshd.cli.main", "jobs", *words]
        done = subprocess.run(
            [*command, "--data-dir", str(daemon.folder)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    whole = meshd(a, "submit", "--model", "counter", "--prompt", "Count, please.", "--wait")
    assert whole.strip() == expected_text().strip()
    job = submit(a, queue="mine", payload={"n": 1})
    known(b, job)
    [row] = msgspec.json.decode(meshd(b, "--queue", "mine", "--json"))
    assert (row["id"], row["state"], row["request"]) == (job, "queued", {"n": 1})
    assert meshd(b, "cancel", job) == f"{job} is cancelled\n"


def test_a_request_at_one_node_has_left_its_trace_at_another(
    trio_of_daemons: list[Daemon],
) -> None:
    a, b, _ = trio_of_daemons
    answer = httpx.post(f"{a.api_url}/v1/chat/completions", json=chat()["body"], timeout=30)
    assert answer.status_code == 200
    request = answer.headers["x-request-id"]
    url = f"{b.api_url}/mesh/v1/requests/{request}"
    give_up_at = time.monotonic() + 30
    while (told := httpx.get(url, timeout=30)).status_code == 404:
        assert time.monotonic() < give_up_at, told.text
        time.sleep(0.1)  # it is written down with others, once a second
    row = told.json()
    assert (row["state"], row["entry"], row["model"]) == ("done", "a", "counter:latest")
    assert row["node"] == answer.headers["x-meshd-node"]
    assert row["completion_tokens"] == TOKENS
    assert "Count" not in told.text


def test_what_was_acknowledged_outlives_a_kill_of_all_and_is_run_when_they_are_back(
    trio_of_daemons: list[Daemon],
) -> None:
    """And in between, without a majority, new ones are refused and the rest is served."""
    a, b, c = trio_of_daemons
    # For a model that nobody has yet: it waits, however slow this machine is.
    job = submit(a, request=chat("later"))
    answered = submit(a, request=chat())
    was = until_state(a, answered, "done")
    b.kill()
    c.kill()
    url, body = f"{a.api_url}/v1/chat/completions", chat()["body"]
    keyed = {"idempotency-key": "nobody-home"}
    with ThreadPoolExecutor() as pool:
        refused = [
            pool.submit(httpx.post, url, json=body, headers=keyed, timeout=30),
            pool.submit(httpx.post, f"{a.api_url}{JOBS}", json={"request": chat()}, timeout=30),
        ]
        served = httpx.post(url, json=body, timeout=30)
    assert served.status_code == 200, served.text
    for answer in (asked.result() for asked in refused):
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert "2 of its 3 voters are needed" in answer.json()["error"]["message"]
    a.kill()
    b.ggufs = [Gguf(b.ggufs[0].path, "later", slots=2, context_tokens=2048)]
    for daemon in (a, b, c):
        daemon.start(wait=False)
    for daemon in (a, b, c):
        daemon.wait_until(lambda status: status.models == 3, "it knows all models")
    known(c, job)
    view = until_state(c, job, "done")
    assert view["node"] == "b"
    assert view["result"]["choices"][0]["message"]["content"].strip() == COUNTED
    known(a, answered)
    again = httpx.get(f"{a.api_url}{JOBS}/{answered}", timeout=30).json()
    assert (again["state"], again["result"]) == ("done", was["result"])
