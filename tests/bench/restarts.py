"""How long a record of many entries takes to start."""

from __future__ import annotations

import time
from pathlib import Path

from meshd.consensus.entries import Append, Entry, EntryKind, Record
from meshd.consensus.voter_list import founding_records
from meshd.ids import NodeId
from meshd.record import commands
from meshd.record.commands_jobs import Accept, Complete, KeyFields, RequestFields
from meshd.record.commands_registry import Command, Found, Started
from meshd.record.job_rows import job_id
from tests.bench.keeper import UNIX_MS, Spec
from tests.bench.keepers import Keepers, keepers, write_journal
from tests.bench.rows import Row

LOGGED = 100_000
BATCH = 500
IN_FLIGHT = 100


def restarts(folder: Path) -> list[Row]:
    """From starting the process to the first command that it accepts, as its only voter."""
    what = f"restart after {LOGGED:,} commands"
    with keepers(folder, "a", voters="", started=False) as made:
        write_journal(made.specs["a"], founding_records([NodeId(made.specs["a"].node)]))
        write_journal(made.specs["a"], *_logged(made.specs["a"], LOGGED))
        took_s = _restart(made)
        rows = [Row(f"{what}, without a snapshot", "s", took_s)]
        end = time.monotonic() + 60
        while made["a"].ask("status")["first"] == 0 and time.monotonic() < end:
            made["a"].ask("one_by_one", count=100, seconds=5)  # the snapshot comes beside it
        made["a"].ask("in_flight", width=IN_FLIGHT, seconds=0.3)  # some thousands behind it
        made["a"].kill()
        took_s = _restart(made)
        rows.append(Row(what, "s", took_s, None, "<= 2", took_s <= 2))
    return rows


def _restart(made: Keepers) -> float:
    begun = time.monotonic()
    made.start("a")
    return float(made["a"].ask("accept")["at"]) - begun


def _logged(spec: Spec, count: int) -> list[list[Record]]:
    """A founded record, and keyed requests that were accepted and are done."""
    node = NodeId(spec.node)
    bare: list[Command] = [
        Found(
            mesh=spec.mesh,
            mesh_name="bench",
            ca_key=spec.ca_key_der,
            node=spec.members[0].fields(),
            unix_ms=UNIX_MS,
            gossip_key=1,
        ),
        Started(node=node, generation=1, boot=bytes(16)),
    ]
    first = 2 + len(bare)
    entries = [_entry(2 + at, commands.Entry(command)) for at, command in enumerate(bare)]
    digest = bytes(32)
    for place in range(count):
        index = first + place
        body: Command
        if place % 2 == 0:
            key = KeyFields(scope="local", key=f"key-{place:032d}", fingerprint=digest)
            request = RequestFields(digest=digest, size_bytes=40, inline=bytes(40))
            body = Accept(key=key, request=request, lease_ms=15_000)
        else:
            fence = index - 1
            body = Complete(
                job=job_id(fence), fence=fence, digest=digest, size_bytes=40, inline=bytes(40)
            )
        number = place + 1
        entry = commands.Entry(body, client=node, epoch=1, seq=number, ack_below=number)
        entries.append(_entry(index, entry))
    return [[Append(tuple(entries[at : at + BATCH]))] for at in range(0, len(entries), BATCH)]


def _entry(index: int, command: commands.Entry) -> Entry:
    return Entry(index=index, term=1, kind=EntryKind.COMMAND, data=commands.encode(command))
