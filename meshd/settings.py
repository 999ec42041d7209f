"""Every setting that a person can give: its name, its type, its default, what it does.  Pure.

One table, read by `config.py` (validation), by the commented file that the first start leaves
behind, and by `meshd config keys`.  `packaging/config.md` is generated from it too.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import urlsplit

from meshd import limits
from meshd.ids import parse_address

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "text", "logfmt", "json")
VOTER_WISHES = ("auto", "always", "never")
POLICIES = ("predicted", "least_busy", "round_robin", "random")
ENGINES = ("ollama", "llama.cpp", "lmstudio", "vllm", "sglang", "mlx", "openai")


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


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting that has one value."""

    key: str
    """As in the file; a dot stands for a table."""
    kind: Kind
    default: object
    help: str
    secret: bool = False

    @property
    def variable(self) -> str:
        """The environment variable of this setting."""
        return "MESHD_" + self.key.replace(".", "_").upper()


LOOPBACK = "127.0.0.1"

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "name",
        text(f"a name of 1 to {limits.NAME_CHARS} characters", max_chars=limits.NAME_CHARS),
        "",
        "What this machine is called in the mesh; empty: its host name.",
    ),
    Setting(
        "listen",
        text("an IP address or a host name", empty=False),
        LOOPBACK,
        "Where clients may reach this node. Anything but loopback needs an API key.",
    ),
    Setting("api_port", whole(0, 65535), limits.CLIENT_PORT, "Port for clients; 0: any free one."),
    Setting(
        "port",
        whole(0, 65535),
        limits.PEER_PORT,
        "Port for the other nodes, TCP and UDP; 0: any free one.",
    ),
    Setting(
        "advertise",
        own_addresses(),
        (),
        "Where the other nodes reach this one, behind a NAT, in a container or through forwarded "
        "ports (TCP and UDP alike), in place of its own addresses. Without a port: `port`.",
    ),
    Setting("data_dir", path(), None, "Where keys, certificates and lists are kept."),
    Setting(
        "join",
        text("HOST, HOST:PORT or auto"),
        "",
        'A member to join on the first start: HOST, HOST:PORT, or "auto" to look around.',
    ),
    Setting("detect", switch(), True, "Look for engines on this machine."),
    Setting("mdns", switch(), True, "Announce this node on the local network and look for others."),
    Setting("log_level", choice(LOG_LEVELS), "info", "What to log."),
    Setting(
        "log_format",
        choice(LOG_FORMATS),
        "auto",
        "auto: text on a terminal, key=value elsewhere.",
    ),
    Setting(
        "drain_timeout_s",
        seconds(0, limits.DRAIN_MAX_S),
        limits.DRAIN_S,
        "How long a stopping node goes on with the requests it has.",
    ),
    Setting(
        "require_key",
        switch(),
        True,
        "Whether clients from other machines need an API key. Off means: whoever reaches it.",
    ),
    Setting(
        "allowed_hosts",
        texts("a list of host names"),
        (),
        "More names by which clients may call this node (the Host header).",
    ),
    Setting(
        "allowed_origins",
        texts('a list of origins like "https://chat.example.org"'),
        (),
        "Web pages that may call this node (the Origin header).",
    ),
    Setting(
        "webhook_hosts",
        texts("a list of host names"),
        (),
        "Hosts that may be told of the ends of jobs; *.example.org is all below it. Empty: none.",
    ),
    Setting(
        "webhook_secret",
        webhook_secret(),
        "",
        "What webhooks are signed with; the same on all nodes.",
        secret=True,
    ),
    Setting("webhook_secret_file", path(), None, "A file that holds it, instead."),
    Setting(
        "traces",
        switch(),
        True,
        "Whether requests leave a trace in the record: when, which model and node, how it went; "
        "never what was said.",
    ),
    Setting(
        "voter",
        choice(VOTER_WISHES),
        "auto",
        "Whether this machine may be one of those that keep the record by vote.",
    ),
    Setting(
        "limits.queue_wait_s",
        seconds(0, limits.QUEUE_WAIT_MAX_S),
        limits.QUEUE_WAIT_S,
        "How long a request waits for a free slot before it is refused.",
    ),
    Setting(
        "limits.first_token_s",
        seconds(1, 3600),
        limits.FIRST_TOKEN_MIN_S,
        "The least time a holder gets for its first token.",
    ),
    Setting(
        "limits.inter_token_s",
        seconds(1, 3600),
        limits.INTER_TOKEN_MAX_S,
        "The most time a holder gets between two tokens.",
    ),
    Setting(
        "limits.request_s",
        seconds(1, limits.REQUEST_MAX_S),
        limits.REQUEST_S,
        "The most time that one request may take.",
    ),
    Setting(
        "limits.queue",
        whole(0, 65536),
        limits.QUEUE_PER_NODE,
        "How many requests may wait for a slot on this node.",
    ),
    Setting(
        "limits.connections",
        whole(1, 65536),
        limits.HTTP_CONNECTIONS,
        "How many clients may be connected at once.",
    ),
    Setting(
        "limits.body_bytes",
        whole(1024, 1024 * limits.MIB),
        limits.HTTP_BODY_BYTES,
        "The largest request body.",
    ),
    Setting("routing.policy", choice(POLICIES), "predicted", "How a node is picked for a request."),
    Setting(
        "routing.hedge",
        switch(),
        False,
        "Whether a second node is asked when a first token is later than 95 of 100 were; whoever "
        "begins first answers, and the other is stopped. Not for requests with an Idempotency-Key.",
    ),
    Setting(
        "routing.same_name_is_same_model",
        switch(),
        False,
        "Whether an answer that broke off may be gone on with by a model of the same name, where "
        "engines tell no digest (llama.cpp, vLLM, SGLang, LM Studio, MLX).",
    ),
)

BACKEND_SETTINGS: tuple[Setting, ...] = (
    Setting("url", url(), None, "Where the engine answers. Required."),
    Setting("name", text(max_chars=limits.NAME_CHARS), "", "What to call it."),
    Setting("api_key", text(), "", "Sent to the engine as a bearer token.", secret=True),
    Setting("api_key_file", path(), None, "A file that holds the key, instead."),
    Setting("slots", whole(1, 4096), None, "How many requests it runs at once, if it cannot tell."),
    Setting("engine", choice(ENGINES), "", "What it is, if it cannot tell."),
)

GGUF_SETTINGS: tuple[Setting, ...] = (
    Setting("path", path(), None, "The model file. Required."),
    Setting("alias", text(max_chars=256), "", "The model's name; empty: the file's name."),
    Setting("slots", whole(1, 256), 4, "How many requests it runs at once."),
    Setting("context_tokens", whole(128, 16 * limits.MIB), 4096, "Context of each slot."),
    Setting("embedding", switch(), False, "Whether it makes embeddings instead of text."),
)

ALIAS = text("the name of a model", max_chars=256, empty=False)

OTHER_VARIABLES: tuple[tuple[str, str], ...] = (
    ("MESHD_CONFIG", "The config file (--config)."),
    ("MESHD_TOKEN", "The token to join with."),
    ("MESHD_TOKEN_FILE", "A file that holds the token to join with (--token-file)."),
    ("MESHD_BACKENDS", "Addresses of more engines, with commas between (--backend)."),
    ("MESHD_GGUFS", "More model files to serve, with commas between (--gguf)."),
    (
        "MESHD_RUNTIME_DIR",
        "Where the control socket and the claims are, if elsewhere.",
    ),
)
"""Environment variables that are not a key of the file."""
