"""The types that settings may have: what to say of each, and how to read it.  Pure."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import urlsplit

from meshd import limits
from meshd.ids import parse_address


@dataclass(frozen=True, slots=True)
class Where:
    """What a relative path and a tilde in a setting stand for."""

    folder: PurePath
    """Of the config file, for what it says; the working directory for flags and environment."""
    home: PurePath

    def path(self, text: str) -> PurePath:
        if text == "~" or text.startswith("~/"):
            return self.home / text[2:]
        return self.folder / text


@dataclass(frozen=True, slots=True)
class Kind:
    """The type of a setting: what to say of it, and how to read it.

    `check` turns a TOML value into the value that is used, `parse` turns text (a flag or an
    environment variable) into a TOML value.  Both raise ValueError; its text does not matter,
    since the reader is told `wants`.
    """

    wants: str
    check: Callable[[object, Where], object]
    parse: Callable[[str], object]


def _reject() -> ValueError:
    return ValueError("not of that kind")


def text(wants: str = "a text", *, max_chars: int = 1024, empty: bool = True) -> Kind:
    def check(value: object, _: Where) -> object:
        if not isinstance(value, str) or len(value) > max_chars or not value.isprintable():
            raise _reject()
        if not empty and not value.strip():
            raise _reject()
        return value

    return Kind(wants, check, str)


def whole(least: int, most: int) -> Kind:
    def check(value: object, _: Where) -> object:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _reject()
        return value

    return Kind(f"a whole number from {least} to {most}", check, lambda given: int(given, 10))


def seconds(least: float, most: float) -> Kind:
    def check(value: object, _: Where) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _reject()
        if not least <= value <= most:  # also false for nan
            raise _reject()
        return float(value)

    return Kind(f"a number of seconds from {least:g} to {most:g}", check, float)


def switch() -> Kind:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}

    def check(value: object, _: Where) -> object:
        if not isinstance(value, bool):
            raise _reject()
        return value

    def parse(given: str) -> object:
        try:
            return words[given.strip().lower()]
        except KeyError:
            raise _reject() from None

    return Kind("true or false", check, parse)


def choice(options: Sequence[str]) -> Kind:
    def check(value: object, _: Where) -> object:
        if value not in options:
            raise _reject()
        return value

    named = ", ".join(f'"{option}"' for option in options)
    return Kind(f"one of {named}" if len(options) > 1 else named, check, str)


def path() -> Kind:
    def check(value: object, where: Where) -> object:
        if not isinstance(value, str) or not value or not value.isprintable():
            raise _reject()
        return where.path(value)

    return Kind("a path", check, str)


def url() -> Kind:
    def check(value: object, _: Where) -> object:
        if not isinstance(value, str):
            raise _reject()
        return engine_url(value)

    return Kind('an address like "http://127.0.0.1:8080"', check, str)


def texts(wants: str = "a list of texts") -> Kind:
    return Kind(wants, lambda value, _: _texts(value), _split)


def own_addresses() -> Kind:
    def check(value: object, _: Where) -> object:
        # Literals only: datagrams go to what members announce, and a look-up could block.
        found = tuple(parse_address(item, 0) for item in _texts(value))
        hosts = [ipaddress.ip_address(address.host) for address in found]
        if any(host.is_unspecified or host.is_multicast for host in hosts):
            raise _reject()
        return found

    wants = 'a list of IP addresses, each with a port or without: "203.0.113.7:11436"'
    return Kind(wants, check, _split)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > limits.ADDRESSES_PER_NODE:
        raise _reject()
    if not all(isinstance(item, str) and item and item.isprintable() for item in value):
        raise _reject()
    return tuple(value)


def _split(given: str) -> object:
    return [item.strip() for item in given.split(",") if item.strip()]


def webhook_secret() -> Kind:
    def check(value: object, _: Where) -> object:
        if not isinstance(value, str):
            raise _reject()
        if value:
            webhook_key(value)
        return value

    least = limits.WEBHOOK_SECRET_BYTES
    return Kind(f'a text of {least} characters or more, or "whsec_" and base64', check, str)


def webhook_key(secret: str) -> bytes:
    """The bytes that a secret stands for, as Standard Webhooks writes them.  Raises ValueError."""
    coded = secret.removeprefix("whsec_")
    key = base64.b64decode(coded, validate=True) if coded != secret else secret.encode()
    if len(key) < limits.WEBHOOK_SECRET_BYTES or not secret.isprintable():
        raise _reject()
    return key


def engine_url(given: str) -> str:
    """An engine's address with nothing at the end: http, a host, no query, no password.

    `/v1` at the end is dropped: people paste the address that their OpenAI client wanted.
    A bare word is refused: without a port or a scheme it could be anything.  Raises ValueError.
    """
    if "://" not in given and urlsplit(f"http://{given.strip()}").port is None:
        raise _reject()
    parts = urlsplit(given.strip() if "://" in given else f"http://{given.strip()}")
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment:
        raise _reject()
    if "@" in parts.netloc or parts.port == 0 or any(c.isspace() for c in given.strip()):
        raise _reject()
    trail = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc.lower()}{trail}"
