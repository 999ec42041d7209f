"""Every setting that a person can give: its name, its type, its default, what it does.  Pure.

One table, read by `config.py` (validation), by the commented file that the first start leaves
behind, and by `meshd config keys`.  `packaging/config.md` is generated from it too.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshd import limits
from meshd.setting_kinds import (
    Kind,
    choice,
    own_addresses,
    path,
    seconds,
    switch,
    text,
    texts,
    url,
    webhook_secret,
    whole,
)

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "text", "logfmt", "json")
VOTER_WISHES = ("auto", "always", "never")
POLICIES = ("predicted", "least_busy", "round_robin", "random")
ENGINES = ("ollama", "llama.cpp", "lmstudio", "vllm", "sglang", "mlx", "openai")


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
