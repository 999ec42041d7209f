"""`meshd key`: API keys of clients on other machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from meshd import limits
from meshd.apikeys import SECRET_BYTES, ApiKeys
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
    """Make an API key.  It is shown once; only its hash is kept."""
    if len(name) > limits.NAME_CHARS or not name.isprintable():
        raise UsageError(f"a key's name has at most {limits.NAME_CHARS} characters")
    paths = find_paths(data_dir)
    with _editing(paths) as (disk, keys):
        if name and any(key.name == name for key in keys.keys):
            raise Refused(f"there is a key called {name!r} already; give this one another name")
        text, key, keys = keys.create(
            SystemEntropy().token(SECRET_BYTES), name, SystemClock().wall()
        )
        disk.write(paths.keys, keys.dump(), private=True)
    _reload(paths)
    tell(text)
    typer.echo(
        f"\nKey {key.id}. Clients send it as `Authorization: Bearer {text[:9]}...`; "
        "OpenAI's client\ntakes it as api_key. It is not shown again. "
        f"To take it back: {to_type(f'meshd key revoke {key.id}', paths)}",
        err=True,
    )


@command
def key_list(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The keys that there are; not the keys themselves."""
    paths = find_paths(data_dir)
    keys = ApiKeys.parse(FileDisk().read(paths.keys), paths.keys).keys
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
    """Take a key back."""
    paths = find_paths(data_dir)
    with _editing(paths) as (disk, keys):
        gone, keys = keys.revoke(key)
        disk.write(paths.keys, keys.dump(), private=True)
    _reload(paths)
    tell(f"key {gone.id} {f'({gone.name}) ' if gone.name else ''}opens nothing any more")


@contextmanager
def _editing(paths: Paths) -> Iterator[tuple[FileDisk, ApiKeys]]:
    """The key file, for one writer at a time: two commands at once must not lose a key."""
    disk = FileDisk()
    lock = paths.keys.with_suffix(".lock")
    if disk.lock(lock) is not None:
        raise Refused("another command is changing the keys; try again")
    try:
        yield disk, ApiKeys.parse(disk.read(paths.keys), paths.keys)
    finally:
        disk.unlock(lock)


def _reload(paths: Paths) -> None:
    """Tell the daemon, if there is one; else it reads them when it starts."""
    asked = ControlClient(paths)
    try:
        asked.order("/control/keys/reload")
    except NotRunning:
        return
