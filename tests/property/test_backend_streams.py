"""Lines, SSE and NDJSON: how a stream is cut changes nothing."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.backends.failures import failure_in_stream, failure_of
from meshd.backends.lines import LineSplitter
from meshd.backends.ndjson import NdjsonDecoder
from meshd.backends.ollama_stream import OllamaStream
from meshd.backends.openai_stream import OpenAIStream
from meshd.backends.sse import SseDecoder
from meshd.errors import LimitExceeded
from meshd.inference import Failure

# Bytes that mean something to these formats, and some that do not.
soup = st.lists(
    st.sampled_from(
        [
            *(b"\n", b"\r", b"\r\n", b"data: ", b"data:", b": ping", b"event: x", b"{}", b"a"),
            *(b" ", b"\xef\xbb\xbf", b"\xc3", b"[DONE]", b"error: ", b"id: 1", b"data"),
        ]
    ),
    max_size=40,
).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


@given(soup, st.lists(st.integers(0, 1000), max_size=20))
def test_lines_do_not_depend_on_the_cuts(data: bytes, places: list[int]) -> None:
    splitter, whole = LineSplitter(1000), LineSplitter(1000)
    lines = [line for part in cut(data, places) for line in splitter.feed(part)]
    assert lines == whole.feed(data)
    assert splitter.end() == whole.end()


@given(soup)
def test_lines_are_those_of_the_standard_rule(data: bytes) -> None:
    splitter = LineSplitter(1000)
    text = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removeprefix(b"\xef\xbb\xbf")
    assert [*splitter.feed(data), splitter.end()] == text.split(b"\n")


@given(soup, st.lists(st.integers(0, 1000), max_size=20))
def test_sse_events_do_not_depend_on_the_cuts(data: bytes, places: list[int]) -> None:
    decoder, whole = SseDecoder(), SseDecoder()
    events = [event for part in cut(data, places) for event in decoder.feed(part)]
    assert events == whole.feed(data)
    assert decoder.end() == whole.end()


@given(
    st.lists(st.sampled_from([b'{"a":1}', b"[DONE]", b"x\ny"])), st.sampled_from([b"\n", b"\r\n"])
)
def test_sse_data_survives_the_round_trip(payloads: list[bytes], newline: bytes) -> None:
    wire = b""
    for payload in payloads:
        for line in payload.split(b"\n"):
            wire += b"data: " + line + newline
        wire += newline
    assert SseDecoder().feed(wire) == payloads


@given(soup, st.lists(st.integers(0, 1000), max_size=20))
def test_ndjson_objects_do_not_depend_on_the_cuts(data: bytes, places: list[int]) -> None:
    decoder, whole = NdjsonDecoder(), NdjsonDecoder()
    objects = [item for part in cut(data, places) for item in decoder.feed(part)]
    assert objects == whole.feed(data)
    assert decoder.end() == whole.end()


def test_comments_names_and_ids_carry_no_data() -> None:
    wire = b": keep-alive\n\nevent: message\nid: 7\nretry: 3\ndata: x\n\n:\n\ndata\n\n"
    assert SseDecoder().feed(wire) == [b"x", b""]


def test_the_error_field_of_old_builds_is_data() -> None:
    assert SseDecoder().feed(b'error: {"error":{}}\n\n') == [b'{"error":{}}']


def test_a_last_event_without_its_empty_line_counts_at_the_end() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\n\ndata: b") == [b"a"]
    assert decoder.end() == [b"b"]
    assert decoder.end() == []


@pytest.mark.parametrize("make", [LineSplitter, SseDecoder, NdjsonDecoder])
def test_a_line_above_the_limit_is_refused_before_it_is_whole(make: type) -> None:
    decoder = make(16)
    assert decoder.feed(b"x" * 16) == []
    with pytest.raises(LimitExceeded, match="more than 16 bytes"):
        decoder.feed(b"x")


def test_a_line_above_the_limit_is_refused_though_it_came_with_its_end() -> None:
    with pytest.raises(LimitExceeded):
        LineSplitter(4).feed(b"ab\nabcde\n")
    assert LineSplitter(4).feed(b"ab\nabcd\nabcd\n") == [b"ab", b"abcd", b"abcd"]


def test_an_event_of_many_lines_is_limited_too() -> None:
    decoder = SseDecoder(16)
    with pytest.raises(LimitExceeded, match="event of more than 16 bytes"):
        decoder.feed(b"data: 01234567\ndata: 01234567\n")


# --- whatever an engine sends

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "delta", "content", "message", "tool_calls", "function", "index"),
                    *("finish_reason", "done", "done_reason", "error", "usage", "logprobs", "x"),
                    *("arguments", "prompt_tokens", "eval_count", "text", "response", "code"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.lists(json_values | st.binary(max_size=20), max_size=6))
def test_no_stream_of_an_engine_breaks_its_reader(values: list[object]) -> None:
    payloads = [v if isinstance(v, bytes) else msgspec.json.encode(v) for v in values]
    for stream, wire in (
        (OpenAIStream(), b"".join(b"data: " + p + b"\n\n" for p in payloads)),
        (OllamaStream(), b"".join(p + b"\n" for p in payloads)),
    ):
        stream.feed(wire)
        stream.end()
        assert stream.over
        assert stream.failure is None or isinstance(stream.failure, Failure)
        assert not (stream.complete and stream.failure)


@given(json_values, st.integers(100, 599))
def test_every_error_says_something(value: object, status: int) -> None:
    for failure in (failure_in_stream(value), failure_of(status, msgspec.json.encode(value))):
        assert failure.message
        assert 400 <= failure.status < 600


@given(st.binary(max_size=200), st.integers(100, 599))
def test_every_error_page_says_something(body: bytes, status: int) -> None:
    assert failure_of(status, body).message


@pytest.mark.parametrize("field", ["x", "error", "logprobs", "choices"])
def test_brackets_without_end_are_garbage(field: str) -> None:
    payload = b'{"%s":%s%s}' % (field.encode(), b"[" * 100_000, b"]" * 100_000)
    openai, ollama = OpenAIStream(), OllamaStream()
    openai.feed(b"data: " + payload + b"\n\n")
    ollama.feed(payload + b"\n")
    assert openai.failure is not None
    assert ollama.failure is not None
    assert failure_of(500, payload).message
