"""What engines say about themselves and their models, read.  Pure.

Each engine's answers are JSON that nobody promised to keep: a field of another type than expected
counts as not given, and only an answer that is no object at all, or no list where the list must be,
raises `Unreadable`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from meshd.backends.failures import NOT_JSON
from meshd.digits import whole_number
from meshd.errors import ProtocolError
from meshd.inference import ModelInfo
from meshd.limits import MODEL_NAME_CHARS, MODELS_PER_BACKEND

_FIELD_CHARS: Final = 128
_LM_STUDIO_KINDS: Final = {
    "llm": ["completion"],
    "vlm": ["completion", "vision"],
    "embeddings": ["embedding"],
    "embedding": ["embedding"],
}
_THINKING_MARKS: Final = ("enable_thinking", "reasoning_content", "<think>", "reasoning_effort")


class Unreadable(ProtocolError):
    """An answer that is not what this engine answers."""


def json_object(body: bytes) -> dict[str, Any]:
    """An answer's body.  Raises Unreadable."""
    try:
        data = msgspec.json.decode(body)
    except NOT_JSON as error:
        raise Unreadable(f"its answer is not JSON ({error})") from None
    if not isinstance(data, dict):
        raise Unreadable("its answer is not a JSON object")
    return data


def text(data: Mapping[str, Any], name: str, max_chars: int = _FIELD_CHARS) -> str:
    """A string field, "" if it is none."""
    value = data.get(name)
    return value[:max_chars] if isinstance(value, str) else ""


def count(data: Mapping[str, Any], name: str) -> int:
    """A field that counts something, 0 if it does not."""
    value = data.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63:
        return value
    return 0


def table(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object field, {} if it is none."""
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def rows(data: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of objects.  Raises Unreadable if it is not there."""
    value = data.get(name)
    if value is None and name in data:
        return []  # Go's empty list
    if not isinstance(value, list):
        raise Unreadable(f"its answer has no list {name!r}")
    return [row for row in value if isinstance(row, dict)][:MODELS_PER_BACKEND]


def words(data: Mapping[str, Any], name: str) -> list[str]:
    """A list of short strings, [] if it is none."""
    value = data.get(name)
    if not isinstance(value, list):
        return []
    return [word[:_FIELD_CHARS] for word in value if isinstance(word, str)][:32]


# --- Ollama


def ollama_models(
    tags: Mapping[str, Any], ps: Mapping[str, Any], shown: Mapping[str, Mapping[str, Any]]
) -> list[ModelInfo]:
    """From /api/tags and /api/ps; `shown`: what `ollama_shown` made of each digest's /api/show.

    `context_tokens` is what a prompt may fill now: of the loaded runner, else what the model's own
    parameters ask for.  The length that it was trained on says nothing: Ollama loads less.
    """
    loaded = {text(row, "digest"): row for row in rows(ps, "models")}
    models = []
    for row in rows(tags, "models"):
        name, digest = text(row, "name", MODEL_NAME_CHARS), text(row, "digest")
        if not name or row.get("remote_host"):
            continue  # a cloud model: not on this machine
        details = table(row, "details")
        facts = shown.get(digest, {})
        running = loaded.get(digest)
        now = running or {}
        models.append(
            ModelInfo(
                name=name,
                digest=digest,
                size_bytes=count(row, "size"),
                resident=running is not None,
                context_tokens=count(now, "context_length") or count(facts, "num_ctx"),
                capabilities=words(row, "capabilities") or words(facts, "capabilities"),
                family=text(details, "family"),
                parameter_size=text(details, "parameter_size"),
                quantization=text(details, "quantization_level"),
                modified_unix_s=unix_s(text(row, "modified_at")),
                expires_unix_s=unix_s(text(now, "expires_at")),
                vram_bytes=count(now, "size_vram"),
                details={
                    key: details[key]
                    for key in ("format", "families")
                    if isinstance(details.get(key), str | list)
                },
            )
        )
    return models


def ollama_shown(show: Mapping[str, Any]) -> dict[str, Any]:
    """The lasting facts of /api/show: capabilities, and num_ctx from the model's parameters."""
    facts: dict[str, Any] = {"capabilities": words(show, "capabilities")}
    for line in text(show, "parameters", 64 * 1024).splitlines():
        name, _, value = line.strip().partition(" ")
        if name == "num_ctx" and (tokens := whole_number(value.strip())) is not None:
            facts["num_ctx"] = tokens
    return facts


def unix_s(moment: str) -> float:
    """RFC 3339 with any number of decimals; 0 for nonsense and for Go's zero time."""
    try:
        return max(0.0, datetime.fromisoformat(moment).timestamp())
    except (ValueError, OverflowError, OSError):
        return 0.0


# --- llama.cpp


def llama_models(
    models: Mapping[str, Any], props: Mapping[str, Any], *, embedding: bool
) -> list[ModelInfo]:
    """From /v1/models and /props; `embedding`: whether /v1/embeddings answers."""
    found = []
    for row in rows(models, "data"):
        name = text(row, "id", MODEL_NAME_CHARS)
        if not name:
            continue
        meta = table(row, "meta")
        status = text(table(row, "status"), "value")  # of the mode with several models
        settings = table(props, "default_generation_settings")
        found.append(
            ModelInfo(
                name=name,
                size_bytes=count(meta, "size"),
                resident=status in ("", "loaded"),
                context_tokens=count(settings, "n_ctx"),
                capabilities=_llama_capabilities(props, embedding) if not status else [],
                parameter_size=parameter_size(count(meta, "n_params")),
                quantization=text(meta, "ftype") or text(props, "model_ftype"),
                details={"format": "gguf"},
            )
        )
    return found


def llama_slots(props: Mapping[str, Any]) -> int:
    """How many requests it runs at once."""
    return count(props, "total_slots") or 1


def _llama_capabilities(props: Mapping[str, Any], embedding: bool) -> list[str]:
    capabilities = ["completion"]
    if table(props, "chat_template_caps").get("supports_tools") is True:
        capabilities.append("tools")
    if table(props, "modalities").get("vision") is True:
        capabilities.append("vision")
    template = text(props, "chat_template", 1024 * 1024)
    if any(mark in template for mark in _THINKING_MARKS):
        capabilities.append("thinking")
    if embedding:
        capabilities.append("embedding")
    return capabilities


def parameter_size(parameters: int) -> str:
    """As Ollama writes it: 173504 -> "174K", 8030261248 -> "8.0B"."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if parameters >= size:
            value = parameters / size
            return f"{value:.1f}{unit}" if unit == "B" else f"{value:.0f}{unit}"
    return str(parameters) if parameters else ""


# --- LM Studio


def lm_studio_models(listing: Mapping[str, Any]) -> tuple[list[ModelInfo], int]:
    """Models and slots from /api/v1/models, or from the older /api/v0/models."""
    if "models" in listing:
        return _lm_studio_v1(rows(listing, "models"))
    return _lm_studio_v0(rows(listing, "data")), 1


def _lm_studio_v1(found: Iterable[dict[str, Any]]) -> tuple[list[ModelInfo], int]:
    models, slots = [], 0
    for row in found:
        name = text(row, "key", MODEL_NAME_CHARS)
        if not name:
            continue
        instances = [i for i in row.get("loaded_instances") or () if isinstance(i, dict)]
        configs = [table(instance, "config") for instance in instances]
        slots = max([slots, *(count(config, "parallel") for config in configs)])
        capabilities = list(_LM_STUDIO_KINDS.get(text(row, "type"), []))
        can = table(row, "capabilities")
        if can.get("vision") is True and "vision" not in capabilities:
            capabilities.append("vision")
        if can.get("trained_for_tool_use") is True:
            capabilities.append("tools")
        if can.get("reasoning"):
            capabilities.append("thinking")
        models.append(
            ModelInfo(
                name=name,
                size_bytes=count(row, "size_bytes"),
                resident=bool(instances),
                context_tokens=max([0, *(count(config, "context_length") for config in configs)]),
                capabilities=capabilities,
                family=text(row, "architecture"),
                parameter_size=text(row, "params_string"),
                quantization=text(table(row, "quantization"), "name"),
                details={"format": text(row, "format")},
            )
        )
    return models, slots or 1


def _lm_studio_v0(found: Iterable[dict[str, Any]]) -> list[ModelInfo]:
    models = []
    for row in found:
        name = text(row, "id", MODEL_NAME_CHARS)
        if not name:
            continue
        capabilities = list(_LM_STUDIO_KINDS.get(text(row, "type"), []))
        if "tool_use" in words(row, "capabilities"):
            capabilities.append("tools")
        models.append(
            ModelInfo(
                name=name,
                resident=text(row, "state") == "loaded",
                context_tokens=count(row, "loaded_context_length"),
                capabilities=capabilities,
                family=text(row, "arch"),
                quantization=text(row, "quantization"),
                details={"format": text(row, "compatibility_type")},
            )
        )
    return models


# --- vLLM, mlx-lm, anything else


def openai_models(listing: Mapping[str, Any]) -> list[ModelInfo]:
    """From a plain /v1/models: names, and vLLM's context length.  Capabilities are not known.

    `created` is not used: llama.cpp and vLLM put the present time there.
    """
    found = rows(listing, "data")
    alone = len(found) == 1
    return [
        ModelInfo(
            name=name,
            resident=alone or bool(count(row, "max_model_len")),
            context_tokens=count(row, "max_model_len"),
        )
        for row in found
        if (name := text(row, "id", MODEL_NAME_CHARS))
    ]


# --- /api/show for engines that have none


def made_up_show(model: ModelInfo, template: str) -> dict[str, Any]:
    """Ollama's /api/show body from what is known of the model."""
    architecture = model.family or "llama"
    info: dict[str, Any] = {"general.architecture": architecture}
    if model.context_tokens:
        info[f"{architecture}.context_length"] = model.context_tokens
    return {
        "modelfile": f"# {model.name}\n",
        "parameters": "",
        "template": template,
        "details": {
            "parent_model": "",
            "format": str(model.details.get("format", "")),
            "family": model.family,
            "families": [model.family] if model.family else [],
            "parameter_size": model.parameter_size,
            "quantization_level": model.quantization,
        },
        "model_info": info,
        "capabilities": model.capabilities or ["completion"],
    }
