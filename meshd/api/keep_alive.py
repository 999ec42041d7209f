"""How long a model stays loaded, as Ollama's clients write it.  Pure."""

from __future__ import annotations

import re
from typing import Final

from meshd.api.body import INT64_MAX, INT64_MIN, BadField

# The durations of Go's time.ParseDuration: "5m", "1h30m", "-1s", "1.5h", and a bare "0".
_DURATION: Final = re.compile(
    r"[-+]?(?:0|(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+)\Z"
)
_DURATION_CHARS: Final = 64


def check_keep_alive(value: str | int | float | bool | None) -> str | int | float | None:
    """The value if Ollama would take it: seconds, or a Go duration; negative is for ever."""
    if value is None:
        return None
    if isinstance(value, bool):
        raise BadField("keep_alive must be a number of seconds or a duration", "keep_alive")
    if isinstance(value, str):
        if len(value) > _DURATION_CHARS or not _DURATION.match(value):
            raise BadField(f'keep_alive: time: invalid duration "{value[:64]}"', "keep_alive")
        return value
    if not INT64_MIN <= value <= INT64_MAX:
        raise BadField("keep_alive does not fit 64 bits", "keep_alive")
    return value
