"""The short way for the one message of which there are thousands a second.  Pure.

`RecordMessage` without a request id and without keys of a later version is a fixed head and one
byte string.  Writing and reading just that costs an eighth of what the general way does
(`control.py`), whose bytes are the same.  What differs in anything takes the general way, which
also says what is wrong with it.
"""

from __future__ import annotations

from typing import Final

from meshd import limits
from meshd.wire.codec import pack

RECORD_MESSAGE: Final = 27
"""Its number among the control messages."""
DATA_BYTES: Final = limits.CONTROL_FRAME_BYTES - 64
"""The most that fits into a frame, with room for what is around it."""

_HEAD: Final = pack([RECORD_MESSAGE, 0, {"data": b""}])[:-2]
_START: Final = len(_HEAD)


def write(data: bytes) -> bytes | None:
    """The payload of a frame with that data; None: it does not go the short way."""
    size = len(data)
    if not 0 < size <= DATA_BYTES:
        return None
    if size < 1 << 8:
        return _HEAD + b"\xc4" + size.to_bytes(1, "big") + data
    if size < 1 << 16:
        return _HEAD + b"\xc5" + size.to_bytes(2, "big") + data
    return _HEAD + b"\xc6" + size.to_bytes(4, "big") + data


def read(payload: bytes) -> bytes | None:
    """The data in the payload of a frame; None: it is not of that form."""
    if not payload.startswith(_HEAD) or len(payload) == _START:
        return None
    kind = payload[_START]
    if kind == 0xC4:
        end_of_size, least = _START + 2, 1
    elif kind == 0xC5:
        end_of_size, least = _START + 3, 1 << 8
    elif kind == 0xC6:
        end_of_size, least = _START + 5, 1 << 16
    else:
        return None
    size = int.from_bytes(payload[_START + 1 : end_of_size], "big")
    if end_of_size + size != len(payload) or not least <= size <= DATA_BYTES:
        return None
    return payload[end_of_size:]
