"""What engines say about their models, and vectors."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from meshd.backends import BackendFailed, listing, vectors
from meshd.errors import ProtocolError
from meshd.inference import Kind, ModelInfo, Request

TAGS = {
    "models": [
        {
            "name": "tiny:latest",
            "model": "tiny:latest",
            "modified_at": "2026-11-20T10:00:00.123456789Z",
            "size": 711392,
            "digest": "ab" * 32,
            "details": {
                "parent_model": "/home/ada/.ollama/models/blobs/sha256-00",
                "format": "gguf",
                "family": "llama",
                "families": ["llama"],
                "parameter_size": "174K",
                "quantization_level": "F32",
            },
        }
    ]
}
PS = {
    "models": [
        {"digest": "ab" * 32, "size_vram": 5, "expires_at": "2026-11-20T10:05:00Z"},
    ]
}


def test_an_ollama_model_that_is_not_loaded() -> None:
    facts = {"ab" * 32: {"num_ctx": 2048, "capabilities": ["completion", "tools"]}}
    (model,) = listing.ollama_models(TAGS, {"models": []}, facts)
    assert model == ModelInfo(
        "tiny:latest",
        digest="ab" * 32,
        size_bytes=711392,
        resident=False,
        context_tokens=2048,
        capabilities=["completion", "tools"],
        family="llama",
        parameter_size="174K",
        quantization="F32",
        modified_unix_s=pytest.approx(1795168800.123456),
        details={"format": "gguf", "families": ["llama"]},
    )


def test_an_ollama_model_that_is_loaded() -> None:
    (model,) = listing.ollama_models(TAGS, PS, {})
    assert model.resident
    assert (model.vram_bytes, model.expires_unix_s) == (5, 1795169100.0)
    assert model.context_tokens == 0, "nobody said how much was loaded"
    newer = {"models": [{**PS["models"][0], "context_length": 4096}]}
    (model,) = listing.ollama_models(TAGS, newer, {"ab" * 32: {"num_ctx": 2048}})
    assert model.context_tokens == 4096


def test_cloud_models_are_not_offered() -> None:
    remote = {"models": [{**TAGS["models"][0], "remote_host": "https://elsewhere"}]}
    assert listing.ollama_models(remote, PS, {}) == []


def test_no_models_at_all() -> None:
    assert listing.ollama_models({"models": None}, {"models": []}, {}) == []


def test_what_lasts_of_ollamas_show() -> None:
    shown = {"capabilities": ["completion"], "parameters": 'num_ctx    2048\nstop    "x"\n'}
    assert listing.ollama_shown(shown) == {"capabilities": ["completion"], "num_ctx": 2048}
    assert listing.ollama_shown({"parameters": 5}) == {"capabilities": []}


PROPS: dict[str, Any] = {
    "default_generation_settings": {"n_ctx": 4096},
    "total_slots": 4,
    "chat_template": "{% if enable_thinking %}",
    "chat_template_caps": {"supports_tools": True},
    "modalities": {"vision": True, "audio": False},
}
MODELS: dict[str, Any] = {
    "data": [{"id": "tiny", "meta": {"size": 694016, "n_params": 173504, "ftype": "all F32"}}]
}


def test_a_llama_cpp_model() -> None:
    (model,) = listing.llama_models(MODELS, PROPS, embedding=True)
    assert model == ModelInfo(
        "tiny",
        size_bytes=694016,
        resident=True,
        context_tokens=4096,
        capabilities=["completion", "tools", "vision", "thinking", "embedding"],
        parameter_size="174K",
        quantization="all F32",
        details={"format": "gguf"},
    )
    assert listing.llama_slots(PROPS) == 4


def test_llama_cpp_with_several_models_says_which_are_loaded() -> None:
    several = {
        "data": [
            {"id": "a", "status": {"value": "loaded"}},
            {"id": "b", "status": {"value": "unloaded"}},
        ]
    }
    models = listing.llama_models(several, {}, embedding=False)
    assert [(m.name, m.resident, m.capabilities) for m in models] == [
        ("a", True, []),
        ("b", False, []),
    ]
    assert listing.llama_slots({}) == 1


def test_lm_studio_new() -> None:
    row = {
        "type": "llm",
        "key": "qwen/qwen3-8b",
        "architecture": "qwen3",
        "quantization": {"name": "Q4_K_M"},
        "size_bytes": 5_000_000_000,
        "params_string": "8B",
        "loaded_instances": [{"id": "x", "config": {"context_length": 8192, "parallel": 4}}],
        "format": "gguf",
        "capabilities": {"vision": False, "trained_for_tool_use": True},
    }
    (model,), slots = listing.lm_studio_models({"models": [row]})
    assert slots == 4
    assert model == ModelInfo(
        "qwen/qwen3-8b",
        size_bytes=5_000_000_000,
        resident=True,
        context_tokens=8192,
        capabilities=["completion", "tools"],
        family="qwen3",
        parameter_size="8B",
        quantization="Q4_K_M",
        details={"format": "gguf"},
    )


def test_lm_studio_old() -> None:
    row = {
        "id": "m",
        "type": "vlm",
        "arch": "llava",
        "quantization": "Q4",
        "state": "not-loaded",
        "max_context_length": 32768,
        "capabilities": ["tool_use"],
    }
    (model,), slots = listing.lm_studio_models({"data": [row]})
    assert slots == 1
    assert (model.resident, model.context_tokens) == (False, 0)
    assert model.capabilities == ["completion", "vision", "tools"]


def test_a_plain_list_of_models() -> None:
    (model,) = listing.openai_models({"data": [{"id": "m", "max_model_len": 4096, "created": 1}]})
    assert model == ModelInfo("m", resident=True, context_tokens=4096)
    assert not any(m.resident for m in listing.openai_models({"data": [{"id": "a"}, {"id": "b"}]}))


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"\xff"])
def test_an_answer_that_is_no_object_is_unreadable(body: bytes) -> None:
    with pytest.raises(listing.Unreadable):
        listing.json_object(body)


@pytest.mark.parametrize("data", [{}, {"data": 3}, {"data": {"id": "m"}}])
def test_a_list_that_is_none_is_unreadable(data: dict[str, Any]) -> None:
    with pytest.raises(listing.Unreadable):
        listing.openai_models(data)


def test_fields_of_other_types_count_as_not_given() -> None:
    row = {"id": "m", "max_model_len": "many", "owned_by": 7}
    models = listing.openai_models({"data": [row, "no row", {"id": 5}, {"id": ""}]})
    assert models == [ModelInfo("m")]


@pytest.mark.parametrize(
    ("moment", "unix_s"),
    [
        ("2026-11-20T10:00:00Z", 1795168800.0),
        ("2026-11-20T11:00:00+01:00", 1795168800.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("tomorrow", 0.0),
        ("", 0.0),
    ],
)
def test_times(moment: str, unix_s: float) -> None:
    assert listing.unix_s(moment) == unix_s


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [(173_504, "174K"), (8_030_261_248, "8.0B"), (494_032_768, "494M"), (12, "12"), (0, "")],
)
def test_parameter_sizes_are_written_as_ollama_does(parameters: int, shown: str) -> None:
    assert listing.parameter_size(parameters) == shown


def test_a_show_for_engines_that_have_none() -> None:
    model = ModelInfo("tiny", context_tokens=4096, family="qwen3", capabilities=["completion"])
    shown = listing.made_up_show(model, "{{ x }}")
    assert shown["model_info"] == {"general.architecture": "qwen3", "qwen3.context_length": 4096}
    assert shown["template"] == "{{ x }}"
    assert shown["capabilities"] == ["completion"]


# --- vectors


def embed(*inputs: str, **changed: Any) -> Request:
    return Request(Kind.EMBED, "tiny", inputs=list(inputs), **changed)


def openai_body(*rows: list[float]) -> bytes:
    data = [{"embedding": row, "index": i, "object": "embedding"} for i, row in enumerate(rows)]
    return msgspec.json.encode({"data": data[::-1], "usage": {"prompt_tokens": 5}})


def test_vectors_are_in_the_order_of_the_inputs_and_of_length_one() -> None:
    result = vectors.from_openai(openai_body([3.0, 4.0], [0.0, 2.0]), embed("a", "b"))
    assert result.vectors == [[0.6, 0.8], [0.0, 1.0]]
    assert result.prompt_tokens == 5


def test_vectors_as_they_are() -> None:
    result = vectors.from_openai(openai_body([3.0, 4.0]), embed("a", normalise=False))
    assert result.vectors == [[3.0, 4.0]]


def test_a_zero_vector_stays_zero() -> None:
    assert vectors.from_openai(openai_body([0.0]), embed("a")).vectors == [[0.0]]


def test_fewer_dimensions_are_the_first_ones_at_length_one() -> None:
    body = b'{"embeddings":[[0.6,0.0,0.8]],"prompt_eval_count":2}'
    (vector,) = vectors.from_ollama(body, embed("a", dimensions=2)).vectors
    assert vector == [1.0, 0.0]
    assert math.hypot(*vector) == pytest.approx(1.0)


def test_more_dimensions_than_there_are_is_refused() -> None:
    with pytest.raises(BackendFailed, match="2 dimensions, not 3"):
        vectors.from_openai(openai_body([3.0, 4.0]), embed("a", dimensions=3))


@pytest.mark.parametrize("body", [b"", b"{}", b'{"data":[]}', b'{"data":[{"embedding":["x"]}]}'])
def test_an_answer_without_the_vectors_is_no_answer(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        vectors.from_openai(body, embed("a"))


def test_ollamas_old_endpoint() -> None:
    assert vectors.from_old_ollama(b'{"embedding":[3.0,4.0]}') == [3.0, 4.0]
