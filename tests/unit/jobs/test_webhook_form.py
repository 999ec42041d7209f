"""Whom a webhook may call, what it says, and how that is signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import Refused
from meshd.ids import Address
from meshd.jobs.views import JobView
from meshd.jobs.webhook_form import Target, WebhookRules, body_of, headers_of
from meshd.record.job_rows import JobState, NoticeRow, job_id
from meshd.setting_kinds import webhook_key

RULES = WebhookRules(("bots.example.org", "*.Example.net", "192.0.2.7", "::1"), b"s" * 16)
NOTICE = NoticeRow(
    job=job_id(35), url="", end=812, state=JobState.DONE, ended_unix_ms=1_790_000_000_250,
    until_unix_ms=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://bots.example.org",
         Target(Address("bots.example.org", 443), True, "bots.example.org", "/")),
        ("http://BOTS.example.org:8080/done?by=mesh",
         Target(Address("bots.example.org", 8080), False, "BOTS.example.org:8080",
                "/done?by=mesh")),
        ("https://a.b.example.net/x", Target(Address("a.b.example.net", 443), True,
                                             "a.b.example.net", "/x")),
        ("http://192.0.2.7/", Target(Address("192.0.2.7", 80), False, "192.0.2.7", "/")),
        ("http://[::1]:90/", Target(Address("::1", 90), False, "[::1]:90", "/")),
    ],
)  # fmt: skip
def test_hosts_of_the_config_may_be_called(url: str, target: Target) -> None:
    assert RULES.target(url) == target


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.net/", "may not call example.net"),
        ("https://evilexample.net/", "may not call"),
        ("https://bots.example.org.evil.org/", "may not call"),
        ("https://evil.org/?bots.example.org", "may not call"),
        ("https://bots.example.org@evil.org/", "name or a password"),
        ("https://me:secret@bots.example.org/", "name or a password"),
        ("https://bots.example.org/#x", "fragment"),
        ("ftp://bots.example.org/", "begins with https://"),
        ("bots.example.org/done", "begins with https://"),
        ("https://bots.example.org:0/", "begins with https://"),
        ("https://bots.example.org:99999/", "no address"),
        ("https:///done", "begins with https://"),
        ("https://bots.example.org/a b", "without blanks"),
        ("https://bots.example.org/\r\nx-evil: 1", "without blanks"),
        ("https://b\u00f6ts.example.org/", "ASCII"),
        ("https://bots.example.org/" + "x" * 2000, "at most 1024"),
        ("", "at most"),
    ],
)
def test_all_others_are_refused_with_the_reason(url: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        RULES.target(url)


@given(st.text("botsexampl.rgnvi@:/[]#?\\192", max_size=40))
def test_no_address_gets_by_that_names_another_host(host: str) -> None:
    try:
        target = RULES.target(f"https://{host}/")
    except Refused:
        return
    assert target.address.host.endswith((".example.net", "bots.example.org", "192.0.2.7", "::1"))


def test_without_hosts_or_a_secret_nobody_is_called() -> None:
    for rules in (WebhookRules((), b"s" * 16), WebhookRules(RULES.hosts, b"")):
        with pytest.raises(Refused, match="webhook_hosts"):
            rules.target("https://bots.example.org/")


def test_a_job_is_told_as_it_ended_without_its_request() -> None:
    view = JobView(
        id="j35", state="done", accepted_unix_s=1.0, request={"a": "secret"}, result={"b": 2},
        webhook="to be told",
    )  # fmt: skip
    told = json.loads(body_of(NOTICE, view))
    assert told["type"] == "job.done"
    assert told["timestamp"] == "2026-09-21T14:13:20.250Z"
    assert told["data"] == {
        "id": "j35", "state": "done", "accepted_unix_s": 1.0, "result": {"b": 2},
    }  # fmt: skip
    for other in (None, JobView(id="j35", state="queued", accepted_unix_s=1.0)):
        assert json.loads(body_of(NOTICE, other))["data"] == {"id": "j35", "state": "done"}


def test_a_receiver_can_check_who_signed_as_standard_webhooks_says() -> None:
    secret = "whsec_" + base64.b64encode(b"0123456789abcdef").decode()
    body = b'{"type":"job.done"}'
    headers = dict(headers_of(NOTICE, body, webhook_key(secret), 1_790_000_001))
    assert headers[b"webhook-id"] == b"j35-812"
    assert headers[b"webhook-timestamp"] == b"1790000001"
    signed = b"j35-812.1790000001." + body
    expected = hmac.new(b"0123456789abcdef", signed, hashlib.sha256).digest()
    assert headers[b"webhook-signature"] == b"v1," + base64.b64encode(expected)


@pytest.mark.parametrize("secret", ["", "short", "whsec_", "whsec_!!!", "whsec_YWJj", "a\nb" * 9])
def test_a_secret_that_is_none_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match=r"^(not of that kind|.*base64.*)$"):
        webhook_key(secret)
