"""`meshd-chaos`: run scenarios against real daemons."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point that pyproject installs."""
    sys.exit("meshd-chaos can do nothing yet.")


if __name__ == "__main__":
    main()
