"""Nodes: who is in the mesh, who was, and who holds its CA's key.  Pure.

The record is the author of what readers see as the member list (view.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from meshd import limits
from meshd.identity.certificates import CERTIFICATE_BACKDATE_S, CERTIFICATE_LIFE_S
from meshd.ids import NodeId, key_id
from meshd.record import commands_registry as commands
from meshd.record.context import Context
from meshd.record.events import CaChanged, KeyringRotated, NodeAdmitted, NodeChanged, NodeRemoved
from meshd.record.names import free_name
from meshd.record.node_rows import Certificate, FormerCa, MeshRow, NodeRow, RemovedRow, check_key
from meshd.record.results import DONE, Code, Refuse, done
from meshd.record.table import Table

FORGET_REMOVED_MS: Final = int(CERTIFICATE_LIFE_S + CERTIFICATE_BACKDATE_S) * 1000
"""A removed id may be forgotten after this: by then every certificate it ever had has ended."""


class Nodes:
    """Reduces the commands about nodes."""

    def __init__(
        self,
        mesh: Table[int, MeshRow],
        nodes: Table[str, NodeRow],
        removed: Table[str, RemovedRow],
    ) -> None:
        self._mesh = mesh
        self._nodes = nodes
        self._removed = removed

    @property
    def mesh(self) -> MeshRow:
        """Raises Refuse before the mesh is founded."""
        row = self._mesh.get(0)
        if row is None:
            raise Refuse(Code.NOT_FOUNDED)
        return row

    @property
    def is_founded(self) -> bool:
        return 0 in self._mesh

    def get(self, node: str) -> NodeRow | None:
        return self._nodes.get(node)

    def rows(self) -> list[NodeRow]:
        """All members, in the order of their ids."""
        return self._nodes.rows()

    def removed_rows(self) -> list[RemovedRow]:
        return self._removed.rows()

    def is_removed(self, node: str) -> bool:
        return node in self._removed

    def member(self, node: str) -> NodeRow:
        """Raises Refuse for what is none."""
        row = self._nodes.get(node)
        if row is None:
            raise Refuse(Code.REMOVED if node in self._removed else Code.NO_SUCH_NODE)
        return row

    # --- founding

    def found(self, context: Context, command: commands.Found) -> bytes:
        if self.is_founded:
            raise Refuse(Code.FOUNDED_ALREADY, mesh=self.mesh.mesh)
        check_key(command.ca_key)
        check_key(command.node.key)
        if command.mesh != key_id(command.ca_key):
            raise Refuse(Code.BAD_KEY)
        self._mesh.put(
            MeshRow(
                mesh=command.mesh,
                mesh_name=command.mesh_name,
                ca_key=command.ca_key,
                gossip_key=command.gossip_key,
                keyring_generation=command.keyring_generation,
                registry_version=command.registry_version,
                ca_certificate=command.ca_certificate,
            )
        )
        row = self._row(command.node, command.node.name, command.unix_ms)
        self._nodes.put(replace(row, founder=True, holds_ca=True, held_ca=1))
        self._count()
        context.emit(NodeAdmitted(context.index, NodeId(row.id)))
        return done(node=row.id, version=self.mesh.registry_version)

    def adopt(self, context: Context, command: commands.Adopt) -> bytes:
        if command.list_version:
            return self._adopt_later(context, command)
        rows = []
        for fields in command.nodes:
            check_key(fields.key)
            node = key_id(fields.key)
            if node not in self._nodes and node not in self._removed:
                rows.append(fields)
        gone = {
            node: at
            for node, at in command.removed
            if node not in self._nodes and node not in self._removed
        }
        self._check_adoption(rows, gone)
        for fields in rows:
            self._let_in(context, fields)
        for node, at in gone.items():
            self._removed.put(RemovedRow(id=node, removed_unix_ms=at))
        if rows or gone:
            self._count()
        return done(nodes=len(rows), removed=len(gone))

    def _adopt_later(self, context: Context, command: commands.Adopt) -> bytes:
        """Of a list that is later than what is here: members change, and go, by it."""
        for fields in command.nodes:
            check_key(fields.key)
        given = [f for f in command.nodes if key_id(f.key) not in self._removed]
        gone = {node: at for node, at in command.removed if node not in self._removed}
        self._check_adoption(given, gone)
        for node in gone:
            row = self._nodes.get(node)
            if row is not None and self._alone_holds_ca(row):
                raise Refuse(Code.LAST_CA_HOLDER)
        for node, at in gone.items():
            if node in self._nodes:
                self._take_out(context, node, at)
            else:
                self._removed.put(RemovedRow(id=node, removed_unix_ms=at))
        for fields in given:
            row = self._nodes.get(key_id(fields.key))
            if row is None:
                self._let_in(context, fields)
            else:
                self._put(context, row, self._said_of(row, fields))
        if command.keyring_generation > self.mesh.keyring_generation:
            self._set_keyring(context, command.keyring_generation, command.gossip_key)
        if not command.more:
            version = max(self.mesh.registry_version, command.list_version)
            self._mesh.put(replace(self.mesh, registry_version=version))
            self._count()
        return done(nodes=len(given), removed=len(gone))

    def _check_adoption(self, given: Sequence[commands.NodeFields], gone: Collection[str]) -> None:
        """Raise Refuse unless all of it fits, each node once."""
        ids = {key_id(fields.key) for fields in given}
        if len(ids) < len(given) or not ids.isdisjoint(gone):
            raise Refuse(Code.EXISTS)
        members = {row.id for row in self._nodes.rows()}
        after = (members | ids).difference(gone)
        ever = len(after) + len(self._removed) + len(gone)
        if len(after) > limits.MEMBERS or ever > limits.MEMBERS_EVER:
            raise Refuse(Code.MESH_FULL, members=len(self._nodes))

    def _let_in(self, context: Context, fields: commands.NodeFields) -> None:
        row = self._row(fields, self._free(fields.name), context.now_unix_ms)
        self._nodes.put(row)
        context.emit(NodeAdmitted(context.index, NodeId(row.id)))

    def _said_of(self, row: NodeRow, fields: commands.NodeFields) -> NodeRow:
        return replace(
            row,
            name=self._free(fields.name, but=row.id),
            addresses=fields.addresses,
            labels=tuple(sorted(set(fields.labels))),
            drained=fields.drained,
            joined_unix_ms=fields.joined_unix_ms or row.joined_unix_ms,
        )

    # --- in and out

    def check_admission(self, context: Context, command: commands.Admit) -> bool:
        """Whether the node is to be let in; False: it is in.  Raises Refuse if it must not be."""
        check_key(command.node.key)
        node = key_id(command.node.key)
        if node in self._nodes:
            return False
        if node in self._removed:
            raise Refuse(Code.REMOVED)
        ever = len(self._nodes) + len(self._removed) - len(self._forgettable(context.now_unix_ms))
        if len(self._nodes) >= limits.MEMBERS or ever >= limits.MEMBERS_EVER:
            raise Refuse(Code.MESH_FULL, members=len(self._nodes))
        return True

    def admit(self, context: Context, command: commands.Admit) -> bytes:
        """After `check_admission`.  Who is in stays as it is: its answer may have been lost."""
        node = key_id(command.node.key)
        row = self._nodes.get(node)
        if row is None:
            for gone in self._forgettable(context.now_unix_ms):
                self._removed.drop(gone)
            row = self._row(command.node, self._free(command.node.name), context.now_unix_ms)
            self._nodes.put(row)
            self._count()
            context.emit(NodeAdmitted(context.index, NodeId(node)))
        return done(node=node, name=row.name, version=self.mesh.registry_version)

    def remove(self, context: Context, command: commands.Remove) -> bytes:
        """For good.  The gossip key is another one from this very command on.

        Always fits: see `limits.MEMBERS_EVER`.
        """
        row = self._nodes.get(command.node)
        if row is None:
            if command.node not in self._removed:
                raise Refuse(Code.NO_SUCH_NODE)
            return done(version=self.mesh.registry_version)
        if self._alone_holds_ca(row):
            raise Refuse(Code.LAST_CA_HOLDER)
        self._take_out(context, command.node, context.now_unix_ms)
        self._count()
        self._rotate_keyring(context, command.gossip_key)
        return done(version=self.mesh.registry_version)

    # --- what is said of them

    def change(self, context: Context, command: commands.ChangeNode) -> bytes:
        row = self.member(command.node)
        given = {
            field: getattr(command, field)
            for field in ("name", "addresses", "labels", "region", "priority", "drained", "vote")
            if getattr(command, field) is not UNSET
        }
        if "labels" in given:
            given["labels"] = tuple(sorted(set(given["labels"])))
        if "name" in given:
            given["name"] = self._free(given["name"], but=command.node)
        self._put_changed(context, row, replace(row, **given))
        return done(name=self._nodes[command.node].name, version=self.mesh.registry_version)

    def certify(self, context: Context, command: commands.Certify) -> bytes:
        row = self.member(command.node)
        if all(known.serial != command.serial for known in row.certificates):
            new = Certificate(serial=command.serial, not_after_unix_ms=command.not_after_unix_ms)
            kept = (*row.certificates, new)[-limits.CERTIFICATES_PER_NODE :]
            self._put(context, row, replace(row, certificates=kept))  # no part of the member list
        return DONE

    def start(self, command: commands.Started) -> None:
        """Note a member's later start."""
        self._nodes.put(replace(self._nodes[command.node], generation=command.generation))

    def note_traces(self, node: str, number: int) -> bool:
        """Whether that batch of a member's is a new one; then it is its last from now on."""
        row = self.member(node)
        if number <= row.traced:
            return False
        self._nodes.put(replace(row, traced=number))
        return True

    # --- keys

    def hold_ca(self, context: Context, command: commands.HoldCa) -> bytes:
        row = self.member(command.node)
        if not command.holds and self._alone_holds_ca(row):
            raise Refuse(Code.LAST_CA_HOLDER)
        if row.holds_ca != command.holds:
            held = self.mesh.ca_generation if command.holds else row.held_ca
            self._nodes.put(replace(row, holds_ca=command.holds, held_ca=held))
            self._count()
            mesh = self.mesh
            context.emit(CaChanged(context.index, mesh.ca_generation, mesh.ca_must_rotate))
        return DONE

    def rotate_ca(self, context: Context, command: commands.RotateCa) -> bytes:
        """Another CA key; whoever held the last one asks the node that made this one for it.

        What tokens pin is the former key, so they are revoked with it (`Reducers`).
        """
        holder = self.member(command.node)
        check_key(command.ca_key)
        if command.generation != self.mesh.ca_generation + 1:
            raise Refuse(Code.OLD_GENERATION, generation=self.mesh.ca_generation)
        for row in self._nodes.rows():
            if row.holds_ca and row.id != holder.id:
                self._nodes.put(replace(row, holds_ca=False))
        self._nodes.put(replace(holder, holds_ca=True, held_ca=command.generation))
        former = FormerCa(certificate=self.mesh.ca_certificate, link=command.link)
        self._mesh.put(
            replace(
                self.mesh,
                ca_key=command.ca_key,
                ca_generation=command.generation,
                ca_must_rotate=False,
                ca_certificate=command.certificate,
                former_cas=(former, *self.mesh.former_cas)[: limits.FORMER_CAS],
            )
        )
        self._count()
        context.emit(CaChanged(context.index, command.generation, must_rotate=False))
        return DONE

    def rotate_keyring(self, context: Context, command: commands.RotateKeyring) -> bytes:
        if command.generation != self.mesh.keyring_generation + 1:
            raise Refuse(Code.OLD_GENERATION, generation=self.mesh.keyring_generation)
        self._rotate_keyring(context, command.gossip_key)
        return done(generation=command.generation)

    def raise_feature(self, version: int) -> bool:
        """Whether that changed anything."""
        if version <= self.mesh.feature:
            return False
        self._mesh.put(replace(self.mesh, feature=version))
        return True

    # --- inside

    def _take_out(self, context: Context, node: str, removed_unix_ms: int) -> None:
        row = self._nodes[node]
        self._nodes.drop(node)
        self._removed.put(RemovedRow(id=node, removed_unix_ms=removed_unix_ms))
        context.emit(NodeRemoved(context.index, NodeId(node)))
        if row.held_ca == self.mesh.ca_generation and not self.mesh.ca_must_rotate:
            self._mesh.put(replace(self.mesh, ca_must_rotate=True))
            context.emit(CaChanged(context.index, self.mesh.ca_generation, must_rotate=True))

    def _rotate_keyring(self, context: Context, gossip_key: int) -> None:
        self._set_keyring(context, self.mesh.keyring_generation + 1, gossip_key)

    def _set_keyring(self, context: Context, generation: int, gossip_key: int) -> None:
        self._mesh.put(
            replace(
                self.mesh,
                keyring_generation=generation,
                gossip_key=gossip_key,
                keyring_author=context.client,
            )
        )
        context.emit(KeyringRotated(context.index, generation, gossip_key, context.client))

    def _put_changed(self, context: Context, row: NodeRow, changed: NodeRow) -> None:
        if self._put(context, row, changed):
            self._count()

    def _put(self, context: Context, row: NodeRow, changed: NodeRow) -> bool:
        """Whether that changed anything."""
        if changed == row:
            return False
        self._nodes.put(changed)
        context.emit(NodeChanged(context.index, NodeId(row.id)))
        return True

    def _count(self) -> None:
        self._mesh.put(replace(self.mesh, registry_version=self.mesh.registry_version + 1))

    def _alone_holds_ca(self, row: NodeRow) -> bool:
        return row.holds_ca and sum(other.holds_ca for other in self._nodes.rows()) == 1

    def _free(self, name: str, *, but: str = "") -> str:
        return free_name(name, (row.name for row in self._nodes.rows() if row.id != but))

    def _row(self, fields: commands.NodeFields, name: str, now_unix_ms: int) -> NodeRow:
        return NodeRow(
            id=key_id(fields.key),
            key=fields.key,
            name=name,
            joined_unix_ms=fields.joined_unix_ms or now_unix_ms,
            addresses=fields.addresses,
            labels=tuple(sorted(set(fields.labels))),
            region=fields.region,
            priority=fields.priority,
            drained=fields.drained,
        )

    def _forgettable(self, now_unix_ms: int) -> list[str]:
        """Only where room is short: removed ids whose certificates have all ended."""
        if len(self._nodes) + len(self._removed) < limits.MEMBERS_EVER:
            return []
        return [
            row.id
            for row in self._removed.rows()
            if now_unix_ms - row.removed_unix_ms >= FORGET_REMOVED_MS
        ]

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        rows = self._nodes.rows()
        assert bool(rows) == self.is_founded
        assert len(rows) <= limits.MEMBERS
        assert len(rows) + len(self._removed) <= limits.MEMBERS_EVER
        assert len({row.name.casefold() for row in rows}) == len(rows)
        assert not any(row.id in self._removed for row in rows)
        assert all(row.id == key_id(row.key) for row in rows)
        if rows:
            assert any(row.holds_ca for row in rows)
            assert all(row.held_ca == self.mesh.ca_generation for row in rows if row.holds_ca)
