"""What the command line says of a mesh that exists.  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from meshd.cli.shell import UsageError
from meshd_chaos.target import Target

_PID: Final = re.compile(r"[0-9]{1,9}")
_HEADER: Final = re.compile(r"[!-~]*")


def read_target(urls: str | None, flags: Mapping[str, Any]) -> Target | None:
    """None: no such mesh is meant.  Raises UsageError for flags that do not fit together."""
    given = [name for name, value in flags.items() if value]
    if urls is None:
        if given:
            raise UsageError(f"{', '.join(given)}: only with --target URL")
        return None
    if not flags["--model"]:
        raise UsageError("--target needs --model NAME: which of its models to ask")
    breaking = [name for name in ("--pid", "--kill", "--start") if flags[name]]
    if breaking and not flags["--faults"]:
        raise UsageError(f"{', '.join(breaking)}: nothing is broken without --faults")
    if not all(name.strip() for name in flags["--model"]):
        raise UsageError("--model NAME: a model has a name")
    if not _HEADER.fullmatch(flags["--api-key"]):
        raise UsageError("--api-key: an API key is printable ASCII without spaces")
    addresses = tuple(_url(text) for text in urls.split(",") if text.strip())
    if not addresses:
        raise UsageError("--target needs a URL like http://studio.local:11435")
    pids = _pairs("--pid", flags["--pid"])
    for node, text in pids.items():
        if not _PID.fullmatch(text) or int(text) < 2:
            raise UsageError(f"--pid {node}={text}: {text!r} is no process id")
    return Target(
        urls=addresses,
        models=tuple(flags["--model"]),
        api_key=flags["--api-key"],
        with_jobs=flags["--jobs"],
        with_faults=flags["--faults"],
        pids={node: int(text) for node, text in pids.items()},
        kills=_pairs("--kill", flags["--kill"]),
        starts=_pairs("--start", flags["--start"]),
    )


def words_of(urls: str, flags: Mapping[str, Any]) -> tuple[str, ...]:
    """The same flags, to be typed again.  An API key is not told: KEY stands for it."""
    words = ["--target", urls]
    for name, value in flags.items():
        if name == "--api-key":
            words += [name, "KEY"] if value else []
        elif isinstance(value, bool):
            words += [name] if value else []
        else:
            words += [word for one in value or () for word in (name, one)]
    return tuple(words)


def _url(text: str) -> str:
    """As it is asked.  Raises UsageError, whose text has no secret of the URL."""
    url = text.strip().rstrip("/")
    if "@" in url:
        host = url.rpartition("@")[2]
        raise UsageError(f"--target ...@{host}: no name and password here, but --api-key KEY")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError as error:
        raise UsageError(f"--target {url}: that is no URL: {error}") from None
    is_plain = host and port != 0 and not parts.query and not parts.fragment
    if parts.scheme not in ("http", "https") or not is_plain or not url.isprintable():
        raise UsageError(f"--target {url}: that is no URL like http://studio.local:11435")
    return url


def _pairs(flag: str, values: Sequence[str] | None) -> dict[str, str]:
    pairs = {}
    for value in values or ():
        node, sign, what = value.partition("=")
        if not sign or not node or not what:
            raise UsageError(f"{flag} {value}: it must be NODE=...")
        pairs[node] = what
    return pairs
