"""A CA of a few lines, for tests of the network alone."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from meshd.errors import NotAdmitted
from meshd.ids import MeshId, NodeId, key_id
from meshd.ports import Credentials

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _key_id(key: ec.EllipticCurvePrivateKey) -> str:
    public = key.public_key()
    return key_id(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


@dataclass
class TinyCa:
    """Issues credentials; `removed` are the nodes that its `check_peer` refuses."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    mesh: MeshId
    removed: set[NodeId]

    @classmethod
    def new(cls) -> TinyCa:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name("ca"))
            .issuer_name(_name("ca"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 30 * DAY)
            .not_valid_after(NOW + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate, MeshId(_key_id(key)), set())

    def credentials(self, *, expired: bool = False) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        node = NodeId(_key_id(key))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(node))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 20 * DAY)
            .not_valid_after(NOW - DAY if expired else NOW + DAY)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(f"meshd://{self.mesh}/{node}")]
                ),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        return Credentials(
            node=node,
            mesh=self.mesh,
            certificate_pem=certificate.public_bytes(Encoding.PEM),
            private_key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            ca_pem=self.certificate.public_bytes(Encoding.PEM),
            check_peer=self.check_peer,
        )

    def web_server(self, host: str) -> bytes:
        """Key and certificate of a server of the world, which is no member of anything."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(host))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + 2 * DAY)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        own = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return own + certificate.public_bytes(Encoding.PEM)

    def check_peer(self, der: bytes) -> NodeId:
        certificate = x509.load_der_x509_certificate(der)
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uri = san.get_values_for_type(x509.UniformResourceIdentifier)[0]
        mesh, _, node = uri.removeprefix("meshd://").partition("/")
        if mesh != self.mesh:
            raise NotAdmitted("It is of another mesh.")
        if node in self.removed:
            raise NotAdmitted("It was removed from the mesh.")
        return NodeId(node)


def trusting(credentials: Credentials, other: TinyCa) -> Credentials:
    """The same node, believing another CA."""
    return replace(
        credentials,
        ca_pem=other.certificate.public_bytes(Encoding.PEM),
        check_peer=other.check_peer,
    )
