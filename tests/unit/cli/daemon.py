"""A daemon's control socket with answers set by the test: real HTTP over a real UNIX socket."""

from __future__ import annotations

import http.server
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from meshd.control import BackendRow, Copy, Done, ModelRow, NodeRow, Problem, StatusReport
from meshd.machine import paths_for

MESH = "k3p7qaxyzabcdefghijklmnopq"


def node(name: str, **changes: object) -> NodeRow:
    fields: dict[str, object] = {
        "id": (name.lower().replace(" ", "") + "qrstuvwxyz234567abcdefghij")[:26],
        "name": name,
        "addresses": ["192.168.1.20:11436", "[fd7a:115c:a1e0::53]:11436"],
        "state": "alive",
        "version": "0.1.0",
        "founder": False,
        "drained": False,
        "models": 12,
        "warm": 2,
        "running": 1,
        "queued": 0,
        "slots": 4,
        "seen_s": 0.4,
        "engines": ["ollama 0.9.3"],
    }
    return msgspec.convert(fields | changes, NodeRow)


NODES = [
    node("attic"),
    node(
        "Anns-MacBook-Pro-16.local",
        state="asleep",
        seen_s=4000.0,
        addresses=["[fd7a:115c:a1e0:ab12:4843:cd96:625a:1]:11436"],
    ),
    node("studio", state="self", founder=True, admits=True, seen_s=None, labels=["gpu"]),
    node("box", state="failed", drained=True, seen_s=200_000.0, queued=12),
]

BACKENDS = [
    BackendRow("a", "ollama", "http://127.0.0.1:11434", "0.9.3", 12, 1, "serving"),
    BackendRow(
        "b", "llama.cpp", "http://127.0.0.1:8080", "b4521", 1, 4, "gone: nobody listens there"
    ),
]


def report(**changes: object) -> StatusReport:
    fields: dict[str, object] = {
        "version": "0.1.0",
        "node": NODES[2],
        "mesh": MESH,
        "members_version": 7,
        "client_url": "http://127.0.0.1:11435",
        "peer_port": 11436,
        "pid": 4242,
        "uptime_s": 11_520.0,
        "nodes": NODES,
        "backends": BACKENDS,
        "models": 14,
        "counters": {"requests": 3},
        "problems": [],
    }
    return msgspec.convert(fields | changes, StatusReport, from_attributes=True)


MODELS = [
    ModelRow(
        "llama3.2:3b",
        1,
        ["chat", "tools"],
        [
            Copy("studio", "ollama", "abc", True, 131_072, 1),
            Copy("attic", "ollama", "abc", False, 131_072, 1),
        ],
    ),
    ModelRow(
        "qwen2.5-coder:32b-instruct-q4_K_M",
        2,
        ["chat", "tools", "insert"],
        [
            Copy("studio", "ollama", "abc", False, 32_768, 1),
            Copy("Anns-MacBook-Pro-16.local", "ollama", "def", True, 8192, 1),
        ],
    ),
    ModelRow("nomic-embed-text", 1, ["embed"], [Copy("attic", "ollama", "abc", False, 0, 1)]),
]


@dataclass
class FakeDaemon:
    """What it answers, and what it was told."""

    data_dir: Path
    answers: dict[str, object] = field(default_factory=dict)
    """"GET /control/status" -> a struct, or a Problem (409), or bytes (as they are, 200)."""
    orders: list[tuple[str, bytes]] = field(default_factory=list)

    def answer(self, what: str, body: bytes) -> tuple[int, bytes]:
        if what.startswith("POST"):
            self.orders.append((what, body))
        found = self.answers.get(what, Done("done"))
        if isinstance(found, bytes):
            return 200, found
        return (409 if isinstance(found, Problem) else 200), msgspec.json.encode(found)


@contextmanager
def fake_daemon(data_dir: Path) -> Iterator[FakeDaemon]:
    """Serve on the control socket of that data directory."""
    daemon = FakeDaemon(
        data_dir,
        {
            "GET /control/status": report(),
            "GET /control/nodes": NODES,
            "GET /control/models": MODELS,
            "GET /control/pending": [],
            "GET /control/doctor": [],
        },
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            length = int(self.headers.get("content-length", 0))
            status, body = daemon.answer(f"{self.command} {self.path}", self.rfile.read(length))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = respond

        def log_message(self, *_: object) -> None:
            return

        def address_string(self) -> str:
            return "control"

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

        def get_request(self) -> tuple[object, tuple[str, int]]:
            request, _ = super().get_request()
            return request, ("control", 0)

    socket = Path(paths_for(data_dir).socket)
    socket.parent.mkdir(parents=True, exist_ok=True)
    with Server(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield daemon
        finally:
            server.shutdown()
            thread.join()
            socket.unlink()
