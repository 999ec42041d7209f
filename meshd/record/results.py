"""What a command results in: bytes that are the same at every node.  Pure.

A result is the canonical msgpack of `[code, fields]`: code 0 and what the command brought about, or
the reason for which nothing was changed.  Results are part of the state (sessions keep them), so
they hold codes and numbers and no sentences: a sentence that is mended in the next version of
meshd must not make two nodes' states differ.  `sentence` makes one for a person.
"""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec

from meshd.errors import Refused
from meshd.record.table import encode_row


class Code(IntEnum):
    """ONLY APPEND.  A number that was given out is never given to another reason."""

    OK = 0
    MALFORMED = 1
    TOO_LARGE = 2
    NOT_ENABLED = 3
    NO_SESSION = 4
    SESSION_OVER = 5
    SEQ_FORGOTTEN = 6
    SESSION_FULL = 7
    FOUNDED_ALREADY = 8
    NOT_FOUNDED = 9
    BAD_KEY = 10
    NO_SUCH_NODE = 11
    REMOVED = 12
    MESH_FULL = 13
    LAST_CA_HOLDER = 14
    OLD_GENERATION = 15
    GENERATION_TAKEN = 16
    TOKEN_WRONG = 17
    TOKEN_EXPIRED = 18
    TOKEN_USED = 19
    EXISTS = 20
    TOO_MANY = 21
    NOT_THERE = 22
    NOTHING_HELD = 23
    OTHER_TIME = 24
    KEY_REUSED = 25
    TOO_MANY_KEYS = 26
    TOO_MANY_JOBS = 27
    QUEUE_FULL = 28
    TOO_MANY_QUEUES = 29
    TOO_LATE = 30
    NOBODY_MEANT = 31
    NO_SUCH_JOB = 32
    OLD_FENCE = 33
    NOT_QUEUED = 34
    OTHER_NODE = 35
    NOT_DEAD = 36
    STILL_MEMBER = 37


_SENTENCES: Final = MappingProxyType[Code, str](
    {
        Code.OK: "It was done.",
        Code.MALFORMED: "The command is not valid.",
        Code.TOO_LARGE: "The command is larger than a command may be.",
        Code.NOT_ENABLED: "Not all voters know this command yet: update them.",
        Code.NO_SESSION: "The command has to be sent in a session, and the node has none.",
        Code.SESSION_OVER: "The session is over: the node has started again, or was removed.",
        Code.SEQ_FORGOTTEN: "The result was confirmed as received, and is forgotten.",
        Code.SESSION_FULL: "Too many results of this node wait to be confirmed.",
        Code.FOUNDED_ALREADY: "This record belongs to a mesh already.",
        Code.NOT_FOUNDED: "This record belongs to no mesh yet.",
        Code.BAD_KEY: "That is no public key on the curve P-256.",
        Code.NO_SUCH_NODE: "There is no such node in this mesh.",
        Code.REMOVED: (
            "That node was removed from this mesh. To let its machine in again, start it with a "
            "fresh data directory, so that it has a new key."
        ),
        Code.MESH_FULL: "The mesh is full.",
        Code.LAST_CA_HOLDER: (
            "That node alone holds the key that lets others in: it cannot leave while they are in. "
            "To end the mesh with it: --destroy-mesh."
        ),
        Code.OLD_GENERATION: "A later start or rotation is on record already.",
        Code.GENERATION_TAKEN: (
            "Another process has started under this number: was the data directory copied?"
        ),
        Code.TOKEN_WRONG: "The mesh has given out no such token.",
        Code.TOKEN_EXPIRED: "The token has expired.",
        Code.TOKEN_USED: "The token is used up.",
        Code.EXISTS: "One with this name or id exists already.",
        Code.TOO_MANY: "There are as many as there may be.",
        Code.NOT_THERE: "There is none with this name or id.",
        Code.NOTHING_HELD: "The record clock is not held.",
        Code.OTHER_TIME: "The nodes' clocks say another time than the one that was confirmed.",
        Code.KEY_REUSED: "This idempotency key was used for another request.",
        Code.TOO_MANY_KEYS: "There are as many idempotency keys of the last 24 hours as may be.",
        Code.TOO_MANY_JOBS: "There are as many jobs as there may be: wait until some are done.",
        Code.QUEUE_FULL: "As many jobs are queued as may be: wait until some are claimed.",
        Code.TOO_MANY_QUEUES: "There are as many queues with jobs in them as there may be.",
        Code.TOO_LATE: "The job's deadline has passed.",
        Code.NOBODY_MEANT: "No node has that label.",
        Code.NO_SUCH_JOB: "There is no such job, or it is over.",
        Code.OLD_FENCE: "The job is not, or not any more, held under this fence.",
        Code.NOT_QUEUED: "The job is not queued, or not to run yet.",
        Code.OTHER_NODE: "The job is for another node.",
        Code.NOT_DEAD: "No dead job with this id is kept.",
        Code.STILL_MEMBER: "That node is a member: its jobs are its own until their leases end.",
    }
)


class Refuse(Exception):
    """Raised by reducers before they change anything; becomes the command's result."""

    def __init__(self, code: Code, **fields: int | str) -> None:
        super().__init__(code.name)
        self.code = code
        self.fields = fields


class RecordRefused(Refused):
    """A command changed nothing; `code` says why."""

    def __init__(self, code: Code, fields: dict[str, Any]) -> None:
        super().__init__(sentence(code))
        self.code = code
        self.fields = fields


def done(**fields: Any) -> bytes:
    """The result of a command that was carried out."""
    return encode_row([0, fields])


DONE: Final = done()


def refused(refusal: Refuse) -> bytes:
    """The result of one that was not."""
    return encode_row([int(refusal.code), refusal.fields])


_result: Final = msgspec.msgpack.Decoder(tuple[int, dict[str, Any]])


def read(result: bytes) -> dict[str, Any]:
    """The fields of a result.  Raises RecordRefused for a refusal."""
    number, fields = _result.decode(result)
    if number == 0:
        return fields
    raise RecordRefused(Code(number), fields)


def sentence(code: Code) -> str:
    """What a refusal means, for a person."""
    return _SENTENCES[code]
