"""What all messages of the control link have.  Pure."""

from __future__ import annotations

from typing import Any

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What all messages have.  Their other fields are the keys of the body map.

    A field with a default is a key that may be missing; None is not written.
    """

    extra: dict[str, Any] = {}
    """Keys of the body that this version does not know, kept as they came."""


class SecretMessage(Message, frozen=True):
    """A message whose contents must not end up in a log or a traceback."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<secret>)"
