"""Numbers in texts that others wrote.  Pure.

`str.isdigit` takes digits that `int` does not know (²), and `int` raises for some thousands of
them: whoever reads a number from a peer, a client or an engine reads it here.
"""

from __future__ import annotations

from typing import Final

_DIGITS: Final = 9
"""Enough for everything that is asked for in digits, and below 2^31."""


def whole_number(text: str) -> int | None:
    """What one to nine digits of ASCII say; None for any other text."""
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        return None
    return int(text)
