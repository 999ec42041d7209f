"""The lists of models, in both dialects: the union over the mesh, from memory.  Pure.

A name is listed once, however many nodes offer it.  What a name means is the digest that most nodes
have; where nodes differ, the entry says so (`meshd.several_digests`), in a field that clients which
do not know it ignore.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from meshd.api.ollama_encode import rfc3339
from meshd.inference import ModelInfo
from meshd.modelnames import normalise

ROOT_BODY: Final = b"Ollama is running"
"""What clients that probe GET / look for."""

OLLAMA_VERSION: Final = "0.12.11"
"""The version of Ollama whose API this is: it brought logprobs.  Clients compare it; some refuse to
talk to less than 0.6.4, some expect /v1/responses from 0.13.3 on."""

_UNKNOWN_DIGEST: Final = "0" * 64  # Ollama's command line cuts the first twelve characters off
_FOREVER: Final = "2300-01-01T00:00:00Z"  # as Ollama shows an unlimited keep_alive
_GGUF_ENGINES: Final = frozenset({"ollama", "llama.cpp"})

_json: Final = msgspec.json.Encoder().encode


class Offer(msgspec.Struct, frozen=True):
    """One copy of a model."""

    node: str
    """The node's name."""
    engine: str
    model: ModelInfo


class Listing(msgspec.Struct, frozen=True):
    """All that the mesh offers."""

    offers: Sequence[Offer]
    aliases: Mapping[str, str] = {}
    """Alias -> the model's name; those whose model is not there are not listed."""


class Listed(msgspec.Struct, frozen=True):
    """One name and all copies that go by it."""

    name: str
    offers: list[Offer]
    digests: list[str]
    """Different ones, the one that most nodes have first; empty if none is known."""
    alias_of: str = ""

    @property
    def meant(self) -> Offer:
        """The copy that speaks for the name: of the leading digest, resident and newest first."""
        digest = self.digests[0] if self.digests else ""
        same = [offer for offer in self.offers if offer.model.digest == digest] or self.offers
        return max(same, key=lambda o: (o.model.resident, o.model.modified_unix_s, o.node))

    def remark(self) -> dict[str, Any]:
        """What a mesh knows beyond the dialects."""
        remark: dict[str, Any] = {
            "nodes": sorted({offer.node for offer in self.offers}),
            "resident_on": sorted({offer.node for offer in self.offers if offer.model.resident}),
            "engines": sorted({offer.engine for offer in self.offers}),
        }
        if len(self.digests) > 1:
            remark["several_digests"] = True
            remark["digests"] = self.digests
        if self.alias_of:
            remark["alias_of"] = self.alias_of
        return remark


def listed(listing: Listing) -> list[Listed]:
    """Every name once, in alphabetical order, aliases among them."""
    groups: dict[str, list[Offer]] = {}
    for offer in listing.offers:
        groups.setdefault(normalise(offer.model.name), []).append(offer)
    rows = {key: Listed(_spelt(group), group, _digests(group)) for key, group in groups.items()}
    result = list(rows.values())
    for alias, target in listing.aliases.items():
        row = rows.get(normalise(target))
        if row is not None and normalise(alias) not in rows:
            result.append(Listed(alias, row.offers, row.digests, alias_of=row.name))
    return sorted(result, key=lambda row: (row.name.lower(), row.name))


def _spelt(offers: Sequence[Offer]) -> str:
    """The spelling that most copies have; of equals, the one that says most."""
    counts = Counter(offer.model.name for offer in offers)
    return max(counts, key=lambda name: (counts[name], len(name), name))


def _digests(offers: Sequence[Offer]) -> list[str]:
    nodes: dict[str, set[str]] = {}
    for offer in offers:
        if offer.model.digest:
            nodes.setdefault(offer.model.digest, set()).add(offer.node)
    return sorted(nodes, key=lambda digest: (-len(nodes[digest]), digest))


def openai_models(listing: Listing) -> bytes:
    """GET /v1/models."""
    return _json({"object": "list", "data": [_openai_row(row) for row in listed(listing)]})


def openai_model(listing: Listing, name: str) -> bytes | None:
    """GET /v1/models/{name}; None if the mesh has no such model."""
    wanted = normalise(name)
    for row in listed(listing):
        if normalise(row.name) == wanted:
            return _json(_openai_row(row))
    return None


def _openai_row(row: Listed) -> dict[str, Any]:
    created = max(offer.model.modified_unix_s for offer in row.offers)
    remark = row.remark()
    context = max(offer.model.context_tokens for offer in row.offers)
    if context:
        remark["context_tokens"] = context
    return {
        "id": row.name,
        "object": "model",
        "created": int(created),
        "owned_by": "meshd",
        "meshd": remark,
    }


def ollama_tags(listing: Listing) -> bytes:
    """GET /api/tags: the newest first."""
    rows = listed(listing)
    rows.sort(key=lambda row: -row.meant.model.modified_unix_s)
    return _json({"models": [_tags_row(row) for row in rows]})


def _tags_row(row: Listed) -> dict[str, Any]:
    model = row.meant.model
    entry = {
        "name": row.name,
        "model": row.name,
        "modified_at": rfc3339(model.modified_unix_s),
        "size": model.size_bytes,
        "digest": _digest(model),
        "details": _details(row),
    }
    if model.capabilities:
        entry["capabilities"] = model.capabilities
    return entry


def ollama_ps(listing: Listing) -> bytes:
    """GET /api/ps: what is loaded somewhere, what stays longest first."""
    rows = []
    for row in listed(Listing([o for o in listing.offers if o.model.resident])):
        until = max(offer.model.expires_unix_s or float("inf") for offer in row.offers)
        rows.append((-until, row))
    rows.sort(key=lambda pair: (pair[0], pair[1].name))
    return _json({"models": [_ps_row(row, -until) for until, row in rows]})


def _ps_row(row: Listed, until_unix_s: float) -> dict[str, Any]:
    model = row.meant.model
    entry = {
        "name": row.name,
        "model": row.name,
        "size": model.size_bytes,
        "digest": _digest(model),
        "details": _details(row),
        "expires_at": _FOREVER if until_unix_s == float("inf") else rfc3339(until_unix_s),
        "size_vram": model.vram_bytes,
    }
    if model.context_tokens:
        entry["context_length"] = model.context_tokens
    return entry


def _digest(model: ModelInfo) -> str:
    return model.digest.removeprefix("gguf-") or _UNKNOWN_DIGEST


def _details(row: Listed) -> dict[str, Any]:
    offer = row.meant
    model, given = offer.model, offer.model.details
    family = model.family or _text(given, "family")
    families = given.get("families")
    details: dict[str, Any] = {
        "parent_model": _text(given, "parent_model"),
        "format": _text(given, "format") or ("gguf" if offer.engine in _GGUF_ENGINES else ""),
        "family": family,
        "families": families if isinstance(families, list) else [family] if family else [],
        "parameter_size": model.parameter_size or _text(given, "parameter_size"),
        "quantization_level": model.quantization or _text(given, "quantization_level"),
    }
    if model.context_tokens:
        details["context_length"] = model.context_tokens
    details["meshd"] = row.remark()
    return details


def _text(details: Mapping[str, Any], name: str) -> str:
    value = details.get(name)
    return value if isinstance(value, str) else ""


def version(meshd_version: str) -> bytes:
    """GET /api/version."""
    return _json({"version": OLLAMA_VERSION, "meshd": meshd_version})
