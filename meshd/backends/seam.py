"""What happens to the text of a run where it goes on after another one.  Pure.

Most engines are told all that was said and go on right after it: nothing is to be done.  Some trim
what they are told, and say the white space at its end again; some are told in a raw prompt, and
then their answer is raw as well, thoughts and text in one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from meshd.inference import Delta, Usage

Items = Sequence[Delta | Usage]
Seam = Callable[[Items], list[Delta | Usage]]
"""What the client is to get of these."""


class WithoutEdge:
    """Leaves out the white space that the client has and the engine was not told of.

    `edge` is what the text ends with, or the thoughts if it broke off in the middle of them.
    """

    def __init__(self, edge: str, *, in_thoughts: bool) -> None:
        self._edge = edge
        self._in_thoughts = in_thoughts

    def __call__(self, items: Items) -> list[Delta | Usage]:
        out: list[Delta | Usage] = []
        for item in items:
            if type(item) is Delta and self._edge:
                rest = self._rest_of(item)
                if rest is not None:
                    out.append(rest)
            else:
                out.append(item)
        return out

    def _rest_of(self, delta: Delta) -> Delta | None:
        field = "reasoning" if self._in_thoughts else "text"
        said: str = getattr(delta, field)
        if not said:
            return delta
        shared = 0
        for one, other in zip(self._edge, said, strict=False):
            if one != other:
                break
            shared += 1
        # Once it says something else, what is left of the white space was the lost run's alone.
        self._edge = self._edge[shared:] if shared == len(said) else ""
        rest = msgspec.structs.replace(delta, **{field: said[shared:]})
        return rest if rest.has_content() or rest.finish_reason is not None else None


class ThoughtsFirst:
    """Takes raw text apart: thoughts up to `closing`, then the text."""

    def __init__(self, closing: str) -> None:
        self._mark = closing.strip()
        self._held = ""
        """What may be the beginning of the mark."""
        self._thinks = True
        self._before_text = False

    def __call__(self, items: Items) -> list[Delta | Usage]:
        return [
            self._parted(item)
            if type(item) is Delta and (self._thinks or self._before_text)
            else item
            for item in items
        ]

    def _parted(self, delta: Delta) -> Delta:
        thought, text = "", delta.text
        if self._thinks:
            said = self._held + text
            thought, mark, text = said.partition(self._mark)
            if mark:
                self._thinks, self._before_text, self._held = False, True, ""
            else:
                keep = 0 if delta.finish_reason is not None else self._half_a_mark(thought)
                self._held = thought[len(thought) - keep :]
                thought, text = thought[: len(thought) - keep], ""
        if self._before_text:
            text = text.lstrip()
            self._before_text = not text
        return msgspec.structs.replace(delta, reasoning=thought, text=text)

    def _half_a_mark(self, text: str) -> int:
        """How many characters at its end may be the beginning of the mark."""
        most = min(len(text), len(self._mark) - 1)
        return next((n for n in range(most, 0, -1) if text.endswith(self._mark[:n])), 0)


class MoreTokens:
    """Counts in `more` tokens that the entry had not seen: several in one piece of the answer."""

    def __init__(self, more: int) -> None:
        self._more = more

    def __call__(self, items: Items) -> list[Delta | Usage]:
        return [
            msgspec.structs.replace(
                item,
                prompt_tokens=max(0, item.prompt_tokens - self._more),
                completion_tokens=item.completion_tokens + self._more,
            )
            if type(item) is Usage
            else item
            for item in items
        ]
