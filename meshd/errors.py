"""The exceptions of meshd.  Each says what happened, where, and what to do next.  Pure.

A package adds its own beside its code, deriving from one of these.
"""

from __future__ import annotations


class MeshdError(Exception):
    """Anything that meshd raises on purpose.  `str()` is a whole sentence for a person."""


class ConfigError(MeshdError):
    """A setting that cannot be used: names the key, the file and the line."""


class ProtocolError(MeshdError):
    """Bytes from outside that break the protocol; the connection or datagram is dropped."""


class LimitExceeded(ProtocolError):
    """Something a peer or client sent is larger than `limits` allows."""


class StreamBroken(MeshdError):
    """A byte stream ended where it must not: reset, cut, or closed under the reader."""


class StreamAborted(StreamBroken):
    """This side ended the stream on purpose (`ByteStream.abort`); the text is the reason."""


class WentAway(StreamBroken):
    """The other side hung up before it had shown who it is: nothing is wrong with that."""


class DialFailed(MeshdError):
    """No connection could be made: nobody listens, no route, timeout, or a failed handshake."""


class HandshakeFailed(DialFailed):
    """Something answers there, and it does not speak TLS as a node does."""


class ListenFailed(MeshdError):
    """A port or socket cannot be listened on; the text says who has it and what to do."""


class NotAdmitted(MeshdError):
    """The other side is not a member of this mesh, or says that we are not."""

    was_removed = False
    """Whether it was one once, and was removed for good."""


class SentAway(NotAdmitted):
    """A member says that this node was removed from the mesh."""


class Refused(MeshdError):
    """A well-formed request that the other side will not carry out; the text says why."""


class DiskFailed(MeshdError, OSError):
    """A file could not be read or written; the text says which, why, and what is left of it.

    `errno` is the system's.
    """

    def __init__(self, errno: int, sentence: str) -> None:
        super().__init__(errno, sentence)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


class DatabaseDamaged(MeshdError):
    """A file is no database, or no longer a whole one; nothing in it can be trusted."""
