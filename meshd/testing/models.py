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

Words re-tokenise to exactly their own ids.  How the weights do it is in `model_weights`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from meshd.testing.gguf import Type, Value, encode
from meshd.testing.model_recipe import ModelKind, Recipe, chain, expected_text
from meshd.testing.model_text import NEWLINE, Vocabulary, chat_template, vocabulary_of
from meshd.testing.model_weights import tensors_of

__all__ = ["ModelKind", "Recipe", "build", "chain", "expected_text", "main"]


def build(recipe: Recipe | None = None) -> bytes:
    """The model as a GGUF file (version 3)."""
    recipe = recipe or Recipe()
    vocabulary = vocabulary_of(recipe)
    return encode(_metadata(recipe, vocabulary), tensors_of(recipe, vocabulary))


def _metadata(recipe: Recipe, vocabulary: Vocabulary) -> dict[str, tuple[Type, Value]]:
    dim = recipe.dim
    newline = vocabulary.alphabet[NEWLINE]
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
        "tokenizer.chat_template": (Type.STRING, chat_template(thinking=recipe.think_template)),
    }


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
