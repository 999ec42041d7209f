"""Webhooks as they look: whom this node may call, what is sent, how it is signed.  Pure.

What is sent follows Standard Webhooks (standardwebhooks.com): an id that is the same for each try,
the time of the try, and HMAC-SHA256 over id, time and body.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from meshd import __version__, limits
from meshd.errors import Refused
from meshd.ids import Address
from meshd.jobs.views import JobView
from meshd.record.job_rows import JobState, NoticeRow, job_name

_PRINTABLE: Final = re.compile(r"[!-~]+")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a webhook is told."""

    address: Address
    tls: bool
    host: str
    """As the Host header has it."""
    path: str
    """With the query."""


@dataclass(frozen=True, slots=True)
class WebhookRules:
    """Whom this node may call, and what it signs with."""

    hosts: tuple[str, ...] = ()
    """Names of hosts; `*.example.org` is every one below example.org, and not that itself."""
    secret: bytes = field(default=b"", repr=False)

    def target(self, url: str) -> Target:
        """Where that is.  Raises Refused, with what is wrong or what to do."""
        if len(url) > limits.JOB_WEBHOOK_CHARS or not _PRINTABLE.fullmatch(url):
            raise Refused(
                f"a webhook is an address of at most {limits.JOB_WEBHOOK_CHARS} ASCII characters "
                "without blanks"
            )
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            raise Refused(f"{url!r} is no address of a webhook") from None
        if parts.scheme not in _PORTS or not host or port == 0:
            raise Refused(f"a webhook begins with https:// or http:// and a host: {url!r} does not")
        if "@" in parts.netloc:
            raise Refused("a webhook's address must not hold a name or a password")
        if parts.fragment:
            raise Refused("a webhook's address must not end in a fragment (#...)")
        if not (self.secret and self._allows(host)):
            raise Refused(
                f"this node may not call {host}: webhook_hosts in its config names the hosts that "
                "it may, and the others' configs should say the same"
            )
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        address = Address(host, port or _PORTS[parts.scheme])
        return Target(address, parts.scheme == "https", parts.netloc, path)

    def _allows(self, host: str) -> bool:
        names = [name.lower().rstrip(".") for name in self.hosts]
        return any(
            host.endswith(name[1:]) and len(host) > len(name) - 1
            if name.startswith("*.")
            else host == name
            for name in names
        )


def body_of(notice: NoticeRow, view: JobView | None) -> bytes:
    """What is told: the job as it ended, with its result if that is small.

    `view` is None if this node does not know any more, or it is alive again.
    """
    state = JobState(notice.state).name.lower()
    data: Any = {"id": job_name(notice.job), "state": state}
    if view is not None and view.state == state:
        data = msgspec.to_builtins(msgspec.structs.replace(view, request=None, webhook=""))
    ended = datetime.fromtimestamp(notice.ended_unix_ms / 1000, UTC)
    timestamp = ended.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"type": f"job.{state}", "timestamp": timestamp, "data": data}
    return msgspec.json.encode(told)


def headers_of(
    notice: NoticeRow, body: bytes, secret: bytes, now_unix_s: int
) -> Sequence[tuple[bytes, bytes]]:
    """Those of one try."""
    # The same for each try and from each node: by it a receiver knows a repetition.
    name = f"{job_name(notice.job)}-{notice.end}".encode()
    now = b"%d" % now_unix_s
    signed = hmac.new(secret, b".".join((name, now, body)), hashlib.sha256).digest()
    return [
        (b"content-type", b"application/json"),
        (b"user-agent", f"meshd/{__version__}".encode()),
        (b"webhook-id", name),
        (b"webhook-timestamp", now),
        (b"webhook-signature", b"v1," + base64.b64encode(signed)),
    ]
