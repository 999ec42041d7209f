"""Bad orders on the control socket: refused with a sentence, and counted."""

from __future__ import annotations

import socket

import httpx

from meshd.machine import paths_for
from tests.e2e.attackers import as_json, count, read_to_end, split
from tests.e2e.hostile.victims import Victims


def test_bad_orders_are_refused_with_a_sentence_and_counted(mesh: Victims) -> None:
    path = str(paths_for(mesh.a.folder).socket)
    transport = httpx.HTTPTransport(uds=path)
    with httpx.Client(transport=transport, base_url="http://meshd", timeout=20) as client:
        for method, url, body, status in (
            ("POST", "/control/token", b"{nonsense", 400),
            ("POST", "/control/token", b'{"uses": "many"}', 400),
            ("POST", "/control/token", b'{"uses": 0}', 409),
            ("POST", "/control/token", b'{"ttl_s": -1}', 409),
            ("POST", "/control/token", b'{"ttl_s": 1e300}', 409),
            ("POST", "/control/approve", b"", 400),
            ("POST", "/control/approve", b'{"digits": "000000"}', 409),
            ("POST", "/control/drain", b'{"node": "nobody"}', 409),
            ("GET", "/control/secrets", b"", 404),
            ("DELETE", "/control/status", b"", 404),
        ):
            answer = client.request(method, url, content=body)
            assert answer.status_code == status, (url, body, answer.text)
            assert len(answer.json()["error"]) > 10
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.settimeout(20)
        sock.sendall(b"nonsense\r\n\r\n")
        status, _, said = split(read_to_end(sock))
        assert status == 400
        assert as_json(said)["error"]
    assert count(mesh.a, "control_refused") >= 1


def test_bad_orders_at_a_member_that_is_not_the_founder(mesh: Victims) -> None:
    path = str(paths_for(mesh.c.folder).socket)
    transport = httpx.HTTPTransport(uds=path)
    with httpx.Client(transport=transport, base_url="http://meshd", timeout=20) as client:
        for url, body in (
            ("/control/token", {"uses": 0}),
            ("/control/token", {"ttl_s": -1}),
            ("/control/token", {"ttl_s": 1e300}),
            ("/control/token", {"uses": 2**62}),
            ("/control/approve", {"digits": "1" * 5000}),
            ("/control/drain", {"node": "x" * 5000}),
        ):
            answer = client.post(url, json=body)
            assert answer.status_code == 409, (url, body, answer.text)
            assert len(answer.json()["error"]) > 10
