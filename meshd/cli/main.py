"""The command `meshd`: what there is to type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshd import __version__
from meshd.cli import jobs, keys, members, orders, record, recover, voters
from meshd.cli.shell import AsJson, ConfigFile, DataDir, command, find_paths, read_config, tell
from meshd.cli.start import start
from meshd.cli.tables import Column, Paper

app = typer.Typer(
    name="meshd",
    help="One LLM endpoint on every machine: Ollama, llama.cpp, LM Studio, MLX, vLLM as one mesh.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # it would print local variables, tokens among them
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
token_app = typer.Typer(help="Tokens that let machines join.", no_args_is_help=True)
key_app = typer.Typer(help="API keys of clients on other machines.", no_args_is_help=True)
record_app = typer.Typer(help="The record that all nodes keep together.", no_args_is_help=True)
voters_app = typer.Typer(help="Who keeps the record by vote.", invoke_without_command=True)
jobs_app = typer.Typer(help="Queued jobs.", invoke_without_command=True)
config_app = typer.Typer(help="The config file.", no_args_is_help=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        tell(f"meshd {__version__}")
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and end."
        ),
    ] = False,
) -> None:
    """One LLM endpoint on every machine: Ollama, llama.cpp, LM Studio, MLX, vLLM as one mesh."""


@command
def paths(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Where everything is."""
    rows = list(find_paths(data_dir).rows())
    if as_json:
        orders.print_json(dict(rows))
        return
    # Only services write a log file: `meshd start` logs to its terminal.
    shown = [
        (what, f"{where} (none yet)" if what == "log" and not Path(where).exists() else where)
        for what, where in rows
    ]
    paper = Paper()
    paper.table([Column("WHAT"), Column("WHERE", grows=True)], shown)
    tell(paper.text())


@command
def version() -> None:
    """The version of this command; `meshd status` tells the daemon's."""
    tell(f"meshd {__version__}")


@command
def config_check(data_dir: DataDir = None, config: ConfigFile = None) -> None:
    """Whether the config file and the environment can be used."""
    _, found = read_config(data_dir, config)
    tell(f"{found.config} can be used")


@command
def config_keys() -> None:
    """All settings, as a table in Markdown."""
    from meshd.config_text import settings_table

    tell(settings_table().rstrip("\n"))


@command
def doctor(
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes seconds.")] = False,
) -> None:
    """Look for what is wrong, and say what to do about it.  Exit code 1 if something fails."""
    from meshd.cli.doctor import examine

    examine(data_dir, config, as_json=as_json, quick=quick)


app.command("start")(start)
app.command("status")(orders.status)
app.command("nodes")(orders.nodes)
app.command("models")(orders.models)
app.command("approve")(orders.approve)
app.command("drain")(orders.drain)
app.command("undrain")(orders.undrain)
app.command("label")(members.label)
app.command("remove")(members.remove)
app.command("leave")(orders.leave)
app.command("stop")(orders.stop)
app.command("recover")(recover.recover)
app.command("doctor")(doctor)
app.command("paths")(paths)
app.command("version")(version)
token_app.command("create")(members.token_create)
token_app.command("list")(members.token_list)
token_app.command("revoke")(members.token_revoke)
key_app.command("create")(keys.key_create)
key_app.command("list")(keys.key_list)
key_app.command("revoke")(keys.key_revoke)
record_app.command("status")(record.record_status)
record_app.command("confirm-clock")(record.record_confirm_clock)
record_app.command("check")(record.record_check)
record_app.command("repair")(record.record_repair)
record_app.command("backup")(record.record_backup)
record_app.command("restore")(record.record_restore)
voters_app.callback()(voters.voters)
voters_app.command("promote")(voters.voters_promote)
voters_app.command("demote")(voters.voters_demote)
voters_app.command("auto")(voters.voters_auto)
jobs_app.callback()(jobs.jobs)
jobs_app.command("show")(jobs.jobs_show)
jobs_app.command("submit")(jobs.jobs_submit)
jobs_app.command("cancel")(jobs.jobs_cancel)
jobs_app.command("retry")(jobs.jobs_retry)
config_app.command("check")(config_check)
config_app.command("keys")(config_keys)
app.add_typer(token_app, name="token")
app.add_typer(key_app, name="key")
app.add_typer(record_app, name="record")
app.add_typer(voters_app, name="voters")
app.add_typer(jobs_app, name="jobs")
app.add_typer(config_app, name="config")


def main() -> None:
    """The entry point of the `meshd` script."""
    app(prog_name="meshd")


if __name__ == "__main__":
    main()
