"""Who is who: keys, the mesh's CA, certificates, join tokens, pairing, the keyring.  Pure.

`store.py` keeps it all on disk, through `ports.Disk`.  See DESIGN.md beside this file.
"""

from __future__ import annotations

from meshd.identity.authority import SERIAL_BYTES, Authority, Succession
from meshd.identity.certificates import (
    CertificateRefused,
    NodeCertificate,
    Unvouched,
    check_peer,
    check_vouched,
    from_pem,
    read_ca_certificate,
    read_certificate,
    to_pem,
)
from meshd.identity.keyring import GOSSIP_KEY_BYTES, GossipKey, Keyring
from meshd.identity.keys import (
    KEY_SEED_BYTES,
    SIGNATURE_BYTES,
    KeyDamaged,
    PrivateKey,
    PublicKey,
    public_key,
)
from meshd.identity.mesh_identity import FormerCa, MeshIdentity
from meshd.identity.pairing import (
    MemberPairing,
    NewcomerPairing,
    PairingEnd,
    Pairings,
    PairingsFull,
    PairingState,
    make_commitment,
    make_digits,
    read_digits,
    show_digits,
)
from meshd.identity.store import IdentityStore, StoreDamaged
from meshd.identity.tokens import (
    NONCE_BYTES,
    TOKEN_ID_BYTES,
    TOKEN_SECRET_BYTES,
    Token,
    TokenUnreadable,
    make_proof,
    new_token,
    parse_token,
)

__all__ = [
    "GOSSIP_KEY_BYTES",
    "KEY_SEED_BYTES",
    "NONCE_BYTES",
    "SERIAL_BYTES",
    "SIGNATURE_BYTES",
    "TOKEN_ID_BYTES",
    "TOKEN_SECRET_BYTES",
    "Authority",
    "CertificateRefused",
    "FormerCa",
    "GossipKey",
    "IdentityStore",
    "KeyDamaged",
    "Keyring",
    "MemberPairing",
    "MeshIdentity",
    "NewcomerPairing",
    "NodeCertificate",
    "PairingEnd",
    "PairingState",
    "Pairings",
    "PairingsFull",
    "PrivateKey",
    "PublicKey",
    "StoreDamaged",
    "Succession",
    "Token",
    "TokenUnreadable",
    "Unvouched",
    "check_peer",
    "check_vouched",
    "from_pem",
    "make_commitment",
    "make_digits",
    "make_proof",
    "new_token",
    "parse_token",
    "public_key",
    "read_ca_certificate",
    "read_certificate",
    "read_digits",
    "show_digits",
    "to_pem",
]
