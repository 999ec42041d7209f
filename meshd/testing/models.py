"""Tiny models with generated weights, for tests and demos: real engines, known answers.

    python -m meshd.testing.models OUT.gguf [--kind counter|random|script] [--seed 1] ...

Standard library only; nothing is downloaded.  `build` is a pure function of its recipe: the same
bytes on every platform and Python (no libm function but sqrt takes part), about 0.7 MB and 0.1 s.

A model is a llama of two layers, 64 wide, F32, with a byte-level BPE vocabulary and a ChatML
template that knows tools.  Three kinds:

counter   Greedy decoding walks a fixed chain of made-up words (" bababa dababa fababa ...") and
          then ends the turn.  A lost, doubled or re-ordered token shows at once, and the last word
          says where an answer may be continued.  `expected_text` is the right answer.
script    The same with a chain of given strings, one token each: a real engine then says exactly
          that (reasoning tags, a tool call, half of a UTF-8 character per token).
random    Gaussian-like weights: the answer depends on the whole prompt and, with a temperature, on
          the seed.  It never ends the turn by itself.

How it works: residual dimension 0 is a constant that no layer writes (the rows of the output
projections that would write it are zero).  Output rows of chain words are 0 there and those of all
other tokens strongly negative, so only chain words can win.  In the chained kinds the output row
of word k points along the embedding of word k-1, and the layers add only a little noise, so k
follows k-1 by a margin that no rounding reaches.  Words re-tokenise to exactly their own ids.
Under a JSON grammar, which rules words out, what closes a structure soonest wins; a JSON string
holds the chain's last three pieces.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from meshd.testing.gguf import Tensor, Type, Value, encode


class ModelKind(StrEnum):
    """What greedy decoding of the model says."""

    COUNTER = "counter"
    RANDOM = "random"
    SCRIPT = "script"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the bytes of a model."""

    kind: ModelKind = ModelKind.COUNTER
    seed: int = 1
    words: int = 512
    """Length of the chain of made-up words (counter, random); at most 343,000."""
    context_tokens: int = 8192
    dim: int = 64
    """Width, a multiple of 8.  Ollama's last CPU wheel crashes above 192."""
    layers: int = 2
    name: str = "tiny"
    script: tuple[bytes, ...] = ()
    """The chain of a script model: distinct byte strings, one token each."""
    think_template: bool = False
    """Render `reasoning_content` in the template: engines then take the model to be thinking."""
    end_bias: float = -4.0
    """How unlikely a random model finds the end of the turn."""

    def __post_init__(self) -> None:
        if (self.kind is ModelKind.SCRIPT) != bool(self.script):
            raise ValueError("a script belongs to kind script, and only to it")
        if len(set(self.script)) != len(self.script) or b"" in self.script:
            raise ValueError("the pieces of a script must be distinct and not empty")
        if self.dim % 8 or self.dim < 8 or self.layers < 1:
            raise ValueError("dim must be a multiple of 8 and there must be a layer")
        if not 0 < self.words <= _LETTER_WORDS:
            raise ValueError(f"words must be from 1 to {_LETTER_WORDS}")


def chain(recipe: Recipe) -> list[bytes]:
    """The pieces that a chained model says, in order; the words a random model is made of."""
    if recipe.kind is ModelKind.SCRIPT:
        return list(recipe.script)
    return [(" " + _word(i)).encode() for i in range(recipe.words)]


def expected_text(
    recipe: Recipe | None = None, *, max_tokens: int | None = None, after: str = ""
) -> str:
    """What a chained model (default: counter) answers at temperature 0 to any chat.

    `max_tokens` cuts the answer there (finish_reason "length" unless the chain ended before);
    `after` is a part of the answer already given, which must end between two pieces.
    """
    recipe = recipe or Recipe()
    if recipe.kind is ModelKind.RANDOM:
        raise ValueError("a random model has no known answer")
    pieces = chain(recipe)
    said, start = b"", 0
    while said != after.encode():
        if start == len(pieces) or len(said) > len(after.encode()):
            raise ValueError(f"{after[-40:]!r} does not end between two pieces of the answer")
        said += pieces[start]
        start += 1
    stop = len(pieces) if max_tokens is None else start + max_tokens
    return b"".join(pieces[start:stop]).decode("utf-8", errors="replace")


def build(recipe: Recipe | None = None) -> bytes:
    """The model as a GGUF file (version 3)."""
    recipe = recipe or Recipe()
    vocabulary = _vocabulary(recipe)
    return encode(_metadata(recipe, vocabulary), _tensors(recipe, vocabulary))


# --- vocabulary

_CONSONANTS: Final = "bdfgklmnprstvz"
_VOWELS: Final = "aeiou"
_LETTER_WORDS: Final = (len(_CONSONANTS) * len(_VOWELS)) ** 3
_NEWLINE: Final = 10  # the byte token that ends "<|im_start|>assistant\n"
_SPECIALS: Final = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
_ROLES: Final = ("system", "user", "assistant", "tool")
_NORMAL: Final = 1
_CONTROL: Final = 3


def _word(index: int) -> str:
    """Three syllables that count, least significant first."""
    out = ""
    for _ in range(3):
        index, consonant = divmod(index, len(_CONSONANTS))
        index, vowel = divmod(index, len(_VOWELS))
        out += _CONSONANTS[consonant] + _VOWELS[vowel]
    return out


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
class _Vocabulary:
    tokens: list[str]
    types: list[int]
    alphabet: list[str]
    specials: dict[str, int]
    chain: list[int]

    @property
    def end(self) -> int:
        return self.specials["<|im_end|>"]


def _vocabulary(recipe: Recipe) -> _Vocabulary:
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
    return _Vocabulary(tokens, types, alphabet, specials, chained)


# --- weights

_NEVER: Final = -40.0
# Under a JSON grammar the words are ruled out; of what is left these win, so that objects close.
_CLOSING: Final = {'"': -36.0, "}": -37.0, "]": -37.0, ":": -38.0, ",": -38.0}
_CHAIN_GAIN: Final = 6.0
_QUOTE: Final = ord('"')
_QUOTE_BIAS: Final = -4.0  # below every word, save after the last one
_STRING_PIECES: Final = 3
_CONSTANT: Final = 0.5  # every token's residual dimension 0


class _Noise:
    """Normally distributed numbers, near enough: sums of four uniform ones.

    Only integer sums, one product and one rounding to F32, so that every platform agrees; Gaussian
    deviates would go through libm's log and cos, whose last bit differs.
    """

    _UNIT = 1.0 / (65536.0 / math.sqrt(3.0))  # the deviation of a sum of four 16-bit numbers

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def row(self, count: int, deviation: float) -> array[float]:
        raw = self._random.randbytes(8 * count)
        sums = struct.unpack(f"<{4 * count}H", raw)
        scale = deviation * self._UNIT
        return array(
            "f",
            [
                (a + b + c + d - 131070) * scale
                for a, b, c, d in zip(sums[::4], sums[1::4], sums[2::4], sums[3::4], strict=True)
            ],
        )


def _tensors(recipe: Recipe, vocabulary: _Vocabulary) -> list[Tensor]:
    noise = _Noise(recipe.seed)
    dim, hidden, heads_kv = recipe.dim, 2 * recipe.dim, recipe.dim // 2
    size = len(vocabulary.tokens)
    embeddings = [_unit_row(noise, dim) for _ in range(size)]
    outputs = _output_rows(recipe, vocabulary, embeddings, noise)
    ones = array("f", [1.0] * dim)

    def matrix(rows: int, columns: int, deviation: float, *, mute: bool = False) -> array[float]:
        """`mute`: row 0 is zero, so that the constant dimension is not written."""
        values = noise.row(rows * columns, deviation)
        if mute:
            values[:columns] = array("f", [0.0] * columns)
        return values

    unit = 1.0 / math.sqrt(dim)
    # How loud the layers are: in a chain a whisper, so that the last token alone decides.
    gain = 1.0 if recipe.kind is ModelKind.RANDOM else 0.02
    out = [
        Tensor("token_embd.weight", (dim, size), _concatenated(embeddings)),
        Tensor("output_norm.weight", (dim,), ones),
        Tensor("output.weight", (dim, size), _concatenated(outputs)),
    ]
    for layer in range(recipe.layers):
        block = f"blk.{layer}."
        out += [
            Tensor(block + "attn_norm.weight", (dim,), ones),
            Tensor(block + "attn_q.weight", (dim, dim), matrix(dim, dim, 2 * unit)),
            Tensor(block + "attn_k.weight", (dim, heads_kv), matrix(heads_kv, dim, 2 * unit)),
            Tensor(block + "attn_v.weight", (dim, heads_kv), matrix(heads_kv, dim, unit)),
            Tensor(
                block + "attn_output.weight", (dim, dim), matrix(dim, dim, unit * gain, mute=True)
            ),
            Tensor(block + "ffn_norm.weight", (dim,), ones),
            Tensor(block + "ffn_gate.weight", (dim, hidden), matrix(hidden, dim, unit)),
            Tensor(block + "ffn_up.weight", (dim, hidden), matrix(hidden, dim, unit)),
            Tensor(
                block + "ffn_down.weight",
                (hidden, dim),
                matrix(dim, hidden, gain / math.sqrt(hidden), mute=True),
            ),
        ]
    return out


def _unit_row(noise: _Noise, dim: int) -> array[float]:
    """A direction of length one in dimensions 1.., and the constant in dimension 0."""
    row = noise.row(dim, 1.0)
    row[0] = 0.0
    # fsum: exact, where sum()'s rounding changed between Python versions
    length = math.sqrt(math.fsum(x * x for x in row)) or 1.0
    row = array("f", [x / length for x in row])
    row[0] = _CONSTANT
    return row


def _output_rows(
    recipe: Recipe, vocabulary: _Vocabulary, embeddings: Sequence[array[float]], noise: _Noise
) -> list[array[float]]:
    size, dim = len(vocabulary.tokens), recipe.dim
    random_kind = recipe.kind is ModelKind.RANDOM
    if random_kind:
        rows = [noise.row(dim, 0.6) for _ in range(size)]
    else:
        rows = [array("f", [0.0] * dim) for _ in range(size)]
        previous = _NEWLINE
        for token in [*vocabulary.chain, vocabulary.end]:
            rows[token] = array("f", [_CHAIN_GAIN * x for x in embeddings[previous]])
            previous = token
    live = set(vocabulary.chain)
    for token in range(size):
        rows[token][0] = 0.0 if token in live else _NEVER
    for character, bias in _CLOSING.items():
        if ord(character) not in live:
            rows[ord(character)][0] = bias
    if not random_kind and _QUOTE not in live:
        # A JSON string opens into the end of the chain and is closed where the turn would end.
        entry = rows[vocabulary.chain[-_STRING_PIECES:][0]]
        for i in range(1, dim):
            entry[i] += _CHAIN_GAIN * embeddings[_QUOTE][i]
        rows[_QUOTE] = array("f", [_CHAIN_GAIN * x for x in embeddings[vocabulary.chain[-1]]])
        rows[_QUOTE][0] = _QUOTE_BIAS
    rows[vocabulary.end][0] = recipe.end_bias if random_kind else 0.0
    return rows


def _concatenated(rows: Sequence[array[float]]) -> array[float]:
    out = array("f")
    for row in rows:
        out.extend(row)
    return out


# --- the chat template (Jinja, ChatML with tools)

_THINKING: Final = (
    "{%- if m['reasoning_content'] -%}"
    "{{- '<think>' + m['reasoning_content'] + '</think>' -}}"
    "{%- endif -%}"
)


def _template(*, thinking: bool) -> str:
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


def _metadata(recipe: Recipe, vocabulary: _Vocabulary) -> dict[str, tuple[Type, Value]]:
    dim = recipe.dim
    newline = vocabulary.alphabet[_NEWLINE]
    return {
        "general.architecture": (Type.STRING, "llama"),
        "general.name": (Type.STRING, recipe.name),
        "general.description": (
            Type.STRING,
            f"generated weights, kind={recipe.kind}, seed={recipe.seed}",
        ),
        "general.file_type": (Type.U32, 0),
        "llama.context_length": (Type.U32, recipe.context_tokens),
        "llama.embedding_length": (Type.U32, dim),
        "llama.block_count": (Type.U32, recipe.layers),
        "llama.feed_forward_length": (Type.U32, 2 * dim),
        "llama.attention.head_count": (Type.U32, 4),
        "llama.attention.head_count_kv": (Type.U32, 2),
        "llama.rope.dimension_count": (Type.U32, dim // 4),
        "llama.rope.freq_base": (Type.F32, 10000.0),
        "llama.attention.layer_norm_rms_epsilon": (Type.F32, 1e-5),
        "llama.vocab_size": (Type.U32, len(vocabulary.tokens)),
        "tokenizer.ggml.model": (Type.STRING, "gpt2"),
        "tokenizer.ggml.pre": (Type.STRING, "llama-bpe"),  # looks whole words up before merging
        "tokenizer.ggml.tokens": (Type.ARRAY, vocabulary.tokens),
        "tokenizer.ggml.token_type": (Type.ARRAY, vocabulary.types),
        "tokenizer.ggml.merges": (Type.ARRAY, [f"{newline} {newline}"]),  # must not be empty
        "tokenizer.ggml.bos_token_id": (Type.U32, vocabulary.specials["<|bos|>"]),
        "tokenizer.ggml.eos_token_id": (Type.U32, vocabulary.end),
        "tokenizer.ggml.eot_token_id": (Type.U32, vocabulary.end),
        "tokenizer.ggml.padding_token_id": (Type.U32, vocabulary.specials["<|pad|>"]),
        "tokenizer.ggml.add_bos_token": (Type.BOOL, False),
        "tokenizer.ggml.add_eos_token": (Type.BOOL, False),
        "tokenizer.chat_template": (Type.STRING, _template(thinking=recipe.think_template)),
    }


# --- command line


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a model to a file."""
    default = Recipe()
    parser = argparse.ArgumentParser(
        prog="python -m meshd.testing.models",
        description="Write a tiny GGUF model with generated weights.",
    )
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--kind", choices=[k.value for k in ModelKind], default=default.kind.value)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--words", type=int, default=default.words)
    parser.add_argument("--context", type=int, default=default.context_tokens)
    parser.add_argument("--dim", type=int, default=default.dim)
    parser.add_argument("--layers", type=int, default=default.layers)
    parser.add_argument("--name", default=default.name)
    parser.add_argument("--script", help="JSON list of distinct strings, for --kind script")
    parser.add_argument("--latin1", action="store_true", help="script characters are single bytes")
    parser.add_argument("--think-template", action="store_true")
    options = parser.parse_args(arguments)
    encoding = "latin-1" if options.latin1 else "utf-8"
    script = json.loads(options.script) if options.script else []
    try:
        recipe = Recipe(
            kind=ModelKind(options.kind),
            seed=options.seed,
            words=options.words,
            context_tokens=options.context,
            dim=options.dim,
            layers=options.layers,
            name=options.name,
            script=tuple(str(piece).encode(encoding) for piece in script),
            think_template=options.think_template,
        )
    except ValueError as error:
        parser.error(f"{error}.")
    size_bytes = options.out.write_bytes(build(recipe))
    print(f"{options.out}: {size_bytes} bytes, kind={recipe.kind}, seed={recipe.seed}")


if __name__ == "__main__":
    main()
