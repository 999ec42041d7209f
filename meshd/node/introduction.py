"""How this node introduces itself to others: by certificate, on a link, over mDNS."""

from __future__ import annotations

import math

import trio

from meshd import __version__, logs
from meshd.errors import MeshdError
from meshd.identity import check_peer
from meshd.ids import NodeId
from meshd.membership.sightings import Announcement
from meshd.peers.entering import Standing
from meshd.peers.office import MeshOffice
from meshd.ports import Credentials, Ports
from meshd.wire.control import PROTOCOL_MAX, PROTOCOL_MIN, Hello

log = logs.get("mesh")

SPREAD_S = 10.0
"""After a change of the CA the members ask it for their certificates within this time."""


class Introduction:
    """What one node shows of itself, and what it wants to see of others."""

    def __init__(self, ports: Ports, standing: Standing, port: int) -> None:
        """`port` is the mesh port, as others see it."""
        self._ports, self._standing, self._port = ports, standing, port
        self._node: NodeId = standing.key.public.node
        self._registry = standing.registry
        self._renew_at = -math.inf

    def use(self) -> None:
        """Show the certificate of now on the mesh port, from the next connection on."""
        self._ports.network.use(self.credentials())

    def credentials(self) -> Credentials:
        """What this node shows on the mesh port."""
        standing = self._standing
        return Credentials(
            node=self._node,
            mesh=self._registry.mesh,
            certificate_pem=standing.identity.chain_pem(),
            private_key_pem=standing.key.pem(),
            ca_pem=standing.identity.anchors_pem(),
            check_peer=self._check_peer,
        )

    def _check_peer(self, certificate_der: bytes) -> NodeId:
        return check_peer(
            certificate_der,
            mesh=self._registry.mesh,
            ca_public_key=self._standing.identity.ca,
            registered=self._registry.key_hash_of,
            removed=self._registry.is_removed,
            now_unix_s=self._ports.clock.wall(),
        )

    def hello(self) -> Hello:
        """The first message on a link."""
        return Hello(
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            version=__version__,
            node=self._node,
            generation=self._standing.generation,
            mesh=self._registry.mesh,
            name=self._standing.identity.name,
            members_version=self._registry.version,
        )

    def announcement(self) -> Announcement:
        """What mDNS tells of it."""
        return Announcement(
            mesh=self._registry.mesh,
            node=self._node,
            name=self._standing.identity.name,
            port=self._port,
            protocol=(PROTOCOL_MIN, PROTOCOL_MAX),
            ca=self._standing.identity.ca.id,
        )

    def ca_changed(self) -> None:
        """The mesh has another CA: believe it from the next connection on, and ask it, in time."""
        self._renew_at = trio.current_time() + SPREAD_S * self._ports.entropy.random()
        self.use()

    @property
    def renewal_is_due(self) -> bool:
        """Whether it is time for another certificate.

        Past half of the life of this one there is time for many tries.  When the mesh has another
        CA the members do not all ask it at once, and none has to hurry: they are known by their
        keys.  Only a newcomer goes by what the CA of now has signed.
        """
        identity = self._standing.identity
        if not identity.is_current:
            return trio.current_time() >= self._renew_at
        return self._ports.clock.wall() >= identity.certificate.renew_unix_s

    async def renew(self, office: MeshOffice) -> None:
        """Get a new certificate and show it; if that fails, say so in the log."""
        standing = self._standing
        try:
            certificate_der = await office.renew(standing.key.public)
            identity = standing.identity.renewed(certificate_der)
            standing.store.save_certificate(self._registry.mesh, certificate_der)
        except MeshdError as e:
            log.warning("certificate not renewed; trying again", why=str(e))
            return
        # Shown and known must change together: join proofs are bound to the certificate shown.
        standing.identity = identity
        self.use()
        log.info("certificate renewed")
