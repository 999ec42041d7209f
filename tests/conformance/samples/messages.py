"""Samples of messages: control links (proto/peer.md) and joins (proto/join.md)."""

from __future__ import annotations

from typing import Any

from meshd.wire.codec import pack
from tests.conformance.forms import Vector
from tests.conformance.jsonform import from_json
from tests.conformance.samples.making import BIN, MESH, NODE, bad, good

HELLO = {
    "protocol_min": 1, "protocol_max": 1, "version": "0.1.0", "node": NODE, "generation": 4,
    "mesh": MESH, "name": "studio", "members_version": 12,
}  # fmt: skip
HASH = {"$bin": "11" * 32}
PART = {"digest": HASH, "size_bytes": 100, "offset": 0, "data": BIN}
ROW = {"digits": "123456", "name": "laptop", "address": "192.168.1.7", "waiting_s": 3.5}
INVENTORY = {
    "node": NODE, "generation": 4, "revision": 9,
    "backends": [{
        "id": "ollama-11434", "engine": "ollama", "version": "0.12.0",
        "models": [{
            "name": "llama3.2:latest", "digest": "0f" * 32, "size_bytes": 2019393189,
            "resident": True, "context_tokens": 131072, "capabilities": ["completion", "tools"],
            "modified_unix_s": 1765000000.5,
        }],
    }],
}  # fmt: skip


def control_messages() -> list[Vector]:
    def message(name: str, number: int, request_id: int, body: dict[str, Any]) -> Vector:
        return good(name, "control", {"type": number, "request_id": request_id, "body": body})

    return [
        message("Hello", 1, 0, HELLO),
        message("Hello with keys of a later version, kept", 1, 0,
                HELLO | {"colour": "green", "more": {"deep": [1, BIN, None]}, "extra": 1}),
        message("Hello with the largest integers", 1, 0,
                HELLO | {"generation": 2**53 - 1, "protocol_max": 2**53 - 1}),
        message("Hello with a name beyond ASCII", 1, 0, HELLO | {"name": "Küche 🍳"}),
        message("Refusal", 2, 5, {"code": "refused", "message": "The founder is not reachable."}),
        message("Ping", 3, 1, {}),
        message("Pong", 4, 1, {}),
        message("Done", 5, 7, {"message": "Node studio takes no new requests."}),
        message("InventoryPush", 6, 0, {"inventory": INVENTORY}),
        message("LoadPush", 7, 0, {"load": {
            "running": 2, "queued": 1, "slots": 4,
            "per_model": {"llama3.2:latest": {"running": 2, "slots": 4, "resident": True,
                                              "decode_tokens_per_s": 41.5}}}}),
        message("InventoryRequest", 8, 2, {}),
        message("MemberListPush", 9, 0, {"members": BIN}),
        message("MemberListRequest", 10, 3, {"have_version": 11}),
        message("PushPull", 11, 4, {"state": {"$bin": "90"}}),
        message("PushPullReply", 12, 4, {"state": {"$bin": "90"}}),
        message("AdmitRequest", 13, 5, {"request": {"way": "token", "public_key": BIN}}),
        message("AdmitReply, admitted", 14, 5, {"admitted": {"certificate": BIN}}),
        message("AdmitReply, refused", 14, 5, {"refusal": {"reason": "used token"}}),
        message("PendingRequest", 17, 8, {}),
        message("PendingReply, nobody", 18, 8, {"rows": []}),
        message("PendingReply", 18, 8, {"rows": [ROW]}),
        message("PendingReply, with the pairings begun", 18, 8, {"rows": [ROW], "begun": 10}),
        message("PendingReply, with a key of a later version in a row, kept", 18, 8,
                {"rows": [ROW | {"colour": "green"}]}),
        message("Approve", 19, 9, {"digits": "123456"}),
        message("Approve: they fitted nobody", 19, 9, {"digits": "123456", "refuse": True}),
        message("Leave", 21, 11, {"node": NODE}),
        message("KeyringRequest", 22, 12, {}),
        message("KeyringPush", 23, 12, {
            "version": 2, "secrets": [{"$bin": "01" * 32}, {"$bin": "02" * 32}],
            "members_version": 11}),
        message("Cancel", 24, 0, {"request": "req_0123456789abcdef.2"}),
        message("RenewRequest", 25, 13, {"public_key": BIN}),
        message("Renewed", 26, 13, {"certificate": BIN}),
        message("RecordMessage", 27, 0, {"data": BIN}),
        message("MachineRequest", 28, 15, {}),
        message("MachineReply", 29, 15, {
            "wish": "auto", "on_mains": True, "portable": False, "uptime_s": 86400.0,
            "sync_s": 0.0005, "runs": True, "unix_s": 1790000000.25, "void": False,
            "index": 1200}),
        message("MachineReply: its vote is void", 29, 15, {
            "wish": "auto", "on_mains": True, "portable": False, "uptime_s": 60.0,
            "sync_s": 0.0, "runs": True, "unix_s": 0.0, "void": True, "index": 0}),
        message("BlobPart", 30, 16, {
            "digest": HASH, "size_bytes": 70_000, "offset": 65_536, "data": BIN}),
        message("BlobHeld", 31, 16, {"upto": 65_536, "whole": False}),
        message("BlobHeld, whole", 31, 16, {"upto": 70_000, "whole": True}),
        message("BlobRequest", 32, 17, {"digest": HASH, "offset": 0}),
        message("BlobData", 33, 17, {"size_bytes": 70_000, "data": BIN}),
        message("BlobData: not here", 33, 17, {"size_bytes": 0, "data": {"$bin": ""}}),
        message("CaKeyRequest", 34, 18, {}),
        message("CaKeyReply", 35, 18, {"key": BIN}),
        message("EndingRequest", 36, 19, {"job": 1024}),
        message("Ending", 37, 19, {"row": BIN}),
        message("Ending: not known here", 37, 19, {"row": {"$bin": ""}}),
        message("a type of a later version", 4096, 14, {"anything": [1, 2, 3]}),
    ]  # fmt: skip


def bad_control_messages() -> list[Vector]:
    p = "ProtocolError"

    def raw(name: str, value: Any, error: str = p) -> Vector:
        return bad(name, "control", pack(from_json(value)), error)

    def hello(what: str, **changes: Any) -> Vector:
        return raw(f"Hello: {what}", [1, 0, HELLO | changes])

    return [
        raw("a map", {}),
        raw("an empty array", []),
        raw("no body", [3, 0]),
        raw("a fourth item", [3, 0, {}, 0]),
        raw("a body that is an array", [3, 0, []]),
        raw("a type that is text", ["3", 0, {}]),
        raw("a type that is true", [True, 0, {}]),
        raw("a type that is a float", [3.0, 0, {}]),
        raw("type 0", [0, 0, {}]),
        raw("a type below 0", [-1, 0, {}]),
        raw("a request id that is false", [3, False, {}]),
        raw("a request id below 0", [3, -1, {}]),
        raw("a request id over 2**53 - 1", [3, 2**53, {}]),
        bad("not canonical", "control", "9303cc0080", p),
        bad("nested beyond the limit", "control", "930600" + "81a161" * 16 + "80",
            "LimitExceeded"),
        hello("node id in upper case", node="A" * 26),
        hello("node id of 25 characters", node="a" * 25),
        hello("node id with a line feed", node="a" * 26 + "\n"),
        hello("node id as bytes", node={"$bin": "61" * 26}),
        hello("empty name", name=""),
        hello("name of 65 characters", name="n" * 65),
        hello("name with an escape", name="\x1b[2J"),
        hello("name with a line feed at its end", name="n\n"),
        hello("name that turns the line around", name="a\u202eb"),
        hello("generation below 0", generation=-1),
        hello("generation over 2**53 - 1", generation=2**53),
        hello("generation as a float", generation=1.0),
        hello("generation as true", generation=True),
        hello("generation nil", generation=None),
        raw("Hello: a key is missing", [1, 0, {k: v for k, v in HELLO.items() if k != "mesh"}]),
        raw("Refusal: message of 1025 characters", [2, 1, {"code": "x", "message": "m" * 1025}]),
        raw("InventoryPush: inventory as bytes", [6, 0, {"inventory": BIN}]),
        raw("MemberListPush: members as text", [9, 0, {"members": "x"}]),
        raw("AdmitReply: nil for what is missing", [14, 1, {"admitted": None}]),
        raw("PendingReply: more rows than can be pending", [18, 1, {"rows": [ROW] * 4}]),
        raw("PendingReply: begun below zero", [18, 1, {"rows": [], "begun": -1}]),
        raw("PendingReply: a row without a name", [18, 1, {"rows": [
            {key: value for key, value in ROW.items() if key != "name"}]}]),
        raw("PendingReply: a name with an escape", [18, 1, {"rows": [ROW | {"name": "\x1b[2J"}]}]),
        raw("Leave: no node's id", [21, 1, {"node": "x"}]),
        raw("KeyringPush: no keys", [23, 1, {"version": 1, "secrets": []}]),
        raw("KeyringPush: nine keys", [23, 1, {"version": 1, "secrets": [BIN] * 9}]),
        raw("CaKeyReply: a key of 257 bytes", [35, 1, {"key": {"$bin": "00" * 257}}]),
        raw("Cancel: an empty id", [24, 0, {"request": ""}]),
        raw("RecordMessage: nothing in it", [27, 0, {"data": {"$bin": ""}}]),
        raw("MachineReply: an uptime below 0", [29, 1, {
            "wish": "auto", "on_mains": True, "portable": False, "uptime_s": -1.0,
            "sync_s": 0.0, "runs": True}]),
        raw("BlobPart: a digest of 31 bytes", [30, 1, PART | {"digest": {"$bin": "11" * 31}}]),
        raw("BlobPart: a blob of no bytes", [30, 1, PART | {"size_bytes": 0}]),
        raw("BlobPart: a blob that is too large", [30, 1, PART | {"size_bytes": 2**25 + 1}]),
        raw("BlobPart: an offset below 0", [30, 1, PART | {"offset": -1}]),
        raw("BlobPart: nothing in it", [30, 1, PART | {"data": {"$bin": ""}}]),
        raw("BlobPart: more than a part", [30, 1, PART | {"data": {"$bin": "00" * (2**16 + 1)}}]),
        raw("BlobHeld: whole as an integer", [31, 1, {"upto": 1, "whole": 1}]),
        raw("BlobRequest: an offset past the largest blob", [
            32, 1, {"digest": HASH, "offset": 2**25 + 1}]),
        raw("BlobData: more than a part", [
            33, 1, {"size_bytes": 2**17, "data": {"$bin": "00" * (2**16 + 1)}}]),
        raw("EndingRequest: below 0", [36, 1, {"job": -1}]),
        raw("Ending: more than one may be", [37, 1, {"row": {"$bin": "00" * (2**16 + 1)}}]),
        raw("RenewRequest: a key of 257 bytes", [25, 1, {"public_key": {"$bin": "00" * 257}}]),
    ]  # fmt: skip


NONCE = {"$bin": "22" * 32}


def join_messages() -> list[Vector]:
    def message(name: str, number: int, body: dict[str, Any]) -> Vector:
        return good(name, "join", {"type": number, "body": body})

    addresses = [["192.168.1.7", 11436], ["fe80::1%eth0", 11436]]
    return [
        message("JoinHello", 1, {"protocol_min": 1, "protocol_max": 1}),
        message("Welcome", 2, {
            "protocol": 1, "mesh": MESH, "mesh_name": "home", "ca_certificate": BIN,
            "nonce": NONCE}),
        message("Prove", 3, {
            "token": "abcdefgh", "public_key": BIN, "nonce": NONCE, "proof": HASH,
            "name": "laptop", "addresses": addresses}),
        message("Commit", 4, {"commitment": HASH, "name": "laptop"}),
        message("MemberNonce", 5, {"nonce": NONCE}),
        message("Reveal", 6, {"public_key": BIN, "nonce": NONCE, "addresses": addresses}),
        message("Agree", 7, {}),
        message("Part", 8, {"data": BIN, "last": False}),
        message("Part, the last", 8, {"data": BIN, "last": True}),
        message("JoinRefusal", 9, {
            "reason": "used token", "message": "That token was used up.", "retry_after_ms": 0}),
        message("JoinRefusal, to come back later", 9, {
            "reason": "busy", "message": "", "retry_after_ms": 1500}),
    ]  # fmt: skip


def bad_join_messages() -> list[Vector]:
    def raw(name: str, value: Any) -> Vector:
        return bad(name, "join", pack(from_json(value)), "ProtocolError")

    return [
        raw("an array of three", [1, 0, {}]),
        raw("a type that is not known", [99, {}]),
        raw("a type that is true", [True, {"protocol_min": 1, "protocol_max": 1}]),
        raw("a key is missing", [1, {"protocol_min": 1}]),
        raw("a nonce of 31 bytes", [5, {"nonce": {"$bin": "22" * 31}}]),
        raw("a nonce as text", [5, {"nonce": "2" * 32}]),
        raw("a commitment of 33 bytes", [4, {"commitment": {"$bin": "11" * 33}, "name": "x"}]),
        raw("a name with an escape", [4, {"commitment": HASH, "name": "\x1b]0;x\x07"}]),
        raw("port 0", [6, {"public_key": BIN, "nonce": NONCE, "addresses": [["host", 0]]}]),
        raw("seventeen addresses",
            [6, {"public_key": BIN, "nonce": NONCE, "addresses": [["host", 1]] * 17}]),
        raw("an empty part", [8, {"data": {"$bin": ""}, "last": True}]),
        bad("a frame over its limit", "join",
            pack([8, {"data": bytes(4096), "last": True}]), "LimitExceeded"),
    ]  # fmt: skip
