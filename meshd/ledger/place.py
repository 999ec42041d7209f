"""Whose record it is, and where a node keeps its part of it.  Pure but for `erase`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from meshd.consensus.journal import Owner
from meshd.ids import MeshId, NodeId
from meshd.ports import Disk

ASIDE = ".aside-"
"""In the names of journals that were set aside: `<mesh id>.aside-1`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose record it is, and where it is kept."""

    me: NodeId
    mesh: MeshId
    generation: int
    """Of this start; 0 for tools, which are none."""
    folder: PurePath

    @classmethod
    def under(cls, data: PurePath, mesh: MeshId, me: NodeId, generation: int = 0) -> Place:
        """The place in a data directory: `record/<mesh id>`."""
        return cls(me, mesh, generation, data / "record" / mesh)

    @property
    def owner(self) -> Owner:
        """As the journal has it."""
        return Owner(self.mesh, self.me)

    @property
    def founded_mark(self) -> PurePath:
        """A file that says that this node has begun the record, or begun it anew from a backup.

        It never founds a second one, and where it has no journal it has lost one.
        """
        return self._beside(".founded")

    @property
    def void_mark(self) -> PurePath:
        """A file that says that a journal of this node is lost, with what it promised in it.

        Its vote is void until the others have agreed on a list of voters without it.
        """
        return self._beside(".void")

    @property
    def starts_mark(self) -> PurePath:
        """A file with the newest start of this node after which it promised anything.

        A later one that others know of says that this disk was put back to an earlier image.
        """
        return self._beside(".starts")

    @property
    def recovered_mark(self) -> PurePath:
        """A file that says when and how this node went on alone with the record."""
        return self._beside(".recovered")

    @property
    def draft(self) -> PurePath:
        """A journal that is being made, to take the place of the one that there is."""
        return self._beside(".draft")

    def aside(self, disk: Disk) -> list[str]:
        """Names of the journals that were set aside.  Raises DiskFailed."""
        beginning = self.folder.name + ASIDE
        return [name for name in disk.names(self.folder.parent) if name.startswith(beginning)]

    def _beside(self, suffix: str) -> PurePath:
        return self.folder.with_name(self.folder.name + suffix)


def erase(disk: Disk, place: Place) -> None:
    """Delete the record from this disk: the node leaves its mesh.  Raises DiskFailed."""
    aside = [place.folder.with_name(name) for name in place.aside(disk)]
    for folder in (place.folder, place.draft, *aside):
        for name in disk.names(folder):
            disk.delete(folder / name)
    marks = (place.void_mark, place.starts_mark, place.recovered_mark, place.founded_mark)
    for mark in marks:
        disk.delete(mark)
