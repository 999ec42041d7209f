"""What comes of one answer, event by event: text with its times, seams, and how it ended.  Pure.

said = Transcript(dialect, sent_at_s)
said.line(b'data: {"id": ...', now_s)
said.finish, said.pieces, said.seams
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from meshd.testing.checker import Piece, Seam

_SEAM: Final = re.compile(rb": attempt (\d+): (.*) goes on from here")
_ATTEMPTS: Final = "x-meshd-attempts"


class Transcript:
    """One answer of one try."""

    def __init__(self, dialect: str, sent_at_s: float) -> None:
        self._is_openai = dialect == "openai"
        self._last_text_at_s = sent_at_s
        self._going_on = ""
        """The way of a seam that was announced, and whose text has not come yet."""
        self.pieces: list[Piece] = []
        self.seams: list[Seam] = []
        self.holders: list[str] = []
        self.ids: list[str] = []
        """Each name that its events had, once."""
        self.finish: str | None = None
        self.error: str | None = None
        """The text of an error within the answer."""
        self.attempts = 1
        self.after_finish = 0

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def head(self, holder: str | None, attempts: str | None) -> None:
        """The headers of the response."""
        if holder:
            self.holders.append(holder)
        if attempts is not None and attempts.isdigit() and int(attempts) > 1:
            self.attempts = int(attempts)
            self._going_on = "replay"  # before a word was said

    def repeated(self, gone_before_s: float) -> None:
        """This try repeats one in which a word was last heard at that time."""
        self._last_text_at_s = gone_before_s
        self._going_on = "repeat"

    def line(self, line: bytes, now_s: float) -> None:
        """One line of a stream."""
        if self._is_openai:
            if line.startswith(b"data: {"):
                self._openai(msgspec.json.decode(line[6:]), "delta", now_s)
            elif found := _SEAM.match(line):
                self.attempts = max(self.attempts, int(found[1]))
                self.holders.append(found[2].decode("utf-8", "replace"))
                self._going_on = "continue"
        elif line.startswith(b"{"):
            self._ollama(msgspec.json.decode(line), now_s)

    def body(self, body: bytes, now_s: float) -> None:
        """An answer in one piece."""
        whole = msgspec.json.decode(body)
        if self._is_openai:
            self._openai(whole, "message", now_s)
        else:
            self._ollama(whole, now_s)

    # ---------------------------------------------------------------- the dialects

    def _openai(self, part: dict[str, Any], inside: str, now_s: float) -> None:
        if "error" in part:
            self.error = _words(part["error"])
            return
        self._named(f"{part.get('id')} {part.get('created')} {part.get('model')}")
        self._count(part)
        for choice in part.get("choices") or ():
            self._text(choice[inside].get("content") or "", now_s)
            self.finish = choice.get("finish_reason") or self.finish

    def _ollama(self, part: dict[str, Any], now_s: float) -> None:
        if "error" in part:
            self.error = _words(part["error"])
            return
        self._named(f"{part.get('created_at')} {part.get('model')}")
        self._text(part["message"].get("content") or "", now_s)
        before = self.attempts
        self._count(part)
        if self.attempts > before and not self.seams:
            self._find_seam()
        if part.get("done"):
            self.finish = part.get("done_reason") or "stop"

    def _count(self, part: dict[str, Any]) -> None:
        self.attempts = max(self.attempts, int(part.get(_ATTEMPTS, 1)))

    def _named(self, name: str) -> None:
        if name not in self.ids:
            self.ids.append(name)

    def _text(self, text: str, now_s: float) -> None:
        if not text:
            return
        if self.finish is not None:
            self.after_finish += 1
        if self._going_on:
            gap_s = now_s - self._last_text_at_s
            self.seams.append(Seam(way=self._going_on, at_s=now_s, gap_s=gap_s))
            self._going_on = ""
        self.pieces.append(Piece(now_s, text))
        self._last_text_at_s = now_s

    def _find_seam(self) -> None:
        """NDJSON has no comments: it went on after the longest silence, one has to suppose."""
        pairs = list(zip(self.pieces, self.pieces[1:], strict=False))
        if pairs:
            before, after = max(pairs, key=lambda pair: pair[1].at_s - pair[0].at_s)
            gap_s = after.at_s - before.at_s
            self.seams.append(Seam(way="continue", at_s=after.at_s, gap_s=gap_s))


def error_of(body: bytes) -> str:
    """What a refusal's body says, in any dialect."""
    try:
        return _words(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return body.decode("utf-8", "replace")


def _words(error: object) -> str:
    if isinstance(error, dict):
        return str(error.get("message") or error.get("code") or error)
    return str(error)
