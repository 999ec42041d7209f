"""Samples of values and frames (proto/frame.md)."""

from __future__ import annotations

import struct
from typing import Any

from tests.conformance.forms import Vector
from tests.conformance.samples.making import BIN, bad, good, readable


def values() -> list[Vector]:
    integers = [
        0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**53, 2**64 - 1,
        -1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1, -(2**63),
    ]  # fmt: skip
    deep: Any = "bottom"
    for _ in range(16):
        deep = [deep]
    texts = {
        "empty": "", "of 31 bytes": "x" * 31, "of 32 bytes": "x" * 32, "of 255 bytes": "x" * 255,
        "of 256 bytes": "x" * 256,
        "beyond ASCII": "Grüße, 世界 \U0001f44b", "with NUL": "a\0b",
    }  # fmt: skip
    floats = [0.0, -0.0, 1.0, 1.5, -2.25, 0.1, 1e300, 5e-324]
    return [
        good("nil", "value", None),
        good("false", "value", False),
        good("true", "value", True),
        *[good(f"integer {n}", "value", n) for n in integers],
        *[good(f"float {x}", "value", x) for x in floats],
        *[good(f"text {name}", "value", text) for name, text in texts.items()],
        *[
            good(f"bytes, {n} of them", "value", {"$bin": "ab" * n})
            for n in (0, 1, 31, 32, 255, 256)
        ],
        good("array, empty", "value", []),
        good("array of 15", "value", list(range(15))),
        good("array of 16", "value", list(range(16))),
        good("map, empty", "value", {}),
        good("map of 15", "value", {f"k{i:02}": i for i in range(15)}),
        good("map of 16", "value", {f"k{i:02}": i for i in range(16)}),
        good("map keys in the order of their bytes, not of their length", "value",
             {"b": 1, "aa": 2, "a": 3, "": 4, "B": 5}),
        good("map keys beyond ASCII, in the order of their UTF-8 bytes", "value",
             {"z": 1, "é": 2, "\uffff": 3, "\U00010000": 4}),
        good("nested to the limit", "value", deep),
        good("all kinds together", "value",
             {"a": [None, True, -1, 1.5, "t", BIN, {}, []], "b": {"c": {"d": [[]]}}}),
    ]  # fmt: skip


def bad_values() -> list[Vector]:
    p, limit = "ProtocolError", "LimitExceeded"
    nan, inf = struct.pack(">d", float("nan")).hex(), struct.pack(">d", float("inf")).hex()
    rows = [
        ("nothing at all", "", p),
        ("two values", "c0c0", p),
        ("a byte after the value", "0100", p),
        ("uint8 for 127", "cc7f", p),
        ("uint16 for 255", "cd00ff", p),
        ("uint32 for 65535", "ce0000ffff", p),
        ("uint64 for 1", "cf0000000000000001", p),
        ("int8 for 1", "d001", p),
        ("int8 for -1", "d0ff", p),
        ("int16 for -128", "d1ff80", p),
        ("int32 for -32768", "d2ffff8000", p),
        ("int64 for -1", "d3ffffffffffffffff", p),
        ("int64 for 2**40", "d30000010000000000", p),
        ("str8 for 1 byte", "d90161", p),
        ("str16 for 1 byte", "da000161", p),
        ("str32 for 1 byte", "db0000000161", p),
        ("bin16 for 1 byte", "c5000161", p),
        ("bin32 for 1 byte", "c60000000161", p),
        ("array16 for 1 item", "dc000101", p),
        ("array32 for 1 item", "dd0000000101", p),
        ("map16 for 1 pair", "de0001a16101", p),
        ("map32 for 1 pair", "df00000001a16101", p),
        ("float32", "ca3fc00000", p),
        ("float NaN", "cb" + nan, p),
        ("float infinity", "cb" + inf, p),
        ("map keys out of order", "82a16201a16102", p),
        ("map keys in the order of their length", "82a16201a2616102", p),
        ("a map key twice", "82a16101a16102", p),
        ("a map key that is an integer", "810101", p),
        ("a map key that is bytes", "81c4016101", p),
        ("a map key that is nil", "81c001", p),
        ("text that is not UTF-8", "a1ff", p),
        ("text with a lone surrogate", "a3eda080", p),
        ("text in an overlong form", "a2c080", p),
        ("a map key that is not UTF-8", "81a1ff01", p),
        ("the unused type c1", "c1", p),
        ("fixext1", "d40000", p),
        ("a timestamp", "d6ff00000000", p),
        ("ext8", "c7010000", p),
        ("text cut short", "a26162"[:-2], p),
        ("array cut short", "9201", p),
        ("map cut short", "81a161", p),
        ("integer cut short", "cd01", p),
        ("length cut short", "d9", p),
        ("bytes cut short", "c40300", p),
        ("nested beyond the limit", "91" * 17 + "00", limit),
        ("maps nested beyond the limit", "81a161" * 17 + "00", limit),
        ("array of two thousand million", "dd7fffffff", limit),
        ("map of two thousand million", "df7fffffff", limit),
        ("array of 65537", "dd00010001", limit),
    ]  # fmt: skip
    return [bad(name, "value", hex_text, error) for name, hex_text, error in rows]


def frames() -> list[Vector]:
    return [
        good("one frame", "frames", [{"$bin": "c0"}], max_bytes=16),
        good("two frames in one read", "frames", [{"$bin": "01"}, {"$bin": "a3666f6f"}],
             max_bytes=16),
        good("a frame of exactly the limit", "frames", [{"$bin": "ab" * 16}], max_bytes=16),
        readable("a frame and the beginning of the next", "frames", [{"$bin": "c0"}],
                 bytes.fromhex("00000001c0000000"), max_bytes=16),
    ]  # fmt: skip


def bad_frames() -> list[Vector]:
    return [
        bad("an empty frame", "frames", "00000000", "ProtocolError", max_bytes=16),
        bad("a frame over the limit, refused by its head alone", "frames", "00000011",
            "LimitExceeded", max_bytes=16),
        bad("the longest length", "frames", "ffffffff", "LimitExceeded", max_bytes=1048576),
        bad("an HTTP request", "frames", b"GET / HTTP/1.1\r\n".hex(), "LimitExceeded",
            max_bytes=1048576),
    ]  # fmt: skip
