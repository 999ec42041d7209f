"""How each type of vector is decoded and encoded by meshd.

`read` turns bytes into the JSON form by meshd's decoders and typed messages, `write` turns the JSON
form into bytes by its encoders: neither takes a short cut through the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from meshd import limits
from meshd.errors import ProtocolError
from meshd.identity.keys import KEY_SEED_BYTES, PrivateKey, public_key
from meshd.ids import Address, MeshId, NodeId
from meshd.inference import Delta, Embedding, Failure, Load, Usage
from meshd.record import members
from meshd.wire import answer, control, gossip, join, said, serve
from meshd.wire.codec import pack, unpack
from meshd.wire.envelope import Envelope
from meshd.wire.framing import FrameReader, frame
from tests.conformance import journal_forms, log_forms, record_forms
from tests.conformance.jsonform import from_json, to_json

Vector = dict[str, Any]

CA = PrivateKey.from_random(bytes(range(2, KEY_SEED_BYTES + 2)))
"""Whose lists the samples are."""


@dataclass(frozen=True)
class Form:
    """One type of vector."""

    read: Callable[[bytes, Vector], Any]
    write: Callable[[Any, Vector], bytes]


# --- values and frames


def read_value(data: bytes, vector: Vector) -> Any:
    return to_json(unpack(data, max_bytes=limits.CONTROL_FRAME_BYTES))


def write_value(decoded: Any, vector: Vector) -> bytes:
    return pack(from_json(decoded))


def read_frames(data: bytes, vector: Vector) -> Any:
    return to_json(FrameReader(vector["max_bytes"]).feed(data))


def write_frames(decoded: Any, vector: Vector) -> bytes:
    return b"".join(frame(payload) for payload in from_json(decoded))


# --- control messages


def read_control(data: bytes, vector: Vector) -> Any:
    message, request_id = control.decode(data)
    if isinstance(message, control.Unknown):
        number, body = message.type, dict(message.body)
    else:
        number = next(n for n, kind in control.MESSAGES.items() if kind is type(message))
        fields = [name for name in message.__struct_fields__ if name != "extra"]
        body = {name: getattr(message, name) for name in fields}
        body = {name: value for name, value in body.items() if value is not None} | message.extra
    return {"type": number, "request_id": request_id, "body": to_json(body)}


def write_control(decoded: Any, vector: Vector) -> bytes:
    body = from_json(decoded["body"])
    kind = control.MESSAGES.get(decoded["type"])
    message: control.Message
    if kind is None:
        message = control.Unknown(type=decoded["type"], body=body)
    else:
        fields = set(kind.__struct_fields__) - {"extra"}
        known = {name: body.pop(name) for name in fields & body.keys()}
        message = kind(**known, extra=body)
    return control.encode(message, decoded["request_id"])


# --- joins


def read_join(data: bytes, vector: Vector) -> Any:
    message = join.decode_join(data)
    number = next(n for n, kind in join.JOIN_MESSAGES.items() if kind is type(message))
    body = {name: getattr(message, name) for name in message.__struct_fields__}
    return {"type": number, "body": to_json(body)}


def write_join(decoded: Any, vector: Vector) -> bytes:
    kind = join.JOIN_MESSAGES[decoded["type"]]
    return join.encode_join(kind(**from_json(decoded["body"])))


# --- answers


def read_answer(data: bytes, vector: Vector) -> Any:
    reader = answer.AnswerReader(vector.get("after", 0))
    return [_answer_frame(read) for read in reader.feed(data)]


def _answer_frame(read: answer.AnswerFrame) -> dict[str, Any]:
    payload: Any = None
    match read.kind:
        case answer.FrameKind.LOAD:
            payload = read.load
        case answer.FrameKind.ERROR:
            payload = read.failure
        case answer.FrameKind.END:
            payload = answer.End(read.reason)
        case answer.FrameKind.BEAT | answer.FrameKind.BEGUN:
            payload = None
        case _ if read.items:
            payload = read.items[0]
            if isinstance(payload, Delta) and payload == Delta(payload.text):
                payload = payload.text
    return {"seq": read.seq, "kind": int(read.kind), "payload": msgspec.to_builtins(payload)}


def write_answer(decoded: Any, vector: Vector) -> bytes:
    writer = answer.AnswerWriter(vector.get("after", 0))
    return b"".join(_write_answer_frame(writer, item) for item in decoded)


def _write_answer_frame(writer: answer.AnswerWriter, decoded: Any) -> bytes:
    payload = decoded["payload"]
    match answer.FrameKind(decoded["kind"]):
        case answer.FrameKind.DELTA:
            delta = Delta(payload) if isinstance(payload, str) else msgspec.convert(payload, Delta)
            return writer.items([delta])
        case answer.FrameKind.USAGE:
            return writer.items([msgspec.convert(payload, Usage)])
        case answer.FrameKind.LOAD:
            return writer.load(msgspec.convert(payload, Load))
        case answer.FrameKind.BEAT:
            return writer.beat()
        case answer.FrameKind.BEGUN:
            return writer.begun()
        case answer.FrameKind.END:
            return writer.end(msgspec.convert(payload, answer.End).reason)
        case answer.FrameKind.ERROR:
            return writer.error(msgspec.convert(payload, Failure))
        case answer.FrameKind.EMBEDDING:
            return writer.items([msgspec.convert(payload, Embedding)])


# --- forwarded requests


def read_serve(data: bytes, vector: Vector) -> Any:
    return msgspec.to_builtins(serve.decode_serve(data))


def write_serve(decoded: Any, vector: Vector) -> bytes:
    return serve.encode_serve(msgspec.convert(decoded, serve.ServeRequest))


def read_cancel(data: bytes, vector: Vector) -> Any:
    return msgspec.to_builtins(serve.decode_cancel(data))


def write_cancel(decoded: Any, vector: Vector) -> bytes:
    return serve.encode_cancel(msgspec.convert(decoded, serve.CancelRequest))


def read_resume(data: bytes, vector: Vector) -> Any:
    return msgspec.to_builtins(serve.decode_resume(data))


def write_resume(decoded: Any, vector: Vector) -> bytes:
    return serve.encode_resume(msgspec.convert(decoded, serve.ResumeRequest))


def read_show(data: bytes, vector: Vector) -> Any:
    return msgspec.to_builtins(serve.decode_show(data))


def write_show(decoded: Any, vector: Vector) -> bytes:
    return serve.encode_show(msgspec.convert(decoded, serve.ShowRequest))


def read_said_request(data: bytes, vector: Vector) -> Any:
    return msgspec.to_builtins(said.decode_said_request(data))


def write_said_request(decoded: Any, vector: Vector) -> bytes:
    return said.encode_said_request(msgspec.convert(decoded, said.SaidRequest))


def read_said(data: bytes, vector: Vector) -> Any:
    return [{"kind": f.kind, "data": to_json(f.data)} for f in said.SaidReader().feed(data)]


def write_said(decoded: Any, vector: Vector) -> bytes:
    return b"".join(said.said_frame(f["kind"], from_json(f["data"])) for f in decoded)


# --- gossip

_GOSSIP = {
    1: gossip.Ping,
    2: gossip.PingReq,
    3: gossip.Ack,
    4: gossip.Nack,
    5: gossip.Word,
    6: gossip.Suspect,
    7: gossip.Failed,
    8: gossip.Ask,
}
_GOSSIP_NUMBERS = {kind: number for number, kind in _GOSSIP.items()}


def read_gossip(data: bytes, vector: Vector) -> Any:
    packet = gossip.decode_packet(data, max_bytes=limits.DATAGRAM_BYTES)
    if packet.unknown != vector.get("unknown", 0):
        raise AssertionError(f"{packet.unknown} messages of unknown type")
    return [_gossip_message(message) for message in packet.messages]


def _gossip_message(message: gossip.Message) -> Any:
    body: dict[str, Any]
    match message:
        case gossip.Ping(sequence, target):
            body = {"q": sequence, "n": target}
        case gossip.PingReq(sequence, target, addresses):
            body = {"q": sequence, "n": target, "a": [[a.host, a.port] for a in addresses]}
        case gossip.Word(payload=payload, signature=signature):
            body = {"p": payload, "s": signature}
        case gossip.Ack(sequence) | gossip.Nack(sequence):
            body = {"q": sequence}
        case gossip.Suspect(node, version, by) | gossip.Failed(node, version, by):
            body = {"n": node, "g": version[0], "i": version[1], "b": by}
        case gossip.Ask(node, version):
            body = {"n": node, "g": version[0], "i": version[1]}
    return to_json([_GOSSIP_NUMBERS[type(message)], body])


def write_gossip(decoded: Any, vector: Vector) -> bytes:
    return gossip.encode_packet([_to_gossip(number, body) for number, body in from_json(decoded)])


def _to_gossip(number: int, body: dict[str, Any]) -> gossip.Message:
    match number:
        case 1:
            return gossip.Ping(body["q"], NodeId(body["n"]))
        case 2:
            addresses = tuple(Address(*pair) for pair in body["a"])
            return gossip.PingReq(body["q"], NodeId(body["n"]), addresses)
        case 3:
            return gossip.Ack(body["q"])
        case 4:
            return gossip.Nack(body["q"])
        case 5:
            return gossip.decode_word(body["p"], body["s"])
        case 8:
            return gossip.Ask(NodeId(body["n"]), (body["g"], body["i"]))
        case _:
            kind = gossip.Suspect if number == 6 else gossip.Failed
            return kind(NodeId(body["n"]), (body["g"], body["i"]), NodeId(body["b"]))


def read_claim(data: bytes, vector: Vector) -> Any:
    word = gossip.decode_word(data, b"")
    profile, load = word.profile, word.profile.load
    return {
        "k": int(word.kind),
        "n": word.node,
        "g": word.version[0],
        "i": word.version[1],
        "h": profile.name,
        "a": [[a.host, a.port] for a in profile.addresses],
        "p": list(profile.protocol),
        "r": profile.inventory,
        "l": [load.running, load.queued, load.slots, load.draining],
    }


def write_claim(decoded: Any, vector: Vector) -> bytes:
    profile = gossip.Profile(
        decoded["h"],
        tuple(Address(*pair) for pair in decoded["a"]),
        tuple(decoded["p"]),
        decoded["r"],
        gossip.Load(*decoded["l"]),
    )
    version = (decoded["g"], decoded["i"])
    kind = gossip.WordKind(decoded["k"])
    return gossip.encode_claim(NodeId(decoded["n"]), version, kind, profile)


# --- member lists


def read_members(data: bytes, vector: Vector) -> Any:
    signed = members.SignedMembers.from_bytes(data)
    try:
        read = members.verify(signed, public_key(from_json(vector["ca"])))
    except members.OtherSigner as error:  # finer than what the protocol names
        raise ProtocolError(str(error)) from error
    rows = [
        {
            "key": member.public_key.der,
            "name": member.name,
            "addresses": [[address.host, address.port] for address in member.addresses],
            "joined": member.joined_unix_s,
            "founder": member.founder,
            "drained": member.drained,
            "labels": list(member.labels),
        }
        for member in read.members
    ]
    listed = {
        "mesh": read.mesh,
        "mesh_name": read.mesh_name,
        "version": read.version,
        "members": rows,
        "removed": dict(read.removed),
    }
    return to_json({"list": listed, "signature": signed.signature})


def write_members(decoded: Any, vector: Vector) -> bytes:
    """With the signature as it is: making one takes the key, and need not give the same bytes."""
    listed, signature = from_json(decoded["list"]), from_json(decoded["signature"])
    rows = tuple(
        members.Member(
            public_key=public_key(row["key"]),
            name=row["name"],
            addresses=tuple(Address(*pair) for pair in row["addresses"]),
            joined_unix_s=row["joined"],
            founder=row["founder"],
            drained=row["drained"],
            labels=tuple(row["labels"]),
        )
        for row in listed["members"]
    )
    made = members.MemberList(
        mesh=listed["mesh"],
        mesh_name=listed["mesh_name"],
        version=listed["version"],
        members=rows,
        removed=listed["removed"],
    )
    body = members.sign(made, CA).body
    return members.SignedMembers(body, signature).to_bytes()


# --- datagrams

RECEIVER = NodeId("r" * 26)


def _envelope(vector: Vector, me: str) -> Envelope:
    context = vector["context"]
    members = set(context["members"])
    keys = {int(key_id): bytes.fromhex(key) for key_id, key in context["keys"].items()}
    return Envelope(
        MeshId(context["mesh"]),
        NodeId(me),
        context.get("generation", 1),
        keys,
        context["primary"],
        members.__contains__,
    )


def read_datagram(data: bytes, vector: Vector) -> Any:
    receiver = _envelope(vector, RECEIVER)
    for earlier in vector["context"].get("opened_before", []):
        receiver.open(bytes.fromhex(earlier))
    sender, payload = receiver.open(data)
    return {
        "key_id": int.from_bytes(data[1:5], "big"),
        "sender": sender,
        "generation": int.from_bytes(data[31:39], "big"),
        "counter": int.from_bytes(data[39:47], "big"),
        "payload": to_json(payload),
    }


def write_datagram(decoded: Any, vector: Vector) -> bytes:
    vector = vector | {"context": vector["context"] | {"generation": decoded["generation"]}}
    vector["context"]["primary"] = decoded["key_id"]
    sender = _envelope(vector, decoded["sender"])
    for _ in range(decoded["counter"]):
        sender.seal(b"")
    return sender.seal(from_json(decoded["payload"]))


FORMS = {
    "value": Form(read_value, write_value),
    "frames": Form(read_frames, write_frames),
    "control": Form(read_control, write_control),
    "join": Form(read_join, write_join),
    "answer": Form(read_answer, write_answer),
    "serve": Form(read_serve, write_serve),
    "cancel": Form(read_cancel, write_cancel),
    "resume": Form(read_resume, write_resume),
    "show": Form(read_show, write_show),
    "said request": Form(read_said_request, write_said_request),
    "said": Form(read_said, write_said),
    "gossip": Form(read_gossip, write_gossip),
    "claim": Form(read_claim, write_claim),
    "members": Form(read_members, write_members),
    "datagram": Form(read_datagram, write_datagram),
    "segment": Form(journal_forms.read_segment, journal_forms.write_segment),
    "command": Form(record_forms.read_command, record_forms.write_command),
    "state": Form(record_forms.read_state, record_forms.write_state),
    "log": Form(log_forms.read_log, log_forms.write_log),
    "snapshot": Form(journal_forms.read_snapshot, journal_forms.write_snapshot),
}
