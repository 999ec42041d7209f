"""What a person decided, as the daemon takes it; `load` adds up where it was said.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, cast

from meshd import limits
from meshd.config_sources import Sources, collect
from meshd.errors import ConfigError
from meshd.ids import Address
from meshd.setting_kinds import webhook_key
from meshd.settings import LOOPBACK

__all__ = [
    "BackendConfig",
    "Config",
    "GgufConfig",
    "LimitsConfig",
    "RoutingConfig",
    "Sources",
    "load",
    "with_key_files",
]


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """An engine that somebody named."""

    url: str
    """`http://host[:port][/path]`, no slash at the end."""
    name: str = ""
    api_key: str = field(default="", repr=False)
    api_key_file: PurePath | None = None
    """`with_key_files` turns it into `api_key`."""
    slots: int | None = None
    engine: str = ""
    """One of `settings.ENGINES`, or empty: ask it."""


@dataclass(frozen=True, slots=True)
class GgufConfig:
    """A model file for the bundled engine."""

    path: PurePath
    alias: str = ""
    slots: int = 4
    context_tokens: int = 4096
    embedding: bool = False

    @property
    def model(self) -> str:
        """The name by which it is served."""
        return self.alias or self.path.stem


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Those of `meshd.limits` that a person may set."""

    queue_wait_s: float = limits.QUEUE_WAIT_S
    first_token_s: float = limits.FIRST_TOKEN_MIN_S
    inter_token_s: float = limits.INTER_TOKEN_MAX_S
    request_s: float = limits.REQUEST_S
    queue: int = limits.QUEUE_PER_NODE
    connections: int = limits.HTTP_CONNECTIONS
    body_bytes: int = limits.HTTP_BODY_BYTES


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    policy: str = "predicted"
    hedge: bool = False
    same_name_is_same_model: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be decided, decided.  What each field does: `meshd.settings`."""

    name: str = ""
    """Empty: the host name."""
    listen: str = LOOPBACK
    api_port: int = limits.CLIENT_PORT
    port: int = limits.PEER_PORT
    advertise: tuple[Address, ...] = ()
    """Port 0: the one that it listens on."""
    data_dir: PurePath | None = None
    join: str = ""
    """`HOST[:PORT]`, `auto`, or empty."""
    detect: bool = True
    mdns: bool = True
    log_level: str = "info"
    log_format: str = "auto"
    drain_timeout_s: float = limits.DRAIN_S
    webhook_hosts: tuple[str, ...] = ()
    webhook_secret: str = field(default="", repr=False)
    webhook_secret_file: PurePath | None = None
    """`with_key_files` turns it into `webhook_secret`."""
    traces: bool = True
    voter: str = "auto"
    """`auto`, `always` or `never`."""
    require_key: bool = True
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    """The name a client uses -> the model's name."""
    backends: tuple[BackendConfig, ...] = ()
    limits: LimitsConfig = LimitsConfig()
    routing: RoutingConfig = RoutingConfig()
    ggufs: tuple[GgufConfig, ...] = ()

    @property
    def listens_beyond_loopback(self) -> bool:
        """Whether other machines can reach the client port."""
        return not (self.listen in ("localhost", "::1") or self.listen.startswith("127."))


def load(sources: Sources) -> Config:
    """The config that these sources add up to.

    Raises ConfigError: one line for each setting that cannot be used, in the order of the file.
    """
    given = collect(sources)
    top = {key: value for key, value in given.values.items() if "." not in key}
    return Config(
        **cast("Any", top),
        aliases=given.aliases,
        backends=tuple(BackendConfig(**row) for row in given.backends),
        ggufs=tuple(GgufConfig(**row) for row in given.ggufs),
        limits=LimitsConfig(**_under("limits", given.values)),
        routing=RoutingConfig(**_under("routing", given.values)),
    )


def with_key_files(config: Config, read: Callable[[PurePath], bytes | None]) -> Config:
    """The same with what key files hold in the place of their names.  Raises ConfigError."""
    backends = []
    for backend in config.backends:
        if backend.api_key_file is not None:
            key = _line_of(backend.api_key_file, read, f"backend {backend.url}", "api_key_file")
            backend = replace(backend, api_key=key)
        backends.append(backend)
    return _with_webhook_secret(replace(config, backends=tuple(backends)), read)


def _with_webhook_secret(config: Config, read: Callable[[PurePath], bytes | None]) -> Config:
    path = config.webhook_secret_file
    if path is not None and config.webhook_secret:
        raise ConfigError("give webhook_secret or webhook_secret_file, not both")
    if path is not None:
        secret = _line_of(path, read, "webhooks", "webhook_secret_file")
        try:
            webhook_key(secret)
        except ValueError:
            raise ConfigError(
                f"webhooks: {path} must hold {limits.WEBHOOK_SECRET_BYTES} characters or more, or "
                '"whsec_" and base64'
            ) from None
        config = replace(config, webhook_secret=secret)
    if config.webhook_hosts and not config.webhook_secret:
        raise ConfigError(
            "webhook_hosts is set, and nothing to sign with: set webhook_secret or "
            "webhook_secret_file too, the same on all nodes"
        )
    return config


def _line_of(
    path: PurePath, read: Callable[[PurePath], bytes | None], of: str, setting: str
) -> str:
    """The key in a file that holds nothing else.  Raises ConfigError."""
    content = read(path)
    if content is None:
        raise ConfigError(
            f"{of}: there is no file {path}; put the key in it, or take {setting} out"
        )
    key = content.decode("utf-8", "replace").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"{of}: {path} must hold one line, the key")
    return key


def _under(table: str, values: Mapping[str, object]) -> dict[str, Any]:
    prefix = table + "."
    return {key.removeprefix(prefix): v for key, v in values.items() if key.startswith(prefix)}
