"""Join tokens: a line of text that lets its bearer into the mesh.  Pure.

    mesh1-<CA hash>-<id>.<secret>

The CA hash is the mesh id: it pins the mesh before anything is sent.  The id names the token at the
founder, who keeps no secret, only K = SHA-256(secret).  The bearer proves the secret by an HMAC
under K over what both sides see of this one connection; the secret itself never leaves it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from meshd import limits
from meshd.errors import MeshdError, Refused
from meshd.ids import MeshId, NodeId

TOKEN_ID_BYTES: Final = 5
TOKEN_SECRET_BYTES: Final = 16
NONCE_BYTES: Final = 32

_CHECK_BYTES: Final = 4
_FORM = re.compile(r"mesh1-([a-z2-7]{26})-([a-z2-7]{8})\.([a-z2-7]{32})\Z")
_PROOF_CONTEXT: Final = b"meshd-join/1"


class TokenUnreadable(MeshdError):
    """A text is not a token; says what is wrong with it, without repeating it."""


class TokenFault(StrEnum):
    """Why a token does not admit its bearer."""

    WRONG = "wrong"
    EXPIRED = "expired"
    USED = "used"
    OTHER_MESH = "other mesh"


class TokenRefused(Refused):
    """A token that does not admit its bearer; `fault` says why."""

    def __init__(self, fault: TokenFault, text: str) -> None:
        super().__init__(text)
        self.fault: Final = fault


@dataclass(frozen=True, slots=True)
class Token:
    """A token as its bearer holds it."""

    mesh: MeshId
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
        return f"mesh1-{self.mesh}-{self.id}.{_base32(self.secret + _checksum(self))}"


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
    mesh, token_id, tail = match.groups()
    raw = base64.b32decode(tail.upper())
    token = Token(MeshId(mesh), token_id, raw[:TOKEN_SECRET_BYTES])
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
    covered = f"{token.mesh}-{token.id}.".encode() + token.secret
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


# --- the founder's side


class TokenRow(msgspec.Struct):
    """What the founder keeps of a token."""

    id: str
    key: bytes
    """K = SHA-256(secret)."""
    created_unix_s: float
    expires_unix_s: float
    uses: int
    used_by: list[str] = []
    """The nodes that joined by it.  One of them may use it again: its answer may have been lost."""


class _File(msgspec.Struct):
    tokens: list[TokenRow]
    format: int = 1


class TokensDamaged(MeshdError):
    """The kept tokens are not readable."""


class TokenStore:
    """The tokens that a mesh has given out; at most `limits.TOKENS`.

    Expired and used ones are kept while there is room, so that their bearers are told which it is.
    """

    def __init__(self, mesh: MeshId, rows: list[TokenRow] | None = None) -> None:
        self._mesh = mesh
        self._rows = {row.id: row for row in rows or []}

    @classmethod
    def from_bytes(cls, mesh: MeshId, data: bytes) -> TokenStore:
        """Read what `to_bytes` wrote.  Raises TokensDamaged."""
        try:
            kept = msgspec.json.decode(data, type=_File)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise TokensDamaged("It does not hold a list of tokens.") from None
        if kept.format != 1 or len(kept.tokens) > limits.TOKENS:
            raise TokensDamaged("It is of a form that this version does not know.")
        return cls(mesh, kept.tokens)

    def to_bytes(self) -> bytes:
        """The rows as JSON, for a private file."""
        return msgspec.json.encode(_File(list(self._rows.values())))

    def rows(self) -> list[TokenRow]:
        """All of them, oldest first."""
        return sorted(self._rows.values(), key=lambda row: row.created_unix_s)

    def create(
        self,
        *,
        ttl_s: float,
        uses: int,
        now_unix_s: float,
        random_id: bytes,
        random_secret: bytes,
    ) -> Token:
        """A new token, good for `uses` nodes within `ttl_s` seconds.

        Takes `TOKEN_ID_BYTES` and `TOKEN_SECRET_BYTES` random bytes.  Raises Refused for a lifetime
        or a count out of bounds, or while `limits.TOKENS` others are good.
        """
        if not 0 < ttl_s <= limits.TOKEN_TTL_MAX_S:
            raise Refused(
                f"A token's lifetime is more than nothing and at most "
                f"{limits.TOKEN_TTL_MAX_S / 86_400:.0f} days."
            )
        if not 1 <= uses <= limits.MEMBERS:
            raise Refused(f"A token is good for 1 to {limits.MEMBERS} nodes.")
        if len(random_id) != TOKEN_ID_BYTES or len(random_secret) != TOKEN_SECRET_BYTES:
            raise ValueError("a token takes its exact number of random bytes")
        token = Token(self._mesh, _base32(random_id), random_secret)
        if token.id in self._rows:
            raise Refused("A token with this id exists already: try again.")
        self._make_room(now_unix_s)
        self._rows[token.id] = TokenRow(
            id=token.id,
            key=token.key,
            created_unix_s=now_unix_s,
            expires_unix_s=now_unix_s + ttl_s,
            uses=uses,
        )
        return token

    def verify(
        self,
        token_id: str,
        proof: bytes,
        *,
        server_certificate_hash: bytes,
        public_key_der: bytes,
        newcomer_nonce: bytes,
        member_nonce: bytes,
        node: NodeId,
        now_unix_s: float,
    ) -> None:
        """Raise TokenRefused unless this proof admits that node now.  Changes nothing.

        Whether it has expired or is used is told only to who has proven the secret.
        """
        row = self._rows.get(token_id)
        right = make_proof(
            row.key if row else bytes(32),
            server_certificate_hash=server_certificate_hash,
            public_key_der=public_key_der,
            newcomer_nonce=newcomer_nonce,
            member_nonce=member_nonce,
            token_id=token_id,
        )
        if not hmac.compare_digest(right, proof) or row is None:
            raise TokenRefused(
                TokenFault.WRONG, "The token is wrong: this mesh has given out no such token."
            )
        if now_unix_s >= row.expires_unix_s:
            raise TokenRefused(TokenFault.EXPIRED, "The token has expired.")
        if node not in row.used_by and len(row.used_by) >= row.uses:
            times = "once" if row.uses == 1 else f"{row.uses} times"
            raise TokenRefused(TokenFault.USED, f"The token is used up: it was good {times}.")

    def use(self, token_id: str, node: NodeId) -> None:
        """Note that this node joined by it; to be kept on disk before the node is told."""
        row = self._rows[token_id]
        if node not in row.used_by:
            row.used_by.append(node)

    def revoke(self, token_id: str) -> bool:
        """Forget it: its bearer is told that it is wrong.  False if there is no such token."""
        return self._rows.pop(token_id, None) is not None

    def _make_room(self, now_unix_s: float) -> None:
        while len(self._rows) >= limits.TOKENS:
            spent = [
                row
                for row in self.rows()
                if now_unix_s >= row.expires_unix_s or len(row.used_by) >= row.uses
            ]
            if not spent:
                raise Refused(
                    f"There are {limits.TOKENS} good tokens already: wait until one has expired."
                )
            del self._rows[spent[0].id]
