"""How text goes into a tiny model: its tokens, and the template that renders a chat in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meshd.testing.model_recipe import Recipe, chain

NEWLINE: Final = 10
"""The byte token that ends "<|im_start|>assistant\\n"."""
_SPECIALS: Final = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
_ROLES: Final = ("system", "user", "assistant", "tool")
_NORMAL: Final = 1
_CONTROL: Final = 3


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    out, spare = [], 256
    for byte in range(256):
        if byte in printable:
            out.append(chr(byte))
        else:
            out.append(chr(spare))
            spare += 1
    return out


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of one model; a token's id is its place."""

    tokens: list[str]
    types: list[int]
    alphabet: list[str]
    """The printable stand-in for each byte; its first 256 tokens."""
    specials: dict[str, int]
    chain: list[int]
    """The ids of `chain(recipe)`, in order."""

    @property
    def end(self) -> int:
        """The id that ends the turn."""
        return self.specials["<|im_end|>"]


def vocabulary_of(recipe: Recipe) -> Vocabulary:
    """Every byte, the marks of a chat and its roles, and the pieces of the chain."""
    alphabet = _byte_alphabet()
    tokens = list(alphabet)
    specials = {text: 256 + i for i, text in enumerate(_SPECIALS)}
    tokens += [*_SPECIALS, *_ROLES]
    types = [_NORMAL] * 256 + [_CONTROL] * len(_SPECIALS) + [_NORMAL] * len(_ROLES)
    ids = {text: i for i, text in enumerate(tokens)}
    chained = []
    for piece in chain(recipe):
        text = "".join(alphabet[byte] for byte in piece)
        if text not in ids:  # a piece of one byte is in the alphabet already
            ids[text] = len(tokens)
            tokens.append(text)
            types.append(_NORMAL)
        chained.append(ids[text])
    return Vocabulary(tokens, types, alphabet, specials, chained)


_THINKING: Final = (
    "{%- if m['reasoning_content'] -%}"
    "{{- '<think>' + m['reasoning_content'] + '</think>' -}}"
    "{%- endif -%}"
)


def chat_template(*, thinking: bool) -> str:
    """In Jinja: ChatML with tools; `thinking` renders `reasoning_content` too."""
    # Tool calls are written as the Hermes family of models does: engines know to parse that.
    lines = (
        "{%- if tools -%}",
        "{{- '<|im_start|>system\\n' -}}",
        "{%- if messages[0]['role'] == 'system' -%}",
        "{{- messages[0]['content'] + '\\n' -}}",
        "{%- endif -%}",
        "{{- '<tools>' -}}",
        "{%- for t in tools -%}{{- '\\n' -}}{{- t | tojson -}}{%- endfor -%}",
        "{{- '\\n</tools>\\nCall one as <tool_call>\\n'",
        ' + \'{"name": <name>, "arguments": <object>}\'',
        " + '\\n</tool_call><|im_end|>\\n' -}}",
        "{%- endif -%}",
        "{%- for m in messages -%}",
        "{%- if m['role'] == 'tool' -%}",
        "{{- '<|im_start|>user\\n<tool_response>\\n' + m['content'] -}}",
        "{{- '\\n</tool_response><|im_end|>\\n' -}}",
        "{%- elif not (tools and loop.first and m['role'] == 'system') -%}",
        "{{- '<|im_start|>' + m['role'] + '\\n' -}}",
        _THINKING if thinking else "",
        "{%- if m['content'] -%}{{- m['content'] -}}{%- endif -%}",
        "{%- if m['tool_calls'] -%}{%- for c in m['tool_calls'] -%}",
        "{%- if c['function'] -%}{%- set c = c['function'] -%}{%- endif -%}",
        "{{- '\\n<tool_call>\\n{\"name\": \"' + c['name'] + '\", \"arguments\": ' -}}",
        "{{- c['arguments'] | tojson -}}{{- '}\\n</tool_call>' -}}",
        "{%- endfor -%}{%- endif -%}",
        "{{- '<|im_end|>\\n' -}}",
        "{%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}",
    )
    return "".join(lines)
