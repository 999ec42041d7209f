"""One request and one answer, in the one internal form.  Pure.

Every client dialect is decoded into a `Request` and every engine's stream into `Delta`s, so that
N dialects and M engines need N + M translations.  The same structs cross the peer link (msgpack,
via msgspec), so fields are only ever added, with defaults.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Kind(StrEnum):
    """What is asked of the model."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBED = "embed"


class Image(msgspec.Struct, frozen=True, omit_defaults=True):
    """A picture in a message."""

    data: str
    """Base64, no data: prefix."""
    media_type: str = "image/png"


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call of a tool.  In a delta: a fragment; `arguments` fragments concatenate per index."""

    index: int = 0
    id: str = ""
    name: str = ""
    arguments: str = ""
    """JSON text of the arguments object (or a fragment of it)."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation."""

    role: str
    text: str = ""
    images: list[Image] = []
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    tool_call_id: str = ""
    name: str = ""
    """The tool's or speaker's name, where the dialect has one."""


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How tokens are chosen.  None: the engine's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    stop: list[str] = []


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is to be done, whoever asked and whoever does it."""

    kind: Kind
    model: str
    """As the client named it."""
    messages: list[Message] = []
    prompt: str = ""
    """COMPLETION only."""
    suffix: str = ""
    system: str = ""
    """COMPLETION in Ollama's dialect: replaces the model's system prompt."""
    template: str = ""
    raw: bool = False
    """COMPLETION: the prompt is used as it is, no template (OpenAI's /v1/completions is raw)."""
    images: list[Image] = []
    """COMPLETION in Ollama's dialect."""
    inputs: list[str] = []
    """EMBED: one vector each."""
    dimensions: int | None = None
    truncate: bool | None = None
    normalise: bool = True
    """EMBED: vectors of length one (Ollama's old /api/embeddings does not)."""
    sampling: Sampling = Sampling()
    tools: list[dict[str, Any]] = []
    """OpenAI's (and Ollama's) form: {"type": "function", "function": {...}}."""
    tool_choice: str | dict[str, Any] | None = None
    json_schema: dict[str, Any] | None = None
    json_mode: bool = False
    """Any JSON object; a schema in `json_schema` says which."""
    json_schema_name: str = ""
    logprobs: bool = False
    top_logprobs: int = 0
    think: bool | str | None = None
    """None: the engine's default; or "low", "medium", "high"."""
    keep_alive: str | int | float | None = None
    """Ollama: how long the model stays loaded; `0` with no messages unloads."""
    options: dict[str, Any] = {}
    """Ollama's runner options with no field above (num_ctx, mirostat, ...)."""
    extra: dict[str, Any] = {}
    """OpenAI's fields with no field above (logit_bias, user, ...): OpenAI engines get them."""
    partial: str = ""
    """What was said of this very answer before it broke off: the engine is to go on after it, and
    one that cannot refuses."""
    partial_reasoning: str = ""
    """What was thought before that; without `partial`: it broke off in the middle of a thought."""
    partial_tokens: int = 0
    """So many tokens both were counted as: `max_tokens` is what is left without them."""

    def goes_on(self) -> bool:
        """Whether a part of the answer was said already."""
        return bool(self.partial or self.partial_reasoning)


class TokenLogprob(msgspec.Struct, frozen=True, omit_defaults=True):
    """One token's log-probability; `top` holds the alternatives."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top: list[TokenLogprob] = []


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of an answer.  `finish_reason` is set once, on the last: then it is complete.

    finish_reason: "stop" | "length" | "tool_calls" | "load" | "unload" | what else an engine says.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    logprobs: list[TokenLogprob] = []
    finish_reason: str | None = None

    def has_content(self) -> bool:
        """Whether a client that gets this has been given a part of the answer."""
        return bool(self.text or self.reasoning or self.tool_calls)


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Counts and times of one run, as far as the engine tells; times in nanoseconds (Ollama's)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_ns: int = 0
    load_ns: int = 0
    prompt_ns: int = 0
    completion_ns: int = 0
    spent_prompt_tokens: int = 0
    """Over all runs that it took; 0: it was one.  Entries alone know."""
    spent_completion_tokens: int = 0


class Embedding(msgspec.Struct, frozen=True):
    """The answer to an EMBED request: one vector for each input, in order."""

    vectors: list[list[float]]
    prompt_tokens: int = 0


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an attempt ended without an answer, in a form that travels.

    kind: see `FailureKind`.  status: the HTTP status a client should see.
    """

    kind: str
    message: str
    status: int = 502
    retry_after_s: float | None = None


class FailureKind(StrEnum):
    """What the relay decides on.  Strings unknown to an old node are treated as `BACKEND`."""

    BAD_REQUEST = "bad_request"  # 400: the request itself; another holder would say the same
    UNSUPPORTED = "unsupported"  # 400: this engine or model cannot do it; another might
    NOT_FOUND = "not_found"  # 404: this holder has no such model (stale inventory)
    CONTEXT_OVERFLOW = "context_overflow"  # 400: does not fit here; a larger context might
    BUSY = "busy"  # 503: no slot within the wait allowed; carries load
    DRAINING = "draining"  # 503: this node is on its way out
    UNREACHABLE = "unreachable"  # 503: the holder could not be dialled; its node is the suspect
    ENGINE_AWAY = "engine_away"  # 503: its engine could not be dialled, or has stopped; none ran
    BROKEN = "broken"  # the engine's stream ended before finish_reason was seen
    HOLDER_LOST = "holder_lost"  # the link to the holder broke, or it fell silent
    SILENT = "silent"  # a watchdog ran out: first token or between tokens
    BACKEND = "backend"  # 5xx of the engine
    CANCELLED = "cancelled"  # the entry asked for it
    DEADLINE = "deadline"  # 504: the client's own deadline
    NO_ROOM = "no_room"  # 503: the entry's memory for whole answers is spent; never on the link
    DIVERGED = "diverged"  # a repeated run said something else; never on the link


def known_kind(kind: str) -> FailureKind:
    """The kind; what a later version may have added counts as `BACKEND`."""
    try:
        return FailureKind(kind)
    except ValueError:
        return FailureKind.BACKEND


class ModelInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model that one backend of one node offers."""

    name: str
    """As the engine lists it, e.g. "llama3.2:latest" or "tiny"."""
    digest: str = ""
    """Ollama: hex SHA-256 of the manifest; bundled engine: "gguf-" + SHA-256 of the file."""
    size_bytes: int = 0
    resident: bool = False
    context_tokens: int = 0
    """0: not known."""
    capabilities: list[str] = []
    """As far as known: completion, tools, vision, embedding, thinking, insert."""
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""
    modified_unix_s: float = 0.0
    expires_unix_s: float = 0.0
    """Resident until then (Ollama); 0: not known."""
    vram_bytes: int = 0
    details: dict[str, Any] = {}
    continues: bool | None = None
    """Its engine can go on with an answer that another one began; None: not tried yet."""


class BackendInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One engine of a node, as the mesh is told of it.  No URL: nobody else needs it."""

    id: str
    """Stable within the node: e.g. "ollama-11434"."""
    engine: str
    """ollama | llama.cpp | lmstudio | vllm | sglang | mlx | openai."""
    version: str = ""
    slots: int = 1
    """Requests it runs at once."""
    models: list[ModelInfo] = []


class Inventory(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that a node offers.  `revision` grows with each change within a generation."""

    node: str
    generation: int
    revision: int
    backends: list[BackendInfo] = []


class Load(msgspec.Struct, frozen=True, omit_defaults=True):
    """How busy a node is: rides on every peer response and, small, on gossip."""

    running: int = 0
    queued: int = 0
    slots: int = 0
    draining: bool = False
    per_model: dict[str, ModelLoad] = {}


class ModelLoad(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model's share of a node's load, with the rates measured there (0: not known)."""

    running: int = 0
    queued: int = 0
    slots: int = 0
    resident: bool = False
    decode_tokens_per_s: float = 0.0
    prefill_tokens_per_s: float = 0.0
    load_s: float = 0.0
