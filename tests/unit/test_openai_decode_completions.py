"""OpenAI's completions and embeddings: what each field becomes, and how it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from meshd import limits
from meshd.inference import Kind, Request
from tests.unit.openai_bodies import (
    COMPLETIONS,
    EMBEDDINGS,
    decode,
    refused,
)


def test_a_completion_is_a_raw_prompt() -> None:
    call = decode(COMPLETIONS, {"model": "tiny", "prompt": "once", "max_tokens": 3, "logprobs": 2})
    request = call.request
    assert (request.kind, request.prompt, request.raw) == (Kind.COMPLETION, "once", True)
    assert (request.sampling.max_tokens, request.logprobs, request.top_logprobs) == (3, True, 2)
    assert decode(COMPLETIONS, {"model": "t", "prompt": ["once"]}).request.prompt == "once"


def test_a_suffix_asks_for_the_models_own_template() -> None:
    request = decode(COMPLETIONS, {"model": "t", "prompt": "a", "suffix": "b"}).request
    assert (request.suffix, request.raw) == ("b", False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1]]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [None]}, "prompt"),
        ({"echo": True}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"n": 4}, "n"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_fields_of_a_completion_that_cannot_be_used_are_named(
    fields: dict[str, Any], param: str
) -> None:
    error = refused(COMPLETIONS, {"model": "m", "prompt": "x", **fields})
    assert error["param"] == param


def test_embeddings_take_one_text_or_several() -> None:
    request = decode(EMBEDDINGS, {"model": "e", "input": "a", "dimensions": 8}).request
    assert request == Request(Kind.EMBED, "e", inputs=["a"], dimensions=8)
    request = decode(EMBEDDINGS, {"model": "e", "input": ["a", "b"], "user": "u"}).request
    assert (request.inputs, request.extra) == (["a", "b"], {"user": "u"})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": None}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1]]}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["x"] * (limits.EMBED_INPUTS + 1)}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
    ],
)
def test_fields_of_an_embedding_that_cannot_be_used_are_named(
    fields: dict[str, Any], param: str
) -> None:
    assert refused(EMBEDDINGS, {"model": "e", "input": "x", **fields})["param"] == param
