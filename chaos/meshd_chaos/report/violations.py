"""What must not be, in sentences that lead to the bars of the requests they are about.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from meshd_chaos.records import Run
from meshd_chaos.report.fates import Names, about
from meshd_chaos.report.markup import Markup, Node, element, join
from meshd_chaos.report.timeline import bar_id

VIOLATIONS_MAX: Final = 200
"""Shown of one run; more are counted."""
EVIDENCE_MAX: Final = 4
"""Lines of evidence shown for each."""


def violations(run: Run, anchor: str) -> Iterator[Markup]:
    """The list, with its heading; nothing if there are none."""
    if run.violations:
        yield element("h3", "What must not be")
        yield element("ul", *_Sentences(run, anchor).items(), class_="violations")


def to_bar(name: str, anchor: str, number: int) -> Markup:
    """A link to the bar of an answer."""
    return element("a", name, href=f"#{bar_id(anchor, number)}")


class _Sentences:
    def __init__(self, run: Run, anchor: str) -> None:
        self._run, self._anchor = run, anchor
        self._names = Names(run.answers)

    def items(self) -> Iterator[Markup]:
        for violation in self._run.violations[:VIOLATIONS_MAX]:
            sentence, *evidence = violation.split("\n")
            lines = [*self._lines(evidence)] or [*self._first_of(sentence)]
            yield element("li", self._linked(sentence), *lines)
        if len(self._run.violations) > VIOLATIONS_MAX:
            more = len(self._run.violations) - VIOLATIONS_MAX
            yield element("li", f"and {more:,} more, which the JSON of the run holds")

    def _lines(self, evidence: list[str]) -> Iterator[Markup]:
        for line in evidence[:EVIDENCE_MAX]:
            told = self._names.spans(line)
            if told and line.lstrip().startswith("request "):
                yield self._request(told[0][2][0])
            else:
                yield element("div", self._linked(line.strip()), class_="evidence")
        if len(evidence) > EVIDENCE_MAX:
            more = len(evidence) - EVIDENCE_MAX
            yield element("div", f"and {more:,} more lines", class_="evidence")

    def _first_of(self, sentence: str) -> Iterator[Markup]:
        for _, _, numbers in self._names.spans(sentence)[:1]:
            yield self._request(numbers[0])

    def _request(self, number: int) -> Markup:
        """All that is known of it: who reads on a phone cannot hover over its bar."""
        answer = self._run.answers[number]
        link = to_bar(answer.request, self._anchor, number)
        return element("div", link, ": ", "; ".join(about(answer)), class_="evidence")

    def _linked(self, sentence: str) -> Markup:
        """The sentence, with each request in it a link to its bar."""
        parts: list[Node] = []
        at = 0
        for begin, end, numbers in self._names.spans(sentence):
            parts.append(sentence[at:begin])
            parts.append(to_bar(sentence[begin:end], self._anchor, numbers[0]))
            at = end
        return join([*parts, sentence[at:]])
