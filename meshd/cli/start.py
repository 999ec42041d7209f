"""`meshd start`: the one command that is the daemon itself."""

from __future__ import annotations

import getpass
import os
import sys
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated

import typer

from meshd import __version__, limits, logs
from meshd.apikeys import ApiKeys
from meshd.cli.screen import TerminalScreen
from meshd.cli.shell import ConfigFile, DataDir, UsageError, command, complain, read_config, to_type
from meshd.config import Config, with_key_files
from meshd.config_text import first_config
from meshd.errors import ConfigError, DiskFailed, Refused
from meshd.machine import real_ports
from meshd.machine.host import raise_open_files_limit, settle_garbage
from meshd.paths import Paths
from meshd.ports import Disk, Network

ENOUGH_OPEN_FILES = 1024
GGUF_MAGIC = b"GGUF"
"""How each model file starts (the GGUF specification, of ggml)."""


@command
def start(
    join: Annotated[
        str | None,
        typer.Option(
            help="Join the mesh of this member; 'auto' looks around.", metavar="HOST[:PORT]"
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(help="The token to join with; - asks for it.", metavar="TOKEN"),
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="A file that holds the token.")] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    name: Annotated[str | None, typer.Option(help="This machine's name in the mesh.")] = None,
    listen: Annotated[
        str | None, typer.Option(help="Where clients may reach it.", metavar="ADDRESS")
    ] = None,
    api_port: Annotated[int | None, typer.Option(help="Port for clients; 0: any free.")] = None,
    port: Annotated[int | None, typer.Option(help="Port for other nodes; 0: any free.")] = None,
    detect: Annotated[
        bool | None, typer.Option("--detect/--no-detect", help="Look for engines here.")
    ] = None,
    mdns: Annotated[
        bool | None, typer.Option("--mdns/--no-mdns", help="Use mDNS on the local network.")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="One more engine (repeatable).", metavar="URL")
    ] = None,
    gguf: Annotated[
        list[str] | None, typer.Option(help="Serve this model file (repeatable).", metavar="PATH")
    ] = None,
    drain_timeout: Annotated[
        float | None, typer.Option(help="What a stop gives to running requests.", metavar="SECONDS")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error.", metavar="LEVEL")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="auto, text, logfmt or json.", metavar="FORMAT")
    ] = None,
) -> None:
    """Run the daemon on this machine, in the foreground.

    Alone it founds a mesh of one. With --join it becomes a member of another; after that, plain
    `meshd start` is enough.
    """
    flags: dict[str, object] = {
        "join": join,
        "name": name,
        "listen": listen,
        "api_port": api_port,
        "port": port,
        "detect": detect,
        "mdns": mdns,
        "backend": backend,
        "gguf": gguf,
        "drain_timeout_s": drain_timeout,
        "log_level": log_level,
        "log_format": log_format,
    }
    decided, paths = read_config(data_dir, config, flags)
    if decided.join == "auto" and not decided.mdns:
        raise UsageError("--join auto needs mDNS, which is off: name a member with --join HOST")
    secret = _token(token, token_file, decided)
    run(decided, paths, secret)


def run(config: Config, paths: Paths, token: str | None) -> None:
    """Take the data directory and run a node on it until it stops."""
    logs.configure(config.log_level, config.log_format, sys.stderr, terminal=sys.stderr.isatty())
    ports = real_ports()
    config = with_key_files(config, ports.disk.read)
    _refuse_bad_models(config)
    _refuse_open_door(config, paths, ports.disk)
    _take(paths, ports.disk)
    open_files = raise_open_files_limit()
    log = logs.get("start")
    if open_files < ENOUGH_OPEN_FILES:
        log.warning("few open files allowed (ulimit -n)", limit=open_files)
    log.info("starting", version=__version__, data_dir=str(paths.data), pid=os.getpid())

    import trio

    from meshd.node import run_node

    screen = TerminalScreen(
        to_type=partial(to_type, paths=paths),
        open_hosts=_open_hosts(config, ports.network),
        needs_key=config.require_key,
    )
    settle_garbage()
    trio.run(partial(run_node, ports, config, paths, screen=screen, token=token))


def _open_hosts(config: Config, network: Network) -> list[str]:
    """Where other machines reach the client port; none on loopback."""
    if not config.listens_beyond_loopback:
        return []
    everywhere = config.listen in ("0.0.0.0", "::")
    return list(network.interface_addresses()) if everywhere else [config.listen]


def _take(paths: Paths, disk: Disk) -> None:
    """Make the folders, hold the lock, leave a config file to edit.  Raises Refused, DiskFailed."""
    disk.folder(paths.data)
    disk.folder(paths.socket.parent)
    disk.folder(paths.claims)
    holder = disk.lock(paths.lock)
    if holder is not None:
        who = f" (pid {holder})" if holder else ""
        raise Refused(
            f"meshd{who} is running on {paths.data} already; stop it with "
            f"`{to_type('meshd stop', paths)}`, "
            "or give this one a --data-dir of its own"
        )
    if disk.read(paths.config) is None:
        try:
            disk.write(paths.config, first_config(), private=True)
        except DiskFailed as error:  # a read-only /etc, say: nothing is lost but a convenience
            complain(str(error))


def _refuse_bad_models(config: Config) -> None:
    """Model files are there, can be read and are GGUF.  Raises ConfigError naming the others."""
    problems = [problem for gguf in config.ggufs if (problem := _model_problem(gguf.path))]
    if problems:
        raise ConfigError("\n".join(problems))


def _model_problem(path: PurePath) -> str:
    try:
        with Path(path).open("rb") as file:
            head = file.read(len(GGUF_MAGIC))
    except OSError:
        return f"there is no model file {path}, or no right to read it"
    if head != GGUF_MAGIC:
        return f"{path} is not a GGUF model file (it does not start with the letters GGUF)"
    return ""


def _refuse_open_door(config: Config, paths: Paths, disk: Disk) -> None:
    """Other machines' clients need a key, and so there must be one.  Raises ConfigError."""
    if not config.listens_beyond_loopback or not config.require_key:
        return
    if config.join:
        return  # the mesh may have keys; until it is heard from, nobody is let in
    if not ApiKeys.parse(disk.read(paths.keys), paths.keys).keys:
        raise ConfigError(
            f"listening on {config.listen} lets other machines in, and there is no API key yet; "
            f"make one with: {to_type('meshd key create NAME', paths)}"
        )


def _token(flag: str | None, flag_file: Path | None, config: Config) -> str | None:
    """The token from a flag, a file, the environment or a prompt; never shown.  Raises UsageError.

    It is taken out of the environment, so that engines that are started do not inherit it.
    """
    variable = os.environ.pop("MESHD_TOKEN", "")
    variable_file = os.environ.pop("MESHD_TOKEN_FILE", "")
    if flag is not None and flag_file is not None:
        raise UsageError("give --token or --token-file, not both")
    if (flag is not None or flag_file is not None) and not config.join:
        raise UsageError("a token is for joining: say where with --join HOST, or --join auto")
    if flag == "-":
        given = _ask()
    elif flag is not None:
        given = flag
    elif flag_file is not None:
        given = _read_token(flag_file)
    elif variable:
        given = variable
    elif variable_file:
        given = _read_token(Path(variable_file))
    else:
        return None
    given = given.strip()
    if not given:
        raise UsageError("the token is empty")
    if len(given) > limits.TOKEN_TEXT_CHARS or not given.isascii() or not given.isprintable():
        raise UsageError("that is not a token: it looks like mesh1-...; see `meshd token create`")
    return given


def _ask() -> str:
    if sys.stdin.isatty():
        return getpass.getpass("Token: ")
    return sys.stdin.readline()


def _read_token(path: Path) -> str:
    from meshd.machine.disk import FileDisk

    data = FileDisk().read(PurePath(Path.cwd() / path))
    if data is None:
        raise UsageError(f"there is no file {path}")
    return data[: 2 * limits.TOKEN_TEXT_CHARS].decode("utf-8", "replace")
