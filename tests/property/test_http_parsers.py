"""However bytes are cut, they mean the same; and no bytes at all break the parsers."""

from __future__ import annotations

from random import Random

from hypothesis import example, given
from hypothesis import strategies as st

from meshd.errors import MeshdError
from meshd.http.messages import Refusal, ServerRequest
from meshd.http.requests import RequestLimits, RequestParser
from meshd.http.responses import ResponseLimits, ResponseParser
from meshd.ports import Remote

BOUNDS = RequestLimits(head_bytes=300, headers=6, target_bytes=40, body_bytes=60)
BOUNDS_OF_RESPONSES = ResponseLimits(head_bytes=300, headers=6)

TOKEN = st.text("abcXYZ-09", min_size=1, max_size=8).map(str.encode)
VALUE = st.text("ab ;=\t:\x80", max_size=20).map(lambda text: text.encode("latin-1"))
HEADERS = st.lists(st.tuples(TOKEN.map(lambda name: b"x-" + name), VALUE), max_size=4)
BODY = st.binary(max_size=70)


def head(first: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"\r\n".join([first, *(name + b": " + value for name, value in headers), b"", b""])


@st.composite
def framed(draw: st.DrawFn) -> tuple[tuple[bytes, bytes] | None, bytes]:
    """A framing header, and a body in that framing."""
    body = draw(BODY)
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    if kind == "none":
        return None, b""
    if kind == "length":
        return (b"Content-Length", b"%d" % len(body)), body
    pieces = []
    while body:
        size = draw(st.integers(1, len(body)))
        pieces.append(b"%x\r\n%b\r\n" % (size, body[:size]))
        body = body[size:]
    trailers = draw(HEADERS)
    return (b"Transfer-Encoding", b"chunked"), b"".join(pieces) + head(b"0", trailers)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS"]))
    target = draw(st.sampled_from([b"/", b"/a%20b?c=d", b"http://h/x", b"/" + b"y" * 45, b"*"]))
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]))
    framing, body = draw(framed())
    extra = draw(
        st.sampled_from(
            [
                [],
                [(b"Connection", b"close")],
                [(b"Connection", b"Upgrade"), (b"Upgrade", b"h2c")],
                [(b"Expect", b"100-continue")],
                [(b"Host", b"two")],
            ]
        )
    )
    headers = [(b"Host", b"h"), *draw(HEADERS), *extra]
    if framing:
        headers.insert(draw(st.integers(0, len(headers))), framing)
    return head(method + b" " + target + b" " + version, headers) + body


@st.composite
def cut(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    places = sorted(draw(st.sets(st.integers(0, len(whole)), max_size=12)))
    return [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]


def parse_requests(pieces: list[bytes]) -> list[object]:
    parser = RequestParser(BOUNDS, Remote(None))
    out: list[object] = []
    for piece in pieces:
        if piece:
            parser.feed(piece)
        while parser.ready:  # as the connection does: all is taken before more is fed
            item = parser.ready.popleft()
            if isinstance(item, Refusal):
                out.append((item.status, item.head_only))
            else:
                assert isinstance(item, ServerRequest)
                out.append([getattr(item, slot) for slot in ServerRequest.__slots__])
    out.append(parser.in_body)
    return out


@given(st.data())
def test_requests_mean_the_same_however_they_are_cut(data: st.DataObject) -> None:
    whole = b"".join(data.draw(st.lists(requests(), min_size=1, max_size=3)))
    assert parse_requests(data.draw(cut(whole))) == parse_requests([whole])
    assert parse_requests([bytes([byte]) for byte in whole]) == parse_requests([whole])


@given(st.lists(requests(), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_a_request_means_the_same_when_it_comes_again(whole: list[bytes], random: Random) -> None:
    """The second time it may not be parsed."""
    pieces = [piece for request in whole for piece in [request] * random.randint(1, 3)]
    assert parse_requests(pieces) == parse_requests([bytes([byte]) for byte in b"".join(pieces)])


@given(requests(), st.data())
def test_a_request_nearly_like_the_last_one_is_parsed(request: bytes, data: st.DataObject) -> None:
    other = bytearray(request)
    other[data.draw(st.integers(0, len(other) - 1))] = data.draw(st.integers(0, 255))
    pieces = [request, bytes(other), request]
    assert parse_requests(pieces) == parse_requests([bytes([byte]) for byte in b"".join(pieces)])


@given(st.data())
def test_damaged_requests_raise_nothing_and_end_in_at_most_one_refusal(data: st.DataObject) -> None:
    whole = bytearray(b"".join(data.draw(st.lists(requests(), min_size=1, max_size=3))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    outcome = parse_requests(data.draw(cut(bytes(whole))))
    refusals = [item for item in outcome if isinstance(item, tuple)]
    assert refusals in ([], outcome[-2:-1])


@given(st.lists(st.binary(max_size=100), max_size=5))
@example([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
@example([b"CONNECT / HTTP/1.1\r\nHost: x\r\n\r\nrest"])
@example([b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\xff\xff"])
def test_any_bytes_are_either_requests_or_refused(pieces: list[bytes]) -> None:
    parse_requests(pieces)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    status = draw(st.sampled_from([b"200 OK", b"204 No Content", b"404 ", b"500"]))
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.0"]))
    framing, body = draw(framed())
    headers = draw(HEADERS) + draw(
        st.sampled_from([[], [(b"Connection", b"close")], [(b"Keep-Alive", b"timeout=3, max=9")]])
    )
    if framing:
        headers.append(framing)
    else:
        body = draw(BODY)
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    return interim + head(version + b" " + status, headers) + body


def parse_response(
    pieces: list[bytes], *, head_only: bool, parser: ResponseParser | None = None
) -> object:
    parser = parser or ResponseParser(BOUNDS_OF_RESPONSES)
    parser.expect(head_only=head_only)
    body = b""
    try:
        for piece in pieces:
            if piece:
                parser.feed(piece)
                body += parser.take()
                if parser.complete:
                    break  # as the client does: it reads no further
        else:
            parser.feed_eof()
    except MeshdError as error:
        return type(error)
    return parser.status, parser.headers, body, parser.keep_alive_s


@given(st.data(), st.booleans())
def test_a_response_means_the_same_however_it_is_cut(data: st.DataObject, head_only: bool) -> None:
    whole = data.draw(responses())
    expected = parse_response([whole], head_only=head_only)
    assert parse_response(data.draw(cut(whole)), head_only=head_only) == expected
    pieces = [bytes([byte]) for byte in whole]
    assert parse_response(pieces, head_only=head_only) == expected


@given(responses(), responses(), st.lists(st.booleans(), min_size=2, max_size=6))
def test_a_response_means_the_same_when_it_comes_again(
    one: bytes, other: bytes, which: list[bool]
) -> None:
    """The second time it may not be parsed."""
    parser = ResponseParser(BOUNDS_OF_RESPONSES)
    for choice in which:
        whole = one if choice else other
        expected = parse_response([whole], head_only=False)
        outcome = parse_response([whole], head_only=False, parser=parser)
        assert outcome == expected
        if not (parser.complete and parser.reusable):
            parser = ResponseParser(BOUNDS_OF_RESPONSES)


@given(st.lists(st.binary(max_size=100), max_size=5), st.booleans())
@example([b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"], False)
@example([b"HTTP/1.1 200 x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc"], False)
def test_any_bytes_are_a_response_or_an_error_of_ours(pieces: list[bytes], head_only: bool) -> None:
    parse_response(pieces, head_only=head_only)


@given(st.data())
def test_a_framed_response_that_is_cut_short_is_never_whole(data: st.DataObject) -> None:
    framing, body = data.draw(framed().filter(lambda pair: pair[1] != b""))
    assert framing is not None
    whole = head(b"HTTP/1.1 200 OK", [framing]) + body
    end = data.draw(st.integers(0, len(whole) - 1))
    outcome = parse_response([whole[:end]], head_only=False)
    assert isinstance(outcome, type)
