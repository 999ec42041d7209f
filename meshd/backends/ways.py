"""How engines are told what another one said, and how that is found out (trio shell).

A trailing assistant message is continued by some engines and templates and begins a new turn with
others, so names and versions prove nothing.  What does:

llama.cpp        shows the prompt that it would make (`/apply-template`): it has to end with what
                 was said.
Ollama           the same (`_debug_render_only`) from 0.11.5 on.  Where the template closes the turn
                 its answer is asked for with a raw prompt: what it shows for the question alone,
                 and then what was said, in the form in which the template has it.  Before 0.11.5 a
                 prompt's tokens are counted: a turn that stays open has as many more as the text
                 has, a closed one has the end of the turn and the beginning of the next as well.
vLLM             is told (`continue_final_message`), and shows the prompt's tokens (`/tokenize`).
SGLang, others   are told so as well, and the prompt's tokens are counted.
LM Studio, MLX   have no such flag: counted too.

What is said for the question begins with a space, as a token does, and ends with the end of a line,
which a template may trim.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

import msgspec

from meshd.backends import listing
from meshd.backends.control import RunControl
from meshd.backends.exchange import EngineHttp
from meshd.backends.ollama_request import message_of
from meshd.backends.openai_request import (
    CHAT_PATH,
    COMPLETION_PATH,
    CONTINUE,
    EngineKind,
    as_messages,
)
from meshd.errors import MeshdError
from meshd.inference import Kind, ModelInfo, Request

RENDERS_SINCE: Final = (0, 11, 5)
"""The first Ollama that shows the prompt of a chat instead of answering it; older ones answer."""

_SAID: Final = " one two three four\n"
_THOUGHT: Final = "five six seven\n"
_ASK: Final = {"role": "user", "content": "Count."}
_MARK_CHARS: Final = 64
"""Around thoughts, at most: what is longer is something else."""
_TRIMMED_TOKENS: Final = 2
"""At most, of the white space at both ends of what was said."""
_json: Final = msgspec.json.Encoder().encode


class NotSaid(MeshdError):
    """The engine does not answer the question now."""


class Point(Enum):
    """Where an answer broke off."""

    IN_TEXT = auto()
    IN_TEXT_AFTER_THOUGHTS = auto()
    IN_THOUGHTS = auto()

    @staticmethod
    def of(request: Request) -> Point:
        """Of a request that goes on."""
        if not request.partial_reasoning:
            return Point.IN_TEXT
        return Point.IN_TEXT_AFTER_THOUGHTS if request.partial else Point.IN_THOUGHTS


@dataclass(frozen=True, slots=True)
class Form:
    """How an engine is told what was said."""

    trims: bool = False
    """The white space at its end is lost."""
    raw: bool = False
    """In a raw prompt; else as a trailing assistant message."""
    opening: str = ""
    closing: str = ""
    """Raw: what stands around thoughts."""


class Asking:
    """Asks one engine about one of its models."""

    def __init__(
        self, http: EngineHttp, control: RunControl | None, model: str, **always: Any
    ) -> None:
        """`always` is said with each question that does not say it itself."""
        self._http = http
        self._control = control
        self._always = {"model": model, **always}

    async def __call__(self, path: str, **what: Any) -> dict[str, Any]:
        """The object that it answers, {} if it does not know the question.  Raises NotSaid."""
        body = _json({**self._always, **what})
        answer = await self._http.ask("POST", path, body, self._control)
        if answer.status >= 500:
            raise NotSaid(f"the engine answers {path} with status {answer.status}")
        try:
            return listing.json_object(answer.body) if answer.ok else {}
        except listing.Unreadable:
            return {}


class Ways:
    """How one kind of engine is asked; this one cannot go on."""

    def always(self, model: ModelInfo) -> dict[str, Any]:
        """What is said of that model with each question."""
        return {}

    async def find(self, ask: Asking, point: Point) -> Form | None:
        """How it is told; None: it cannot go on.  Raises NotSaid, and as `EngineHttp.ask`."""
        return None

    async def raw(self, ask: Asking, request: Request, form: Form) -> Request:
        """A request that goes on, as one with a raw prompt."""
        raise NotSaid("this engine is not asked with raw prompts")

    async def count(self, ask: Asking, text: str) -> int:
        """How many tokens that is; 0: it has no way to say."""
        return 0


class LlamaWays(Ways):
    """llama.cpp."""

    async def find(self, ask: Asking, point: Point) -> Form | None:
        """See `Ways`."""
        shown = await ask("/apply-template", messages=[_ASK, _said(point, "reasoning_content")])
        return _form(_prompt(shown, "prompt"), point)

    async def count(self, ask: Asking, text: str) -> int:
        """See `Ways`."""
        tokens = (await ask("/tokenize", content=text)).get("tokens")
        return len(tokens) if isinstance(tokens, list) else 0


class Counting(Ways):
    """Engines that say no more than how long a prompt was; some have a flag for it."""

    def __init__(self, flags: dict[str, Any], *, tokenizes: bool = False) -> None:
        self._flags = flags
        self._tokenizes = tokenizes

    async def find(self, ask: Asking, point: Point) -> Form | None:
        """See `Ways`."""
        if point is not Point.IN_TEXT:
            return None
        said = _said(point, "")
        asked = await self._chat(ask, messages=[_ASK])
        begun = await self._chat(ask, messages=[_ASK, said], **self._flags)
        once = await self._completion(ask, _SAID)
        return _counted(asked, begun, once, await self._completion(ask, _SAID * 2))

    async def count(self, ask: Asking, text: str) -> int:
        """See `Ways`."""
        if not self._tokenizes:
            return 0
        return listing.count(await ask("/tokenize", prompt=text, add_special_tokens=False), "count")

    async def _chat(self, ask: Asking, **what: Any) -> int:
        answer = await ask(CHAT_PATH, stream=False, max_tokens=1, **what)
        return listing.count(listing.table(answer, "usage"), "prompt_tokens")

    async def _completion(self, ask: Asking, prompt: str) -> int:
        answer = await ask(COMPLETION_PATH, stream=False, max_tokens=1, prompt=prompt)
        return listing.count(listing.table(answer, "usage"), "prompt_tokens")


class VllmWays(Counting):
    """vLLM, which shows a chat's tokens."""

    def __init__(self) -> None:
        super().__init__(CONTINUE, tokenizes=True)

    async def find(self, ask: Asking, point: Point) -> Form | None:
        """See `Ways`."""
        if point is Point.IN_THOUGHTS:
            return None  # the flag speaks of the text
        messages = [_ASK, _said(point, "reasoning_content")]
        shown = await ask("/tokenize", messages=messages, return_token_strs=True, **CONTINUE)
        strings = shown.get("token_strs")
        if not isinstance(strings, list):  # one that has no such question
            return await super().find(ask, point)
        prompt = "".join(map(str, strings))
        for mark, meaning in (("Ġ", " "), ("▁", " "), ("Ċ", "\n")):
            prompt = prompt.replace(mark, meaning)
        return _form(prompt, point)


class OllamaWays(Ways):
    """Ollama; `version` is what it was when it was last looked at."""

    def __init__(self) -> None:
        self.version: tuple[int, ...] = ()

    def always(self, model: ModelInfo) -> dict[str, Any]:
        """The context that it is loaded with: asked with another it would be loaded again."""
        loaded = model.context_tokens if model.resident else 0
        return {"options": {"num_ctx": loaded}} if loaded else {}

    async def find(self, ask: Asking, point: Point) -> Form | None:
        """See `Ways`."""
        if self.version < RENDERS_SINCE:
            return await self._by_counting(ask) if point is Point.IN_TEXT else None
        said = _said(point, "thinking")
        shown = await self._shown(ask, messages=[_ASK, said])
        return _form(shown, point) or await self._raw_form(ask, point)

    async def raw(self, ask: Asking, request: Request, form: Form) -> Request:
        """See `Ways`."""
        messages = [message_of(message) for message in as_messages(without_partial(request))]
        think = {} if request.think is None else {"think": request.think}
        said = request.partial
        if request.partial_reasoning:
            closing = form.closing if said else ""
            said = form.opening + request.partial_reasoning + closing + said
        return msgspec.structs.replace(
            without_partial(request),
            kind=Kind.COMPLETION,
            raw=True,
            messages=[],
            prompt=await self._shown(ask, messages=messages, **think) + said,
            system="",
            think=None,
        )

    async def _shown(self, ask: Asking, **what: Any) -> str:
        answer = await ask("/api/chat", stream=False, _debug_render_only=True, **what)
        prompt = _prompt(listing.table(answer, "_debug_info"), "rendered_template")
        if not prompt:
            raise NotSaid("this Ollama does not show a prompt")
        return prompt

    async def _raw_form(self, ask: Asking, point: Point) -> Form | None:
        """As the template writes an answer of the past: right behind the prompt, or not at all."""
        prompt = await self._shown(ask, messages=[_ASK])
        said = _said(point, "thinking") | {"content": _SAID}
        past = await self._shown(ask, messages=[_ASK, said])
        if not past.startswith(prompt):
            return None
        past = past[len(prompt) :]
        if point is Point.IN_TEXT:
            return Form(raw=True) if past.lstrip().startswith(_SAID.strip()) else None
        opening, found, past = _parted(past, _THOUGHT)
        closing, there, _ = _parted(past, _SAID)
        fits = found and there and closing.strip() and len(opening + closing) <= _MARK_CHARS
        return Form(raw=True, opening=opening, closing=closing) if fits else None

    async def _by_counting(self, ask: Asking) -> Form | None:
        async def tokens(path: str, **what: Any) -> int:
            answer = await ask(path, stream=False, options={"num_predict": 1}, **what)
            return listing.count(answer, "prompt_eval_count")

        asked = await tokens("/api/chat", messages=[_ASK])
        begun = await tokens("/api/chat", messages=[_ASK, _said(Point.IN_TEXT, "")])
        once = await tokens("/api/generate", raw=True, prompt=_SAID)
        return _counted(
            asked, begun, once, await tokens("/api/generate", raw=True, prompt=_SAID * 2)
        )


def without_partial(request: Request) -> Request:
    """What the client asked, without what was said of its answer."""
    return msgspec.structs.replace(request, partial="", partial_reasoning="", partial_tokens=0)


def _said(point: Point, thoughts: str) -> dict[str, str]:
    """An answer that broke off there; `thoughts` is the field that thoughts are in."""
    message = {"role": "assistant", "content": "" if point is Point.IN_THOUGHTS else _SAID}
    return message if point is Point.IN_TEXT else {**message, thoughts: _THOUGHT}


def _form(prompt: str, point: Point) -> Form | None:
    """What a prompt shows that ends with `_said(point)` if the turn stays open."""
    last = _THOUGHT if point is Point.IN_THOUGHTS else _SAID
    if point is Point.IN_TEXT_AFTER_THOUGHTS and _THOUGHT.strip() not in prompt:
        return None
    if prompt.endswith(last):
        return Form()
    return Form(trims=True) if prompt.endswith(last.strip()) else None


def _parted(text: str, said: str) -> tuple[str, str, str]:
    """What is before and after it, as it is or trimmed."""
    return text.partition(said if said in text else said.strip())


def _counted(asked: int, begun: int, once: int, twice: int) -> Form | None:
    """What the lengths of prompts show: without an answer, with one; and that text by itself."""
    if not (asked and begun and once and twice):
        raise NotSaid("the engine does not say how long a prompt is")
    more, whole = begun - asked, twice - once
    if more == whole:
        return Form()
    return Form(trims=True) if whole - _TRIMMED_TOKENS <= more < whole else None


def _prompt(shown: dict[str, Any], name: str) -> str:
    """All of it, "" if there is none."""
    value = shown.get(name)
    return value if isinstance(value, str) else ""


def ways_of(kind: EngineKind) -> Ways:
    """How that kind is asked."""
    match kind:
        case EngineKind.LLAMA_CPP:
            return LlamaWays()
        case EngineKind.VLLM:
            return VllmWays()
        case EngineKind.SGLANG:
            return Counting(CONTINUE, tokenizes=True)
        case EngineKind.OTHER:
            return Counting(CONTINUE)
        case _:
            return Counting({})
