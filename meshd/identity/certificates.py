"""Reading and checking certificates that others show.  Pure: the time is handed in.

TLS has proven that the other side holds the key in its certificate.  What is decided here is
whether that key belongs to a member of this mesh (DESIGN.md of this package).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshd import limits
from meshd.errors import NotAdmitted
from meshd.identity.keys import PublicKey
from meshd.ids import MeshId, NodeId, short

CERTIFICATE_LIFE_S: Final = 365 * 86_400
"""How long a node certificate is valid; it is renewed at half of that."""

CERTIFICATE_BACKDATE_S: Final = 86_400
"""How far before its issue it is valid, for machines whose clock is behind."""

_SAN_URI = re.compile(r"meshd://([a-z2-7]{26})/([a-z2-7]{26})\Z")
_CA_NAME = re.compile(r"meshd ([a-z2-7]{26})\Z")


class Unvouched(StrEnum):
    """Why a certificate does not admit its holder; counters use the value."""

    UNREADABLE = "unreadable"
    OTHER_MESH = "other mesh"
    NOT_ITS_ID = "not its id"
    REMOVED = "removed"
    NOT_SIGNED = "not signed by the mesh"
    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"


class CertificateRefused(NotAdmitted):
    """A certificate does not admit its holder; `reason` says why in one word."""

    def __init__(self, reason: Unvouched, text: str) -> None:
        super().__init__(text)
        self.reason: Final = reason
        self.was_removed = reason is Unvouched.REMOVED


@dataclass(frozen=True, slots=True)
class NodeCertificate:
    """What a node's certificate says.  Nothing of it is checked but that key and id agree."""

    mesh: MeshId
    node: NodeId
    public_key: PublicKey
    not_before_unix_s: int
    not_after_unix_s: int
    parsed: x509.Certificate

    @property
    def serial(self) -> bytes:
        """Its serial number, big-endian."""
        number = self.parsed.serial_number
        return number.to_bytes((number.bit_length() + 7) // 8, "big")

    @property
    def renew_unix_s(self) -> int:
        """When to ask for a new one: half of its life is over."""
        return (self.not_before_unix_s + self.not_after_unix_s) // 2

    def is_signed_by(self, ca: PublicKey) -> bool:
        """Whether the owner of that key signed it, with ECDSA and SHA-256."""
        return _is_signed_by(self.parsed, ca)


def read_certificate(der: bytes) -> NodeCertificate:
    """Read a node's certificate.

    Raises CertificateRefused if it is unreadable, larger than `limits.CERTIFICATE_BYTES`, not over
    a P-256 key, without exactly one name `meshd://MESH/NODE`, or if NODE is not the id of its key.
    """
    certificate = _parse(der)
    key = _public_key_of(certificate)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise _unreadable("it has no readable subject alternative name") from None
    match = _SAN_URI.match(uris[0]) if len(uris) == 1 and len(names) == 1 else None
    if match is None:
        raise _unreadable("it does not have exactly one name meshd://MESH/NODE")
    mesh, node = MeshId(match.group(1)), NodeId(match.group(2))
    if node != key.node:
        raise CertificateRefused(
            Unvouched.NOT_ITS_ID,
            f"A certificate names node {short(node)}, but its key is that of {short(key.node)}.",
        )
    return NodeCertificate(
        mesh=mesh,
        node=node,
        public_key=key,
        not_before_unix_s=_unix_s(certificate.not_valid_before_utc),
        not_after_unix_s=_unix_s(certificate.not_valid_after_utc),
        parsed=certificate,
    )


def read_ca_certificate(der: bytes) -> PublicKey:
    """The key in a mesh CA's certificate, with the mesh that its name says.

    Raises CertificateRefused unless it is a readable CA certificate over a P-256 key with the name
    `meshd MESH`, signed by that same key.
    """
    certificate = _parse(der)
    key = _public_key_of(certificate)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise _unreadable("it is not that of a certificate authority") from None
    if not constraints.ca:
        raise _unreadable("it is not that of a certificate authority")
    if not _is_signed_by(certificate, key):
        raise CertificateRefused(
            Unvouched.NOT_SIGNED, "A certificate authority's certificate is not signed by its key."
        )
    return PublicKey(key.raw(), _mesh_of(certificate))


def check_peer(
    certificate_der: bytes,
    *,
    mesh: MeshId,
    ca_public_key: PublicKey,
    registered: Callable[[NodeId], bytes | None],
    removed: Callable[[NodeId], bool],
    now_unix_s: float,
) -> NodeId:
    """Who the holder of this certificate's key is, if it is a member of this mesh.

    `registered` gives the key hash (`PublicKey.hash`) that the applied registry has for a node.  A
    key found there admits, whatever the certificate's times say: so an expired certificate or a
    wrong clock on either side never cuts a member off.  For a node that the registry has not seen,
    the CA's signature vouches, and then the times count.  A removed node is refused whatever it
    shows.  Raises CertificateRefused (a NotAdmitted) with the reason.
    """
    certificate = read_certificate(certificate_der)
    node = certificate.node
    if removed(node):
        raise CertificateRefused(
            Unvouched.REMOVED, f"Node {short(node)} was removed from this mesh."
        )
    if certificate.mesh != mesh:
        raise CertificateRefused(
            Unvouched.OTHER_MESH,
            f"Node {short(node)} shows a certificate of another mesh ({short(certificate.mesh)}, "
            f"not {short(mesh)}).",
        )
    known = registered(node)
    if known is not None and known == certificate.public_key.hash:
        return node
    if known is not None:
        raise CertificateRefused(
            Unvouched.NOT_ITS_ID,
            f"Node {short(node)} shows another key than the one it is registered with.",
        )
    check_vouched(certificate, mesh=mesh, ca_public_key=ca_public_key, now_unix_s=now_unix_s)
    return node


def check_vouched(
    certificate: NodeCertificate, *, mesh: MeshId, ca_public_key: PublicKey, now_unix_s: float
) -> None:
    """Raise CertificateRefused unless the CA vouches for it now: mesh, signature and times."""
    who = f"The certificate of node {short(certificate.node)}"
    if certificate.mesh != mesh:
        raise CertificateRefused(
            Unvouched.OTHER_MESH, f"{who} is of another mesh ({short(certificate.mesh)})."
        )
    if not certificate.is_signed_by(ca_public_key):
        raise CertificateRefused(
            Unvouched.NOT_SIGNED, f"{who} is not signed by the authority of mesh {short(mesh)}."
        )
    if now_unix_s < certificate.not_before_unix_s:
        raise CertificateRefused(
            Unvouched.NOT_YET_VALID,
            f"{who} is valid from {_date(certificate.not_before_unix_s)} on; this machine's clock "
            f"says {_date(now_unix_s)}. Is the clock right?",
        )
    if now_unix_s > certificate.not_after_unix_s:
        raise CertificateRefused(
            Unvouched.EXPIRED,
            f"{who} ended on {_date(certificate.not_after_unix_s)}; this machine's clock says "
            f"{_date(now_unix_s)}. Is the clock right?",
        )


def read_link(der: bytes, *, former: PublicKey) -> PublicKey:
    """The CA key that a CA before it has certified (`authority.Succession`).

    Raises CertificateRefused unless that is what it is.
    """
    certificate = _parse(der)
    key = PublicKey(_public_key_of(certificate).raw(), _mesh_of(certificate))
    if key.mesh != former.mesh or not _is_signed_by(certificate, former):
        raise CertificateRefused(
            Unvouched.NOT_SIGNED, "A CA's key is not certified by the CA before it."
        )
    return key


def to_pem(certificate_der: bytes) -> bytes:
    """A certificate as a PEM file.  Raises CertificateRefused if it is none."""
    return _parse(certificate_der).public_bytes(serialization.Encoding.PEM)


def from_pem(pem: bytes) -> list[bytes]:
    """The DER of the certificates in a PEM file, one at least.  Raises CertificateRefused."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise _unreadable("it is not a certificate in PEM") from None
    return [one.public_bytes(serialization.Encoding.DER) for one in certificates]


def _parse(der: bytes) -> x509.Certificate:
    if len(der) > limits.CERTIFICATE_BYTES:
        raise _unreadable(f"it is larger than {limits.CERTIFICATE_BYTES} bytes")
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _unreadable("it is not X.509") from None


def _public_key_of(certificate: x509.Certificate) -> PublicKey:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise _unreadable("its key is of no known kind") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _unreadable("its key is not on the curve P-256")
    return PublicKey(key)


def _mesh_of(certificate: x509.Certificate) -> MeshId:
    try:
        names = [attribute.value for attribute in certificate.subject]
    except ValueError:
        names = []
    match = _CA_NAME.match(str(names[0])) if len(names) == 1 else None
    if match is None:
        raise _unreadable("it does not have the name `meshd MESH`")
    return MeshId(match.group(1))


def _is_signed_by(certificate: x509.Certificate, ca: PublicKey) -> bool:
    try:
        algorithm = certificate.signature_hash_algorithm
        is_ecdsa = (
            certificate.signature_algorithm_oid == x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256
        )
        if not is_ecdsa or not isinstance(algorithm, hashes.SHA256):
            return False
        ca.raw().verify(
            certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256())
        )
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _unreadable(why: str) -> CertificateRefused:
    return CertificateRefused(Unvouched.UNREADABLE, f"A certificate is of no use here: {why}.")


def _unix_s(moment: datetime.datetime) -> int:
    return int(moment.timestamp())


def _date(unix_s: float) -> str:
    try:
        return f"{datetime.datetime.fromtimestamp(unix_s, datetime.UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return "a time that cannot be"
