"""Who may use the client port."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from meshd.api.access import Access, is_local
from meshd.api.dialect import DialectError
from meshd.ids import Address
from meshd.ports import Remote

HERE = Remote(Address("127.0.0.1", 5))
THERE = Remote(Address("192.168.1.9", 5))
CHAT = "/v1/chat/completions"
ACCESS = Access(
    machine_names=frozenset({"anna", "anna.lan"}),
    machine_addresses=frozenset({"8.8.4.4", "2001:db8::1"}),
    allowed_hosts=frozenset({"mesh.example.org", "*.example.net"}),
    allowed_origins=("https://chat.example.org", "https://*.example.net", "chrome-extension://*"),
    check_key=lambda key: "k1" if key == b"good" else None,
)


def check(
    headers: dict[bytes, bytes],
    remote: Remote = HERE,
    *,
    path: str = CHAT,
    method: str = "POST",
    access: Access = ACCESS,
) -> str:
    return access.check(method, path, headers.get, remote)


def refused(headers: dict[bytes, bytes], remote: Remote = HERE, path: str = CHAT) -> DialectError:
    with pytest.raises(DialectError) as caught:
        check(headers, remote, path=path)
    return caught.value


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"localhost:11435",
        b"LOCALHOST.",
        b"127.0.0.1:11435",
        b"127.9.9.9",
        b"[::1]:11435",
        b"0.0.0.0:11435",
        b"192.168.1.20",
        b"10.0.0.1:80",
        b"100.101.102.103",
        b"169.254.1.1",
        b"[fe80::1]",
        b"[::ffff:192.168.1.20]:1",
        b"8.8.4.4",
        b"[2001:db8::1]:11435",
        b"anna",
        b"Anna.LAN:11435",
        b"anna.local",
        b"web.localhost:3000",
        b"box.corp.internal",
        b"mesh.example.org",
        b"a.example.net",
    ],
)
def test_hosts_of_this_machine_are_let_in(host: bytes) -> None:
    assert check({b"host": host}) == ""


def test_a_request_without_a_host_is_let_in() -> None:
    assert check({}) == ""
    assert check({b"host": b""}) == ""


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:11435",
        b"localhost.evil.example",
        b"notlocalhost",
        b"local",
        b".local",
        b"8.8.8.8",
        b"1.2.3.4:11435",
        b"[2001:4860:4860::8888]",
        b"example.net",
        b"xexample.net",
        b"mesh.example.org.evil.example",
        b"127.0.0.1.evil.example",
        b"localhost@evil.example",
        b"localhost/evil",
        b"localhost:port",
        b"[::1",
        b"[localhost]",
        b"loc alhost",
        b"\xff\xfe",
        b"localhost\r\nx: y",
        b"2130706433",
        b"0x7f.1",
    ],
)
def test_other_hosts_get_a_403(host: bytes) -> None:
    error = refused({b"host": host})
    assert error.status == 403
    assert json.loads(error.body)["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    "origin",
    [
        b"http://localhost",
        b"https://localhost:3000",
        b"http://127.0.0.1:8080",
        b"http://0.0.0.0",
        b"http://[::1]:3000",
        b"app://obsidian.md",
        b"file://",
        b"tauri://localhost",
        b"vscode-webview://1abc",
        b"vscode-file://vscode-app",
        b"https://chat.example.org",
        b"HTTPS://CHAT.example.org",
        b"https://a.example.net",
        b"chrome-extension://abcdef",
    ],
)
def test_pages_of_this_machine_and_configured_ones_are_let_in(origin: bytes) -> None:
    assert check({b"host": b"localhost", b"origin": origin}) == ""


def test_a_page_that_this_node_served_is_let_in() -> None:
    headers = {b"host": b"anna.local:11435", b"origin": b"http://anna.local:11435"}
    assert check(headers) == ""
    assert refused({**headers, b"origin": b"http://anna.local:80"}).status == 403


@pytest.mark.parametrize(
    "origin",
    [
        b"https://evil.example",
        b"http://localhost.evil.example",
        b"http://localhost@evil.example",
        b"http://evil.example/localhost",
        b"http://localhost:99999",
        b"https://chat.example.org.evil.example",
        b"http://chat.example.org",
        b"https://example.net",
        b"https://evil.example/.example.net",
        b"null",
        b"",
        b"localhost",
        b"ftp://localhost",
        b"http://[::1",
        b"\xff",
    ],
)
def test_foreign_pages_get_a_403(origin: bytes) -> None:
    error = refused({b"host": b"localhost", b"origin": origin})
    assert error.status == 403
    assert json.loads(error.body)["error"]["code"] == "origin_not_allowed"


def test_every_page_may_be_let_in() -> None:
    access = Access(allowed_origins=("*",))
    assert check({b"origin": b"https://anything.example"}, access=access) == ""


def test_refusals_are_in_the_words_of_the_path() -> None:
    error = refused({b"host": b"evil.example"}, path="/api/chat")
    assert list(json.loads(error.body)) == ["error"]
    assert "evil.example" in json.loads(error.body)["error"]


@pytest.mark.parametrize(
    "remote",
    [HERE, Remote(None), Remote(Address("::1", 1)), Remote(Address("::ffff:127.0.0.1", 1))],
)
def test_this_machine_needs_no_key_and_may_send_any(remote: Remote) -> None:
    assert is_local(remote)
    assert check({}, remote) == ""
    assert check({b"authorization": b"Bearer unused"}, remote) == ""


@pytest.mark.parametrize("value", [b"Bearer good", b"bearer good", b"Bearer   good "])
def test_a_good_key_lets_in_from_anywhere_and_says_whose_it_is(value: bytes) -> None:
    assert check({b"authorization": value}, THERE) == "k1"
    assert check({b"authorization": value}, HERE) == "k1"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b"Bearer bad"},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Basic good"},
        {b"authorization": b"good"},
        {b"authorization": b""},
    ],
)
def test_another_machine_without_a_good_key_gets_a_401(headers: dict[bytes, bytes]) -> None:
    error = refused(headers, THERE)
    assert error.status == 401
    assert json.loads(error.body)["error"]["code"] == "invalid_api_key"
    assert dict(error.headers)[b"www-authenticate"].startswith(b"Bearer")
    assert b"good" not in error.body


def test_no_key_is_needed_where_the_config_says_so() -> None:
    assert check({}, THERE, access=Access(require_key=False)) == ""


def test_preflights_carry_no_key_but_their_host_and_origin_count() -> None:
    page = {b"host": b"anna", b"origin": b"https://chat.example.org"}
    assert check(page, THERE, method="OPTIONS") == ""
    with pytest.raises(DialectError):
        check({**page, b"origin": b"https://evil.example"}, THERE, method="OPTIONS")


def test_a_preflight_names_what_the_sdks_send() -> None:
    status, headers, body = ACCESS.preflight(b"https://chat.example.org")
    assert (status, body) == (204, b"")
    answer = dict(headers)
    assert answer[b"access-control-allow-origin"] == b"https://chat.example.org"
    assert b"POST" in answer[b"access-control-allow-methods"]
    allowed = answer[b"access-control-allow-headers"].split(b", ")
    for name in (b"authorization", b"content-type", b"x-stainless-timeout", b"idempotency-key"):
        assert name in allowed
    assert b"last-event-id" in allowed, "to go on in an answer from where a page was"
    assert b"DELETE" in answer[b"access-control-allow-methods"], "to cancel a job"
    assert answer[b"vary"] == b"origin"
    assert ACCESS.preflight(None)[0] == 204


def test_answers_to_a_page_let_it_read_them() -> None:
    answer = dict(ACCESS.cors_headers(b"app://x"))
    assert answer[b"access-control-allow-origin"] == b"app://x"
    told = answer[b"access-control-expose-headers"].split(b", ")
    proto = (Path(__file__).parents[2] / "proto" / "http.md").read_text()
    names = proto.partition("## Headers of responses")[2].partition("## ")[0]
    for name in re.findall(r"^\| `([a-z-]+)` \|", names, re.MULTILINE):
        assert name.encode() in told, "what clients are told of, a page can read"
    assert b"x-meshd-job" in told
    assert ACCESS.cors_headers(None) == []
