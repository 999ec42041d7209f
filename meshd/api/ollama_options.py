"""Ollama's `options`: the typed names, and which of them have a field in `Sampling`.  Pure.

Names and types are those of Ollama's own Options (api/types.go).  Ollama answers a wrong type with
500 and ignores unknown names; here a wrong type is the client's mistake, 400, and unknown names
travel on to engines that may know them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from meshd.api.body import INT64_MAX, INT64_MIN, BadField, check_free, check_stop
from meshd.inference import Sampling

_INTEGERS: Final = frozenset(
    {
        "num_keep",
        "seed",
        "num_predict",
        "top_k",
        "repeat_last_n",
        "mirostat",
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
    }
)
_NUMBERS: Final = frozenset(
    {
        "top_p",
        "min_p",
        "tfs_z",
        "typical_p",
        "temperature",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
        "mirostat_tau",
        "mirostat_eta",
    }
)
_BOOLEANS: Final = frozenset(
    {
        "numa",
        "low_vram",
        "f16_kv",
        "logits_all",
        "vocab_only",
        "use_mmap",
        "use_mlock",
        "penalize_newline",
        "embedding_only",
    }
)
_SAMPLED: Final = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "repeat_penalty",
    }
)


def split_options(options: Mapping[str, Any] | None) -> tuple[Sampling, dict[str, Any]]:
    """What every engine knows, and the rest as it is.  Raises BadField.

    A `num_predict` of 0 or less (Ollama's "until the model stops" and "until the context is
    full") stays among the rest: no other engine has those words.
    """
    if not options:
        return Sampling(), {}
    sampled: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in options.items():
        if value is None:
            continue
        checked = _check(name, value)
        if name in _SAMPLED:
            sampled[name] = checked
        elif name == "num_predict" and checked > 0:
            sampled["max_tokens"] = checked
        elif name == "stop":
            sampled["stop"] = check_stop(checked, 'option "stop"')
        else:
            rest[name] = checked
    return msgspec.convert(sampled, Sampling), rest


def _check(name: str, value: Any) -> Any:
    if name in _INTEGERS:
        # JSON from languages with one number type: 100.0 is an integer.
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise _wrong(name, "integer")
        if not INT64_MIN <= value <= INT64_MAX:
            raise BadField(f'option "{name}" does not fit 64 bits', "options")
        return value
    if name in _NUMBERS:
        if type(value) is not float and type(value) is not int:
            raise _wrong(name, "float32")
        return float(value)
    if name in _BOOLEANS:
        if type(value) is not bool:
            raise _wrong(name, "boolean")
        return value
    if name == "stop":
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise _wrong(name, "array of strings")
        return value
    check_free(value, f'option "{name[:64]}"')
    return value


def _wrong(name: str, kind: str) -> BadField:
    return BadField(f'option "{name}" must be of type {kind}', "options")
