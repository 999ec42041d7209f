"""A chat server, as small as one can be, for `bot_worker.py`: what people say becomes jobs.

    python -m examples.chat_server --mesh http://127.0.0.1:11435

    POST /messages  {"from": "ann", "text": "..."}      a person says something
    POST /messages  ... with Idempotency-Key: KEY       the bot does: once for each KEY, then 409
    GET  /messages                                      all that was said

What a person says goes into the mesh's queue `chat`, and copies of the bot take it from there.
With it goes the message's own id as Idempotency-Key: however often the job is put in (the mesh may
have taken it, and its answer may have been lost), it is one job, also when that is done already.

What makes the bot's post happen once is the few lines of `Chat.post`: the key is looked up and
noted in one step, in the same place as the message itself.  Many real chat servers have the same
under another name (a client-side message id, a transaction id, a nonce).
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

QUEUE = "chat"


class Chat:
    """Everything that was said, in memory."""

    def __init__(self, mesh: httpx.Client) -> None:
        self._mesh = mesh
        self._lock = threading.Lock()
        self._messages: list[dict[str, Any]] = []
        self._keys: dict[str, str] = {}
        """Idempotency key -> the message that was posted with it."""

    def messages(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._messages)

    def post(self, message: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer."""
        message = {**message, "id": uuid.uuid4().hex}
        with self._lock:
            if key and key in self._keys:
                return 409, {"error": "posted already", "id": self._keys[key]}
            if key:
                self._keys[key] = message["id"]
            self._messages.append(message)
        return 201, message

    def ask_the_bot(self, message: dict[str, Any]) -> None:
        """Put it into the queue; tries until the mesh says that it has it."""
        order = {"queue": QUEUE, "payload": message}
        key = {"Idempotency-Key": message["id"]}
        while True:
            try:
                answer = self._mesh.post("/mesh/v1/jobs", json=order, headers=key)
                if answer.is_success:
                    return
                print(f"not queued yet: {answer.status_code} {answer.text}", flush=True)
            except httpx.HTTPError as error:
                print(f"not queued yet: {error!r}", flush=True)
            time.sleep(1.0)  # a mesh that is down is not to be flooded


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    chat: Chat

    def do_GET(self) -> None:
        self._answer(200, {"messages": self.chat.messages()})

    def do_POST(self) -> None:
        try:
            said = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            message = {
                "from": str(said["from"]),
                "text": str(said["text"]),
                "re": said.get("re", ""),
            }
        except (ValueError, TypeError, KeyError, AttributeError):
            self._answer(400, {"error": 'say {"from": ..., "text": ...}'})
            return
        key = self.headers.get("Idempotency-Key", "")
        status, body = self.chat.post(message, key)
        if not key and status == 201:
            self.chat.ask_the_bot(body)
        self._answer(status, body)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A tiny chat server whose messages a bot answers.")
    parser.add_argument("--mesh", default="http://127.0.0.1:11435", help="any node of the mesh")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    given = parser.parse_args()
    Handler.chat = Chat(httpx.Client(base_url=given.mesh, timeout=10.0))
    with ThreadingHTTPServer(("127.0.0.1", given.port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("closed")


if __name__ == "__main__":
    main()
