"""The measured tables of the docs, from what `meshd-chaos run --json` printed.

python -m meshd_chaos.measured RUNS.json ... [--into docs/no-answer-lost.md]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from meshd_chaos.records import RunSet
from meshd_chaos.report.markdown import BEGIN, measured, written_into


class Unusable(Exception):
    """A file that cannot be used; its text is a sentence."""


def read_runs(files: Sequence[Path]) -> RunSet:
    """The runs of all files, in their order.  Raises Unusable."""
    read = [_read(file) for file in files]
    return RunSet(
        runs=tuple(run for runs in read for run in runs.runs),
        not_run=tuple(one for runs in read for one in runs.not_run),
    )


def _read(file: Path) -> RunSet:
    try:
        return msgspec.json.decode(file.read_bytes(), type=RunSet)
    except OSError as error:
        raise Unusable(f"{file} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unusable(f"{file} is not what `meshd-chaos run --json` prints: {error}") from error


def _write(document: Path, tables: str) -> None:
    try:
        written = written_into(document.read_text(encoding="utf-8"), tables)
        if written is None:
            raise Unusable(f"{document} has no place for the tables: a line {BEGIN}, and its end")
        document.write_text(written, encoding="utf-8")
    except OSError as error:
        raise Unusable(f"{document} cannot be written: {error.strerror}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or write them into a document."""
    parser = argparse.ArgumentParser(
        prog="python -m meshd_chaos.measured",
        description="The measured tables of the docs, from what `meshd-chaos run --json` printed.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="RUNS.json")
    parser.add_argument("--into", type=Path, metavar="FILE.md", help="put them there, not here")
    asked = parser.parse_args(arguments)
    try:
        tables = measured(read_runs(asked.files))
        if asked.into is None:
            print(tables, end="")
        else:
            _write(asked.into, tables)
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
