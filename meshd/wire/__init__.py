"""Frames and messages of the peer protocol: the codec of `proto/`.  Pure.

- `codec`: canonical msgpack; `framing`: length-prefixed frames
- `fields`: what the fields of messages may hold
- `control`: messages of the control link (ALPN `meshd/1`)
- `serve`, `answer`: forwarded requests, and the frames of their answers (ALPN `http/1.1`)
- `join`: messages of a newcomer (ALPN `meshd-join/1`)
- `gossip`, `envelope`: datagrams, and what they are sealed in

The messages are many and are imported from their modules; what they are made of is here.
"""

from meshd.wire.codec import pack, unpack
from meshd.wire.framing import FrameReader, frame

__all__ = ["FrameReader", "frame", "pack", "unpack"]
