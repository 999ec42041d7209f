"""Bad HTTP and bad bodies on the client port: refused in the dialect, counted, and nothing else."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, suppress

import httpx
import pytest

from meshd import limits
from tests.e2e.attackers import as_json, ask, connect, read_to_end, split, talk
from tests.e2e.hostile.bad_http import CHAT, NOT_HTTP, OLLAMA, SMUGGLED
from tests.e2e.hostile.victims import BODY_BYTES, Victims, counts

# --- client port: HTTP itself


@pytest.mark.parametrize("what", NOT_HTTP)
def test_what_is_not_http_is_refused_counted_and_closed(mesh: Victims, what: str) -> None:
    data = NOT_HTTP[what]
    assert counts(mesh.a, lambda: talk(mesh.api_port, data), "http_refused") == 1


@pytest.mark.parametrize("what", SMUGGLED)
def test_a_request_of_two_meanings_is_refused_in_the_dialect_and_ends_the_connection(
    mesh: Victims, what: str
) -> None:
    def attack() -> None:
        for head in (CHAT, OLLAMA):
            answer = talk(mesh.api_port, head + SMUGGLED[what], then_end=True)
            status, headers, body = split(answer)
            assert 400 <= status <= 501, answer
            assert headers["connection"] == "close"
            assert headers["x-request-id"]
            error = as_json(body)["error"]
            assert isinstance(error, dict if head is CHAT else str), body
            assert answer.count(b"HTTP/1.1 ") == 1, "nothing behind it was taken for a request"

    assert counts(mesh.a, attack, "http_refused") == 2


def openai_message(body: bytes) -> str:
    error = as_json(body)["error"]
    assert isinstance(error, dict)
    assert set(error) == {"message", "type", "param", "code"}
    message = error["message"]
    assert isinstance(message, str)
    return message


def ollama_message(body: bytes) -> str:
    message = as_json(body)["error"]
    assert isinstance(message, str)
    return message


CALLS = {
    "/v1/chat/completions": openai_message,
    "/v1/completions": openai_message,
    "/v1/embeddings": openai_message,
    "/api/chat": ollama_message,
    "/api/generate": ollama_message,
    "/api/embed": ollama_message,
    "/api/embeddings": ollama_message,
    "/api/show": ollama_message,
}


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize("way", ["announced", "chunked"])
def test_a_body_over_the_limit_is_413_in_the_dialect(mesh: Victims, path: str, way: str) -> None:
    body = b'{"model": "m", "x": "' + b"a" * BODY_BYTES + b'"}'
    content = (
        body if way == "announced" else iter([body[i : i + 9000] for i in range(0, 70_000, 9000)])
    )
    answer = httpx.post(f"{mesh.a.api_url}{path}", content=content, timeout=20)
    assert answer.status_code == 413, answer.text
    assert str(BODY_BYTES) in CALLS[path](answer.content)
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"X: " + b"a" * 200_000, 431),
        (b"X: y\r\n" * 5000, 431),
        (b"X" * 200_000, 431),
    ],
)
def test_a_huge_head_is_refused_in_the_dialect(mesh: Victims, head: bytes, status: int) -> None:
    for start, message in ((CHAT, openai_message), (OLLAMA, ollama_message)):
        got, _, body = split(talk(mesh.api_port, start + head + b"\r\n\r\n", then_end=True))
        assert got == status
        assert message(body)
    long = b"GET /v1/models/" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    got, _, body = split(talk(mesh.api_port, long, then_end=True))
    assert got == 414
    assert openai_message(body)


def test_slow_clients_are_cut_in_the_dialect_and_slow_nobody_down(mesh: Victims) -> None:
    """Each on its own port trickles; all of them are gone after the time that each port allows."""
    began = time.monotonic()
    with ExitStack() as stack:
        heads = [stack.enter_context(connect(mesh.api_port)) for _ in range(20)]
        peers = [stack.enter_context(connect(mesh.peer_port)) for _ in range(20)]
        for sock in heads:
            sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        for sock in peers:
            sock.sendall(b"\x16\x03\x01")
        while time.monotonic() - began < limits.HTTP_HEAD_S - 1:
            for sock in [*heads, *peers]:
                with suppress(OSError):
                    sock.sendall(b"a" if sock in heads else b"\x02")
            assert ask(mesh.a)
            time.sleep(0.5)  # a trickle takes its time
        for sock in peers:
            read_to_end(sock)
        for sock in heads:
            status, _, body = split(read_to_end(sock))
            assert status == 408
            assert openai_message(body)
    assert time.monotonic() - began < limits.HTTP_HEAD_S + 8


# --- client port: bodies


BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"model=m&messages=hi",
    "cut": b'{"model": "m", "messages": [{"role": "us',
    "not UTF-8": b'{"model": "m\xff", "messages": []}',
    "an array": b"[]",
    "a number": b"7",
    "null": b"null",
    "deep": b'{"model": "m", "options": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep objects": b'{"x": ' * 4000 + b"1" + b"}" * 4000,
    "no model": b'{"messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"}',
    "a model of null": b'{"model": null}',
    "a model of a number": b'{"model": 7, "messages": [], "prompt": "x", "input": "x"}',
    "an empty model": b'{"model": "", "messages": [], "prompt": "x", "input": "x"}',
    "a huge number": b'{"model": "m", "temperature": 1e999, "messages": [], "input": "x"}',
    "wrong types": json.dumps(
        {"model": "m", "messages": "x", "prompt": {}, "input": {}, "options": 3}
    ).encode(),
    "a lone surrogate": b'{"model": "\\ud800", "messages": [], "prompt": 3, "input": 3}',
}


@pytest.mark.parametrize("what", BAD_BODIES)
def test_a_bad_body_is_a_4xx_in_the_dialect_and_the_connection_goes_on(
    mesh: Victims, what: str
) -> None:
    with httpx.Client(base_url=mesh.a.api_url, timeout=20) as client:
        for path, message in CALLS.items():
            if (path, what) == ("/api/show", "wrong types"):
                continue  # it takes nothing but the name
            answer = client.post(path, content=BAD_BODIES[what])
            assert 400 <= answer.status_code < 500, (path, answer.text)
            assert message(answer.content), path
        assert client.get("/v1/models").status_code == 200


def test_names_of_models_are_no_way_out_of_anything(mesh: Victims) -> None:
    ask = {"messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"}
    with httpx.Client(base_url=mesh.a.api_url, timeout=20) as client:
        for name in ("../../etc/passwd", "m\r\nX: y", "\x1b[2J", "m" * 600, "%2e%2e%2f", "m\0"):
            for path, message in CALLS.items():
                answer = client.post(path, json={"model": name, **ask})
                assert answer.status_code in (400, 404), (path, name, answer.text)
                assert message(answer.content)
