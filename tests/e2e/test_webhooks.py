"""A real daemon tells a real HTTPS server of the end of a job, also after a kill -9."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from meshd.testing.daemons import Daemon
from tests.unit.tiny_ca import TinyCa

SECRET = b"a secret of a few characters"


class Receiver(ThreadingHTTPServer):
    """Answers with these statuses, then with 204, and keeps what it was told."""

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.told: list[tuple[dict[str, str], bytes]] = []
        self.refusing = threading.Event()
        self.called = threading.Condition()

    def until(self, count: int) -> None:
        with self.called:
            assert self.called.wait_for(lambda: len(self.told) >= count, timeout=60)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.called:
            self.server.told.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.server.called.notify_all()
        self.send_response(503 if self.server.refusing.is_set() else 204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing to stderr."""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    ca = TinyCa.new()
    (tmp_path / "ca.pem").write_bytes(ca.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "server.pem").write_bytes(ca.web_server("localhost"))
    made = Receiver(tmp_path / "server.pem")
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def test_the_end_of_a_job_is_told_signed_and_again_after_a_kill(
    receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    daemon = Daemon(
        tmp_path / "a",
        "a",
        settings=f'webhook_hosts = ["localhost"]\nwebhook_secret_file = "{tmp_path / "secret"}"\n',
        environment={"SSL_CERT_FILE": str(tmp_path / "ca.pem")},
    )
    url = f"https://localhost:{receiver.server_address[1]}/done?by=mesh"
    receiver.refusing.set()
    with daemon:
        jobs = f"{daemon.api_url}/mesh/v1/jobs"
        order = {"queue": "chat", "payload": 1, "webhook": url}
        job = httpx.post(jobs, json=order, timeout=30).json()["id"]
        assert httpx.delete(f"{jobs}/{job}", timeout=30).json()["state"] == "cancelled"
        receiver.until(1)
        daemon.kill()
        receiver.refusing.clear()
        before = len(receiver.told)
        daemon.start()
        receiver.until(before + 1)
        jobs = f"{daemon.api_url}/mesh/v1/jobs"  # at another port
        elsewhere = order | {"webhook": "https://example.org/"}
        assert httpx.post(jobs, json=elsewhere, timeout=30).status_code == 400
    headers, body = receiver.told[-1]
    assert json.loads(body)["data"]["id"] == job
    assert {told["webhook-id"] for told, _ in receiver.told} == {headers["webhook-id"]}
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
