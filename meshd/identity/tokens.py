"""Join tokens: a line of text that lets its bearer into the mesh.  Pure.

    mesh1-<CA hash>-<id>.<secret>

The CA hash is the id of the CA's key: it pins the mesh before anything is sent.  The id names the
token in the record, which has no secret, only K = SHA-256(secret).  The bearer proves the secret by
an HMAC under K over what both sides see of this one connection; the secret itself never leaves it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

from meshd import limits
from meshd.errors import MeshdError

TOKEN_ID_BYTES: Final = 5
TOKEN_SECRET_BYTES: Final = 16
NONCE_BYTES: Final = 32

_CHECK_BYTES: Final = 4
_FORM = re.compile(r"mesh1-([a-z2-7]{26})-([a-z2-7]{8})\.([a-z2-7]{32})\Z")
_PROOF_CONTEXT: Final = b"meshd-join/1"


class TokenUnreadable(MeshdError):
    """A text is not a token; says what is wrong with it, without repeating it."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as its bearer holds it."""

    ca: str
    """The id of the mesh's CA key: for the first that it has had, that of the mesh."""
    id: str
    secret: bytes = field(repr=False)

    @property
    def key(self) -> bytes:
        """K, under which its bearer makes the proof."""
        return hashlib.sha256(self.secret).digest()

    def text(self) -> str:
        """The line to type.  A secret.

        Its last part is the secret and four bytes of checksum, so that a slip in typing is named as
        one before anything is dialled.
        """
        return f"mesh1-{self.ca}-{self.id}.{_base32(self.secret + _checksum(self))}"


def new_token(ca: str, random_id: bytes, random_secret: bytes) -> Token:
    """A token of the mesh whose CA's key has the id `ca`.

    Made from `TOKEN_ID_BYTES` and `TOKEN_SECRET_BYTES` random bytes; it lets nobody in until its id
    and key are in the record.
    """
    if len(random_id) != TOKEN_ID_BYTES or len(random_secret) != TOKEN_SECRET_BYTES:
        raise ValueError("a token takes its exact number of random bytes")
    return Token(ca, _base32(random_id), random_secret)


def parse_token(text: str) -> Token:
    """Read a token; blanks around it do not count.

    Raises TokenUnreadable with a sentence that says what is wrong.
    """
    text = text.strip()
    if not text:
        raise TokenUnreadable("The token is empty.")
    if len(text) > limits.TOKEN_TEXT_CHARS:
        raise TokenUnreadable(f"The token is too long: {len(text)} characters.")
    if not text.startswith("mesh"):
        raise TokenUnreadable("This is not a join token: one starts with 'mesh1-'.")
    if not text.startswith("mesh1-"):
        raise TokenUnreadable(
            "This token is of a form that this version does not know: it reads 'mesh1-' only."
        )
    match = _FORM.match(text)
    if match is None:
        raise TokenUnreadable(_what_is_wrong(text))
    ca, token_id, tail = match.groups()
    raw = base64.b32decode(tail.upper())
    token = Token(ca, token_id, raw[:TOKEN_SECRET_BYTES])
    if not hmac.compare_digest(raw[TOKEN_SECRET_BYTES:], _checksum(token)):
        raise TokenUnreadable("The token is mistyped: a character in it is wrong.")
    return token


def _what_is_wrong(text: str) -> str:
    if re.search(r"\s", text):
        return "The token has a blank or a line break in the middle."
    body, dot, tail = text.removeprefix("mesh1-").partition(".")
    if not dot:
        return "The token is cut: the part after its '.' is missing."
    if len(tail) < 32:
        return "The token is cut: its end is missing."
    mesh, _, token_id = body.partition("-")
    for part, size, name in ((mesh, 26, "first"), (token_id, 8, "second"), (tail, 32, "last")):
        if len(part) != size:
            return f"The token's {name} part has {len(part)} characters instead of {size}."
        if not re.fullmatch(r"[a-z2-7]*", part):
            return (
                f"The token's {name} part has a character that no token has: "
                "there are lower-case letters and the digits 2 to 7."
            )
    return "The token is not of the form mesh1-MESH-ID.SECRET."


def _checksum(token: Token) -> bytes:
    covered = f"{token.ca}-{token.id}.".encode() + token.secret
    return hashlib.sha256(b"meshd token 1\0" + covered).digest()[:_CHECK_BYTES]


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().lower()


# --- the proof


def make_proof(
    token_key: bytes,
    *,
    server_certificate_hash: bytes,
    public_key_der: bytes,
    newcomer_nonce: bytes,
    member_nonce: bytes,
    token_id: str,
) -> bytes:
    """HMAC-SHA256 under K over this connection and this newcomer.

    It holds for one certificate of one member (nobody in the middle has that key), one new key and
    one pair of nonces, so a proof that was overheard or handed on is of no use.  Each part is
    preceded by its length as u16, so that no two lists of parts give the same bytes.
    """
    parts = (
        _PROOF_CONTEXT,
        server_certificate_hash,
        public_key_der,
        newcomer_nonce,
        member_nonce,
        token_id.encode(),
    )
    covered = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    return hmac.digest(token_key, covered, "sha256")
