"""Frames of forwarded answers: numbering, limits, and that nothing is lost on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import pytest

from meshd import limits
from meshd.api import ollama_encode, openai_encode
from meshd.errors import LimitExceeded, ProtocolError
from meshd.inference import (
    Delta,
    Embedding,
    Failure,
    FailureKind,
    Kind,
    Load,
    Message,
    Request,
    TokenLogprob,
    ToolCall,
    Usage,
)
from meshd.wire.answer import AnswerItem, AnswerReader, AnswerWriter, FrameKind
from meshd.wire.codec import pack, unpack
from meshd.wire.framing import FrameReader, frame
from meshd.wire.serve import (
    AnswerForm,
    CancelRequest,
    KeyedClaim,
    ServeRequest,
    decode_cancel,
    decode_serve,
    encode_cancel,
    encode_serve,
)

CALL = Delta(tool_calls=[ToolCall(index=1, id="c1", name="f", arguments='{"a":')])
LAST = Delta(text="!", finish_reason="stop")


def read_items(data: bytes, reader: AnswerReader | None = None) -> list[AnswerItem]:
    reader = reader or AnswerReader()
    return [item for frame_ in reader.feed(data) for item in frame_.items]


def raw(seq: object, kind: object, payload: object) -> bytes:
    return frame(msgspec.msgpack.encode([seq, kind, payload]))


def test_items_come_back_in_order_with_their_numbers() -> None:
    items: Sequence[AnswerItem] = [Delta("a"), Delta("b"), CALL, LAST, Usage(completion_tokens=4)]
    frames = AnswerReader().feed(AnswerWriter().items(items))
    assert [item for f in frames for item in f.items] == items
    assert [f.seq for f in frames] == [1, 2, 3, 4, 5]
    assert [f.kind for f in frames] == [FrameKind.DELTA] * 4 + [FrameKind.USAGE]


def test_text_alone_travels_as_text_alone() -> None:
    assert AnswerWriter().items([Delta("hi")]) == frame(pack([1, 1, "hi"]))


def test_frames_are_canonical() -> None:
    writer = AnswerWriter()
    out = writer.items([Delta("x"), CALL, LAST, Usage(1, 2), Embedding([[0.5, 1.0]], 3)])
    out += writer.load(Load(running=1)) + writer.beat() + writer.end("stop")
    for payload in FrameReader(limits.STREAM_FRAME_BYTES).feed(out):
        assert pack(unpack(payload, max_bytes=limits.STREAM_FRAME_BYTES)) == payload


def test_what_is_no_item_carries_the_number_of_the_last_item() -> None:
    writer = AnswerWriter()
    out = writer.load(Load(running=2)) + writer.beat() + writer.items([Delta("a")])
    out += writer.beat() + writer.end("stop")
    reader = AnswerReader()
    frames = reader.feed(out)
    assert [(f.seq, f.kind) for f in frames] == [
        (0, FrameKind.LOAD),
        (0, FrameKind.BEAT),
        (1, FrameKind.DELTA),
        (1, FrameKind.BEAT),
        (1, FrameKind.END),
    ]
    assert frames[0].load == Load(running=2)
    assert frames[-1].reason == "stop"
    assert reader.complete


def test_a_failure_travels_whole_and_ends_the_answer() -> None:
    failure = Failure(FailureKind.BUSY, "no slot", 503, retry_after_s=1.5)
    reader = AnswerReader()
    (frame_,) = reader.feed(AnswerWriter().error(failure))
    assert frame_.failure == failure
    assert reader.complete


def test_a_failure_with_endless_text_is_cut() -> None:
    (frame_,) = AnswerReader().feed(AnswerWriter().error(Failure("backend", "x" * 2_000_000)))
    assert frame_.failure is not None
    assert len(frame_.failure.message) == limits.TEXT_CHARS


@pytest.mark.parametrize("seq", [0, 2, 3, -1])
def test_a_gap_or_a_repeat_in_the_numbers_is_refused(seq: int) -> None:
    reader = AnswerReader()
    with pytest.raises(ProtocolError, match=f"number {seq} after item 0"):
        reader.feed(raw(seq, 1, "x"))


def test_a_repeated_item_is_refused() -> None:
    reader = AnswerReader()
    reader.feed(raw(1, 1, "x"))
    with pytest.raises(ProtocolError, match="number 1 after item 1"):
        reader.feed(raw(1, 1, "x"))


def test_a_beat_that_knows_of_items_never_seen_is_refused() -> None:
    with pytest.raises(ProtocolError, match="number 4 after item 0"):
        AnswerReader().feed(raw(4, 4, None))


def test_a_frame_after_the_last_is_refused() -> None:
    reader = AnswerReader()
    reader.feed(AnswerWriter().end())
    with pytest.raises(ProtocolError, match="follows the last"):
        reader.feed(AnswerWriter().beat())


def test_a_stream_resumes_at_a_number() -> None:
    assert read_items(AnswerWriter(seq=7).items([Delta("x")]), AnswerReader(seq=7)) == [Delta("x")]


def test_frames_come_out_whole_however_the_bytes_are_split() -> None:
    writer = AnswerWriter()
    out = writer.items([Delta("one"), CALL, LAST]) + writer.beat() + writer.end("stop")
    whole = AnswerReader().feed(out)
    for step in (1, 2, 3, 5, 7, 50):
        reader = AnswerReader()
        pieces = [out[at : at + step] for at in range(0, len(out), step)]
        assert [f for piece in pieces for f in reader.feed(piece)] == whole


def test_kinds_of_a_later_version_are_skipped_and_counted() -> None:
    reader = AnswerReader()
    assert reader.feed(raw(0, 99, {"new": True}) + raw(1, 1, "x"))[0].items == (Delta("x"),)
    assert reader.unknown == 1


def test_keys_of_a_later_version_are_ignored() -> None:
    assert read_items(raw(1, 1, {"text": "x", "new": 1})) == [Delta("x")]


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        msgspec.msgpack.encode([1, 1]),
        msgspec.msgpack.encode([1, 1, "x", 2]),
        msgspec.msgpack.encode({"seq": 1}),
        msgspec.msgpack.encode(["1", 1, "x"]),
        msgspec.msgpack.encode([1, 1, 5]),
        msgspec.msgpack.encode([1, 1, {"text": 5}]),
        msgspec.msgpack.encode([1, 1, {"tool_calls": [{"index": "0"}]}]),
        msgspec.msgpack.encode([0, 6, None]),
        msgspec.msgpack.encode([0, 6, {"kind": "busy"}]),
        msgspec.msgpack.encode([1, 7, {"vectors": [["x"]], "prompt_tokens": 1, "more": False}]),
        msgspec.msgpack.encode([1, 1, "xx"])[:-2] + b"\xff\xff",
        b"\x93\x01\x01" + b"\x91" * 100_000,
        b"\x93\x01\x01\xdd\xff\xff\xff\xff",
    ],
)
def test_garbage_in_a_frame_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        AnswerReader().feed(frame(body))


def test_a_frame_over_the_limit_is_refused_before_it_arrives() -> None:
    with pytest.raises(LimitExceeded):
        AnswerReader().feed((limits.STREAM_FRAME_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(ProtocolError, match="empty"):
        AnswerReader().feed(bytes(4))


def test_an_item_larger_than_a_frame_is_cut_into_items() -> None:
    text, arguments = "ä" * limits.STREAM_FRAME_BYTES, "x" * (limits.STREAM_FRAME_BYTES + 5)
    big = Delta(
        text=text,
        reasoning=text,
        tool_calls=[ToolCall(index=2, id="i", name="n", arguments=arguments), ToolCall(index=3)],
        logprobs=[TokenLogprob("a", -0.5), TokenLogprob("b", -1.5)],
        finish_reason="stop",
    )
    writer = AnswerWriter()
    deltas = read_items(writer.items([Delta("first"), big, Delta("after")]))
    assert all(isinstance(d, Delta) for d in deltas)
    assert writer.seq == len(deltas)
    pieces = [d for d in deltas if isinstance(d, Delta)]
    assert (pieces[0], pieces[-1]) == (Delta("first"), Delta("after"))
    pieces = pieces[1:-1]
    assert "".join(d.text for d in pieces) == text
    assert "".join(d.reasoning for d in pieces) == text
    calls = [c for d in pieces for c in d.tool_calls]
    assert "".join(c.arguments for c in calls if c.index == 2) == arguments
    assert [(c.id, c.name) for c in calls if c.index == 2][:2] == [("i", "n"), ("", "")]
    assert calls[-1] == ToolCall(index=3)
    assert [p for d in pieces for p in d.logprobs] == big.logprobs
    assert [d.finish_reason for d in pieces if d.finish_reason] == ["stop"]
    assert pieces[-1].finish_reason == "stop"


def test_embeddings_travel_in_as_many_frames_as_they_need() -> None:
    whole = Embedding([[float(i), 0.5] * 2048 for i in range(100)], prompt_tokens=9)
    out = AnswerWriter().items([whole])
    assert len(FrameReader(limits.STREAM_FRAME_BYTES).feed(out)) > 1
    assert read_items(out) == [whole]


def test_a_single_vector_over_a_frame_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        AnswerWriter().items([Embedding([[0.5] * (limits.STREAM_FRAME_BYTES // 8)])])


def test_embeddings_without_end_are_refused() -> None:
    reader = AnswerReader()
    part = {"vectors": [[0.5] * 100_000], "prompt_tokens": 0, "more": True}
    count = limits.ENGINE_BODY_BYTES // 900_000 + 1
    endless = b"".join(raw(seq, 7, part) for seq in range(1, count + 1))
    with pytest.raises(LimitExceeded, match="embeddings"):
        reader.feed(endless)


def serve_request() -> ServeRequest:
    request = Request(Kind.CHAT, "m", messages=[Message("user", "hi")], tools=[{"a": {"b": [1]}}])
    return ServeRequest(
        request_id="r-1.1", wait_s=2.5, backend="b", model="m:latest", request=request
    )


def test_a_forwarded_request_travels_whole() -> None:
    asked = serve_request()
    assert decode_serve(encode_serve(asked)) == asked
    assert pack(unpack(encode_serve(asked), max_bytes=10_000)) == encode_serve(asked)


def test_a_cancel_travels_whole() -> None:
    assert decode_cancel(encode_cancel(CancelRequest("r-1"))) == CancelRequest("r-1")


@pytest.mark.parametrize("body", [b"", b"\xc0", b"\x80", b"{}", b"\x91" * 100_000])
def test_a_malformed_forwarded_request_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        decode_serve(body)
    with pytest.raises(ProtocolError, match="malformed"):
        decode_cancel(body)


@pytest.mark.parametrize("request_id", ["", "x" * 129])
def test_a_request_id_has_bounds(request_id: str) -> None:
    with pytest.raises(ProtocolError, match="id has"):
        decode_cancel(encode_cancel(CancelRequest(request_id)))
    with pytest.raises(ProtocolError, match="id has"):
        decode_serve(encode_serve(msgspec.structs.replace(serve_request(), request_id=request_id)))


def keyed(**form: object) -> ServeRequest:
    """A forwarded request whose answer is to be written in that form, should its entry be gone."""
    usual: dict[str, object] = {"path": "/api/chat", "request_id": "r", "unix_s": 1.5, "model": "m"}
    claim = KeyedClaim(7, 5, AnswerForm(**(usual | form)))  # type: ignore[arg-type]
    return msgspec.structs.replace(serve_request(), keyed=claim)


@pytest.mark.parametrize(
    "form",
    [
        {"unix_s": math.inf},
        {"unix_s": math.nan},
        {"unix_s": -1.0},
        {"unix_s": 2.0**41},
        {"request_id": ""},
        {"request_id": "x" * (limits.REQUEST_ID_CHARS + 1)},
        {"request_id": "r\r\nset-cookie: a=b"},
        {"request_id": "\u200e"},
        {"model": "x" * (limits.MODEL_NAME_CHARS + 1)},
        {"path": ""},
        {"path": "/api/tags"},
        {"path": "/v1/chat/completions\n"},
        {"path": "/api/chat" * 1000},
    ],
    ids=lambda form: str(form)[:40],
)
def test_a_form_that_no_entry_writes_is_refused(form: dict[str, object]) -> None:
    """Whoever goes on with the run writes the answer in that form, at a node that is not to end."""
    with pytest.raises(ProtocolError, match=r"keyed\.form"):
        decode_serve(encode_serve(keyed(**form)))


def test_a_form_names_any_path_that_is_answered_by_an_engine() -> None:
    for api, names in (
        (openai_encode, ("CHAT", "COMPLETION", "EMBEDDING")),
        (ollama_encode, ("CHAT", "GENERATE", "EMBED", "OLD_EMBED")),
    ):
        for name in names:
            asked = keyed(path=getattr(api, name))
            assert decode_serve(encode_serve(asked)) == asked


def test_lists_in_a_forwarded_request_have_limits() -> None:
    many = [Message("user", "")] * (limits.MESSAGES + 1)
    request = Request(Kind.CHAT, "m", messages=many)
    asked = msgspec.structs.replace(serve_request(), request=request)
    with pytest.raises(LimitExceeded, match="messages"):
        decode_serve(encode_serve(asked))
