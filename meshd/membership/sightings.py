"""What a node says of itself by mDNS, and what is made of what others say.  Pure.

Anybody in the same network can announce anything: a sighting is a place to knock at and nothing
more.  What is in the TXT record is public, so no secret is ever in it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from meshd import limits
from meshd.ids import Address, MeshId, NodeId, is_key_id

SERVICE: Final = "_meshd._tcp.local."


@dataclass(frozen=True, slots=True)
class Announcement:
    """What is announced: who this is, and how to check it."""

    mesh: MeshId
    node: NodeId
    name: str
    port: int
    protocol: tuple[int, int]
    """The least and the most version of the peer protocol that it speaks."""
    ca: str = ""
    """Id of the mesh's CA key, by which a token finds its mesh; it proves nothing here."""

    @property
    def instance(self) -> str:
        """The service's name.  With the node id as its label nobody else has it, so that there is
        nothing to resolve when the last record of a former start is still around."""
        return f"{self.node}.{SERVICE}"

    @property
    def host(self) -> str:
        """A host name of its own: the machine's is its mDNS responder's business."""
        return f"{self.node}.local."

    def text(self) -> dict[str, str]:
        """The TXT record."""
        return {
            "mesh": self.mesh,
            "node": self.node,
            "name": self.name,
            "port": str(self.port),
            "proto": f"{self.protocol[0]}-{self.protocol[1]}",
            "ca": self.ca,
        }


@dataclass(frozen=True, slots=True)
class Sighting:
    """A node that somebody announced."""

    mesh: MeshId
    node: NodeId
    name: str
    addresses: tuple[Address, ...]
    protocol: tuple[int, int]
    ca: str = ""


def read_sighting(
    text: Mapping[bytes, bytes | None], hosts: Sequence[str], port: int | None
) -> Sighting | None:
    """What an announcement says, or None if it is not one of a meshd node that could be reached."""
    fields = {key.decode("ascii", "replace"): _text(value) for key, value in text.items()}
    mesh, node = fields.get("mesh", ""), fields.get("node", "")
    protocol = _protocol(fields.get("proto", ""))
    if not is_key_id(mesh) or not is_key_id(node) or protocol is None:
        return None
    if not port or not 0 < port < 65536:
        return None
    addresses = tuple(Address(host, port) for host in hosts if _leads_somewhere(host))
    if not addresses:
        return None
    name, ca = fields.get("name", ""), fields.get("ca", "")
    return Sighting(
        mesh=MeshId(mesh),
        node=NodeId(node),
        name=name[: limits.NAME_CHARS] if name.isprintable() else "",
        addresses=addresses[: limits.ADDRESSES_PER_NODE],
        protocol=protocol,
        ca=ca if is_key_id(ca) else "",
    )


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")


def _protocol(text: str) -> tuple[int, int] | None:
    least, dash, most = text.partition("-")
    if not dash or not least.isdecimal() or not most.isdecimal() or len(text) > 11:
        return None
    return int(least), int(most)


def _leads_somewhere(host: str) -> bool:
    """Link-local IPv6 needs a zone that means nothing to others, so it is left out."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if address.is_unspecified or address.is_multicast:
        return False
    return address.version == 4 or not address.is_link_local
