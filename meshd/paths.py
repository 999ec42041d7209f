"""Every file and folder that meshd uses, in one table.  Pure.

`meshd paths` prints it.  By default things lie where the platform wants them (XDG on Linux,
`~/Library` on macOS); with a data directory of one's own, all of it is in there.  The claims are
apart: one folder for all daemons of this user on this machine, whatever their data directories,
since an engine is claimed by one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import PurePath

SOCKET_PATH_BYTES = 100
"""A UNIX socket's path fits into 104 bytes on macOS (108 on Linux), with a zero at the end."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where this platform keeps such things for this user."""

    config: PurePath
    state: PurePath
    runtime: PurePath
    """Gone after a restart of the machine, this user's only."""
    log: PurePath
    fallback_runtime: PurePath
    """A short one, for when `runtime` is too long for a socket."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where one daemon keeps its things.  All absolute."""

    config: PurePath
    """What a person wrote (TOML).  No secrets but engines' keys."""
    data: PurePath
    """Keys, certificates, the member list: folder, 0700."""
    socket: PurePath
    """The command line's way to the daemon: UNIX socket, 0600."""
    claims: PurePath
    """Which daemon of this machine has which engine: folder, shared by all of them."""
    keys: PurePath
    """Hashes of the API keys that clients on other machines need."""
    lock: PurePath
    """Held while a daemon runs on this data directory; its pid is inside."""
    log: PurePath
    """Where the service units of `packaging/` write the log; `meshd start` logs to stderr."""

    def rows(self) -> Iterator[tuple[str, str]]:
        """(what, where) in the order above, to be shown."""
        for field in fields(self):
            yield field.name, str(getattr(self, field.name))


def resolve(
    places: Places, *, data_dir: PurePath | None = None, config: PurePath | None = None
) -> Paths:
    """The paths of the daemon on `data_dir` (absolute), or of the one at the platform's place.

    `config` is a config file that was named; else it is in the data directory if one was named,
    else at the platform's place.  Naming the platform's own data directory names nothing new.
    """
    own = data_dir is not None and data_dir != places.state
    data = data_dir if data_dir is not None else places.state
    return Paths(
        config=config or (data if own else places.config) / "config.toml",
        data=data,
        socket=_socket(places, data, own=own),
        claims=places.runtime / "claims",
        keys=data / "api-keys.json",
        lock=data / "lock",
        log=(data if own else places.log) / "meshd.log",
    )


def _socket(places: Places, data: PurePath, *, own: bool) -> PurePath:
    """In the data directory, or, if that is too long for a socket, in the runtime directory.

    There it is found by a hash of the data directory, so that the command line needs to know
    nothing else.
    """
    wanted = (data if own else places.runtime) / "meshd.sock"
    if len(bytes(wanted)) <= SOCKET_PATH_BYTES:
        return wanted
    name = hashlib.sha256(bytes(data)).hexdigest()[:16] + ".sock"
    wanted = places.runtime / name
    if len(bytes(wanted)) <= SOCKET_PATH_BYTES:
        return wanted
    return places.fallback_runtime / name
