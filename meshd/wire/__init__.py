"""Frames and messages of the peer protocol: the codec of `proto/`.  Pure.

`codec` (canonical msgpack) and `framing` (length-prefixed frames) are what the messages are made
of.
"""

from meshd.wire.codec import pack, unpack
from meshd.wire.framing import FrameReader, frame

__all__ = ["FrameReader", "frame", "pack", "unpack"]
