"""What fields of commands and rows may hold.  Pure.

What a version of a command accepts never changes, so a bound in here may only be raised together
with a new version of every command that has such a field: hence patterns of its own, and not those
of `wire.fields`.  Times are whole milliseconds: a float has no place in a state that has to be the
same everywhere.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from meshd import limits

# Patterns are also those of the JSON Schemas, so they are written in what Python and ECMAScript
# have in common; the very end, since Python's `$` would let a line feed pass.
_END: Final = r"(?![\s\S])"
_LINE: Final = rf"^[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]*{_END}"
_ID: Final = rf"^[a-z2-7]{{26}}{_END}"

INTEGER_MAX: Final = 2**53 - 1

Count = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Index = Annotated[int, Meta(ge=1, le=INTEGER_MAX)]
"""A place in the log."""
UnixMs = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Small = Annotated[int, Meta(ge=-1000, le=1000)]
"""A priority: the higher, the sooner."""
KeyId = Annotated[str, Meta(pattern=_ID)]
"""A node or a mesh."""
NodeOrNone = Annotated[str, Meta(pattern=rf"^([a-z2-7]{{26}})?{_END}")]
"""A node, or "" for none."""
ShortLine = Annotated[str, Meta(max_length=limits.NAME_CHARS, pattern=_LINE)]
"""A few words on one line, without characters that could steer a terminal."""
Line = Annotated[str, Meta(max_length=limits.TEXT_CHARS, pattern=_LINE)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""SHA-256."""
DerKey = Annotated[bytes, Meta(min_length=91, max_length=91)]
"""A P-256 public key as DER SubjectPublicKeyInfo, the point uncompressed: always 91 bytes."""
VoteOrder = Literal["auto", "always", "never"]
"""What a person decided of a node's vote in keeping the record."""
NodeName = Annotated[
    str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{limits.NAME_CHARS - 1}}}{_END}")
]
Host = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9._:%-]{{1,{limits.HOST_CHARS}}}{_END}")]
Port = Annotated[int, Meta(ge=1, le=65535)]
Addresses = Annotated[tuple[tuple[Host, Port], ...], Meta(max_length=limits.ADDRESSES_PER_NODE)]
Label = Annotated[str, Meta(min_length=1, max_length=limits.LABEL_CHARS, pattern=_LINE)]
Labels = Annotated[tuple[Label, ...], Meta(max_length=limits.LABELS_PER_NODE)]
"""In ascending order, each once; the reducer puts them so."""
ModelName = Annotated[str, Meta(min_length=1, max_length=limits.MODEL_NAME_CHARS, pattern=_LINE)]
ModelOrNone = Annotated[str, Meta(max_length=limits.MODEL_NAME_CHARS, pattern=_LINE)]
TokenId = Annotated[str, Meta(pattern=rf"^[a-z2-7]{{8}}{_END}")]
TokenOrNone = Annotated[str, Meta(pattern=rf"^([a-z2-7]{{8}})?{_END}")]
ApiKeyId = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{8}}{_END}")]
PolicyName = Annotated[str, Meta(pattern=rf"^[a-z][a-z0-9._-]{{0,{limits.NAME_CHARS - 1}}}{_END}")]
CertificateSerial = Annotated[bytes, Meta(min_length=1, max_length=20)]
"""Big-endian; 20 bytes are the most that RFC 5280 allows."""
CertificateDer = Annotated[bytes, Meta(max_length=limits.CERTIFICATE_BYTES)]
"""Not looked into: who uses one checks it, and a library may judge it otherwise in time."""
GossipKeyId = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Boot = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""Random bytes of one start of a process: two starts with one number are told apart by them."""

# --- jobs

JobId = Annotated[int, Meta(ge=1024, le=INTEGER_MAX)]
"""The index of the command that made it, times 1,024, plus its number among those it made."""
LeaseMs = Annotated[int, Meta(ge=limits.LEASE_MIN_S * 1000, le=limits.LEASE_MAX_S * 1000)]
PauseMs = Annotated[int, Meta(ge=0, le=limits.JOB_PAUSE_S * 1000)]
Attempts = Annotated[int, Meta(ge=1, le=limits.JOB_ATTEMPTS)]
Status = Annotated[int, Meta(ge=0, le=599)]
"""An HTTP status; 0: none."""
QueueName = Annotated[
    str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{limits.QUEUE_NAME_CHARS - 1}}}{_END}")
]
QueueOrNone = Annotated[
    str, Meta(pattern=rf"^([A-Za-z0-9][A-Za-z0-9._-]{{0,{limits.QUEUE_NAME_CHARS - 1}}})?{_END}")
]
Scope = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS, pattern=_LINE)]
"""Whose idempotency keys these are: an API key's id, or `local`."""
IdempotencyKey = Annotated[
    str, Meta(min_length=1, max_length=limits.IDEMPOTENCY_KEY_CHARS, pattern=_LINE)
]
DedupeKey = Annotated[str, Meta(max_length=limits.DEDUPE_CHARS, pattern=_LINE)]
LabelOrNone = Annotated[str, Meta(max_length=limits.LABEL_CHARS, pattern=_LINE)]
Inline = Annotated[bytes, Meta(max_length=limits.INLINE_BYTES)]
"""A request or a result itself; empty: it is a blob, named by its digest (or is empty)."""
DigestOrNone = Annotated[bytes, Meta(max_length=32)]
WebHook = Annotated[str, Meta(max_length=limits.JOB_WEBHOOK_CHARS, pattern=_LINE)]
