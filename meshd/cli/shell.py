"""What all commands share: how they end, how they find their daemon, what they print on."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, NoReturn, ParamSpec, TypeVar

import typer

from meshd.config import Config, Sources, load
from meshd.errors import ConfigError, MeshdError
from meshd.machine import paths_for
from meshd.machine.disk import FileDisk
from meshd.paths import Paths

OK = 0
FAILED = 1
"""Or degraded: it runs, and something is wrong."""
USAGE = 2
"""A wrong flag or config, or there is no daemon to ask."""
INTERRUPTED = 130

P = ParamSpec("P")
R = TypeVar("R")

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="MESHD_DATA_DIR",
        help="The folder of the daemon that is meant; by default the platform's place.",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="MESHD_CONFIG",
        help="The config file; by default config.toml at the platform's place.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; fields may be added to it.")]


class UsageError(MeshdError):
    """The command was not given what it needs."""


class NotRunning(MeshdError):
    """There is no daemon on that data directory."""


def complain(text: str) -> None:
    """Say on stderr what went wrong."""
    for line in text.splitlines() or [""]:
        print(f"meshd: {line}", file=sys.stderr, flush=True)


def tell(text: str = "") -> None:
    """Say something on stdout; a reader that has gone away (`| head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would complain once more when it closes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(OK) from None


def command(call: Callable[P, R]) -> Callable[P, R]:
    """Make expected failures end as a sentence and an exit code, never as a traceback."""

    @functools.wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except MeshdError as error:
            fail(error)
        except BaseExceptionGroup as group:
            # A daemon is a tree of tasks; what ended it may come wrapped once per level.
            leaves = list(leaves_of(group))
            for leaf in leaves:
                if isinstance(leaf, MeshdError):
                    fail(leaf)
            if all(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
                raise typer.Exit(INTERRUPTED) from None
            raise

    return wrapper


def fail(error: MeshdError) -> NoReturn:
    """End the command with the error's sentence and its exit code."""
    complain(str(error))
    usage = isinstance(error, ConfigError | UsageError | NotRunning)
    raise typer.Exit(USAGE if usage else FAILED)


def leaves_of(group: BaseExceptionGroup[BaseException]) -> Iterable[BaseException]:
    """The errors themselves, without the groups that trio wraps around them."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves_of(error)
        else:
            yield error


def read_config(
    data_dir: Path | None,
    config_file: Path | None,
    flags: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> tuple[Config, Paths]:
    """The config and the paths that this command line means.  Raises ConfigError."""
    environ = os.environ if environ is None else environ
    if config_file is not None:
        config_file = Path.cwd() / config_file
    paths = paths_for(data_dir, config=config_file, environ=environ)
    data = FileDisk().read(paths.config)
    if data is None and config_file is not None:
        raise ConfigError(f"there is no config file {config_file}")
    try:
        text = "" if data is None else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1 if data is not None else 1
        raise ConfigError(f"{paths.config}:{line}: not UTF-8") from None
    settled = dict(environ)
    settled.pop("MESHD_DATA_DIR", None)  # in `data_dir` already, by way of the flag
    given = {**(flags or {}), "data_dir": None if data_dir is None else str(data_dir.resolve())}
    config = load(Sources(text, paths.config, settled, given, Path.cwd(), Path.home()))
    if data_dir is None and config.data_dir is not None:
        paths = paths_for(config.data_dir, config=paths.config, environ=environ)
    return config, paths


def find_paths(data_dir: Path | None) -> Paths:
    """Where the daemon that is meant is: a config file is read only if it could tell."""
    if data_dir is not None:
        return paths_for(data_dir)
    config_file = os.environ.get("MESHD_CONFIG")
    return read_config(None, Path(config_file) if config_file else None)[1]


def to_type(line: str, paths: Paths) -> str:
    """That command as it has to be typed to mean the daemon on these paths."""
    if paths.data == paths_for().data:
        return line
    return f"{line} --data-dir {shlex.quote(str(paths.data))}"
