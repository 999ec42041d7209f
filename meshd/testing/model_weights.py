"""The weights of a tiny model: why the next word of its chain always wins.

Residual dimension 0 is a constant that no layer writes (the rows of the output projections that
would write it are zero).  Output rows of chain words are 0 there and those of all other tokens
strongly negative, so only chain words can win.  In the chained kinds the output row of word k
points along the embedding of word k-1, and the layers add only a little noise, so k follows k-1 by
a margin that no rounding reaches.  Under a JSON grammar, which rules words out, what closes a
structure soonest wins; a JSON string holds the chain's last three pieces.
"""

from __future__ import annotations

import math
import random
import struct
from array import array
from collections.abc import Sequence
from typing import Final

from meshd.testing.gguf import Tensor
from meshd.testing.model_recipe import ModelKind, Recipe
from meshd.testing.model_text import NEWLINE, Vocabulary

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


def tensors_of(recipe: Recipe, vocabulary: Vocabulary) -> list[Tensor]:
    """All tensors of a model, in the order of the file."""
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
    recipe: Recipe, vocabulary: Vocabulary, embeddings: Sequence[array[float]], noise: _Noise
) -> list[array[float]]:
    size, dim = len(vocabulary.tokens), recipe.dim
    random_kind = recipe.kind is ModelKind.RANDOM
    if random_kind:
        rows = [noise.row(dim, 0.6) for _ in range(size)]
    else:
        rows = [array("f", [0.0] * dim) for _ in range(size)]
        previous = NEWLINE
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
