"""A run's report: one HTML page for a person, a table for a terminal, a table for the docs.

Path("report.html").write_text(render(runs))
Console().print(table(runs))
"""

from __future__ import annotations

from meshd_chaos.report.page import render
from meshd_chaos.report.terminal import table

__all__ = ["render", "table"]
