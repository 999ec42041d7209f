"""Control messages: what is written, what is read, what is kept."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError
from meshd.inference import BackendInfo, Inventory, Load, ModelInfo, ModelLoad
from meshd.wire import short_form
from meshd.wire.codec import pack, unpack
from meshd.wire.control import (
    MESSAGES,
    Cancel,
    Done,
    Hello,
    InventoryPush,
    LoadPush,
    Message,
    Ping,
    Refusal,
    Unknown,
    decode,
    encode,
)
from meshd.wire.control_mesh import (
    AdmitReply,
    Approve,
    KeyringPush,
    Leave,
    PendingReply,
)
from meshd.wire.control_record import MachineReply, RecordMessage

NODE = "a" * 26


def hello(**changes: Any) -> Hello:
    values: dict[str, Any] = {
        "protocol_min": 1,
        "protocol_max": 1,
        "version": "0.1.0",
        "node": NODE,
        "generation": 3,
        "mesh": "b" * 26,
        "name": "studio",
        "members_version": 7,
    }
    return Hello(**(values | changes))


def test_a_message_comes_back_with_its_request_id() -> None:
    assert decode(encode(hello(), 5)) == (hello(), 5)
    assert decode(encode(Ping())) == (Ping(), 0)


def test_keys_of_a_later_version_survive_a_node_that_does_not_know_them() -> None:
    body = {"digits": "123456", "colour": {"deep": [b"\x00", None]}, "extra": 1}
    payload = pack([19, 4, body])
    message, request_id = decode(payload)
    assert message == Approve(
        digits="123456", extra={"colour": {"deep": [b"\x00", None]}, "extra": 1}
    )
    assert encode(message, request_id) == payload


def test_a_type_of_a_later_version_is_surfaced_not_an_error() -> None:
    payload = pack([900, 1, {"x": 1}])
    message, request_id = decode(payload)
    assert message == Unknown(type=900, body={"x": 1})
    assert encode(message, request_id) == payload


def test_keys_that_may_be_missing_are_not_written_as_nil() -> None:
    reply = AdmitReply(refusal={"code": "used"})
    assert encode(reply, 1) == pack([14, 1, {"refusal": {"code": "used"}}])
    assert decode(encode(reply, 1)) == (reply, 1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"digits": 123456}, r"Approve.*int.*digits"),
        ({}, r"Approve.*missing.*digits"),
        ({"digits": None}, r"Approve.*digits is nil"),
        ({"digits": "1\n2"}, r"Approve.*digits"),
        ({"digits": "1" * 65}, r"Approve.*digits"),
        ({"digits": b"123456"}, r"Approve.*digits"),
    ],
)
def test_a_malformed_field_is_named_with_its_message(body: dict[str, Any], says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        decode(pack([19, 1, body]))


@pytest.mark.parametrize(
    "changes",
    [
        {"node": "A" * 26},
        {"node": "a" * 25},
        {"node": "a" * 26 + "\n"},
        {"mesh": ""},
        {"name": ""},
        {"name": "n" * 65},
        {"name": "evil\x1b[2J"},
        {"name": "right\u202eleft"},
        {"name": "two\n"},
        {"generation": -1},
        {"generation": 2**53},
        {"generation": True},
        {"generation": 1.0},
        {"version": "1\r"},
    ],
)
def test_a_hello_out_of_bounds_is_refused_on_both_sides(changes: dict[str, Any]) -> None:
    bad = hello(**changes)
    with pytest.raises(ValueError, match=next(iter(changes))):
        encode(bad)
    body = {name: getattr(bad, name) for name in bad.__struct_fields__ if name != "extra"}
    with pytest.raises(ProtocolError, match=next(iter(changes))):
        decode(pack([1, 0, body]))


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        [3, 0],
        [3, 0, {}, 0],
        [3, 0, []],
        ["3", 0, {}],
        [True, 0, {}],
        [3, False, {}],
        [3, -1, {}],
        [3, 2**53, {}],
        [0, 0, {}],
        [-3, 0, {}],
        [3.0, 0, {}],
    ],
)
def test_a_frame_that_is_no_message_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError):
        decode(pack(value))


def test_an_integer_is_no_float() -> None:
    reply = MachineReply(
        wish="auto", on_mains=True, portable=False, uptime_s=60, sync_s=0.0, runs=True
    )
    body = unpack(encode(reply, 1), max_bytes=1024)[2]
    assert body["uptime_s"] == 60.0
    assert isinstance(body["uptime_s"], float)
    with pytest.raises(ProtocolError, match="uptime_s is no float"):
        decode(pack([29, 1, body | {"uptime_s": 60}]))


def test_a_message_over_a_frame_is_refused_by_its_writer() -> None:
    too_much = InventoryPush(inventory={"x": "y" * limits.CONTROL_FRAME_BYTES})
    with pytest.raises(LimitExceeded, match="InventoryPush"):
        encode(too_much)


def test_extra_keys_cannot_take_the_place_of_known_ones() -> None:
    with pytest.raises(ValueError, match="digits"):
        encode(Approve(digits="123456", extra={"digits": "654321"}), 1)


def test_any_text_makes_a_refusal_that_can_be_sent() -> None:
    refusal = Refusal(code="refused", message="one\ntwo\x1b[31m" + "x" * 5000)
    read_back, _ = decode(encode(refusal, 1))
    assert isinstance(read_back, Refusal)
    assert read_back.message.startswith("one two [31mxxx")
    assert len(read_back.message) == limits.TEXT_CHARS
    assert decode(encode(Done(message="a\nb"), 1))[0] == Done(message="a b")
    assert decode(encode(Done(message="file \udcff"), 1))[0] == Done(message="file ?")


def test_an_inventory_travels_whole() -> None:
    model = ModelInfo("llama3.2:latest", resident=True, details={"a": [1, {"b": None}]})
    inventory = Inventory(NODE, 1, 2, [BackendInfo("ollama-11434", "ollama", models=[model])])
    message, _ = decode(encode(InventoryPush.of(inventory)))
    assert isinstance(message, InventoryPush)
    assert message.read() == inventory


@pytest.mark.parametrize(
    "details", [{"a": "x" * limits.CONTROL_FRAME_BYTES}, {"deep": [[[[[[[[[[[[[0]]]]]]]]]]]]]}]
)
def test_an_engine_with_too_much_to_say_does_not_silence_its_node(details: dict[str, Any]) -> None:
    model = ModelInfo("m", details=details)
    inventory = Inventory(NODE, 1, 2, [BackendInfo("b", "ollama", models=[model])])
    message, _ = decode(encode(InventoryPush.of(inventory)))
    assert isinstance(message, InventoryPush)
    assert message.read() == Inventory(
        NODE, 1, 2, [BackendInfo("b", "ollama", models=[ModelInfo("m")])]
    )


def test_rows_of_newcomers_cannot_steer_a_terminal() -> None:
    row = {"digits": "123456", "name": "laptop", "address": "10.0.0.7", "waiting_s": 3.5}
    reply = PendingReply(rows=[row | {"more": 1}])
    assert decode(encode(reply, 1)) == (reply, 1)
    for bad in ({"name": "\x1b[2J"}, {"address": "a\nb"}, {"waiting_s": -1.0}, {"digits": 5}):
        with pytest.raises(ProtocolError, match="PendingReply"):
            decode(pack([18, 1, {"rows": [row | bad]}]))
        with pytest.raises(ValueError, match="rows"):
            PendingReply(rows=[row | bad])


def test_a_load_travels_whole() -> None:
    load = Load(running=1, slots=2, per_model={"m": ModelLoad(decode_tokens_per_s=41.5)})
    message, _ = decode(encode(LoadPush.of(load)))
    assert isinstance(message, LoadPush)
    assert message.read() == load


def test_an_inventory_that_is_none_is_refused_when_read() -> None:
    with pytest.raises(ProtocolError, match="Inventory"):
        InventoryPush(inventory={"node": 1}).read()
    many = [{"id": str(i), "engine": "x"} for i in range(limits.BACKENDS + 1)]
    body = {"node": NODE, "generation": 1, "revision": 1, "backends": many}
    with pytest.raises(LimitExceeded, match="backends"):
        InventoryPush(inventory=body).read()


def test_two_sides_meet_at_the_highest_common_protocol() -> None:
    ours = hello(protocol_min=1, protocol_max=3)
    assert ours.protocol_with(hello(protocol_min=2, protocol_max=9)) == 3
    assert hello(protocol_min=2, protocol_max=9).protocol_with(ours) == 3
    assert ours.protocol_with(hello(protocol_min=4, protocol_max=5)) is None


@pytest.mark.parametrize(
    "message",
    [
        KeyringPush(version=1, secrets=[b"secret"]),
        AdmitReply(admitted={"keyring": "secret"}),
    ],
)
def test_secrets_do_not_show_in_a_repr(message: Message) -> None:
    assert "secret" not in repr(message).replace("<secret>", "")


def test_types_have_one_number_each() -> None:
    assert len(set(MESSAGES.values())) == len(MESSAGES)
    given_up = {15, 16, 20}
    assert list(MESSAGES) == [n for n in range(1, max(MESSAGES) + 1) if n not in given_up]


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Cancel(request="a").request = "b"  # type: ignore[misc]
    assert Leave(node=NODE) == Leave(node=NODE)


def test_every_message_can_hold_extra_keys() -> None:
    for kind in MESSAGES.values():
        assert issubclass(kind, msgspec.Struct)
        assert "extra" in kind.__struct_fields__


RECORD_BYTES = short_form.DATA_BYTES


@pytest.mark.parametrize("size", [1, 255, 256, 65535, 65536, RECORD_BYTES])
def test_what_voters_say_has_the_form_of_every_message(size: int) -> None:
    message = RecordMessage(data=bytes(size))
    assert MESSAGES[short_form.RECORD_MESSAGE] is RecordMessage
    payload = pack([27, 0, {"data": bytes(size)}])
    assert encode(message) == payload
    assert decode(payload) == (message, 0)


@pytest.mark.parametrize(
    "payload",
    [
        pack([27, 0, {"data": b""}]),
        pack([27, 0, {"data": "text"}]),
        pack([27, 0, {"data": bytes(RECORD_BYTES + 1)}]),
        pack([27, 0, {"data": b"x"}])[:-3],
        pack([27, 0, {"data": b"x"}])[:-2],
        pack([27, 0, {"data": b"x"}])[:-1],
        pack([27, 0, {"data": b"x"}]) + b"x",
        pack([27, 0, {"data": b"x"}])[:-3] + b"\xc5\x00\x01x",
        pack([27, 0, {"data": b"x"}])[:-3] + b"\xc6\x00\x00\x00\x01x",
    ],
)
def test_what_voters_say_is_refused_out_of_form(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(payload)


def test_what_voters_say_keeps_later_keys() -> None:
    payload = pack([27, 0, {"data": b"x", "hint": 1}])
    message, request_id = decode(payload)
    assert (message, request_id) == (RecordMessage(data=b"x", extra={"hint": 1}), 0)
    assert encode(message) == payload
    for empty in (RecordMessage(data=b""), RecordMessage(data=bytes(RECORD_BYTES + 1))):
        with pytest.raises(ValueError, match="RecordMessage"):
            encode(empty)
