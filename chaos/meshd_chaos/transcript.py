"""What comes of one answer, event by event: text with its times, seams, and how it ended.  Pure.

said = Transcript(dialect, sent_at_s)
said.line(b'data: {"id": ...', now_s)
said.finish, said.pieces, said.seams
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from meshd.errors import MeshdError
from meshd.testing.checker import Piece, Seam

_SEAM: Final = re.compile(rb": attempt (\d+): (.*) goes on from here")
_ATTEMPTS: Final = "x-meshd-attempts"
_SHOWN: Final = 40
"""Bytes that a sentence shows of what is no event."""


class Garbled(MeshdError):
    """What was sent is no event of its dialect; the text says what is wrong with it."""


class _Words(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Words | None = None
    message: _Words | None = None
    finish_reason: str | None = None


class _Event(Struct):
    """What both dialects' events share."""

    error: Any = None
    model: str | None = None
    attempts: int = msgspec.field(default=1, name=_ATTEMPTS)


class _OpenAi(_Event):
    id: str | None = None
    created: int | None = None
    choices: list[_Choice] = []


class _Ollama(_Event):
    created_at: str | None = None
    message: _Words | None = None
    done: bool = False
    done_reason: str | None = None


_AnyEvent = TypeVar("_AnyEvent", bound=_Event)


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
        if attempts is not None and attempts.isascii() and attempts.isdigit() and int(attempts) > 1:
            self.attempts = int(attempts)
            self._going_on = "replay"  # before a word was said

    def repeated(self, gone_before_s: float) -> None:
        """This try repeats one in which a word was last heard at that time."""
        self._last_text_at_s = gone_before_s
        self._going_on = "repeat"

    def line(self, line: bytes, now_s: float) -> None:
        """One line of a stream.  Raises Garbled."""
        line = line.removesuffix(b"\r")
        if not line:
            return
        if not self._is_openai:
            self._ollama(_decoded(line, _Ollama), now_s)
        elif line.startswith(b"data: "):
            if line != _DONE:
                self._openai(_decoded(line[6:], _OpenAi), now_s)
        elif found := _SEAM.match(line):
            self.attempts = max(self.attempts, int(found[1]))
            self.holders.append(found[2].decode("utf-8", "replace"))
            self._going_on = "continue"
        elif not line.startswith(_NO_TEXT):
            raise Garbled(f"no field of an event stream: {_shown(line)}")

    def body(self, body: bytes, now_s: float) -> None:
        """An answer in one piece.  Raises Garbled."""
        if self._is_openai:
            self._openai(_decoded(body, _OpenAi), now_s)
        else:
            self._ollama(_decoded(body, _Ollama), now_s)

    # ---------------------------------------------------------------- the dialects

    def _openai(self, event: _OpenAi, now_s: float) -> None:
        if event.error is not None:
            self.error = _words(event.error)
            return
        self._named(f"{event.id} {event.created} {event.model}")
        self.attempts = max(self.attempts, event.attempts)
        for choice in event.choices:
            words = choice.delta or choice.message
            if words is None:
                raise Garbled("a choice without delta and without message")
            self._text(words.content or "", now_s)
            self.finish = choice.finish_reason or self.finish

    def _ollama(self, event: _Ollama, now_s: float) -> None:
        if event.error is not None:
            self.error = _words(event.error)
            return
        if event.message is None:
            raise Garbled("an object without message and without error")
        self._named(f"{event.created_at} {event.model}")
        self._text(event.message.content or "", now_s)
        before, self.attempts = self.attempts, max(self.attempts, event.attempts)
        if self.attempts > before and not self.seams:
            self._find_seam()
        if event.done:
            self.finish = event.done_reason or "stop"

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


_DONE: Final = b"data: [DONE]"
_NO_TEXT: Final = (b":", b"id:", b"event:", b"retry:")
"""Lines of an event stream that carry nothing of an answer."""


def _decoded(data: bytes, form: type[_AnyEvent]) -> _AnyEvent:
    try:
        return msgspec.json.decode(data, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Garbled(f"{error}: {_shown(data)}") from None


def _shown(data: bytes) -> str:
    return repr(data[:_SHOWN])[1:] + ("..." if len(data) > _SHOWN else "")


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
