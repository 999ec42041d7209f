"""Check saved histories of jobs: `python -m meshd.testing.checker FILE...`; exit 1 on anything."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from meshd.testing.checker import JobHistory, JobOperation, check_jobs, load
from meshd.testing.checker.history import History, HistoryError


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 if all is well, 1 if not or if it could not be decided, 2 if unreadable."""
    parser = argparse.ArgumentParser(prog="python -m meshd.testing.checker", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON lines")
    history: JobHistory = History()
    try:
        for file in parser.parse_args(arguments).files:
            history.merge(load(file, JobOperation))
    except (OSError, HistoryError) as error:
        print(error, file=sys.stderr)
        return 2
    report = check_jobs(history.operations)
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
