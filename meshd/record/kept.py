"""Results of finished jobs that are too large for the log, named for a while longer.  Pure.

The job itself has left the state and is a row of every node's history.  Its result is a blob on the
disks of the voters, and they keep, and copy to a new voter, what the record names.
"""

from __future__ import annotations

from meshd import limits
from meshd.record.expiring import Expiring
from meshd.record.job_rows import KeptRow

KEPT_MS = limits.BLOB_KEPT_S * 1000


class KeptResults(Expiring[KeptRow]):
    """At most `limits.RESULTS_KEPT`; the oldest goes first."""

    def keep(self, job: int, digest: bytes, now_unix_ms: int) -> None:
        """Name it from now on; the oldest makes room."""
        self.put(KeptRow(job=job, digest=digest, until_unix_ms=now_unix_ms + KEPT_MS))
        while len(self) > limits.RESULTS_KEPT:
            self.drop_first()

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        super().check()
        assert len(self) <= limits.RESULTS_KEPT
