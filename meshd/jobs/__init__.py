"""Jobs: the service over the record, runs of them, their bodies and results, and their history."""

from __future__ import annotations

from meshd.jobs.finished import Attempt, FinishedJob
from meshd.jobs.history import History, HistoryState, Standing
from meshd.jobs.history_rows import Filter, Page

__all__ = ["Attempt", "Filter", "FinishedJob", "History", "HistoryState", "Page", "Standing"]
