"""`meshd key`: API keys of clients on other machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from meshd import limits
from meshd.apikeys import SECRET_BYTES, ApiKeys, new_key
from meshd.cli.control import ControlClient
from meshd.cli.orders import print_json
from meshd.cli.shell import (
    AsJson,
    DataDir,
    NotRunning,
    UsageError,
    command,
    find_paths,
    tell,
    to_type,
)
from meshd.cli.tables import Column, Paper
from meshd.cli.words import ago
from meshd.control import KeyOrder, KeyRevocation, KeyRow
from meshd.errors import Refused
from meshd.machine.clock import SystemClock
from meshd.machine.disk import FileDisk
from meshd.machine.entropy import SystemEntropy
from meshd.paths import Paths


@command
def key_create(
    name: Annotated[str, typer.Argument(help="Whose it is, for your own list.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Make an API key for the whole mesh.  It is shown once; only its hash is kept."""
    if len(name) > limits.NAME_CHARS or not name.isprintable():
        raise UsageError(f"a key's name has at most {limits.NAME_CHARS} characters")
    paths = find_paths(data_dir)
    text, key = new_key(SystemEntropy().token(SECRET_BYTES), name, SystemClock().wall())
    order = KeyOrder(name=name, sha256=key.sha256, created_unix_s=key.created_unix_s)
    try:
        ControlClient(paths).order("/control/keys", order)
        where = "Every node of the mesh takes it."
    except NotRunning:
        with _editing(paths) as (disk, keys):
            disk.write(paths.keys, keys.with_key(key).dump(), private=True)
        where = "This node takes it when it runs, the others as soon as it has told them."
    tell(text)
    typer.echo(
        f"\nKey {key.id}. {where} Clients send it as `Authorization: Bearer {text[:9]}...`;\n"
        "OpenAI's client takes it as api_key. It is not shown again. "
        f"To take it back: {to_type(f'meshd key revoke {key.id}', paths)}",
        err=True,
    )


@command
def key_list(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The keys that there are; not the keys themselves."""
    paths = find_paths(data_dir)
    keys = _known(paths)
    if as_json:
        print_json([{"id": k.id, "name": k.name, "created_unix_s": k.created_unix_s} for k in keys])
        return
    paper = Paper()
    if not keys:
        paper.line(
            f"There are no API keys. Make one with: {to_type('meshd key create NAME', paths)}"
        )
    else:
        now = SystemClock().wall()
        paper.table(
            [Column("KEY"), Column("NAME", grows=True), Column("AGE", right=True)],
            [[key.id, key.name, ago(now - key.created_unix_s)] for key in keys],
        )
    tell(paper.text())


@command
def key_revoke(
    key: Annotated[str, typer.Argument(help="Its id or name.")], data_dir: DataDir = None
) -> None:
    """Take a key back, at every node at once."""
    paths = find_paths(data_dir)
    try:
        tell(ControlClient(paths).order("/control/keys/revoke", KeyRevocation(which=key)))
    except NotRunning:
        tell(_revoke_here(paths, key))


def _known(paths: Paths) -> list[KeyRow]:
    """The keys as the daemon knows them, or as it last did."""
    try:
        return ControlClient(paths).get("/control/keys", list[KeyRow])
    except NotRunning:
        keys = ApiKeys.parse(FileDisk().read(paths.keys), paths.keys).keys
        return [KeyRow(key.id, key.name, key.created_unix_s) for key in keys]


def _revoke_here(paths: Paths, which: str) -> str:
    """Without the daemon only what no other node has heard of yet can be taken back."""
    with _editing(paths) as (disk, keys):
        key = keys.find(which)
        if key.on_record:
            raise Refused(
                f"key {key.id} opens every node of the mesh, so they have to be told: "
                f"start meshd here first ({to_type('meshd start', paths)}), or do this at a node "
                "where it runs"
            )
        disk.write(paths.keys, keys.without(key).dump(), private=True)
    return f"key {key.id} {f'({key.name}) ' if key.name else ''}opens nothing any more"


@contextmanager
def _editing(paths: Paths) -> Iterator[tuple[FileDisk, ApiKeys]]:
    """The key file, for one writer at a time: not while a daemon or another command has it."""
    disk = FileDisk()
    if disk.lock(paths.lock) is not None:
        raise Refused(
            "meshd is starting or stopping here, or another command is changing the keys; try again"
        )
    try:
        yield disk, ApiKeys.parse(disk.read(paths.keys), paths.keys)
    finally:
        disk.unlock(paths.lock)
