"""Names of models: normal form, equality, near names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.modelnames import near, normalise, same


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("llama3.2", "llama3.2:latest"),
        ("llama3.2:latest", "llama3.2:latest"),
        ("Llama3.2:LATEST", "llama3.2:latest"),
        ("library/llama3.2", "llama3.2:latest"),
        (" tiny ", "tiny:latest"),
        ("qwen3:8b-q4_K_M", "qwen3:8b-q4_k_m"),
        ("org/Model-GGUF", "org/model-gguf:latest"),
        ("host:5000/ns/model", "host:5000/ns/model:latest"),
        ("host:5000/ns/model:v1", "host:5000/ns/model:v1"),
        ("/models/tiny.gguf", "/models/tiny.gguf:latest"),
    ],
)
def test_names_have_a_normal_form(name: str, normal: str) -> None:
    assert normalise(name) == normal


@given(st.text())
def test_the_normal_form_is_its_own_normal_form_unless_it_hides_another_prefix(name: str) -> None:
    once = normalise(name)
    if not once.startswith("library/") and once == once.strip():
        assert normalise(once) == once


def test_a_tag_tells_models_apart() -> None:
    assert same("llama3.2", "LLAMA3.2:latest")
    assert not same("llama3.2", "llama3.2:1b")


NAMES = ["llama3.2:latest", "llama3.2:1b", "qwen3:8b", "mistral-nemo:latest", "tiny"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("llama3.2:3b", ["llama3.2:1b", "llama3.2:latest"]),
        ("llama3", ["llama3.2:1b", "llama3.2:latest"]),
        ("lama3.2", ["llama3.2:1b", "llama3.2:latest"]),
        ("mistral", ["mistral-nemo:latest"]),
        ("Tiny", ["tiny"]),
        ("gpt-4o", []),
        ("", []),
    ],
)
def test_near_names_are_those_that_may_have_been_meant(wanted: str, expected: list[str]) -> None:
    assert near(wanted, NAMES) == expected


def test_no_more_than_asked_for() -> None:
    assert len(near("model", [f"model-{i}" for i in range(50)], n=2)) == 2
