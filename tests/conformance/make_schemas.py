"""Writes proto/schema anew: `python -m tests.conformance.make_schemas`.

From the typed messages, so that no bound is written down twice by hand; what comes out is read by
a person and is then the specification, which the vectors are validated against.  Bytes are
`{"$bin": "hex"}`, as in the vectors.  Schemas are open: a later version may add keys.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from meshd import limits
from meshd.inference import Delta, Failure, Inventory, Load, Usage
from meshd.record.commands import KINDS
from meshd.record.commands_registry import Command
from meshd.record.frozen import Head
from meshd.record.table import Row
from meshd.wire import answer, control, control_mesh, gossip, join, said, serve
from tests.conformance.jsonform import SCHEMA, write
from tests.conformance.log_forms import LOG_MESSAGES
from tests.conformance.record_forms import ROWS

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


class Maker:
    """Makes the schema of one type, with those of the structs in it under $defs."""

    def __init__(self) -> None:
        self.defs: dict[str, Schema] = {}

    def document(self, kind: type, about: str) -> Schema:
        info = inspect.type_info(kind)
        assert isinstance(info, inspect.StructType)
        body = self.fields(info)
        if kind is control_mesh.PendingReply:  # rows stay maps, so that their unknown keys are kept
            body["properties"]["rows"]["items"] = self.of(
                inspect.type_info(control_mesh.PendingRow)
            )
        schema: Schema = {"$schema": DRAFT, "title": kind.__name__, "description": about, **body}
        return schema | ({"$defs": self.defs} if self.defs else {})

    def fields(self, info: inspect.StructType) -> Schema:
        fields = [field for field in info.fields if field.encode_name != "extra"]
        schema: Schema = {
            "type": "object",
            "properties": {f.encode_name: self.of(f.type, top=info.cls) for f in fields},
        }
        if info.forbid_unknown_fields:
            schema["additionalProperties"] = False
        if required := [f.encode_name for f in fields if f.required]:
            schema["required"] = required
        return schema

    def array(self, kind: type, about: str) -> Schema:
        """The schema of a message that is an array: its type, then its fields in order."""
        info = inspect.type_info(kind)
        assert isinstance(info, inspect.StructType)
        assert info.array_like
        items = [{"const": info.tag, "title": "type"}]
        items += [self.of(field.type) | {"title": field.name} for field in info.fields]
        return {"$schema": DRAFT, "title": kind.__name__, "description": about, "type": "array",
                "prefixItems": items, "minItems": len(items), "maxItems": len(items)}  # fmt: skip

    def of(self, info: inspect.Type, top: type = object) -> Schema:
        match info:
            case inspect.StructType():
                name = info.cls.__name__
                if name not in self.defs:
                    self.defs[name] = {}  # first, for structs that hold themselves
                    self.defs[name] = self.fields(info)
                return {"$ref": f"#/$defs/{name}"}
            case inspect.BytesType():
                return self.bytes(info)
            case inspect.StrType():
                return present(
                    type="string",
                    minLength=info.min_length, maxLength=info.max_length, pattern=info.pattern,
                )  # fmt: skip
            case inspect.IntType():
                return present(type="integer", minimum=info.ge, maximum=info.le)
            case inspect.FloatType():
                return present(type="number", exclusiveMinimum=info.gt, minimum=info.ge)
            case inspect.BoolType():
                return {"type": "boolean"}
            case inspect.NoneType():
                return {"type": "null"}
            case inspect.AnyType():
                return {}
            case inspect.DictType():
                values = self.of(info.value_type)
                schema: Schema = {
                    "type": "object",
                    "not": {"required": ["$bin"]},
                }
                return schema | ({"additionalProperties": values} if values else {})
            case inspect.ListType():
                return present(
                    type="array", items=self.of(info.item_type),
                    minItems=info.min_length, maxItems=info.max_length,
                )  # fmt: skip
            case inspect.VarTupleType():
                return present(
                    type="array", items=self.of(info.item_type),
                    minItems=info.min_length, maxItems=info.max_length,
                )  # fmt: skip
            case inspect.TupleType():
                items = [self.of(item) for item in info.item_types]
                return {"type": "array", "prefixItems": items,
                        "minItems": len(items), "maxItems": len(items)}  # fmt: skip
            case inspect.EnumType():
                return {"enum": [member.value for member in info.cls]}
            case inspect.LiteralType():
                return {"enum": list(info.values)}
            case inspect.UnionType():
                # In messages a field that may be missing is missing, never nil.
                is_message = issubclass(top, (control.Message, Command, Row))
                kinds = [
                    t for t in info.types if not (is_message and isinstance(t, inspect.NoneType))
                ]
                made = [self.of(t) for t in kinds]
                return made[0] if len(made) == 1 else {"anyOf": made}
        raise TypeError(f"no schema for {info}")

    def bytes(self, info: inspect.BytesType) -> Schema:
        text = present(
            type="string", pattern="^([0-9a-f]{2})*$",
            minLength=info.min_length and 2 * info.min_length,
            maxLength=info.max_length and 2 * info.max_length,
        )  # fmt: skip
        return {"type": "object", "properties": {"$bin": text}, "required": ["$bin"],
                "additionalProperties": False}  # fmt: skip


def present(**keywords: Any) -> Schema:
    return {key: value for key, value in keywords.items() if value is not None}


# --- gossip's maps have one-letter keys and no structs of their own: by hand

_SEQUENCE = {"type": "integer", "minimum": 0, "maximum": gossip.SEQUENCE_END - 1}
_VERSION = {"type": "integer", "minimum": 0, "maximum": gossip.VERSION_END - 1}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_SMALL = {"type": "integer", "minimum": 0, "maximum": 2**16 - 1}
_NODE = {"type": "string", "pattern": "^[a-z2-7]{26}(?![\\s\\S])"}
_ADDRESSES = {
    "type": "array",
    "maxItems": limits.ADDRESSES_PER_NODE,
    "items": {
        "type": "array",
        "prefixItems": [
            {"type": "string", "pattern": "^[0-9A-Za-z:._-]{1,64}(?![\\s\\S])"},
            {"type": "integer", "minimum": 1, "maximum": 65535},
        ],
        "minItems": 2,
        "maxItems": 2,
    },
}
_OPINION = {"n": _NODE, "g": _VERSION, "i": _VERSION, "b": _NODE}
GOSSIP: dict[str, tuple[int, str, dict[str, Any]]] = {
    "Ping": (1, "Are you there?  q: sequence; n: who is meant.", {"q": _SEQUENCE, "n": _NODE}),
    "PingReq": (
        2,
        "Ping n for me.  q: sequence; n: who is meant; a: where n may be found.",
        {"q": _SEQUENCE, "n": _NODE, "a": _ADDRESSES},
    ),
    "Ack": (3, "The answer to the ping q.", {"q": _SEQUENCE}),
    "Nack": (4, "No ack so far for the ping request q.", {"q": _SEQUENCE}),
    "Word": (
        5,
        "What a node says of itself.  p: the packed claim; s: its signature over p.",
        {
            "p": Maker().of(inspect.BytesType(max_length=limits.GOSSIP_WORD_BYTES)),
            "s": Maker().of(inspect.BytesType(max_length=limits.GOSSIP_SIGNATURE_BYTES)),
        },
    ),
    "Suspect": (6, "b could not reach n, whose last word was (g, i).", _OPINION),
    "Failed": (7, "b holds n for gone, whose last word was (g, i).", _OPINION),
    "Ask": (
        8,
        "n is about to count as failed, its last word being (g, i): is there a later one?",
        {"n": _NODE, "g": _VERSION, "i": _VERSION},
    ),
    "Claim": (
        0,
        "What a word says.  k: 0 alive, 1 asleep, 2 left; n: of itself; g, i: generation and "
        "incarnation; h: name; a: addresses, the best first; p: protocol [least, most, current]; "
        "r: revision of its inventory; l: load [running, queued, slots, draining].",
        {
            "k": {"enum": [0, 1, 2]},
            "n": _NODE,
            "g": _VERSION,
            "i": _VERSION,
            "h": {"type": "string", "maxLength": limits.NAME_CHARS},
            "a": _ADDRESSES,
            "p": {"type": "array", "prefixItems": [_SMALL] * 3, "minItems": 3},
            "r": _VERSION,
            "l": {
                "type": "array",
                "prefixItems": [_COUNT, _COUNT, _COUNT, {"type": "boolean"}],
                "minItems": 4,
            },
        },
    ),
}

ANSWERS: dict[type, str] = {
    Delta: "Payload of kind 1, unless it is a text alone.",
    Usage: "Payload of kind 2.",
    Load: "Payload of kind 3; the same map is in LoadPush.",
    answer.End: "Payload of kind 5.",
    Failure: "Payload of kind 6.",
    answer.EmbeddingPart: "Payload of kind 7.",
}
BODIES: dict[type, str] = {
    serve.ServeRequest: "Body of POST /mesh/v1/serve.",
    serve.CancelRequest: "Body of POST /mesh/v1/cancel.",
    serve.ResumeRequest: "Body of POST /mesh/v1/resume.",
    serve.ShowRequest: "Body of POST /mesh/v1/show.",
    said.SaidRequest: "Body of POST /mesh/v1/said.",
}


def schemas() -> dict[str, Schema]:
    """File name (without .json) -> schema."""
    made: dict[str, Schema] = {}

    def add(group: str, kind: type, about: str) -> None:
        made[f"{group}.{kind.__name__}"] = Maker().document(kind, about)

    for number, message in control.MESSAGES.items():
        add("control", message, f"Body of type {number} on ALPN meshd/1. {first_line(message)}")
    for number, joining in join.JOIN_MESSAGES.items():
        add("join", joining, f"Body of type {number} on ALPN meshd-join/1. {first_line(joining)}")
    add("join", join.JoinRequest, "The request in control.AdmitRequest.")
    add("join", join.Admitted, "The data of all Parts together; in control.AdmitReply as it is.")
    for kind, about in ANSWERS.items():
        add("answer", kind, about)
    for kind, about in BODIES.items():
        add("serve", kind, about)
    for number, kind in LOG_MESSAGES.items():
        about = f"Message {number} about the log (log.md). {first_line(kind)}".rstrip()
        made[f"log.{kind.__name__}"] = Maker().array(kind, about)
    for number, command in KINDS.items():
        add("command", command, f"Body of command {number} (record.md). {first_line(command)}")
    add("state", Head, "The head of a frozen state.")
    for name, row in ROWS.items():
        add("state", row, f"A row of the table {name}. {first_line(row)}")
    add("inference", Inventory, "The inventory in control.InventoryPush.")
    for name, (number, about, fields) in GOSSIP.items():
        made[f"gossip.{name}"] = {
            "$schema": DRAFT,
            "title": name,
            "description": (f"Message type {number}. " if number else "") + about,
            "type": "object",
            "properties": fields,
            "required": list(fields),
        }
    return made


def first_line(kind: type[msgspec.Struct]) -> str:
    return (kind.__doc__ or "").partition("\n")[0].replace("`", "")


def main() -> None:
    for name, schema in schemas().items():
        write(SCHEMA / f"{name}.json", schema)


if __name__ == "__main__":
    main()
