"""Samples of forwarded requests and their answers (proto/peer.md)."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from meshd.wire.codec import pack
from meshd.wire.framing import frame
from tests.conformance.forms import Vector
from tests.conformance.jsonform import to_json
from tests.conformance.samples.making import bad, good, readable


def answers() -> list[Vector]:
    def stream(name: str, *frames_: tuple[int, int, Any], **more: Any) -> Vector:
        decoded = [{"seq": seq, "kind": kind, "payload": load} for seq, kind, load in frames_]
        return good(name, "answer", decoded, **more)

    def raw(*frames_: list[Any]) -> bytes:
        return b"".join(frame(msgspec.msgpack.encode(item)) for item in frames_)

    return [
        stream("a whole answer",
               (0, 3, {"running": 1, "slots": 1}), (0, 4, None), (1, 1, "Hel"), (2, 1, "lo"),
               (3, 1, {"text": "!", "finish_reason": "stop"}),
               (4, 2, {"prompt_tokens": 12, "completion_tokens": 3, "total_ns": 81000000}),
               (4, 5, {"reason": "stop"})),
        stream("a request that queued", (0, 4, None), (0, 8, None), (0, 4, None), (1, 1, "Hi")),
        stream("text alone", (1, 1, " wörld")),
        stream("an empty text", (1, 1, "")),
        stream("reasoning", (1, 1, {"reasoning": "hm"})),
        stream("fragments of a tool call",
               (1, 1, {"tool_calls": [{"id": "call_1", "name": "weather", "arguments": "{\"ci"}]}),
               (2, 1, {"tool_calls": [{"arguments": "ty\":1}"}, {"index": 1, "name": "time"}]})),
        stream("log-probabilities", (1, 1, {
            "text": "a", "logprobs": [
                {"token": "a", "logprob": -0.25, "bytes": [97],
                 "top": [{"token": "b", "logprob": -1.5}]}]})),
        stream("a finish alone", (1, 1, {"finish_reason": "length"})),
        stream("busy, with the load", (0, 3, {"running": 4, "queued": 9, "slots": 4}),
               (0, 6, {"kind": "busy", "message": "No slot is free.", "status": 503,
                       "retry_after_s": 2.0})),
        stream("an engine that died in mid-answer", (1, 1, "Hel"),
               (1, 6, {"kind": "broken", "message": "The engine closed the connection."})),
        stream("draining", (0, 3, {"draining": True}),
               (0, 6, {"kind": "draining", "message": "Going down.", "status": 503})),
        stream("an end without a reason", (0, 5, {})),
        stream("from item 7 on", (7, 1, "x"), (7, 5, {"reason": "stop"}), after=6),
        readable("an embedding in one frame", "answer", [
            {"seq": 1, "kind": 7,
             "payload": {"vectors": [[0.5, -1.0], [0.25, 2.0]], "prompt_tokens": 7}}],
            raw([1, 7, {"more": False, "prompt_tokens": 7,
                        "vectors": [[0.5, -1.0], [0.25, 2.0]]}])),
        readable("an embedding in two frames, whole with its last", "answer", [
            {"seq": 1, "kind": 7, "payload": None},
            {"seq": 2, "kind": 7,
             "payload": {"vectors": [[0.5], [1.5]], "prompt_tokens": 7}}],
            raw([1, 7, {"more": True, "prompt_tokens": 7, "vectors": [[0.5]]}],
                [2, 7, {"more": False, "prompt_tokens": 7, "vectors": [[1.5]]}])),
        readable("a kind of a later version, skipped", "answer", [
            {"seq": 1, "kind": 1, "payload": "x"}],
            raw([0, 200, {"new": True}], [1, 1, "x"])),
        readable("keys of a later version, ignored", "answer", [
            {"seq": 1, "kind": 1, "payload": {"finish_reason": "stop"}}],
            raw([1, 1, {"finish_reason": "stop", "mood": "good"}])),
        readable("text alone in a map", "answer", [{"seq": 1, "kind": 1, "payload": "x"}],
                 raw([1, 1, {"text": "x"}])),
        readable("not canonical, which readers of answers allow", "answer",
                 [{"seq": 1, "kind": 1, "payload": "x"}],
                 bytes.fromhex("00000008" + "93" + "cd0001" + "01" + "d90178")),
    ]  # fmt: skip


def bad_answers() -> list[Vector]:
    def raw(name: str, *frames_: Any, error: str = "ProtocolError", **more: Any) -> Vector:
        data = b"".join(frame(msgspec.msgpack.encode(item)) for item in frames_)
        return bad(name, "answer", data, error, **more)

    return [
        raw("a gap", [1, 1, "a"], [3, 1, "b"]),
        raw("a repeat", [1, 1, "a"], [1, 1, "a"]),
        raw("items that begin at 0", [0, 1, "a"]),
        raw("items that begin at 2", [2, 1, "a"]),
        raw("a repeat after a resumption", [6, 1, "a"], after=6),
        raw("usage without a number of its own", [1, 1, "a"], [1, 2, {}]),
        raw("a beat with a number of its own", [1, 4, None]),
        raw("a word of the queue with a number of its own", [1, 8, None]),
        raw("a frame after the end", [0, 5, {}], [0, 4, None]),
        raw("a frame after an error", [0, 6, {"kind": "busy", "message": ""}], [0, 4, None]),
        raw("two items in a frame", [1, 1]),
        raw("four items in a frame", [1, 1, "a", "b"]),
        raw("a number that is text", ["1", 1, "a"]),
        raw("a delta that is an integer", [1, 1, 5]),
        raw("a delta that is nil", [1, 1, None]),
        raw("text that is an integer", [1, 1, {"text": 5}]),
        raw("tool calls that are a map", [1, 1, {"tool_calls": {}}]),
        raw("a failure without a message", [0, 6, {"kind": "busy"}]),
        raw("vectors of text", [1, 7, {"vectors": [["a"]], "prompt_tokens": 1, "more": False}]),
        bad("garbage in a frame", "answer", "00000001c1", "ProtocolError"),
        bad("text that is not UTF-8", "answer", "00000005" + "930101" + "a1ff", "ProtocolError"),
        bad("an empty frame", "answer", "00000000", "ProtocolError"),
        bad("a frame over the limit, refused by its head alone", "answer", "00100001",
            "LimitExceeded"),
        bad("nested without end", "answer", frame(b"\x93\x01\x01" + b"\x91" * 5000).hex(),
            "ProtocolError"),
    ]  # fmt: skip


def forwarded() -> list[Vector]:
    return [
        good("a chat", "serve", {
            "request_id": "req_0123456789abcdef.1", "backend": "ollama-11434",
            "model": "llama3.2:latest",
            "request": {"kind": "chat", "model": "llama3.2",
                        "messages": [{"role": "user", "text": "hi"}]}}),
        good("a keyed chat", "serve", {
            "request_id": "req_0123456789abcdef.1", "backend": "", "model": "llama3.2:latest",
            "request": {"kind": "chat", "model": "llama3.2",
                        "messages": [{"role": "user", "text": "hi"}]},
            "keyed": {"job": 4711424, "fence": 4601, "form": {
                "path": "/v1/chat/completions", "request_id": "req_0123456789abcdef",
                "unix_s": 1790000000.0, "model": "llama3.2", "stream": True,
                "include_usage": True}}}),
        good("a chat with everything", "serve", {
            "request_id": "req_0123456789abcdef.2", "attempt": 2, "deadline_s": 59.5,
            "wait_s": 5.0, "backend": "", "model": "llama3.2:latest",
            "request": {
                "kind": "chat", "model": "llama3.2",
                "messages": [
                    {"role": "system", "text": "Be brief."},
                    {"role": "user", "text": "What is this?",
                     "images": [{"data": "aGk="}, {"data": "aG8=", "media_type": "image/jpeg"}]},
                    {"role": "assistant", "reasoning": "hm", "tool_calls": [
                        {"id": "c1", "name": "look", "arguments": "{}"}]},
                    {"role": "tool", "text": "a cat", "tool_call_id": "c1", "name": "look"}],
                "sampling": {"temperature": 0.5, "top_k": 40, "seed": 7, "max_tokens": 100,
                             "stop": ["\n\n"]},
                "tools": [{"type": "function", "function": {
                    "name": "look", "parameters": {"type": "object", "properties": {}}}}],
                "tool_choice": "auto", "json_mode": True, "json_schema": {"type": "object"},
                "logprobs": True, "top_logprobs": 3, "think": "low", "keep_alive": "5m",
                "options": {"num_ctx": 4096}, "extra": {"user": "u"}}}),
        good("a completion", "serve", {
            "request_id": "r.1", "backend": "b", "model": "m",
            "request": {"kind": "completion", "model": "m", "prompt": "1 2", "suffix": "4",
                        "raw": True}}),
        good("an embedding", "serve", {
            "request_id": "r.1", "backend": "b", "model": "m",
            "request": {"kind": "embed", "model": "m", "inputs": ["a", "b"], "dimensions": 8,
                        "truncate": False}}),
        good("an answer that broke off", "serve", {
            "request_id": "r.2", "attempt": 2, "backend": "b", "model": "m",
            "request": {"kind": "chat", "model": "m",
                        "messages": [{"role": "user", "text": "hi"}],
                        "sampling": {"max_tokens": 58}, "partial": "Once upon a",
                        "partial_reasoning": "a tale"}}),
        good("a cancel", "cancel", {"request_id": "req_0123456789abcdef.1"}),
        good("the rest of an answer", "resume",
             {"request_id": "req_0123456789abcdef.1", "after_seq": 17}),
        good("a question about a model", "show",
             {"backend": "ollama-11434", "model": "llama3.2:latest"}),
    ]  # fmt: skip


def bad_forwarded() -> list[Vector]:
    p = "ProtocolError"
    chat = {"kind": "chat", "model": "m"}
    whole = {"request_id": "r", "backend": "b", "model": "m", "request": chat}

    def raw(name: str, value: Any, error: str = p) -> Vector:
        return bad(name, "serve", pack(value), error)

    def keyed(name: str, **form: Any) -> Vector:
        usual = {"path": "/api/chat", "request_id": "r", "unix_s": 1.5, "model": "m"}
        claim = {"job": 7, "fence": 5, "form": usual | form}
        return bad(name, "serve", msgspec.msgpack.encode(whole | {"keyed": claim}), p)

    return [
        raw("an array", []),
        raw("a key is missing", {k: v for k, v in whole.items() if k != "model"}),
        raw("an empty id", whole | {"request_id": ""}),
        raw("an id of 129 characters", whole | {"request_id": "r" * 129}),
        raw("a kind that is not known", whole | {"request": chat | {"kind": "sing"}}),
        raw("messages that are text", whole | {"request": chat | {"messages": "hi"}}),
        raw("513 tools", whole | {"request": chat | {"tools": [{}] * 513}}, "LimitExceeded"),
        keyed("a form of infinity", unix_s=math.inf),
        keyed("a form of a path that no engine answers", path="/api/tags"),
        keyed("a form with a line feed in its id", request_id="r\n"),
        bad("JSON", "serve", b'{"request_id": "r"}', p),
        bad("nested without end", "serve", b"\x81\xa1x" + b"\x91" * 5000, p),
        bad("an empty body", "cancel", b"", p),
        bad("an id that is an integer", "cancel", pack({"request_id": 1}), p),
        bad(
            "the rest after no item that can be",
            "resume",
            pack({"request_id": "r", "after_seq": -1}),
            p,
        ),
        bad("a question without a model", "show", pack({"backend": "b"}), p),
    ]


def said() -> list[Vector]:
    def stream(name: str, *frames_: tuple[int, bytes]) -> Vector:
        return good(name, "said", [{"kind": kind, "data": to_json(data)} for kind, data in frames_])

    return [
        good("a run from its first byte", "said request",
             {"job": 4823040, "fence": 4711, "from_byte": 0}),
        good("a run from a later byte", "said request",
             {"job": 4823040, "fence": 4715, "from_byte": 65536}),
        stream("a run to its end", (1, b"data: 1\n\n"), (3, b""), (2, b""), (1, b"data: 2\n\n"),
               (4, b"")),
        stream("a run that broke off", (1, b"data: 1\n\n"),
               (5, b'data: {"error": {"message": "no"}}\n\n')),
        stream("a run that never began to say anything", (3, b""), (5, b"")),
        readable("a kind of a later version, and more in a frame", "said",
                 [{"kind": 1, "data": to_json(b"x")}],
                 frame(msgspec.msgpack.encode([9, b"?"]))
                 + frame(msgspec.msgpack.encode([1, b"x", "more"]))),
    ]  # fmt: skip


def bad_said() -> list[Vector]:
    def raw(name: str, *frames_: Any) -> Vector:
        data = b"".join(frame(msgspec.msgpack.encode(item)) for item in frames_)
        return bad(name, "said", data, "ProtocolError")

    return [
        bad("a run without a fence", "said request", pack({"job": 1}), "ProtocolError"),
        bad("a byte before the first", "said request",
            pack({"job": 1, "fence": 1, "from_byte": -1}), "ProtocolError"),
        bad("a job by its name", "said request", pack({"job": "j1", "fence": 1}), "ProtocolError"),
        raw("a frame after the last", [4, b""], [3, b""]),
        raw("bytes that are text", [1, "x"]),
        raw("a frame that is a map", {"kind": 1}),
        bad("a frame over the limit", "said", "00100001", "LimitExceeded"),
    ]  # fmt: skip
