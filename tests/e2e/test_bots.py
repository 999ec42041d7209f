"""The example bot for real: two copies, one killed while it holds a message, each answered once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from examples.chat_server import Chat
from meshd.testing.daemons import Daemon, Gguf

TOKENS = 800
"""An answer takes a while, so that a copy can be caught at it."""
LEASE_S = 2


class Stage:
    """A mesh of one, the chat server, and copies of the bot, each a process."""

    def __init__(self, folder: Path, gguf: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        model = Gguf(gguf, "talker", slots=2, context_tokens=8192)
        self.mesh = stack.enter_context(Daemon(folder / "mesh", "mesh", ggufs=[model])).api_url
        server = self._start("chat_server", "--port", "0", "--mesh", self.mesh)
        assert server.stdout is not None
        self.chat = server.stdout.readline().decode().strip()

    def bot(self, name: str) -> subprocess.Popen[bytes]:
        words = f"--mesh {self.mesh} --chat {self.chat} --model talker --name {name}".split()
        words += ["--max-tokens", str(TOKENS), "--lease", str(LEASE_S)]
        log = self._stack.enter_context((self._folder / f"{name}.log").open("wb"))
        return self._start("bot_worker", *words, out=log)

    def _start(
        self, example: str, *words: str, out: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"examples.{example}", *words]
        root = Path(__file__).parents[2]
        process = self._stack.enter_context(subprocess.Popen(command, stdout=out, cwd=root))
        self._stack.callback(process.kill)
        return process

    def say(self, text: str, **headers: str) -> httpx.Response:
        message = {"from": "ann", "text": text}
        return httpx.post(f"{self.chat}/messages", json=message, headers=headers, timeout=30)

    def said(self) -> list[dict[str, Any]]:
        return list(httpx.get(f"{self.chat}/messages", timeout=30).json()["messages"])

    def answers(self) -> list[str]:
        """To which messages, as often as there is one."""
        return [message["re"] for message in self.said() if message["from"] == "bot"]

    def jobs(self, query: str) -> list[dict[str, Any]]:
        url = f"{self.mesh}/mesh/v1/jobs?queue=chat&read=linear&{query}"
        return list(httpx.get(url, timeout=30).json()["jobs"])

    def job(self, name: str) -> dict[str, Any]:
        return dict(httpx.get(f"{self.mesh}/mesh/v1/jobs/{name}", timeout=30).json())

    def until_over(self, name: str) -> None:
        """The stream of its events ends when the job does."""
        httpx.get(f"{self.mesh}/mesh/v1/jobs/{name}/events", timeout=60).raise_for_status()


@pytest.fixture
def stage(models: Path, tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, models / "long.gguf", stack)


def test_each_message_is_answered_once_though_a_copy_is_killed_at_its_work(stage: Stage) -> None:
    asked = [stage.say(f"Question {number}?").json()["id"] for number in range(4)]
    names = [job["id"] for job in stage.jobs("state=queued")]
    assert len(names) == 4

    # As if a copy had posted its answer and died before it could say so to the queue.
    early = {"from": "bot", "text": "Posted and died.", "re": asked[3]}
    key = {"Idempotency-Key": names[3]}
    assert httpx.post(f"{stage.chat}/messages", json=early, headers=key).status_code == 201

    one, two = stage.bot("one"), stage.bot("two")
    held = caught(stage, one)
    one.kill()
    for name in names:
        stage.until_over(name)

    assert sorted(stage.answers()) == sorted(asked)
    views = {name: stage.job(name) for name in names}
    assert {view["state"] for view in views.values()} == {"done"}
    assert [attempt["ended"] for attempt in views[held]["attempts"]] == ["expired"]
    assert views[names[3]]["result"] == {"posted": 409}
    assert two.poll() is None


def test_a_message_whose_job_is_done_before_it_is_put_in_again_makes_no_second_one(
    stage: Stage,
) -> None:
    way = AnswerLost(stage)
    with httpx.Client(base_url=stage.mesh, transport=way) as mesh:
        Chat(mesh).ask_the_bot({"id": "m1", "text": "Question?"})
    assert way.lost == 1
    assert [
        job["state"] for state in ("queued", "done") for job in stage.jobs(f"state={state}")
    ] == ["done"]


class AnswerLost(httpx.HTTPTransport):
    """The way to a mesh whose first answer is lost; when that shows, the job is done."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage
        self.lost = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if self.lost:
            return answer
        self.lost += 1
        queue = f"{self._stage.mesh}/mesh/v1/queues/chat"
        [job] = httpx.post(f"{queue}/claim", json={"wait_s": 20}, timeout=30).json()["jobs"]
        held = {"job": job["id"], "fence": job["fence"], "result": "answered"}
        httpx.post(f"{queue}/complete", json=held, timeout=30).raise_for_status()
        raise httpx.ReadError("the connection is gone", request=request)


def caught(stage: Stage, bot: subprocess.Popen[bytes]) -> str:
    """Stop that copy (`one`) while it holds a message that it has not answered; which one."""
    while True:
        if any(job["worker"] == "one" for job in stage.jobs("state=claimed")):
            bot.send_signal(signal.SIGSTOP)
            for job in stage.jobs("state=claimed"):  # still, now that it does nothing more?
                if job["worker"] == "one" and job["request"]["id"] not in stage.answers():
                    return str(job["id"])
            bot.send_signal(signal.SIGCONT)
