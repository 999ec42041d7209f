"""`meshd doctor`: what is wrong here, and what to do about it.

Each check has a code that stays the same (cli/DESIGN.md lists them).  Checks of this machine are
made here, also when no daemon runs; what only a daemon can see it reports itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import typer

from meshd import __version__
from meshd.cli import checks, machine_checks, views
from meshd.cli.control import ControlClient
from meshd.cli.orders import print_json
from meshd.cli.shell import FAILED, NotRunning, read_config, tell
from meshd.cli.tables import Paper
from meshd.cli.words import count
from meshd.config import Config
from meshd.control import Finding, NodeRow, StatusReport
from meshd.errors import ConfigError, MeshdError
from meshd.machine import paths_for
from meshd.machine.probes import Probes
from meshd.paths import Paths


@dataclass(slots=True)
class Patient:
    """What is known of the daemon that is examined."""

    config: Config
    paths: Paths
    status: StatusReport | None = None
    """None: it does not run, or does not answer."""
    nodes: list[NodeRow] = field(default_factory=list)


Check = Callable[[Patient, Probes], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    lambda p, probes: checks.data_dir(p.paths, probes),
    lambda p, probes: checks.ports(p.config, probes) if p.status is None else iter(()),
    lambda p, probes: checks.engines(p.config, p.status, probes),
    lambda p, probes: checks.versions(__version__, p.status, p.nodes),
    lambda p, probes: machine_checks.clock(probes),
    lambda p, probes: machine_checks.disk_free(p.paths, probes),
    lambda p, probes: machine_checks.open_files(probes),
    lambda p, probes: machine_checks.firewall(_port(p), probes),
    lambda p, probes: machine_checks.sleep(probes),
)
SLOW_CHECKS: tuple[Check, ...] = (
    lambda p, probes: machine_checks.local_network(p.config.mdns, p.nodes, probes),
)


def examine(data_dir: Path | None, config_file: Path | None, *, as_json: bool, quick: bool) -> None:
    """Run the checks, show what they found, end with the exit code."""
    probes = Probes(os.environ)
    findings: list[Finding] = []
    try:
        config, paths = read_config(data_dir, config_file)
        there = probes.look(paths.config) is not None
        said = f"{paths.config} can be used" if there else "no file: the defaults hold"
        findings.append(Finding("config", "ok", said))
    except ConfigError as error:
        config, paths = Config(), paths_for(data_dir, config=config_file)
        findings.append(Finding("config", "fail", str(error), "Mend what is named there."))
    patient = Patient(config, paths)
    theirs = _ask_daemon(patient, findings)
    for check in (*CHECKS, *(() if quick else SLOW_CHECKS)):
        findings += check(patient, probes)
    # The daemon knows better where both have looked.
    known = {finding.code for finding in theirs}
    findings = [finding for finding in findings if finding.code not in known] + theirs
    if as_json:
        print_json(findings)
    else:
        paper = Paper()
        views.show_findings(paper, findings)
        paper.line()
        _sum_up(paper, findings)
        tell(paper.text())
    if any(finding.severity == "fail" for finding in findings):
        raise typer.Exit(FAILED)


def _ask_daemon(patient: Patient, findings: list[Finding]) -> list[Finding]:
    """What the daemon says of itself; notes in `findings` whether it answers at all."""
    asked = ControlClient(patient.paths)
    try:
        patient.status = asked.get("/control/status", StatusReport)
        patient.nodes = asked.get("/control/nodes", list[NodeRow])
        theirs = asked.get("/control/doctor", list[Finding])
    except NotRunning as error:
        findings.append(Finding("daemon", "fail", str(error).partition(";")[0], _remedy(error)))
        return []
    except MeshdError as error:
        remedy = "Look at its log; if it hangs, end that process and start it again."
        findings.append(Finding("daemon", "fail", str(error), remedy))
        return []
    status = patient.status
    findings.append(
        Finding("daemon", "ok", f"meshd {status.version} runs (pid {status.pid}) and answers")
    )
    for problem in status.problems:
        findings.append(Finding("status", "warn", problem))
    return theirs


def _remedy(error: NotRunning) -> str:
    what = str(error).partition("start it with: ")[2]
    return f"Start it: {what}" if what else ""


def _port(patient: Patient) -> int:
    return patient.status.peer_port if patient.status is not None else patient.config.port


def _sum_up(paper: Paper, findings: list[Finding]) -> None:
    failed = sum(finding.severity == "fail" for finding in findings)
    warned = sum(finding.severity == "warn" for finding in findings)
    if failed:
        paper.line(f"{count(failed, 'failure')}, {count(warned, 'warning')}.", "bad")
    elif warned:
        paper.line(f"Nothing fails; {count(warned, 'warning')}.", "warn")
    else:
        paper.line("All is well.", "good")
