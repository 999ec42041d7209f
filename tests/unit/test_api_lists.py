"""The lists of models: the union over the mesh, each name once."""

from __future__ import annotations

import json
from typing import Any

from meshd.api.dialect import not_found
from meshd.api.lists import (
    Listing,
    Offer,
    listed,
    ollama_ps,
    ollama_tags,
    openai_model,
    openai_models,
    version,
)
from meshd.inference import ModelInfo

A, B = "a" * 64, "b" * 64


def offer(node: str, name: str, digest: str = "", engine: str = "ollama", **info: Any) -> Offer:
    return Offer(node, engine, ModelInfo(name, digest, **info))


def models(body: bytes) -> list[Any]:
    content = json.loads(body)
    return list(content.get("data", content.get("models")))


def test_an_empty_mesh_has_empty_lists() -> None:
    empty = Listing([])
    assert openai_models(empty) == b'{"object":"list","data":[]}'
    assert ollama_tags(empty) == b'{"models":[]}'
    assert ollama_ps(empty) == b'{"models":[]}'


def test_a_name_is_listed_once_however_many_nodes_have_it() -> None:
    listing = Listing(
        [
            offer("anna", "tiny:latest", A, modified_unix_s=5.5),
            offer("bert", "Tiny", A, modified_unix_s=9.5, resident=True, context_tokens=64),
            offer("anna", "big"),
        ]
    )
    big, tiny = models(openai_models(listing))
    assert big["id"] == "big"
    assert tiny == {
        "id": "tiny:latest",
        "object": "model",
        "created": 9,
        "owned_by": "meshd",
        "meshd": {
            "nodes": ["anna", "bert"],
            "resident_on": ["bert"],
            "engines": ["ollama"],
            "context_tokens": 64,
        },
    }
    assert len(models(ollama_tags(listing))) == 2


def test_a_name_with_several_digests_is_flagged_and_means_what_most_nodes_have() -> None:
    listing = Listing(
        [
            offer("anna", "tiny", A, size_bytes=1),
            offer("bert", "tiny", B, size_bytes=2),
            offer("carl", "tiny", B, size_bytes=2),
        ]
    )
    (row,) = models(openai_models(listing))
    assert row["meshd"]["several_digests"] is True
    assert row["meshd"]["digests"] == [B, A]
    (row,) = models(ollama_tags(listing))
    assert (row["digest"], row["size"]) == (B, 2)
    assert row["details"]["meshd"]["several_digests"] is True


def test_one_node_with_two_copies_does_not_outvote_two_nodes() -> None:
    listing = Listing(
        [
            offer("anna", "tiny", A),
            offer("anna", "tiny", A, engine="llama.cpp"),
            offer("anna", "tiny", A, engine="lmstudio"),
            offer("bert", "tiny", B),
            offer("carl", "tiny", B),
        ]
    )
    assert listed(listing)[0].digests == [B, A]


def test_copies_without_a_digest_are_no_conflict() -> None:
    (row,) = listed(Listing([offer("anna", "tiny", A), offer("bert", "tiny")]))
    assert "several_digests" not in row.remark()
    assert row.meant.node == "anna"


def test_aliases_are_listed_where_their_model_is_there_and_their_name_is_free() -> None:
    listing = Listing(
        [offer("anna", "tiny", A), offer("anna", "big", B)],
        {"gpt-4": "Tiny:latest", "gone": "nowhere", "big": "tiny"},
    )
    rows = models(openai_models(listing))
    assert [row["id"] for row in rows] == ["big", "gpt-4", "tiny"]
    assert rows[1]["meshd"]["alias_of"] == "tiny"
    assert models(ollama_tags(listing))[1]["digest"] in (A, B)
    assert models(ollama_ps(listing)) == []


def test_one_model_is_found_under_any_of_its_spellings() -> None:
    listing = Listing([offer("anna", "tiny:latest", A)], {"gpt-4": "tiny"})
    for name in ("tiny", "TINY:latest", "tiny:latest"):
        body = openai_model(listing, name)
        assert body is not None
        assert json.loads(body)["id"] == "tiny:latest"
    assert openai_model(listing, "gpt-4") is not None
    assert openai_model(listing, "tiny:8b") is None


def test_tags_have_ollamas_fields_newest_first() -> None:
    listing = Listing(
        [
            offer("anna", "old", A, modified_unix_s=1_600_000_000),
            offer(
                "anna",
                "tiny:latest",
                B,
                modified_unix_s=1_700_000_000.5,
                size_bytes=711_392,
                family="llama",
                parameter_size="174K",
                quantization="F32",
                context_tokens=2048,
                capabilities=["completion", "tools"],
            ),
        ]
    )
    tiny, old = models(ollama_tags(listing))
    assert tiny == {
        "name": "tiny:latest",
        "model": "tiny:latest",
        "modified_at": "2023-11-14T22:13:20.500000000Z",
        "size": 711_392,
        "digest": B,
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "174K",
            "quantization_level": "F32",
            "context_length": 2048,
            "meshd": {"nodes": ["anna"], "resident_on": [], "engines": ["ollama"]},
        },
        "capabilities": ["completion", "tools"],
    }
    assert old["name"] == "old"


def test_details_that_an_engine_told_are_passed_on() -> None:
    details = {"format": "safetensors", "families": ["a", "b"], "parent_model": 5, "family": "a"}
    (row,) = models(ollama_tags(Listing([offer("anna", "m", A, "mlx", details=details)])))
    told = row["details"]
    assert (told["format"], told["families"], told["family"]) == ("safetensors", ["a", "b"], "a")
    assert told["parent_model"] == ""


def test_digests_always_have_twelve_characters_to_show() -> None:
    listing = Listing([offer("anna", "a", f"gguf-{A}"), offer("anna", "b")])
    digests = {row["name"]: row["digest"] for row in models(ollama_tags(listing))}
    assert digests == {"a": A, "b": "0" * 64}


def test_ps_lists_what_is_loaded_somewhere_what_stays_longest_first() -> None:
    listing = Listing(
        [
            offer("anna", "short", A, resident=True, expires_unix_s=1_700_000_000),
            offer("anna", "cold", A),
            offer("bert", "ever", A, "llama.cpp", resident=True, context_tokens=512),
            offer("bert", "long", A, resident=True, expires_unix_s=1_800_000_000, vram_bytes=7),
        ]
    )
    rows = models(ollama_ps(listing))
    assert [row["name"] for row in rows] == ["ever", "long", "short"]
    assert rows[0]["expires_at"] == "2300-01-01T00:00:00Z"
    assert rows[0]["context_length"] == 512
    assert rows[1]["size_vram"] == 7
    assert rows[2]["expires_at"] == "2023-11-14T22:13:20.000000000Z"
    assert "modified_at" not in rows[0]


def test_ps_speaks_of_loaded_copies_only() -> None:
    listing = Listing(
        [offer("anna", "m", A, resident=True), offer("bert", "m", B), offer("carl", "m", B)]
    )
    (row,) = models(ollama_ps(listing))
    assert row["digest"] == A
    assert row["details"]["meshd"]["nodes"] == ["anna"]


def test_the_version_is_one_that_clients_of_ollama_accept() -> None:
    body = json.loads(version("1.2.3"))
    assert tuple(int(part) for part in body["version"].split(".")) >= (0, 6, 4)
    assert body["meshd"] == "1.2.3"


def test_an_unknown_model_is_a_404_with_near_names() -> None:
    failure = not_found("tyni", ["tiny", "tin"])
    assert failure.status == 404
    assert failure.message == (
        "model 'tyni' not found on any node of this mesh; did you mean 'tiny' or 'tin'?"
    )
    assert not_found("x").message == "model 'x' not found on any node of this mesh"
