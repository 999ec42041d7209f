"""Who may use the client port: Host, Origin, API key.  Pure.

Decided from the head of a request, before any of its body is read.  Host and Origin keep web pages
out, which reach loopback through their reader's browser: a page on any site can name this address
(Origin), or have its own name resolve to it (DNS rebinding: Host).  The key keeps other machines
out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from meshd.api import ollama_error, openai_error
from meshd.api.dialect import DialectError, HeaderOf, HeaderPair
from meshd.api.routes import Dialect, dialect_of
from meshd.ports import Remote

CheckKey = Callable[[bytes], str | None]
"""A presented key -> its id, None if it is not a valid one (`apikeys.ApiKeys.check`)."""

_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?\Z")
_HOST_SUFFIXES: Final = (".localhost", ".local", ".internal")
# Ollama's default origins: pages of this machine, and the schemes of desktop and editor apps.
_ORIGIN_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1"})
_ORIGIN_SCHEMES: Final = (
    "app://",
    "file://",
    "tauri://",
    "vscode-webview://",
    "vscode-file://",
)
_SHARED: Final = ipaddress.ip_network("100.64.0.0/10")  # carrier-grade NAT; Tailscale's addresses

_ALLOW_METHODS: Final = b"GET, POST, HEAD, DELETE, OPTIONS"
# What OpenAI's and Ollama's SDKs send from browsers, and what meshd itself reads.
_ALLOW_HEADERS: Final = b", ".join(
    (
        b"authorization",
        b"content-type",
        b"user-agent",
        b"accept",
        b"x-requested-with",
        b"idempotency-key",
        b"last-event-id",
        b"openai-beta",
        b"openai-organization",
        b"openai-project",
        b"x-api-key",
        b"x-stainless-arch",
        b"x-stainless-async",
        b"x-stainless-custom-poll-interval",
        b"x-stainless-helper-method",
        b"x-stainless-lang",
        b"x-stainless-os",
        b"x-stainless-package-version",
        b"x-stainless-poll-helper",
        b"x-stainless-read-timeout",
        b"x-stainless-retry-count",
        b"x-stainless-runtime",
        b"x-stainless-runtime-version",
        b"x-stainless-timeout",
    )
)
# Those that proto/http.md tells of, and what SDKs look for.
_EXPOSE_HEADERS: Final = b", ".join(
    (
        b"x-request-id",
        b"x-meshd-node",
        b"x-meshd-attempts",
        b"x-meshd-job",
        b"x-meshd-replayed",
        b"x-meshd-index",
        b"x-meshd-age-ms",
        b"x-should-retry",
        b"retry-after",
        b"location",
    )
)
_PREFLIGHT_S: Final = 12 * 3600


@dataclass(frozen=True, slots=True)
class Access:
    """The rules, and what is known of this machine.  Made anew when any of it changes."""

    machine_names: frozenset[str] = frozenset()
    """Its host names, lower case."""
    machine_addresses: frozenset[str] = frozenset()
    """Its own IP addresses, where they are public ones; all others are taken anyway."""
    allowed_hosts: frozenset[str] = frozenset()
    """More names for the Host header; `*.example.org` covers what is below example.org."""
    allowed_origins: tuple[str, ...] = ()
    """More web pages; `*` stands for anything within (`https://*.example.org`, alone: all)."""
    require_key: bool = True
    """Whether clients that are not on this machine need a key."""
    check_key: CheckKey = field(default=lambda key: None)

    def check(self, method: str, path: str, header: HeaderOf, remote: Remote) -> str:
        """Let the request in or raise DialectError (403, 401) in the dialect of its path.

        Returns the id of the API key that was shown, "" where there was none or none is needed.
        """
        host = header(b"host")
        if not self.host_allowed(host):
            shown = (host or b"")[:100].decode("latin-1")
            raise _refuse(
                path,
                403,
                f"the host {shown!r} is not one by which this node may be called; "
                "add it to allowed_hosts in its config if it should be",
                "host_not_allowed",
            )
        origin = header(b"origin")
        if origin is not None and not self.origin_allowed(origin, host):
            shown = origin[:100].decode("latin-1")
            raise _refuse(
                path,
                403,
                f"the web page {shown!r} may not call this node; "
                "add its origin to allowed_origins in its config if it should",
                "origin_not_allowed",
            )
        if method == "OPTIONS":
            return ""  # browsers send preflights without credentials
        return self._check_key(path, header(b"authorization"), remote)

    def host_allowed(self, host: bytes | None) -> bool:
        """Whether a request with that Host header may be meant for this node."""
        if not host:
            return True  # no browser omits it
        match = _HOST.match(host.decode("latin-1"))
        if match is None:
            return False
        if match[1] is not None:
            return self._address_allowed(match[1])
        name = match[2].lower().removesuffix(".")
        if name == "localhost" or name in self.machine_names or name in self.allowed_hosts:
            return True
        if name.endswith(_HOST_SUFFIXES) and not name.startswith("."):
            return True
        if any(p.startswith("*.") and name.endswith(p[1:]) for p in self.allowed_hosts):
            return True
        return self._address_allowed(name)

    def _address_allowed(self, text: str) -> bool:
        known = _known_address(text)
        if known is None:
            return False
        address, everyones = known
        return everyones or address in self.machine_addresses or text in self.allowed_hosts

    def origin_allowed(self, origin: bytes, host: bytes | None) -> bool:
        """Whether a page of that origin may call; `host` is the request's own, already checked."""
        text = origin.decode("latin-1").lower()
        scheme, separator, rest = text.partition("://")
        if separator and scheme in ("http", "https"):
            if host and rest == host.decode("latin-1").lower():
                return True  # a page that this node itself served
            if _origin_host(text) in _ORIGIN_HOSTS:
                return True
        if text.startswith(_ORIGIN_SCHEMES):
            return True
        return any(_pattern(allowed).match(text) for allowed in self.allowed_origins)

    def _check_key(self, path: str, authorization: bytes | None, remote: Remote) -> str:
        key_id = None
        scheme, _, key = (authorization or b"").partition(b" ")
        if scheme.lower() == b"bearer" and key.strip():
            key_id = self.check_key(key.strip())
        if key_id is not None:
            return key_id
        if not self.require_key or is_local(remote):
            return ""  # SDKs send made-up keys, which do no harm
        if authorization is None:
            message = "this node wants an API key: send Authorization: Bearer KEY"
        else:
            message = "that API key is not valid here; `meshd key list` shows those that are"
        error = _refuse(path, 401, message, "invalid_api_key")
        error.headers.append((b"www-authenticate", b'Bearer realm="meshd"'))
        raise error

    def cors_headers(self, origin: bytes | None) -> list[HeaderPair]:
        """What an answer to an allowed page needs so that the page may read it."""
        if origin is None:
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSE_HEADERS),
            (b"vary", b"origin"),
        ]

    def preflight(self, origin: bytes | None) -> tuple[int, list[HeaderPair], bytes]:
        """The answer to OPTIONS, after `check` has let it in."""
        if origin is None:
            return 204, [(b"allow", _ALLOW_METHODS)], b""
        headers = [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-methods", _ALLOW_METHODS),
            (b"access-control-allow-headers", _ALLOW_HEADERS),
            (b"access-control-max-age", b"%d" % _PREFLIGHT_S),
            (b"vary", b"origin"),
        ]
        return 204, headers, b""


def is_local(remote: Remote) -> bool:
    """Whether the other end is on this machine: loopback, or no network at all."""
    return remote.address is None or _is_loopback(remote.address.host)


# Both are asked about the same few addresses at every request, and `ipaddress` is slow.
@lru_cache(maxsize=256)
def _is_loopback(text: str) -> bool:
    address = _parsed_address(text)
    return address is not None and address.is_loopback


@lru_cache(maxsize=256)
def _known_address(text: str) -> tuple[str, bool] | None:
    """The address in its usual spelling, and whether it is one that no web site can have.

    None if the text is no address.
    """
    address = _parsed_address(text)
    if address is None:
        return None
    private = address.is_loopback or address.is_private or address.is_link_local
    shared = address.version == 4 and address in _SHARED
    return str(address), private or shared or address.is_unspecified


def _parsed_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _origin_host(origin: str) -> str | None:
    """The host of an origin that has nothing but scheme, host and port; None for anything else."""
    try:
        parts = urlsplit(origin)
        if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
            return None
        if parts.port is not None and not 0 < parts.port < 65536:
            return None
        return parts.hostname
    except ValueError:
        return None


@lru_cache(maxsize=256)
def _pattern(allowed: str) -> re.Pattern[str]:
    if allowed == "*":
        return re.compile("")
    return re.compile("[^/]*".join(re.escape(part) for part in allowed.lower().split("*")) + r"\Z")


def _refuse(path: str, status: int, message: str, code: str) -> DialectError:
    if dialect_of(path) is Dialect.OPENAI:
        return openai_error.refusal(status, message, code=code)
    return ollama_error.refusal(status, message)
