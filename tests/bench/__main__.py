"""`python -m tests.bench [--json] [--rounds N]`: a table of ratios, or JSON.

Numbers are of this machine at this moment; only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from tests.bench import life, proxy, streams
from tests.bench.tools import Skip


def table(rows: list[proxy.Row]) -> Table:
    shown = Table(title="non-streaming chat of 300 bytes, keep-alive")
    for title in ("", "clients", "way"):
        shown.add_column(title, no_wrap=True)
    for title in ("req/s", "of nginx", "p50 us", "- direct", "p99 us", "errors"):
        shown.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(
            row.bench,
            str(row.connections),
            row.name,
            f"{row.load.requests_per_s:,.0f}",
            f"{row.ratio:.2f}",
            f"{row.load.p50_us:,.0f}",
            "" if row.added_us is None else f"{row.added_us:,.0f}",
            f"{row.load.p99_us:,.0f}",
            str(row.load.errors),
        )
    return shown


def costs(rows: list[streams.Cost]) -> Table:
    shown = Table(title="one streamed event")
    for title in ("shape", "hops", "node"):
        shown.add_column(title, no_wrap=True)
    for title in ("cpu us", "events", "loop late ms, max", "RSS/stream KiB"):
        shown.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        for node, cpu_us in row.cpu_us.items():
            shown.add_row(
                row.shape,
                str(row.hops),
                node,
                f"{cpu_us:.1f}",
                f"{row.events:,}",
                str(row.loop_late_ms_max),
                f"{row.rss_per_stream_kib:.0f}",
            )
    return shown


def lives(row: life.Life) -> Table:
    shown = Table("a node's life", "", title="real daemons")
    shown.add_row("start and join to serving", f"{row.start_to_serving_s:.2f} s")
    first = f"{row.join_to_first_forwarded_answer_s:.2f} s"
    shown.add_row("the same to the first forwarded answer", first)
    cpu = ", ".join(f"{percent:.2f}" for percent in row.idle_cpu_percent)
    shown.add_row("idle, five nodes, % of a core each", cpu)
    rss = ", ".join(f"{mb:.0f}" for mb in row.idle_rss_mb)
    shown.add_row("the same, MB RSS each", rss)
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=proxy.ROUNDS)
    options = parser.parse_args()
    machine = {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1m": os.getloadavg()[0],
    }
    try:
        rows = proxy.run(rounds=options.rounds)
        events, lived = streams.run(), life.run()
    except Skip as skip:
        print(f"skipped: {skip}", file=sys.stderr)
        return 0
    if options.json:
        result = {
            "machine": machine,
            "proxy": [asdict(row) for row in rows],
            "streams": [asdict(row) for row in events],
            "life": asdict(lived),
        }
        print(json.dumps(result, indent=1))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()))
    console.print(table(rows))
    console.print(costs(events))
    console.print(lives(lived))
    return 0


if __name__ == "__main__":
    sys.exit(main())
