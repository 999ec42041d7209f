"""Commands about the record, which all nodes keep together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from meshd.cli import views
from meshd.cli.control import ControlClient
from meshd.cli.orders import client, show
from meshd.cli.shell import (
    FAILED,
    AsJson,
    DataDir,
    NotRunning,
    UsageError,
    command,
    complain,
    find_paths,
    tell,
    to_type,
)
from meshd.cli.words import count
from meshd.control import Done, RecordReport
from meshd.errors import MeshdError, Refused
from meshd.ids import MeshId, NodeId, short
from meshd.machine.disk import FileDisk
from meshd.paths import Paths

if TYPE_CHECKING:
    from meshd.identity.mesh_identity import MeshIdentity
    from meshd.ledger.backup import Backup
    from meshd.ledger.place import Place
    from meshd.ledger.remedies import Patient

BackupFile = Annotated[Path, typer.Argument(help="The backup.", show_default=False)]


@command
def record_status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The record as this machine has it.  Exit code 1 if it cannot be written now."""
    report = client(data_dir).get("/control/record", RecordReport)
    show(report, as_json, views.show_record)
    if report.problem:
        raise typer.Exit(FAILED)


@command
def record_confirm_clock(data_dir: DataDir = None) -> None:
    """Say that the machines' clocks are right, when the record's is more than an hour behind."""
    tell(client(data_dir).post("/control/record/clock", Done).message)


@command
def record_check(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Read this machine's journal of the record.  Changes nothing; exit code 1 if it is bad.

    Also while a daemon runs.
    """
    from meshd.cli.record_views import show_examination
    from meshd.ledger.examination import examine

    paths = find_paths(data_dir)
    place, _ = _here(paths)
    running, commit = _daemon(paths)
    found = examine(FileDisk(), place, running=running, commit=commit)
    show(found, as_json, show_examination)
    if found.problems:
        raise typer.Exit(FAILED)


@command
def record_repair(
    data_dir: DataDir = None,
    set_aside: Annotated[
        bool,
        typer.Option(
            "--set-aside",
            help="Give the journal another name: this node gets the record from the others anew.",
        ),
    ] = False,
    lose_the_record: Annotated[
        bool,
        typer.Option(
            "--lose-the-record",
            help="With --set-aside, where no other node has a vote: begin an empty record.",
        ),
    ] = False,
) -> None:
    """Repair this machine's journal of the record, where nothing acknowledged can be lost by it.

    For a daemon that is stopped.
    """
    from meshd.ledger import remedies

    if lose_the_record and not set_aside:
        raise UsageError("--lose-the-record goes with --set-aside")
    with stopped(find_paths(data_dir)) as patient:
        if set_aside:
            done = remedies.put_aside(patient, lose_the_record=lose_the_record)
        else:
            done = remedies.tidy(patient)
    for sentence in done:
        tell(sentence)


@command
def record_backup(
    file: BackupFile,
    data_dir: DataDir = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Save the whole record into a file, as of now.

    Keep it like a key: it holds what join tokens are proven with, and the hashes of API keys.
    """
    from meshd.ledger.backup import BACKUP_BYTES

    target = PurePath(Path.cwd() / file)
    if not Path(target).parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}")
    if Path(target).is_dir():
        raise UsageError(f"{target} is a folder: name a file")
    if Path(target).exists() and not force:
        raise Refused(f"{target} is there already: name another file, or add --force")
    data = client(data_dir).fetch("/control/record/backup", BACKUP_BYTES)
    backup = _read(data, "What the daemon sent as a backup")
    FileDisk().write(target, data, private=True)
    state = backup.state
    tell(
        f"{target}: the record of the mesh {short(backup.mesh)} as of entry "
        f"{backup.point.index:,}, with {count(len(state.nodes.rows()), 'member')} and "
        f"{count(len(state.jobs.live), 'open job')}; state {state.digest().hex()[:16]}"
    )
    complain("keep it private: it holds what join tokens are proven with, and hashes of API keys")


@command
def record_restore(
    file: BackupFile,
    data_dir: DataDir = None,
    voters_are_gone: Annotated[
        bool,
        typer.Option(
            "--voters-are-gone",
            help="The other nodes that had a vote are gone for good.",
        ),
    ] = False,
) -> None:
    """Begin the record anew from a backup: at one node, that was in the mesh at that time.

    For a daemon that is stopped, and whose record holds nothing but its founding.
    """
    from meshd.ledger import remedies

    source = PurePath(Path.cwd() / file)
    paths = find_paths(data_dir)
    place, _ = _here(paths)
    data = _backup_bytes(source)
    backup = _read(data, str(source), place.mesh)
    with stopped(paths, backup) as patient:
        done = remedies.restore(patient, backup, voters_are_gone=voters_are_gone)
    for sentence in done:
        tell(sentence)


# ---------------------------------------------------------------- what they share


def _here(paths: Paths) -> tuple[Place, MeshIdentity]:
    """Whose record is on that data directory.  Raises UsageError where there is none."""
    from meshd.identity.store import IdentityStore
    from meshd.ledger.place import Place

    store = IdentityStore(FileDisk(), paths.data)
    key = store.load_key()
    identity = store.load_mesh(key) if key is not None else None
    if key is None or identity is None:
        raise UsageError(f"{paths.data} is the data directory of no node of a mesh")
    return Place.under(paths.data, identity.mesh, key.public.node), identity


def _daemon(paths: Paths) -> tuple[bool, int | None]:
    """Whether a daemon runs, and up to where it knows the log to be held by a majority."""
    try:
        report = ControlClient(paths).get("/control/record", RecordReport)
    except NotRunning:
        return False, None
    except MeshdError:  # it runs, and does not answer
        return True, None
    return True, report.commit or None


@contextmanager
def stopped(paths: Paths, backup: Backup | None = None) -> Iterator[Patient]:
    """The node on that data directory, kept from being started meanwhile.  Raises Refused."""
    from meshd.ledger.remedies import Patient
    from meshd.machine.clock import SystemClock
    from meshd.machine.entropy import SystemEntropy

    place, identity = _here(paths)
    disk = FileDisk()
    holder = disk.lock(paths.lock)
    if holder is not None:
        who = f" (pid {holder})" if holder else ""
        raise Refused(
            f"meshd{who} is running on {paths.data}: stop it first, with "
            f"`{to_type('meshd stop', paths)}`"
        )
    names = {row.id: row.name for row in backup.state.nodes.rows()} if backup else {}

    def name_of(node: NodeId) -> str:
        return names.get(node) or f"node {short(node)}"

    try:
        yield Patient(
            disk,
            place,
            SystemEntropy(),
            now_unix_s=SystemClock().wall(),
            founder=identity.founder,
            name_of=name_of,
        )
    finally:
        disk.unlock(paths.lock)


def _backup_bytes(source: PurePath) -> bytes:
    from meshd.ledger.backup import BACKUP_BYTES

    disk = FileDisk()
    size = disk.size(source)
    if size is None:
        raise UsageError(f"there is no file {source}")
    if size > BACKUP_BYTES:
        raise Refused(f"{source} is no backup: it is larger than one can be")
    return disk.read(source) or b""


def _read(data: bytes, what: str, mesh: MeshId | None = None) -> Backup:
    """A backup that was checked whole.  Raises Refused."""
    from meshd.ledger.backup import BackupUnusable, read_backup

    try:
        return read_backup(data, mesh)
    except BackupUnusable as error:
        raise Refused(f"{what} cannot be used: {error}") from None
