"""Status, nodes and models as a person reads them.  Pure: structs in, printed on a Paper."""

from __future__ import annotations

from collections.abc import Sequence

from meshd import limits
from meshd.cli.tables import Cell, Column, Paper
from meshd.cli.words import ago, count, duration, grouped_digits, listed, mesh_label, tokens
from meshd.control import (
    BackendRow,
    Finding,
    ModelRow,
    NodeRow,
    PendingRow,
    RecordReport,
    StatusReport,
    TokenRow,
    VoterRow,
)
from meshd.ids import short

_STATE_MOODS = {
    "suspect": "warn",
    "asleep": "dim",
    "unknown": "dim",
    "left": "dim",
    "failed": "bad",
}


def show_status(paper: Paper, report: StatusReport) -> None:
    """The mesh at a glance: 80 columns are enough."""
    here = report.node
    paper.line(f"{here.name} serves {report.client_url}", "strong")
    paper.line(
        f"meshd {report.version}, mesh {mesh_label(report.mesh)}, "
        f"{count(report.models, 'model')} on {count(len(report.nodes), 'node')}, "
        f"up {duration(report.uptime_s)}, pid {report.pid}",
        "dim",
    )
    paper.line()
    paper.table(
        [
            Column("NODE", grows=True),
            Column("STATE"),
            Column("ADDRESS", grows=True),
            Column("WARM", right=True),
            Column("BUSY", right=True),
            Column("WAITING", right=True),
        ],
        [
            [
                Cell(node.name, "strong" if node.state == "self" else ""),
                state_cell(node),
                address(node.addresses[0]) if node.addresses else "",
                f"{node.warm}/{node.models}",
                f"{node.running}/{node.slots}",
                str(node.queued),
            ]
            for node in ordered(report.nodes)
        ],
    )
    paper.line()
    if report.backends:
        show_backends(paper, report.backends)
    else:
        paper.line("No engine on this machine: requests go to the other nodes.", "dim")
    for note in report.notes:
        paper.line()
        paper.line(note, "dim")
    if report.problems:
        paper.line()
        for problem in report.problems:
            paper.item("!", problem, "warn")


def show_backends(paper: Paper, backends: Sequence[BackendRow]) -> None:
    paper.table(
        [
            Column("ENGINE HERE", grows=True),
            Column("URL", grows=True),
            Column("MODELS", right=True),
            Column("SLOTS", right=True),
            Column("STATE", grows=True),
        ],
        [
            [
                f"{backend.engine} {backend.version}".strip(),
                backend.url,
                str(backend.models),
                str(backend.slots),
                Cell(backend.state, "good" if backend.state == "serving" else "warn"),
            ]
            for backend in backends
        ],
    )


def show_nodes(paper: Paper, nodes: Sequence[NodeRow]) -> None:
    """Every member with all its addresses and engines."""
    paper.table(
        [
            Column("NODE", grows=True),
            Column("ID"),
            Column("STATE"),
            Column("VERSION"),
            Column("ADDRESSES", grows=True),
            Column("ENGINES", grows=True),
        ],
        [
            [
                Cell(node.name, "strong" if node.state == "self" else ""),
                short(node.id),
                state_cell(node),
                node.version,
                Cell([address(given) for given in node.addresses]),
                Cell(node.engines),
            ]
            for node in ordered(nodes)
        ],
    )
    if failed := [node.name for node in nodes if node.state == "failed"]:
        paper.line()
        paper.item(
            "!",
            f"{listed(failed)}: no answer. A machine that is gone for good does no harm here: it "
            "gets no requests. To take it out of the mesh: meshd remove NAME",
            "warn",
        )
    if labelled := [f"{n.name} ({', '.join(n.labels)})" for n in ordered(nodes) if n.labels]:
        paper.line()
        paper.line(f"Labels: {', '.join(labelled)}", "dim")
    if admitting := sorted(node.name for node in nodes if node.admits):
        paper.line()
        paper.line(f"{listed(admitting)} can let newcomers in.", "dim")


def show_models(paper: Paper, models: Sequence[ModelRow]) -> None:
    """Every model once, with the nodes that hold it; `*` where it is in memory."""
    if not models:
        paper.line("No node of this mesh has a model.")
        return
    paper.table(
        [
            Column("MODEL", grows=True),
            Column("NODES", grows=True),
            Column("CONTEXT", right=True),
            Column("CAN", grows=True),
        ],
        [
            [
                model.name,
                Cell([f"{copy.node}{'*' if copy.resident else ''}" for copy in model.copies]),
                _contexts(model),
                ", ".join(model.capabilities),
            ]
            for model in models
        ],
    )
    if any(copy.resident for model in models for copy in model.copies):
        paper.line()
        paper.line("* in memory now", "dim")
    differing = [model.name for model in models if model.digests > 1]
    if differing:
        paper.line()
        paper.item(
            "!",
            f"{listed(differing)}: not the same model on every node that has it. "
            "See `meshd models --json` for the digests; pull it again on the nodes that differ.",
            "warn",
        )


def show_tokens(paper: Paper, rows: Sequence[TokenRow], now_unix_s: float) -> None:
    """Every token on record: whether it is still good, and who joined by it."""
    if not rows:
        paper.line("No token is on record. Make one: meshd token create")
        return
    paper.table(
        [
            Column("ID"),
            Column("GOOD"),
            Column("USED", right=True),
            Column("ENDS"),
            Column("BY", grows=True),
        ],
        [
            [
                row.id,
                Cell("yes") if row.good else Cell("no", "dim"),
                f"{len(row.used_by)} of {row.uses}",
                f"in {ago(row.expires_unix_s - now_unix_s)}" if row.good else "",
                Cell(row.used_by),
            ]
            for row in rows
        ],
    )


def show_pending(
    paper: Paper, waiting: Sequence[PendingRow], to_type: str = "meshd approve DIGITS"
) -> None:
    """Newcomers that wait for consent."""
    if not waiting:
        paper.line("Nobody waits to be let in.")
        return
    paper.table(
        [
            Column("DIGITS"),
            Column("NAME", grows=True),
            Column("ADDRESS", grows=True),
            Column("WAITING", right=True),
        ],
        [
            [
                Cell(grouped_digits(row.digits), "strong"),
                row.name,
                row.address,
                duration(row.waiting_s),
            ]
            for row in waiting
        ],
    )
    paper.line()
    paper.line(f"If the same digits stand on that machine's screen: {to_type}")


_FINDING_MARKS = {"ok": ("ok  ", "good"), "warn": ("warn", "warn"), "fail": ("FAIL", "bad")}


def show_findings(paper: Paper, findings: Sequence[Finding]) -> None:
    """What `meshd doctor` found, each with what to do about it."""
    for finding in findings:
        mark, mood = _FINDING_MARKS[finding.severity]
        paper.item(mark, f"{finding.code}: {finding.what}", mood)
        if finding.remedy and finding.severity != "ok":
            for line in finding.remedy.splitlines():
                paper.item("    ", line)


def ordered(nodes: Sequence[NodeRow]) -> list[NodeRow]:
    """This node first, then the others by name."""
    return sorted(nodes, key=lambda node: (node.state != "self", node.name.lower(), node.id))


def state_cell(node: NodeRow) -> Cell:
    """Its state, and since when nothing was heard of it if that matters."""
    if node.state in ("self", "alive"):
        if node.drained:
            return Cell("drained", "warn")
        return Cell("here" if node.state == "self" else "alive", "good")
    since = f" {ago(node.seen_s)}" if node.seen_s is not None else ""
    # Gossip's word for a goodbye; but whoever is listed here is a member, and only stopped.
    shown = "stopped" if node.state == "left" else node.state
    return Cell(f"{shown}{since}", _STATE_MOODS.get(node.state, ""))


def address(text: str) -> str:
    """Without the port that every node has if nobody chose another."""
    return text.removesuffix(f":{limits.PEER_PORT}")


def _contexts(model: ModelRow) -> str:
    lengths = sorted({copy.context_tokens for copy in model.copies if copy.context_tokens > 0})
    if not lengths:
        return "?"
    low, high = tokens(lengths[0]), tokens(lengths[-1])
    return low if low == high else f"{low}-{high}"


_DECIDED = {"always": " (promoted)", "never": " (demoted)"}
_PART_MOODS = {"leads": "strong", "votes": "", "follows": "dim"}


def show_voters(paper: Paper, report: RecordReport) -> None:
    """Who keeps the record."""
    paper.table(
        [
            Column("NODE", grows=True),
            Column("PART"),
            Column("STATE"),
            Column("CA KEY"),
            Column("HAS", right=True),
        ],
        [
            [
                Cell(row.name, "strong" if row.state == "here" else ""),
                _part(row),
                Cell(row.state, "warn" if row.state == "away" else ""),
                "yes" if row.holds_ca else "",
                f"{row.index:,}" if row.index is not None else "",
            ]
            for row in report.voters
        ],
    )
    if report.problem:
        paper.line()
        paper.item("!", report.problem, "warn")
    for note in report.notes:
        paper.line()
        paper.line(note, "dim")
    for name in [row.name for row in report.voters if row.void]:
        paper.line()
        paper.item(
            "!",
            f"{name} lost what it had promised with its vote, so that vote is void. It gets a new "
            "one by itself as soon as the others have taken this one.",
            "warn",
        )


def _part(row: VoterRow) -> Cell:
    """What it does in keeping the record, and whether a person wanted it so."""
    if row.void and row.part == "votes":
        return Cell("vote is void", "warn")
    part = f"{row.part} {row.follows}" if row.follows else row.part
    return Cell(part + _DECIDED.get(row.vote, ""), _PART_MOODS.get(row.part, ""))


def show_record(paper: Paper, report: RecordReport) -> None:
    """The record here."""
    paper.line(
        f"{report.applied:,} of {count(report.last, 'entry', 'entries')} applied here, "
        f"{report.commit:,} held by a majority; term {report.term}"
    )
    leads = f"{report.leader} leads" if report.leader else "nobody leads"
    sync = f"; making durable takes {report.sync_ms:g} ms here" if report.sync_ms else ""
    paper.line(f"{leads}; {count(report.members, 'member')} in it{sync}", "dim")
    paper.line(f"state {report.digest[:16]}", "dim")
    paper.line()
    show_voters(paper, report)
