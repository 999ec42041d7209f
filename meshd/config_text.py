"""The config file that a first start leaves behind, and the table of all settings.  Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from meshd.settings import (
    BACKEND_SETTINGS,
    GGUF_SETTINGS,
    OTHER_VARIABLES,
    SETTINGS,
    Setting,
)

_HEAD = """\
# meshd's settings. Everything here is commented out: these are the defaults.
# The environment (MESHD_PORT, ...) wins over this file, and flags over both.
# `meshd config check` tells whether it can be used.
"""

_TAIL = """
# Other names for models: a client that asks for "fast" gets the model behind it.
# [aliases]
# fast = "llama3.2:3b"

# Engines that are not found by themselves; one [[backend]] for each.
# [[backend]]
# url = "http://127.0.0.1:9000"
# slots = 4

# Model files to serve with the bundled engine; one [[engine.gguf]] for each.
# [[engine.gguf]]
# path = "/models/some-model.gguf"
# alias = "some-model"
"""


def first_config() -> bytes:
    """A file with every setting, its meaning and its default, all commented out."""
    lines = [_HEAD]
    table = ""
    for setting in SETTINGS:
        name, _, key = setting.key.rpartition(".")
        if name != table:
            lines.append(f"# [{name}]")
            table = name
        value = toml_value(setting.default)
        lines += [f"# {setting.help}", f"# {key} = {value if value else '...'}", ""]
    return ("\n".join(lines).rstrip("\n") + "\n" + _TAIL).encode()


def toml_value(value: object) -> str:
    """A default as it would be written in the file; empty if there is none."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def settings_table() -> str:
    """All settings as Markdown: `packaging/config.md`."""
    out = [
        "# Settings",
        "",
        "Written by `meshd config keys`. A flag wins over the environment, the environment over",
        "the file (`meshd paths` says where it is). What cannot be used is named with its line,",
        "and nothing starts.",
        "",
        "| key in the file | environment | default | what it does |",
        "|---|---|---|---|",
    ]
    for setting in SETTINGS:
        value = toml_value(setting.default)
        out.append(
            f"| `{setting.key}` | `{setting.variable}` | {f'`{value}`' if value else ''} "
            f"| {setting.help} Takes {setting.kind.wants}. |"
        )
    out += [
        "",
        "A list in an environment variable is written with commas. `[aliases]` maps the name that",
        'a client uses to a model: `fast = "llama3.2:3b"`.',
        "",
        "Other environment variables:",
        "",
        "| variable | what it is |",
        "|---|---|",
        *(f"| `{name}` | {what} |" for name, what in OTHER_VARIABLES),
    ]
    out += _list_table("[[backend]]", "an engine that is not found by itself", BACKEND_SETTINGS)
    out += _list_table("[[engine.gguf]]", "a model file for the bundled engine", GGUF_SETTINGS)
    return "\n".join(out) + "\n"


def _list_table(name: str, what: str, settings: Sequence[Setting]) -> list[str]:
    out = ["", f"`{name}`, {what}; as many as there are:", "", "| key | default | what it is |"]
    out.append("|---|---|---|")
    for setting in settings:
        value = toml_value(setting.default) if setting.default != "" else ""
        out.append(
            f"| `{setting.key}` | {f'`{value}`' if value else ''} "
            f"| {setting.help} Takes {setting.kind.wants}. |"
        )
    return out
