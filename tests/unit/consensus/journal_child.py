"""A process that writes a journal as fast as it can and says what is durable, until it is killed.

    python -m tests.unit.consensus.journal_child FOLDER SEED

Each line that it prints is the index of the last entry that it may speak of.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from meshd.consensus.entries import Point
from meshd.consensus.journal import Owner, open_journal
from meshd.ids import MeshId, NodeId
from meshd.machine.disk import FileDisk
from meshd.testing.entropy import SeededEntropy
from tests.unit.consensus.journal_rig import append, rebase

OWNER = Owner(MeshId("m" * 26), NodeId("a" * 26))
SEGMENT_BYTES = 8192


def main(folder: str, seed: str) -> None:
    chance = random.Random(seed)
    opened = open_journal(
        FileDisk(), Path(folder), OWNER, SeededEntropy(seed), segment_bytes=SEGMENT_BYTES
    )
    journal = opened.journal
    while True:
        last = journal.cursor.last_index
        journal.write([append(last + 1, last + chance.randint(1, 10))])
        last = journal.cursor.last_index
        print(last, flush=True)
        if chance.random() < 0.05:
            state = b"state after %d" % last
            snapshot = journal.snapshots.save(Point(1, last), (), [state])
            journal.write([rebase(snapshot)])
            journal.compact()


if __name__ == "__main__":
    main(*sys.argv[1:])
