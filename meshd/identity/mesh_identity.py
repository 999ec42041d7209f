"""Who a node is in its mesh: its certificate, the CAs that its mesh has had, its keys.  Pure."""

from __future__ import annotations

from typing import NamedTuple

from meshd import limits
from meshd.identity.authority import Authority
from meshd.identity.certificates import (
    CertificateRefused,
    NodeCertificate,
    Unvouched,
    read_ca_certificate,
    read_certificate,
    read_link,
    to_pem,
)
from meshd.identity.keyring import Keyring
from meshd.identity.keys import PublicKey
from meshd.ids import MeshId


class FormerCa(NamedTuple):
    """A CA that the mesh had before."""

    certificate_der: bytes
    link_der: bytes
    """The CA after it, certified by it (`authority.Succession`)."""


class MeshIdentity:
    """Who this node is in its mesh: everything that `IdentityStore.load_mesh` checked.

    `authority` is there while this node has the CA's key, `keyring` is the newest: both change.
    What the certificates say is never the reason to let anybody in that the registry knows; TLS
    alone wants a chain.  So that it finds one, a node takes the certificates of all CAs that the
    mesh has had, and shows how each was followed by the next: then nobody is cut off by a change of
    the CA, whoever of the two has slept through it.
    """

    __slots__ = (
        "authority",
        "ca",
        "ca_certificate_der",
        "certificate",
        "certificate_der",
        "former_cas",
        "founder",
        "keyring",
        "mesh_name",
        "name",
    )

    def __init__(
        self,
        *,
        name: str,
        mesh_name: str,
        certificate_der: bytes,
        ca_certificate_der: bytes,
        keyring: Keyring,
        authority: Authority | None,
        founder: bool = False,
        former_cas: tuple[FormerCa, ...] = (),
    ) -> None:
        """`founder`: this node began the mesh.  `former_cas`: the latest first.

        Raises CertificateRefused if the certificates are unreadable or not of one mesh.
        """
        self.name = name
        self.mesh_name = mesh_name
        self.certificate_der = certificate_der
        self.certificate: NodeCertificate = read_certificate(certificate_der)
        self.ca_certificate_der = ca_certificate_der
        self.ca: PublicKey = read_ca_certificate(ca_certificate_der)
        self.former_cas = former_cas[: limits.FORMER_CAS]
        self.keyring = keyring
        self.authority = authority
        self.founder = founder
        self._check_former()

    @property
    def mesh(self) -> MeshId:
        return self.ca.mesh

    @property
    def is_current(self) -> bool:
        """Whether the CA of now vouches for this node's certificate."""
        return self.certificate.is_signed_by(self.ca)

    def former_keys(self) -> list[PublicKey]:
        """Of the CAs before this one, the latest first."""
        return [read_ca_certificate(former.certificate_der) for former in self.former_cas]

    def chain_pem(self) -> bytes:
        """What it shows in TLS: its certificate, and how each CA was followed by the next."""
        links = b"".join(to_pem(former.link_der) for former in self.former_cas)
        return to_pem(self.certificate_der) + links

    def anchors_pem(self) -> bytes:
        """Whose signatures TLS takes: those of all CAs that the mesh has had."""
        former = b"".join(to_pem(former.certificate_der) for former in self.former_cas)
        return to_pem(self.ca_certificate_der) + former

    def renewed(self, certificate_der: bytes) -> MeshIdentity:
        """With another certificate.  Raises CertificateRefused."""
        return self._with(certificate_der=certificate_der)

    def succeeded(
        self, ca_certificate_der: bytes, former_cas: tuple[FormerCa, ...]
    ) -> MeshIdentity:
        """In a mesh that has another CA now, without its key.  Raises CertificateRefused."""
        return self._with(ca_certificate_der=ca_certificate_der, former_cas=former_cas)

    def _with(
        self,
        *,
        certificate_der: bytes | None = None,
        ca_certificate_der: bytes | None = None,
        former_cas: tuple[FormerCa, ...] | None = None,
    ) -> MeshIdentity:
        return MeshIdentity(
            name=self.name,
            mesh_name=self.mesh_name,
            certificate_der=certificate_der or self.certificate_der,
            ca_certificate_der=ca_certificate_der or self.ca_certificate_der,
            keyring=self.keyring,
            authority=self.authority if ca_certificate_der is None else None,
            founder=self.founder,
            former_cas=self.former_cas if former_cas is None else former_cas,
        )

    def _check_former(self) -> None:
        later = self.ca
        for former in self.former_cas:
            key = read_ca_certificate(former.certificate_der)
            if key.mesh != self.mesh or read_link(former.link_der, former=key) != later:
                raise CertificateRefused(
                    Unvouched.OTHER_MESH, "The CAs that the mesh has had do not follow each other."
                )
            later = key
