"""Keys: one P-256 key pair per node, and one per mesh (its CA).  Pure.

Who a node is, is its public key: the node id is a hash of it (`ids.key_id`), and so is the mesh id
of the CA's.  Signatures carry a context, so that what was signed for one purpose proves nothing for
another.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from meshd import limits
from meshd.errors import MeshdError, ProtocolError
from meshd.ids import MeshId, NodeId, key_id

KEY_SEED_BYTES: Final = 48
"""Randomness for one key: 16 bytes more than the key, so that the reduction below shows no bias
(FIPS 186-5, A.2.1)."""

SIGNATURE_BYTES: Final = 64
"""r and s, 32 bytes each, big-endian: shorter than DER, and always of the same size."""

_CURVE_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_HALF: Final = SIGNATURE_BYTES // 2


class KeyDamaged(MeshdError):
    """A key file does not hold a key that meshd can use."""


class PublicKey:
    """A P-256 public key.  Get one by `public_key(der)`; equal keys compare equal."""

    __slots__ = ("_key", "der", "hash", "id", "mesh")

    def __init__(self, key: ec.EllipticCurvePublicKey, mesh: MeshId | None = None) -> None:
        """`mesh`: that of which it is the CA's key, if it is not the first one of its mesh."""
        self._key = key
        self.der: Final = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.hash: Final = hashlib.sha256(self.der).digest()
        """What the registry keeps of a member's key: SHA-256 over `der`, all 32 bytes."""
        self.id: Final = key_id(self.der)
        self.mesh: Final = MeshId(self.id) if mesh is None else mesh
        """The mesh whose CA key this is: it is called after the first that it had."""

    @property
    def node(self) -> NodeId:
        """The id of the node whose key this is."""
        return NodeId(self.id)

    def verify(self, context: bytes, data: bytes, signature: bytes) -> bool:
        """Whether this key's owner signed these data in this context (see `PrivateKey.sign`)."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        pair = encode_dss_signature(
            int.from_bytes(signature[:_HALF], "big"), int.from_bytes(signature[_HALF:], "big")
        )
        try:
            self._key.verify(pair, _in_context(context, data), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def raw(self) -> ec.EllipticCurvePublicKey:
        """The library's key, for certificates."""
        return self._key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.der == self.der

    def __hash__(self) -> int:
        return hash(self.der)

    def __repr__(self) -> str:
        return f"PublicKey({self.id})"


class PrivateKey:
    """A P-256 key pair.  Never shows its secret: not in repr, not in an error."""

    __slots__ = ("_key", "public")

    def __init__(self, key: ec.EllipticCurvePrivateKey, mesh: MeshId | None = None) -> None:
        """`mesh` as of `PublicKey`."""
        if not isinstance(key.curve, ec.SECP256R1):
            raise KeyDamaged("The key is not on the curve P-256.")
        self._key = key
        self.public: Final = PublicKey(key.public_key(), mesh)

    @classmethod
    def from_random(cls, seed: bytes) -> PrivateKey:
        """A new key from `KEY_SEED_BYTES` bytes that nobody else knows."""
        if len(seed) != KEY_SEED_BYTES:
            raise ValueError(f"a key is made from {KEY_SEED_BYTES} random bytes, not {len(seed)}")
        secret = int.from_bytes(seed, "big") % (_CURVE_ORDER - 1) + 1
        return cls(ec.derive_private_key(secret, ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> PrivateKey:
        """Read what `pem` wrote.  Raises KeyDamaged."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # The library's own text may quote the file: leave it out, the chain too.
            raise KeyDamaged("It does not hold an unencrypted private key in PEM.") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KeyDamaged("The key is not on the curve P-256.")
        return cls(key)

    def of_mesh(self, mesh: MeshId) -> PrivateKey:
        """The same key, as one of that mesh's CA."""
        return PrivateKey(self._key, mesh)

    def pem(self) -> bytes:
        """The key as an unencrypted PKCS#8 PEM file.  A secret: only for private files."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @classmethod
    def from_pkcs8(cls, der: bytes) -> PrivateKey:
        """Read what `pkcs8` wrote.  Raises KeyDamaged."""
        try:
            key = serialization.load_der_private_key(der, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise KeyDamaged("It is not an unencrypted private key in DER.") from None  # as above
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KeyDamaged("The key is not on the curve P-256.")
        return cls(key)

    def pkcs8(self) -> bytes:
        """The key as unencrypted PKCS#8 DER.  A secret: only for who may have the key."""
        return self._key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def sign(self, context: bytes, data: bytes) -> bytes:
        """Sign: `SIGNATURE_BYTES` bytes, ECDSA with SHA-256 over `context`, a zero byte, `data`.

        `context` names the purpose and version (`b"meshd members 1"`) and has no zero byte, so that
        no two pairs give the same signed bytes.  The same key and data give the same signature
        (RFC 6979) where the library can, which spares the randomness.
        """
        pair = self._key.sign(_in_context(context, data), _signing())
        r, s = decode_dss_signature(pair)
        return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")

    def raw(self) -> ec.EllipticCurvePrivateKey:
        """The library's key, for certificates."""
        return self._key

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.id})"


@lru_cache(maxsize=2 * limits.MEMBERS)
def public_key(der: bytes) -> PublicKey:
    """Read a public key (SubjectPublicKeyInfo DER).

    Raises ProtocolError for anything but a P-256 key in the one form that `PublicKey.der` writes
    (a compressed point would be the same key under another id).  Reading takes about as long as
    checking a signature, hence the cache.
    """
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ProtocolError("A public key is not readable.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ProtocolError("A public key is not on the curve P-256.")
    found = PublicKey(key)
    if found.der != der:
        raise ProtocolError("A public key is not in the one form that meshd writes.")
    return found


def deterministic_ecdsa() -> bool:
    """Whether the library signs by RFC 6979 (it needs OpenSSL 3.2)."""
    try:
        ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    except UnsupportedAlgorithm:
        return False
    return True


@lru_cache(maxsize=1)
def _signing() -> ec.ECDSA:
    return ec.ECDSA(hashes.SHA256(), deterministic_signing=deterministic_ecdsa())


def _in_context(context: bytes, data: bytes) -> bytes:
    if not context or b"\0" in context:
        raise ValueError("a signature's context is a name without zero bytes")
    return context + b"\0" + data
