"""The JSON Schemas of proto/ against the vectors and against the code."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from meshd.record.commands import KINDS
from meshd.wire.answer import FrameKind
from meshd.wire.codec import unpack
from meshd.wire.control import MESSAGES
from meshd.wire.join import JOIN_MESSAGES
from tests.conformance.forms import Vector
from tests.conformance.jsonform import INVALID, SCHEMA, VALID, from_json, load, to_json
from tests.conformance.log_forms import LOG_MESSAGES
from tests.conformance.make_schemas import GOSSIP, schemas
from tests.conformance.record_forms import ROWS
from tests.conformance.test_vectors import label

FILES = {path.name.removesuffix(".json"): path for path in sorted(SCHEMA.glob("*.json"))}
_ANSWERS = {
    FrameKind.DELTA: "Delta", FrameKind.USAGE: "Usage", FrameKind.LOAD: "Load",
    FrameKind.END: "End", FrameKind.ERROR: "Failure",
}  # fmt: skip
_GOSSIP_NAMES = {number: name for name, (number, _, _) in GOSSIP.items() if number}


@functools.cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(FILES[name].read_text()))


def parts(vector: Vector, decoded: Any) -> Iterator[tuple[str, Any]]:
    """The schema of each map in a vector."""
    match vector["type"]:
        case "control" if decoded["type"] in MESSAGES:
            yield f"control.{MESSAGES[decoded['type']].__name__}", decoded["body"]
        case "join":
            yield f"join.{JOIN_MESSAGES[decoded['type']].__name__}", decoded["body"]
        case "serve":
            yield "serve.ServeRequest", decoded
        case "cancel":
            yield "serve.CancelRequest", decoded
        case "resume":
            yield "serve.ResumeRequest", decoded
        case "show":
            yield "serve.ShowRequest", decoded
        case "said request":
            yield "serve.SaidRequest", decoded
        case "gossip":
            for number, body in decoded:
                yield f"gossip.{_GOSSIP_NAMES[number]}", body
                if number == 5:
                    claim = unpack(from_json(body)["p"], max_bytes=1000)
                    yield "gossip.Claim", to_json(claim)
        case "claim":
            yield "gossip.Claim", decoded
        case "log":
            array = [decoded["type"], *decoded["body"].values()]
            yield f"log.{LOG_MESSAGES[decoded['type']].__name__}", array
        case "command":
            yield f"command.{KINDS[decoded['kind']].__name__}", decoded["body"]
        case "state":
            yield "state.Head", to_json(head_of(bytes.fromhex(vector["hex"])))
            for table, rows in decoded["tables"].items():
                for row in rows:
                    yield f"state.{ROWS[table].__name__}", row
        case "answer":
            for frame in decoded:
                if isinstance(frame["payload"], dict) and frame["kind"] in _ANSWERS:
                    yield f"answer.{_ANSWERS[FrameKind(frame['kind'])]}", frame["payload"]


def head_of(state: bytes) -> Any:
    size = int.from_bytes(state[:4], "big")
    return unpack(state[4 : 4 + size], max_bytes=size)


VALID_PARTS = [
    pytest.param(name, body, id=f"{label(vector)} as {name}")
    for vector in load(VALID)
    for name, body in parts(vector, vector["decoded"])
]
IN_CODE_ONLY = {
    # What a schema cannot say, or says too late: order, sums, nil that is missing, floats.
    "generation as a float",
    "Tick: a float",
    "SetPolicy: a default that is written",
    "Trace: larger than a command may be",
    "TimeoutNow: a term as a float",
    "PreVote: entries of the term that it asks for",
    "AskVote: entries of a later term",
    "AppendEntries: terms that fall",
    "AppendEntries: a term before that of the entry before",
    "AppendEntries: an entry of a later term than the leader's",
    "AppendEntries: the entry before is of a later term",
    "AppendEntries: a term before the first entry",
    "AppendEntries: an unknown kind",
    "AppendEntries: an entry without meaning with data",
    "AppendEntries: voters that are no list",
    "AppendEntries: no voters",
    "AppendEntries: voters out of order",
    "AppendEntries: a voter twice",
    "AppendEntries: a voter that is no node id",
    "AppendEntries: too many voters",
    "AppendEntries: voters and something behind them",
    "Feed: terms that fall",
    "Feed: an entry of a later term than the sender's",
    "Feed: a term before the first entry",
    "Feed: no voters",
    "FeedEnd: voters out of order",
    "Follow: more committed than there is",
    "SnapshotPart: voters out of order",
    "SnapshotPart: data past the end",
    "SnapshotPart: of no entry",
    "SnapshotPart: of a later term than the leader's",
}


@pytest.mark.parametrize("name", FILES)
def test_a_schema_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(json.loads(FILES[name].read_text()))


@pytest.mark.parametrize(("name", "body"), VALID_PARTS)
def test_valid_vectors_satisfy_their_schemas(name: str, body: Any) -> None:
    validator(name).validate(body)


def malformed_bodies() -> Iterator[Any]:
    for vector in load(INVALID):
        if (
            vector["type"] not in {"control", "join", "command", "log"}
            or vector["error"] != "ProtocolError"
        ):
            continue
        try:
            value = unpack(bytes.fromhex(vector["hex"]), max_bytes=1 << 20)
        except Exception:
            continue
        match value:
            case [int(number), *_] if vector["type"] == "log" and number in LOG_MESSAGES:
                name, body = f"log.{LOG_MESSAGES[number].__name__}", value
            case [int(number), int(), dict(body)] if number in MESSAGES:
                name = f"control.{MESSAGES[number].__name__}"
            case [1, str(), int(), int(), int(), int(number), dict(body)] if (
                number in KINDS and vector["name"].startswith(KINDS[number].__name__)
            ):
                name = f"command.{KINDS[number].__name__}"
            case [int(number), dict(body)] if number in JOIN_MESSAGES and number is not True:
                name = f"join.{JOIN_MESSAGES[number].__name__}"
            case _:
                continue
        short = vector["name"].removeprefix("Hello: ")
        if not body or short in IN_CODE_ONLY:
            continue
        yield pytest.param(name, to_json(body), id=label(vector))


@pytest.mark.parametrize(("name", "body"), list(malformed_bodies()))
def test_malformed_bodies_break_their_schemas(name: str, body: Any) -> None:
    assert not validator(name).is_valid(body)


def test_the_schemas_are_those_of_the_code() -> None:
    """A bound that changes in the code shows as a change of a file of the specification."""
    made = schemas()
    assert set(made) == set(FILES)
    for name, schema in made.items():
        assert json.loads(FILES[name].read_text()) == json.loads(json.dumps(schema)), name


def test_every_kind_of_map_is_validated_by_some_vector() -> None:
    seen = {param.values[0] for param in VALID_PARTS}
    not_in_vectors = {
        "answer.EmbeddingPart", "inference.Inventory", "join.Admitted", "join.JoinRequest",
    }  # fmt: skip
    assert set(FILES) == seen | not_in_vectors
