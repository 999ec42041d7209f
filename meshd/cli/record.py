"""Commands about the record, which all nodes keep together."""

from __future__ import annotations

import typer

from meshd.cli import views
from meshd.cli.orders import client, show
from meshd.cli.shell import FAILED, AsJson, DataDir, command
from meshd.control import RecordReport


@command
def voters(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Which machines keep the record by vote, and which follow."""
    show(client(data_dir).get("/control/record", RecordReport), as_json, views.show_voters)


@command
def record_status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The record as this machine has it.  Exit code 1 if it cannot be written now."""
    report = client(data_dir).get("/control/record", RecordReport)
    show(report, as_json, views.show_record)
    if report.problem:
        raise typer.Exit(FAILED)
