"""A tool that tells the weather, and a model that calls it."""

from __future__ import annotations

from meshd.testing.models import ModelKind, Recipe

CALLING = Recipe(
    kind=ModelKind.SCRIPT,
    script=(
        b"<tool_call>\n",
        b'{"name": "get_weather", "arguments":',
        b' {"city": "Oslo"}}',
        b"\n</tool_call>",
    ),
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
