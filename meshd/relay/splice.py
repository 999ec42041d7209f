"""One answer out of several runs: what the client has so far, and how another run goes on.  Pure.

Two ways:

CONTINUE    an engine is told what was said and goes on after it.  For plain text only: in a tool
            call, in JSON that a schema holds, or with log-probabilities an engine that begins in
            the middle knows neither where it is nor what it said before.
REGENERATE  a deterministic request is run again from its start; what comes is held against what
            was delivered, and what follows that is passed on.  If it differs nothing more is.

With a seed and a temperature the other way round: the numbers drawn for the rest would not be those
of one run, so it is run again first; if that differs, there was nothing to keep to.

The seam.  All that was delivered is told, to the last space, and what comes is passed on as it is:
text that ends where a token did becomes the same tokens again.  Characters are whole on both sides,
and no stop string stands half there, since engines keep back halves of both.  An engine that would
trim what it is told is the business of its holder (`backends/continuing.py`).

Counts.  Nobody told how many tokens the lost run had made; engines send one delta a token, so
deltas are counted, the rest of `max_tokens` and the usage of the whole follow from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from io import StringIO
from typing import Final

import msgspec

from meshd import limits
from meshd.errors import MeshdError
from meshd.inference import Delta, Embedding, Kind, Request, Usage

_SHAPED_BY: Final = (
    "grammar",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "regex",
    "ebnf",
)
"""Fields of OpenAI-like engines that hold an answer to a form, like a JSON schema does."""


class Way(Enum):
    """How another run goes on with an answer that broke off."""

    CONTINUE = auto()
    REGENERATE = auto()


class DoesNotFit(MeshdError):
    """The run that was to repeat an answer said something else."""


class Splice:
    """What one client was given of one answer, and the run that is at it now."""

    __slots__ = (
        "_again",
        "_calls",
        "_futile",
        "_reasoning",
        "_reasoning_again",
        "_request",
        "_size",
        "_text",
        "_tokens",
        "_tokens_before",
        "way",
    )

    def __init__(self, request: Request) -> None:
        self._request = request
        self._text = StringIO()
        self._reasoning = StringIO()
        self._size = 0
        self._calls = False
        self._futile: set[Way] = set()
        """Ways that led to something else."""
        self._tokens = self._tokens_before = 0
        self._again = self._reasoning_again = ""
        """What is still to be said again, before something new may be."""
        self.way: Way | None = None
        """Of the run under way; None: the first one, from the start."""

    # ---------------------------------------------------------------- what passes

    def take(
        self, items: Sequence[Delta | Usage | Embedding]
    ) -> Sequence[Delta | Usage | Embedding]:
        """What of these the client is to get now.  Raises DoesNotFit."""
        if self.way is not None:
            try:
                again = self.way is Way.REGENERATE
                items = self._not_again(items) if again else self._after_the_seam(items)
            except DoesNotFit:
                self._futile.add(self.way)
                raise
        for item in items:
            if type(item) is Delta:
                self._note(item)
        return items

    def _note(self, delta: Delta) -> None:
        if self._size <= limits.SPLICE_CHARS:
            if delta.text:
                self._size += self._text.write(delta.text)
            if delta.reasoning:
                self._size += self._reasoning.write(delta.reasoning)
        if delta.tool_calls:
            self._calls = True
        if delta.has_content():
            self._tokens += 1

    def _after_the_seam(
        self, items: Sequence[Delta | Usage | Embedding]
    ) -> list[Delta | Usage | Embedding]:
        out: list[Delta | Usage | Embedding] = []
        for item in items:
            if type(item) is Usage:
                item = self._summed(item)
            elif type(item) is Delta and item.reasoning and self._text.tell():
                raise DoesNotFit("the run that went on with it began to think anew")
            out.append(item)
        return out

    def _summed(self, usage: Usage) -> Usage:
        before = self._tokens_before
        return msgspec.structs.replace(
            usage,
            prompt_tokens=max(0, usage.prompt_tokens - before),
            completion_tokens=usage.completion_tokens + before,
        )

    def _not_again(
        self, items: Sequence[Delta | Usage | Embedding]
    ) -> list[Delta | Usage | Embedding]:
        out: list[Delta | Usage | Embedding] = []
        for item in items:
            if type(item) is Delta and (self._again or self._reasoning_again):
                rest = self._rest_of(item)
                if rest is not None:
                    out.append(rest)
            else:
                out.append(item)
        return out

    def _rest_of(self, delta: Delta) -> Delta | None:
        """What is new in it, while there is still something to be said again."""
        self._reasoning_again, reasoning = _passed(self._reasoning_again, delta.reasoning)
        self._again, text = _passed(self._again, delta.text)
        still = bool(self._again or self._reasoning_again)
        if still and (text or reasoning or delta.tool_calls or delta.finish_reason is not None):
            raise DoesNotFit("another run of it went on differently")
        if not (text or reasoning or delta.tool_calls or delta.finish_reason is not None):
            return None
        return msgspec.structs.replace(delta, text=text, reasoning=reasoning, logprobs=[])

    # ---------------------------------------------------------------- how to go on

    def ways(self) -> list[Way]:
        """How another run may go on from here, best first; none: it cannot."""
        if self._size > limits.SPLICE_CHARS or self._calls:
            return []
        sampling = self._request.sampling
        ways = [Way.CONTINUE] if self._is_plain() else []
        if sampling.temperature == 0:
            ways = [*ways, Way.REGENERATE]
        elif sampling.seed is not None:
            ways = [Way.REGENERATE, *ways]
        return [way for way in ways if way not in self._futile]

    @property
    def told_tokens(self) -> int:
        """Of the answer, to the run under way."""
        return self._tokens_before if self.way is Way.CONTINUE else 0

    def usage(self) -> Usage:
        """Of what was delivered, where no engine told: how long the prompt was is not known."""
        return Usage(completion_tokens=self._tokens)

    def is_full(self) -> bool:
        """All the tokens that the client asked for were delivered: only the end is missing."""
        most = self._request.sampling.max_tokens
        return most is not None and 0 < most <= self._tokens

    def begin(self, way: Way) -> Request:
        """Another run begins, which goes on in this way; what it is to be asked."""
        self.way = way
        text, reasoning = self._text.getvalue(), self._reasoning.getvalue()
        if way is Way.REGENERATE:
            self._again, self._reasoning_again = text, reasoning
            return self._request
        self._tokens_before = self._tokens
        sampling = self._request.sampling
        if sampling.max_tokens is not None and sampling.max_tokens > 0:
            left = max(1, sampling.max_tokens - self._tokens)
            sampling = msgspec.structs.replace(sampling, max_tokens=left)
        return msgspec.structs.replace(
            self._request,
            partial=text,
            partial_reasoning=reasoning,
            partial_tokens=self._tokens,
            sampling=sampling,
        )

    def _is_plain(self) -> bool:
        request = self._request
        if request.kind is Kind.EMBED or request.suffix or request.tools or request.logprobs:
            return False
        if request.json_schema is not None or request.json_mode:
            return False
        if any(request.extra.get(name) for name in _SHAPED_BY):
            return False
        # What the client itself began has no thoughts in front of it.
        begun = bool(request.messages) and request.messages[-1].role == "assistant"
        return not (begun and self._reasoning.tell())


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _passed(expected: str, said: str) -> tuple[str, str]:
    """What of `expected` is left after `said`, and what was said beyond it.  Raises DoesNotFit."""
    shared = _shared(expected, said)
    if shared < min(len(expected), len(said)):
        raise DoesNotFit("another run of it said something else")
    return expected[shared:], said[shared:]
