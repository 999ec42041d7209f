"""The mesh's certificate authority: vouches for nodes' keys.  Pure: time and randomness come in.

Its key is the mesh: join tokens pin it, member lists are signed by it, and the mesh is called after
the first one it had.  A later key takes over by `Authority.hand_over`.
"""

from __future__ import annotations

import datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshd.identity.certificates import (
    CERTIFICATE_BACKDATE_S,
    CERTIFICATE_LIFE_S,
    read_ca_certificate,
)
from meshd.identity.keys import (
    KeyDamaged,
    PrivateKey,
    PublicKey,
    deterministic_ecdsa,
)
from meshd.ids import MeshId

SERIAL_BYTES: Final = 16
"""Randomness for one certificate's serial number (RFC 5280 allows 20 bytes)."""

# "No well-defined expiration date" (RFC 5280, 4.1.2.5).  The CA is trusted for its key, which is
# the mesh; an end date could only cut a mesh off.
_NEVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


class Succession(NamedTuple):
    """How a mesh goes over to another CA key: what all members need to know of it."""

    certificate_der: bytes
    """The new CA's own."""
    link_der: bytes
    """The new key, certified by the CA before it: for nodes that know only that one yet."""


class Authority:
    """The CA's key and certificate, at a node that may admit others."""

    def __init__(self, key: PrivateKey, certificate_der: bytes) -> None:
        """Raises CertificateRefused if the certificate is none, KeyDamaged if not of this key."""
        public = read_ca_certificate(certificate_der)
        if public != key.public:
            raise KeyDamaged("The CA's key and its certificate do not belong together.")
        self._key = key.of_mesh(public.mesh)
        self.certificate_der: Final = certificate_der

    @classmethod
    def found(cls, *, seed: bytes, serial: bytes, now_unix_s: float) -> Authority:
        """Make a new mesh's authority from `KEY_SEED_BYTES` and `SERIAL_BYTES` random bytes."""
        key = PrivateKey.from_random(seed)
        return cls(key, _signed(_ca_builder(key.public, key.public.mesh, serial, now_unix_s), key))

    def hand_over(
        self, key: PrivateKey, *, serials: tuple[bytes, bytes], now_unix_s: float
    ) -> Succession:
        """Make `key` the mesh's next CA key; each serial is `SERIAL_BYTES` random bytes.

        What certifies the new key is self-issued: issuer and subject have one name, so that a chain
        may lead over it although a CA of this mesh certifies none below it (RFC 5280, 4.2.1.9).
        """
        own, link = serials
        linked = _ca_builder(key.public, self.mesh, link, now_unix_s).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.public.raw()), critical=False
        )
        return Succession(
            _signed(_ca_builder(key.public, self.mesh, own, now_unix_s), key),
            _signed(linked, self._key),
        )

    @property
    def key(self) -> PrivateKey:
        """The CA's key pair: signs member lists, and is kept in a private file."""
        return self._key

    @property
    def public(self) -> PublicKey:
        return self._key.public

    @property
    def mesh(self) -> MeshId:
        return self._key.public.mesh

    def issue(self, node_key: PublicKey, *, serial: bytes, now_unix_s: float) -> bytes:
        """A certificate (DER) for that key's node, good for both ends of a TLS connection.

        Valid from a day ago for one year; `serial` is `SERIAL_BYTES` random bytes.
        """
        uri = x509.UniformResourceIdentifier(f"meshd://{self.mesh}/{node_key.node}")
        authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.public.raw())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            .subject_name(_common_name(node_key.node))
            .issuer_name(_common_name(f"meshd {self.mesh}"))
            .public_key(node_key.raw())
            .serial_number(_serial_number(serial))
            .not_valid_before(_moment(now_unix_s - CERTIFICATE_BACKDATE_S))
            .not_valid_after(_moment(now_unix_s - CERTIFICATE_BACKDATE_S + CERTIFICATE_LIFE_S))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(node_key.raw()), critical=False
            )
            .add_extension(authority_id, critical=False)
        )
        return _signed(builder, self._key)


def _ca_builder(
    key: PublicKey, mesh: MeshId, serial: bytes, now_unix_s: float
) -> x509.CertificateBuilder:
    """Of a CA of that mesh, which is named in it."""
    name = _common_name(f"meshd {mesh}")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.raw())
        .serial_number(_serial_number(serial))
        .not_valid_before(_moment(now_unix_s - CERTIFICATE_BACKDATE_S))
        .not_valid_after(_NEVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.raw()), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, key: PrivateKey) -> bytes:
    if deterministic_ecdsa():
        certificate = builder.sign(key.raw(), hashes.SHA256(), ecdsa_deterministic=True)
    else:
        certificate = builder.sign(key.raw(), hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.DER)


def _serial_number(random_bytes: bytes) -> int:
    if len(random_bytes) != SERIAL_BYTES:
        raise ValueError(f"a serial number takes {SERIAL_BYTES} random bytes")
    return int.from_bytes(random_bytes, "big") | 1  # RFC 5280: positive


def _moment(unix_s: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(unix_s), datetime.UTC)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
