"""The canonical codec: what is written, what is refused, and why."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError
from meshd.wire.codec import pack, unpack

BIG = 1 << 20


def read(hex_text: str) -> Any:
    return unpack(bytes.fromhex(hex_text), max_bytes=BIG)


def test_map_keys_are_written_in_the_order_of_their_utf8_bytes() -> None:
    value = {"b": 1, "aa": 2, "a": 3, "é": 4, "z": 5, "\U00010000": 6, "\uffff": 7}
    read_back = unpack(pack(value), max_bytes=BIG)
    assert list(read_back) == ["a", "aa", "b", "z", "é", "\uffff", "\U00010000"]
    assert read_back == value


@pytest.mark.parametrize(
    ("value", "hex_text"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "cc80"),
        (256, "cd0100"),
        (65536, "ce00010000"),
        (2**32, "cf0000000100000000"),
        (2**64 - 1, "cfffffffffffffffff"),
        (-1, "ff"),
        (-32, "e0"),
        (-33, "d0df"),
        (-129, "d1ff7f"),
        (-(2**63), "d38000000000000000"),
        (1.5, "cb3ff8000000000000"),
        (None, "c0"),
        (True, "c3"),
        (b"", "c400"),
        ("", "a0"),
        ([1, "a", b"a"], "9301a161c40161"),
        ({}, "80"),
    ],
)
def test_each_value_has_one_form(value: object, hex_text: str) -> None:
    assert pack(value).hex() == hex_text
    assert read(hex_text) == value


@pytest.mark.parametrize(
    ("hex_text", "why"),
    [
        ("cc7f", "shorter form"),
        ("cd00ff", "shorter form"),
        ("cf0000000000000001", "shorter form"),
        ("d001", "shorter form"),  # not negative: belongs in the unsigned forms
        ("d0ff", "shorter form"),
        ("d3ffffffffffffffff", "shorter form"),
        ("d90161", "shorter form"),
        ("da000161", "shorter form"),
        ("c5000161", "shorter form"),
        ("dc000101", "shorter form"),
        ("de0001a16101", "shorter form"),
        ("ca3fc00000", "float64"),
        ("cb7ff8000000000000", "not finite"),
        ("cb7ff0000000000000", "not finite"),
        ("cbfff0000000000000", "not finite"),
        ("82a16201a16102", "ascending"),
        ("82a16101a16102", "ascending"),
        ("82a001a002", "ascending"),
        ("810101", "not text"),
        ("81c4016101", "not text"),
        ("c1", "not used"),
        ("d40000", "not used"),
        ("d6ff00000000", "not used"),  # a timestamp
        ("c70000", "not used"),
        ("a1ff", "UTF-8"),
        ("81a1ff01", "UTF-8"),
        ("a3eda080", "UTF-8"),  # a lone surrogate
        ("", "cut"),
        ("a261", "cut"),
        ("92", "cut"),
        ("9201", "cut"),
        ("cb00", "cut"),
        ("cd01", "cut"),
        ("81a161", "cut"),
        ("81d9", "cut"),
        ("c403", "cut"),
        ("0000", "follow"),
        ("c0c0", "follow"),
    ],
)
def test_what_is_not_the_one_form_is_refused(hex_text: str, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        read(hex_text)


def test_a_message_over_its_limit_is_refused_unread() -> None:
    with pytest.raises(LimitExceeded, match="5 bytes is over the limit of 4"):
        unpack(b"\xc1\xc1\xc1\xc1\xc1", max_bytes=4)


def test_nesting_is_limited_in_both_directions() -> None:
    value: object = 0
    for _ in range(limits.MSGPACK_DEPTH):
        value = [value]
    assert unpack(pack(value), max_bytes=BIG) == value
    with pytest.raises(LimitExceeded, match="nested"):
        pack([value])
    with pytest.raises(LimitExceeded, match="nested"):
        unpack(msgpack.packb([value]), max_bytes=BIG)


def test_items_are_limited_before_they_are_looked_at() -> None:
    full = [0] * limits.MSGPACK_ITEMS
    assert unpack(pack(full), max_bytes=BIG) == full
    with pytest.raises(LimitExceeded, match="items"):
        pack([*full, 0])
    with pytest.raises(LimitExceeded, match="items"):
        read("dd7fffffff")  # two thousand million announced, none there
    with pytest.raises(LimitExceeded, match="items"):
        read("df7fffffff")


def test_items_add_up_over_nested_containers() -> None:
    half = [0] * (limits.MSGPACK_ITEMS // 2)
    with pytest.raises(LimitExceeded, match="items"):
        unpack(msgpack.packb([half, half]), max_bytes=BIG)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**64, -(2**63) - 1, "\ud800"])
def test_values_without_a_form_are_refused_when_writing(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeEncodeError has its own text
        pack({"x": [value]})


@pytest.mark.parametrize("value", [{1: 2}, {b"a": 1}, object(), {1, 2}, bytearray(b"a")])
def test_types_without_a_form_are_refused_when_writing(value: object) -> None:
    with pytest.raises(TypeError):
        pack(value)


def test_a_failed_pack_leaves_nothing_behind_for_the_next() -> None:
    with pytest.raises(UnicodeEncodeError):
        pack(["aaaa", "\ud800"])
    assert pack(1) == b"\x01"
