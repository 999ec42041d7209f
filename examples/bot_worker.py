"""A chat bot that answers each message once, in as many copies as you like, on any machine.

    python -m examples.chat_server                      # in one terminal
    python -m examples.bot_worker --model llama3.2      # in two others; then kill one of them
    curl http://127.0.0.1:8000/messages -d '{"from": "ann", "text": "Hello!"}'
    curl http://127.0.0.1:8000/messages

The copies share a queue of the mesh.  A copy *claims* a message: it has it for a lease, and renews
that while it works.  If the copy dies, or its machine sleeps or is cut off, the lease ends and
another copy gets the message.

Why that alone is at least once, and not once: posting an answer and telling the queue "done" are
two steps at two places, and a copy may die between them.  The queue cannot know that the answer is
out there, and must give the message to the next copy.  Nor is a lease a proof: a copy that was
frozen for a minute may wake up with an answer for a message that is another's by now.  The queue
refuses its "done" (each claim has a higher *fence*), but cannot refuse its post.

What makes the post happen once is the chat server: it takes one post for each idempotency key.  The
key is the job's id, the same for every copy and every attempt.  A copy that is told "409, posted
already" knows that the work was done, and says so to the queue.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import httpx

QUEUE = "/mesh/v1/queues/chat"


class NotOursAnyMore(Exception):
    """The lease has ended: somebody else may have the message."""


class NoAnswer(Exception):
    """The model did not answer to the end."""


class Lease:
    """Renews the claim of a job in the background, as a context."""

    def __init__(self, mesh: httpx.Client, job: dict[str, Any]) -> None:
        self._mesh = mesh
        self._held = {"job": job["id"], "fence": job["fence"], "lease_s": job["lease_s"]}
        self._lease_s: float = job["lease_s"]
        self._ends_at = time.monotonic() + self._lease_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def check(self) -> None:
        """Raise NotOursAnyMore if it is not; a margin is left for a clock that runs slow."""
        if self._over.is_set() or time.monotonic() > self._ends_at - 0.3 * self._lease_s:
            raise NotOursAnyMore

    def _renew(self) -> None:
        while not self._over.is_set():
            asked_at = time.monotonic()
            # If this one does not get through, perhaps the next one does, before the lease ends.
            with suppress(httpx.HTTPError):
                answer = self._mesh.post(f"{QUEUE}/renew", json=self._held)
                if answer.is_success:
                    self._ends_at = asked_at + self._lease_s
                elif answer.status_code in (404, 409):  # cancelled, or another's
                    self._over.set()
            self._over.wait(self._lease_s / 4)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def answer_of(mesh: httpx.Client, model: str, tokens: int, text: str, lease: Lease) -> str:
    """What the model says to it, from whichever node has it; stops if the lease is lost."""
    messages = [{"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "stream": True}
    said = ""
    with mesh.stream("POST", "/v1/chat/completions", json=body, timeout=120.0) as answer:
        if not answer.is_success:
            raise NoAnswer(answer.read().decode())
        for line in answer.iter_lines():
            lease.check()
            if line.startswith("data: {"):
                part = json.loads(line[6:])
                if "error" in part:
                    raise NoAnswer(part["error"]["message"])
                said += "".join(c["delta"].get("content") or "" for c in part["choices"])
    return said.strip()


def work(mesh: httpx.Client, chat: httpx.Client, job: dict[str, Any], given: Any) -> None:
    """Answer one message."""
    held = {"job": job["id"], "fence": job["fence"]}
    message = job["request"]
    try:
        with Lease(mesh, job) as lease:
            text = answer_of(mesh, given.model, given.max_tokens, message["text"], lease)
            reply = {"from": "bot", "text": text, "re": message["id"]}
            lease.check()
            # From here to "complete" a crash does no harm: the next copy's post is refused.
            posted = chat.post("/messages", json=reply, headers={"Idempotency-Key": job["id"]})
            if posted.status_code != 409:  # 409: an earlier copy did it, and died before saying so
                posted.raise_for_status()
    except NotOursAnyMore:
        print(f"{job['id']}: the lease was lost; another copy has it", flush=True)
    except (httpx.HTTPError, NoAnswer) as error:
        again = {**held, "reason": f"{error!r}"[:100], "pause_s": 1.0}
        mesh.post(f"{QUEUE}/fail", json=again)  # tried again, until its attempts are used up
    else:
        mesh.post(f"{QUEUE}/complete", json={**held, "result": {"posted": posted.status_code}})
        print(f"{job['id']}: answered", flush=True)


def main() -> None:
    """Claim and work until interrupted."""
    parser = argparse.ArgumentParser(description="One copy of a chat bot.")
    parser.add_argument("--mesh", default="http://127.0.0.1:11435", help="any node of the mesh")
    parser.add_argument("--chat", default="http://127.0.0.1:8000", help="the chat server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-tokens", type=int, default=500)
    parser.add_argument("--lease", type=float, default=15.0, help="seconds")
    parser.add_argument("--name", default=socket.gethostname())
    given = parser.parse_args()
    wanted = {"worker": given.name, "lease_s": given.lease, "wait_s": 30.0}
    mesh, chat = (httpx.Client(base_url=url, timeout=10.0) for url in (given.mesh, given.chat))
    while True:
        try:
            # A long poll: answered as soon as there is a message, or empty after `wait_s`.
            claimed = mesh.post(f"{QUEUE}/claim", json=wanted, timeout=40.0).raise_for_status()
            for job in claimed.json()["jobs"]:
                work(mesh, chat, job, given)
        except httpx.HTTPError as error:
            print(f"the mesh does not answer, or not well ({error!r}); again soon", flush=True)
            time.sleep(1.0)  # a mesh that is down is not to be flooded


if __name__ == "__main__":
    main()
