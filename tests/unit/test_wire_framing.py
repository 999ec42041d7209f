"""Frames: a length, then that many bytes."""

from __future__ import annotations

import pytest

from meshd.errors import LimitExceeded, ProtocolError
from meshd.wire.framing import FrameReader, frame


def test_a_frame_is_a_big_endian_length_and_the_payload() -> None:
    assert frame(b"abc") == b"\x00\x00\x00\x03abc"


def test_an_empty_payload_is_refused_on_both_sides() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        frame(b"")
    with pytest.raises(ProtocolError, match="empty"):
        FrameReader(10).feed(bytes(4))


def test_frames_come_out_whole_however_the_bytes_are_split() -> None:
    stream = frame(b"one") + frame(b"two two") + frame(b"3")
    for step in range(1, len(stream) + 1):
        reader = FrameReader(100)
        out = [p for at in range(0, len(stream), step) for p in reader.feed(stream[at : at + step])]
        assert out == [b"one", b"two two", b"3"]
        assert not reader.mid_frame


def test_a_length_over_the_limit_is_refused_before_its_payload_arrives() -> None:
    reader = FrameReader(16)
    with pytest.raises(LimitExceeded, match="17 bytes is over the limit of 16"):
        reader.feed(b"\x00\x00\x00\x11")


def test_a_payload_of_exactly_the_limit_passes() -> None:
    assert FrameReader(16).feed(frame(b"x" * 16)) == [b"x" * 16]


def test_a_reader_that_failed_stays_failed() -> None:
    reader = FrameReader(4)
    with pytest.raises(LimitExceeded):
        reader.feed(frame(b"too long"))
    with pytest.raises(LimitExceeded):
        reader.feed(frame(b"ok"))


def test_a_reader_knows_that_it_is_in_the_middle_of_a_frame() -> None:
    reader = FrameReader(100)
    assert reader.feed(frame(b"abc")[:5]) == []
    assert reader.mid_frame
