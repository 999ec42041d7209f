"""What a node keeps on disk of who it is, and where inside its data directory.

    node.key              its key (private)
    generation            how often it started (text)
    mesh.json             which mesh it is in: written last, so that it is the commit
    MESH-ID/node.crt      its certificate there
    MESH-ID/ca.crt        the certificates of the mesh's CA and of those before it, each of which
                          is followed by how it certified the one after it
    MESH-ID/ca.key        the CA's key, at a node that has it (private; `ca_keys.py`)
    MESH-ID/keyring.json  keys of the datagrams (private)
    MESH-ID/members       the newest signed member list
    MESH-ID/applied       the member list that the record came to here, if that is newer

A node that leaves one mesh for another writes the new folder whole, then `mesh.json`, then deletes
the old folder's files: cut anywhere, it is in one mesh or in the other.  All through `ports.Disk`.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

import msgspec

from meshd.errors import MeshdError, ProtocolError
from meshd.identity.authority import Authority
from meshd.identity.ca_keys import CaKeyDamaged, CaKeyFiles
from meshd.identity.certificates import (
    CertificateRefused,
    from_pem,
    to_pem,
)
from meshd.identity.keyring import Keyring
from meshd.identity.keys import KeyDamaged, PrivateKey
from meshd.identity.mesh_identity import FormerCa, MeshIdentity
from meshd.ids import MeshId, is_key_id
from meshd.ports import Disk

FORMAT: Final = 1
"""The form of `mesh.json` and `keyring.json`; a higher one is refused, never guessed at."""


class StoreDamaged(MeshdError):
    """A file of the data directory cannot be used: says which, why, and what to do."""


class _MeshFile(msgspec.Struct):
    mesh: str
    mesh_name: str
    name: str
    founder: bool
    format: int = FORMAT


class _KeyringFile(msgspec.Struct):
    version: int
    keys: list[bytes]
    format: int = FORMAT


class IdentityStore:
    """Reads and writes the files above.  Errors of the disk itself are OSError."""

    def __init__(self, disk: Disk, data_dir: PurePath) -> None:
        self._disk = disk
        self._dir = data_dir

    # --- the node's own

    def load_key(self) -> PrivateKey | None:
        """This node's key; None on the very first start.  Raises StoreDamaged."""
        path = self._dir / "node.key"
        pem = self._disk.read(path)
        if pem is None:
            return None
        try:
            return PrivateKey.from_pem(pem)
        except KeyDamaged as error:
            raise _damaged(
                path, error, "Put it back from a backup, or delete the data directory to join anew."
            ) from None

    def save_key(self, key: PrivateKey) -> None:
        self._disk.write(self._dir / "node.key", key.pem(), private=True)

    def next_generation(self, now_unix_s: float) -> int:
        """Count this start, on disk first: higher than at every start before.

        Datagram keys hang on (node, generation), so a generation must never come twice, not even
        after a data directory was put back from a backup.  Therefore it is one more than the last,
        or the seconds of the wall clock where that is more.  Raises StoreDamaged.
        """
        path = self._dir / "generation"
        data = self._disk.read(path)
        last = 0
        if data is not None:
            text = data.strip()
            if not (text.isdigit() and len(text) <= 18):
                raise _damaged(path, "it is not a number", "Delete it: the clock stands in for it.")
            last = int(text)
        generation = max(last + 1, int(now_unix_s))
        self.save_generation(generation)
        return generation

    def save_generation(self, generation: int) -> None:
        """Note a generation that was taken in mid-run, since others had seen the one before."""
        self._disk.write(self._dir / "generation", b"%d\n" % generation, private=False)

    # --- the mesh it is in

    def load_mesh(self, key: PrivateKey) -> MeshIdentity | None:
        """Who this node is in its mesh, every file checked against the others.

        None if it is in none yet.  Raises StoreDamaged.
        """
        mesh_file = self._read_mesh_file()
        if mesh_file is None:
            return None
        folder = self._dir / mesh_file.mesh
        ca_certificate_der, former_cas = self._load_cas(folder / "ca.crt")
        certificate_der = self._certificates(folder / "node.crt")[0]
        try:
            ca_key = self.ca_keys(MeshId(mesh_file.mesh)).key
        except CaKeyDamaged as error:
            raise StoreDamaged(str(error)) from None
        try:
            identity = MeshIdentity(
                name=mesh_file.name,
                mesh_name=mesh_file.mesh_name,
                certificate_der=certificate_der,
                ca_certificate_der=ca_certificate_der,
                keyring=self._load_keyring(folder),
                authority=None,
                founder=mesh_file.founder,
                former_cas=former_cas,
            )
        except CertificateRefused as error:
            raise _damaged(folder, error, _REJOIN) from None
        if ca_key is not None and ca_key.public == identity.ca:
            identity.authority = Authority(ca_key, ca_certificate_der)
        certificate = identity.certificate
        if identity.mesh != mesh_file.mesh:
            raise _damaged(folder / "ca.crt", "it is of another mesh than mesh.json", _REJOIN)
        if certificate.public_key != key.public:
            raise _damaged(folder / "node.crt", "it is not for the key in node.key", _REJOIN)
        signers = [identity.ca, *identity.former_keys()]
        if certificate.mesh != identity.mesh or not any(map(certificate.is_signed_by, signers)):
            raise _damaged(folder / "node.crt", "it is not signed by this mesh's CA", _REJOIN)
        return identity

    def save_mesh(self, identity: MeshIdentity, members: bytes) -> None:
        """Enter a mesh: write its folder whole, then `mesh.json`, then forget the former mesh."""
        former = self._read_mesh_file()
        mesh = identity.mesh
        self.save_cas(identity)
        if identity.authority is not None:
            self.ca_keys(mesh).keep(identity.authority.key)
        self.save_certificate(mesh, identity.certificate_der)
        self.save_keyring(mesh, identity.keyring)
        self.save_members(mesh, members)
        self._write_mesh_file(identity)
        if former is not None and former.mesh != mesh:
            self._delete_folder(former.mesh)

    def ca_keys(self, mesh: MeshId) -> CaKeyFiles:
        """The files of the CA's key.  Raises CaKeyDamaged."""
        return CaKeyFiles(self._disk, self._dir / mesh)

    def save_cas(self, identity: MeshIdentity) -> None:
        """Keep the certificates of the CAs that the mesh has and had."""
        ders = [identity.ca_certificate_der]
        for former in identity.former_cas:
            ders += former
        path = self._dir / identity.mesh / "ca.crt"
        self._disk.write(path, b"".join(map(to_pem, ders)), private=False)

    def save_certificate(self, mesh: MeshId, certificate_der: bytes) -> None:
        self._disk.write(self._dir / mesh / "node.crt", to_pem(certificate_der), private=False)

    def save_keyring(self, mesh: MeshId, keyring: Keyring) -> None:
        data = msgspec.json.encode(_KeyringFile(keyring.version, keyring.secrets))
        self._disk.write(self._dir / mesh / "keyring.json", data, private=True)

    def save_members(self, mesh: MeshId, members: bytes) -> None:
        """Keep the signed member list, in the record's own bytes."""
        self._disk.write(self._dir / mesh / "members", members, private=False)

    def load_members(self, mesh: MeshId) -> bytes:
        """What `save_members` kept.  Raises StoreDamaged if it is missing."""
        return self._need(self._dir / mesh / "members")

    def save_applied(self, mesh: MeshId, body: bytes) -> None:
        """Keep the member list that the record came to, which nobody has signed yet."""
        self._disk.write(self._dir / mesh / "applied", body, private=True)

    def load_applied(self, mesh: MeshId) -> bytes | None:
        """What `save_applied` kept; None: nothing."""
        return self._disk.read(self._dir / mesh / "applied")

    def members_damaged(self, mesh: MeshId, why: object) -> StoreDamaged:
        """What to raise if what `load_members` gave is no member list of this mesh."""
        return _damaged(self._dir / mesh / "members", why, _REJOIN)

    def leave(self) -> None:
        """Forget the mesh and this node's key: whoever joins next from here is a new node.

        `mesh.json` goes first, so that a cut leaves a node without a mesh, not half of one.
        """
        mesh_file = self._read_mesh_file()
        self._disk.delete(self._dir / "mesh.json")
        self._disk.delete(self._dir / "node.key")
        if mesh_file is not None:
            self._delete_folder(mesh_file.mesh)

    # --- inside

    def _read_mesh_file(self) -> _MeshFile | None:
        path = self._dir / "mesh.json"
        data = self._disk.read(path)
        if data is None:
            return None
        try:
            mesh_file = msgspec.json.decode(data, type=_MeshFile)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _damaged(path, error, _REJOIN) from None
        if mesh_file.format != FORMAT:
            raise _damaged(
                path, f"its format is {mesh_file.format}, not {FORMAT}", "Use a newer meshd."
            )
        if not is_key_id(mesh_file.mesh):
            raise _damaged(path, "its mesh id is not one", _REJOIN)
        return mesh_file

    def _write_mesh_file(self, identity: MeshIdentity) -> None:
        mesh_file = _MeshFile(
            mesh=identity.mesh,
            mesh_name=identity.mesh_name,
            name=identity.name,
            founder=identity.founder,
        )
        data = msgspec.json.format(msgspec.json.encode(mesh_file), indent=2) + b"\n"
        self._disk.write(self._dir / "mesh.json", data, private=False)

    def _load_keyring(self, folder: PurePath) -> Keyring:
        path = folder / "keyring.json"
        try:
            kept = msgspec.json.decode(self._need(path), type=_KeyringFile)
            if kept.format != FORMAT:
                raise ProtocolError(f"Its format is {kept.format}, not {FORMAT}.")
            return Keyring.of(kept.version, kept.keys)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            # The library's text may quote the file, which is secret.
            raise _damaged(path, "it is not a keyring", _REJOIN) from None
        except ProtocolError as error:
            raise _damaged(path, error, _REJOIN) from None

    def _load_cas(self, path: PurePath) -> tuple[bytes, tuple[FormerCa, ...]]:
        """What `save_cas` kept."""
        current, *former = self._certificates(path)
        if len(former) % 2:
            raise _damaged(path, "a former CA's certificate stands alone", _REJOIN)
        pairs = zip(former[::2], former[1::2], strict=True)
        return current, tuple(FormerCa(*pair) for pair in pairs)

    def _certificates(self, path: PurePath) -> list[bytes]:
        """At least one."""
        try:
            return from_pem(self._need(path))
        except CertificateRefused as error:
            raise _damaged(path, error, _REJOIN) from None

    def _need(self, path: PurePath) -> bytes:
        data = self._disk.read(path)
        if data is None:
            raise _damaged(path, "it is missing", _REJOIN)
        return data

    def _delete_folder(self, mesh: str) -> None:
        for name in (*_SECRETS, "node.crt", "ca.crt", "members", "applied"):
            self._disk.delete(self._dir / mesh / name)


_SECRETS: Final = ("ca.key", "ca-next.key", "keyring.json", "tokens.json")

_REJOIN: Final = "Put it back from a backup, or delete the data directory and join the mesh again."


def _damaged(path: PurePath, why: object, remedy: str) -> StoreDamaged:
    return StoreDamaged(f"{path} cannot be used: {str(why).rstrip('.')}. {remedy}")
