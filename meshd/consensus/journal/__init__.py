"""The journal: records and snapshots of the log on one node's disk.  See DESIGN.md beside this."""

from meshd.consensus.journal.errors import (
    JournalDamaged,
    JournalFailed,
    JournalForeign,
    JournalNewer,
    JournalUnusable,
)
from meshd.consensus.journal.journal import Journal, Opened, open_journal, probe_sync_s
from meshd.consensus.journal.repair import Repair, Report, Verdict, check, repair, set_aside
from meshd.consensus.journal.segments import Owner
from meshd.consensus.journal.snapshots import Snapshots, SnapshotWriter
from meshd.consensus.journal.survey import Cut

__all__ = [
    "Cut",
    "Journal",
    "JournalDamaged",
    "JournalFailed",
    "JournalForeign",
    "JournalNewer",
    "JournalUnusable",
    "Opened",
    "Owner",
    "Repair",
    "Report",
    "SnapshotWriter",
    "Snapshots",
    "Verdict",
    "check",
    "open_journal",
    "probe_sync_s",
    "repair",
    "set_aside",
]
