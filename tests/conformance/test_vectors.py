"""meshd against the golden vectors of proto/, both ways and byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from meshd import errors
from meshd.identity.keys import public_key
from meshd.wire import envelope
from meshd.wire.answer import FrameKind
from meshd.wire.codec import pack
from meshd.wire.control import MESSAGES
from meshd.wire.gossip import WORD_CONTEXT
from meshd.wire.join import JOIN_MESSAGES
from meshd.wire.said import SaidKind
from tests.conformance.forms import FORMS, Vector
from tests.conformance.jsonform import DERIVED, INVALID, VALID, from_json, load, to_json
from tests.conformance.log_forms import LOG_MESSAGES
from tests.conformance.samples.derived import DERIVE

VALID_VECTORS = load(VALID)
INVALID_VECTORS = load(INVALID)
BOTH_WAYS = [vector for vector in VALID_VECTORS if vector.get("only") != "decode"]


def label(vector: Vector) -> str:
    return f"{vector['type']}: {vector['name']}"


def form_of(value: Any) -> str:
    """JSON text, in which 1 and 1.0, and true and 1, are not the same."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("vector", VALID_VECTORS, ids=label)
def test_the_bytes_decode_to_the_value(vector: Vector) -> None:
    read = FORMS[vector["type"]].read(bytes.fromhex(vector["hex"]), vector)
    assert form_of(read) == form_of(vector["decoded"])


@pytest.mark.parametrize("vector", BOTH_WAYS, ids=label)
def test_the_value_encodes_to_the_bytes(vector: Vector) -> None:
    assert FORMS[vector["type"]].write(vector["decoded"], vector).hex() == vector["hex"]


@pytest.mark.parametrize("vector", INVALID_VECTORS, ids=label)
def test_invalid_bytes_raise_the_named_error(vector: Vector) -> None:
    with pytest.raises(errors.ProtocolError) as caught:
        FORMS[vector["type"]].read(bytes.fromhex(vector["hex"]), vector)
    assert type(caught.value).__name__ == vector["error"]
    assert str(caught.value).endswith(".")


def test_the_wire_form_of_messages_is_that_of_the_value() -> None:
    """What the vectors call decoded is what is on the wire, not only what meshd makes of it."""
    shapes: dict[str, Callable[[Any], Any]] = {
        "control": lambda d: [d["type"], d["request_id"], d["body"]],
        "join": lambda d: [d["type"], d["body"]],
        "serve": lambda d: d,
        "log": lambda d: [d["type"], *d["body"].values()],
        "cancel": lambda d: d,
        "resume": lambda d: d,
        "show": lambda d: d,
        "said request": lambda d: d,
        "gossip": lambda d: d,
        "claim": lambda d: d,
    }
    checked = set()
    for vector in BOTH_WAYS:
        if shape := shapes.get(vector["type"]):
            assert pack(from_json(shape(vector["decoded"]))).hex() == vector["hex"], label(vector)
            checked.add(vector["type"])
    assert checked == set(shapes)


def test_the_signatures_in_the_vectors_are_good() -> None:
    checked = 0
    for vector in VALID_VECTORS:
        if vector["type"] == "gossip" and "author" in vector:
            author = public_key(from_json(vector["author"]))
            for number, body in from_json(vector["decoded"]):
                if number == 5:
                    assert author.verify(WORD_CONTEXT, body["p"], body["s"])
                    assert msgspec.msgpack.decode(body["p"])["n"] == author.node
                    checked += 1
    assert checked == 2


@pytest.mark.parametrize("vector", load(DERIVED), ids=label)
def test_what_is_computed_is_what_the_vector_says(vector: Vector) -> None:
    result = DERIVE[vector["type"]](**from_json(vector["given"]))
    assert form_of(to_json(result)) == form_of(vector["result"])


def test_everything_that_is_computed_has_a_vector() -> None:
    assert {vector["type"] for vector in load(DERIVED)} == set(DERIVE)


def test_names_of_vectors_are_used_once() -> None:
    for vectors in (VALID_VECTORS, INVALID_VECTORS):
        labels = [label(vector) for vector in vectors]
        assert len(set(labels)) == len(labels)


def test_every_message_and_every_error_has_a_vector() -> None:
    def types(form: str) -> set[int]:
        return {v["decoded"]["type"] for v in VALID_VECTORS if v["type"] == form}

    assert set(MESSAGES) <= types("control")
    assert set(JOIN_MESSAGES) <= types("join")
    assert set(LOG_MESSAGES) == types("log")
    kinds = {f["kind"] for v in VALID_VECTORS if v["type"] == "answer" for f in v["decoded"]}
    assert kinds == {int(kind) for kind in FrameKind}
    said = {f["kind"] for v in VALID_VECTORS if v["type"] == "said" for f in v["decoded"]}
    assert said == {int(kind) for kind in SaidKind}
    gossip = {m[0] for v in VALID_VECTORS if v["type"] == "gossip" for m in v["decoded"]}
    assert gossip == set(range(1, 9))
    refusals = {kind.__name__ for kind in envelope.EnvelopeRefused.__subclasses__()}
    assert refusals | {"ProtocolError", "LimitExceeded"} == {v["error"] for v in INVALID_VECTORS}
