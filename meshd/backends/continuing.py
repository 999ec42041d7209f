"""Whether an engine goes on after what another one said, found out by asking it (trio shell).

A trailing assistant message is continued by some engines and templates and begins a new turn with
others, so names and versions prove nothing.  What does:

llama.cpp        shows the prompt that it would make (`/apply-template`): it has to end with what
                 was said.
Ollama           the same (`_debug_render_only`) from 0.11.5 on.  Before that a prompt's tokens are
                 counted: a turn that stays open has as many more as the text has, a closed one has
                 the end of the turn and the beginning of the next as well.
vLLM             is told (`continue_final_message`), and shows the prompt's tokens (`/tokenize`).
all              a raw prompt is just longer: nothing to find out.

Asked once for each model, and again when the engine is another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from meshd.backends import listing
from meshd.backends.exchange import Answer, EngineHttp
from meshd.backends.openai_request import EngineKind
from meshd.inference import ModelInfo, Request

RENDERS_SINCE: Final = (0, 11, 5)
"""The first Ollama that shows the prompt of a chat instead of answering it; older ones answer."""

_SAID: Final = " one two three four"
"""Begins with a space, like a token does, so that twice the text has twice the tokens."""
_THOUGHT: Final = "five six seven"
_ASK: Final = {"role": "user", "content": "Count."}
_json: Final = msgspec.json.Encoder().encode


class Continuing:
    """What is known of one engine's models."""

    def __init__(self, http: EngineHttp, ways: Ways) -> None:
        self._http = http
        self._ways = ways
        self._known: dict[tuple[str, str, bool], bool] = {}

    def known(self, model: ModelInfo) -> bool | None:
        """What was found out about plain text so far."""
        return self._known.get((model.name, model.digest, False))

    async def can(self, request: Request, model: ModelInfo) -> bool:
        """Whether the engine goes on after this request's `partial`.  Raises as `EngineHttp.ask`.

        One that does not answer the question cannot, this time.
        """
        if request.raw:
            return not request.partial_reasoning
        return await self.find_out(model, thought=bool(request.partial_reasoning)) or False

    async def find_out(self, model: ModelInfo, *, thought: bool = False) -> bool | None:
        """Ask, unless it is known; `thought`: with thoughts before the text."""
        key = (model.name, model.digest, thought)
        if key not in self._known:
            found = await self._ways.find(self._http, model.name, thought=thought)
            if found is None:
                return None
            self._known[key] = found
        return self._known[key]


class Ways:
    """How one kind of engine is asked."""

    async def find(self, http: EngineHttp, model: str, *, thought: bool) -> bool | None:
        """Whether it goes on, after thoughts if `thought`; None: it did not say."""
        return False


class LlamaWays(Ways):
    """llama.cpp."""

    async def find(self, http: EngineHttp, model: str, *, thought: bool) -> bool | None:
        body = {"model": model, "messages": [_ASK, _said(thought, "reasoning_content")]}
        answer = await http.ask("POST", "/apply-template", _json(body))
        return _ends_well(answer, _field(answer, "prompt"), thought)


class VllmWays(Ways):
    """vLLM; others that take its flags have no way to show what they would do."""

    async def find(self, http: EngineHttp, model: str, *, thought: bool) -> bool | None:
        if thought:
            return False
        body = {
            "model": model,
            "messages": [_ASK, _said(False, "")],
            "add_generation_prompt": False,
            "continue_final_message": True,
            "return_token_strs": True,
        }
        answer = await http.ask("POST", "/tokenize", _json(body))
        strings = listing.json_object(answer.body).get("token_strs") if answer.ok else None
        if not isinstance(strings, list):
            return None if answer.status >= 500 else False
        return bool(strings) and str(strings[-1]).strip("Ġ▁ ") == _SAID.rsplit(" ", 1)[-1]


class OllamaWays(Ways):
    """Ollama; `version` is what it was when it was last looked at."""

    def __init__(self) -> None:
        self.version: tuple[int, ...] = ()

    async def find(self, http: EngineHttp, model: str, *, thought: bool) -> bool | None:
        if self.version >= RENDERS_SINCE:
            body = {
                "model": model,
                "messages": [_ASK, _said(thought, "thinking")],
                "stream": False,
                "_debug_render_only": True,
            }
            answer = await http.ask("POST", "/api/chat", _json(body))
            shown = listing.table(_object(answer), "_debug_info")
            return _ends_well(answer, listing.text(shown, "rendered_template", 1 << 20), thought)
        return False if thought else await self._by_counting(http, model)

    async def _by_counting(self, http: EngineHttp, model: str) -> bool | None:
        asked = await _prompt_tokens(http, "/api/chat", model, {"messages": [_ASK]})
        begun = await _prompt_tokens(
            http, "/api/chat", model, {"messages": [_ASK, _said(False, "")]}
        )
        once = await _prompt_tokens(http, "/api/generate", model, {"raw": True, "prompt": _SAID})
        twice = await _prompt_tokens(
            http, "/api/generate", model, {"raw": True, "prompt": _SAID * 2}
        )
        if not (asked and begun and once and twice):
            return None
        return 0 < begun - asked <= twice - once


async def _prompt_tokens(http: EngineHttp, path: str, model: str, what: dict[str, Any]) -> int:
    """How long a prompt is, by the engine's own count; 0 if it does not tell."""
    body = {"model": model, "stream": False, "options": {"num_predict": 1}, **what}
    answer = await http.ask("POST", path, _json(body))
    return listing.count(_object(answer), "prompt_eval_count")


def _said(thought: bool, field: str) -> dict[str, str]:
    return {"role": "assistant", "content": _SAID, **({field: _THOUGHT} if thought else {})}


def _ends_well(answer: Answer, prompt: str, thought: bool) -> bool | None:
    if not answer.ok:
        return None if answer.status >= 500 else False
    return prompt.endswith(_SAID) and (not thought or _THOUGHT in prompt)


def _field(answer: Answer, name: str) -> str:
    return listing.text(_object(answer), name, 1 << 20)


def _object(answer: Answer) -> dict[str, Any]:
    try:
        return listing.json_object(answer.body) if answer.ok else {}
    except listing.Unreadable:
        return {}


def ways_of(kind: EngineKind) -> Ways:
    """How that kind is asked."""
    if kind is EngineKind.LLAMA_CPP:
        return LlamaWays()
    return VllmWays() if kind is EngineKind.VLLM else Ways()


__all__: Sequence[str] = ["Continuing", "OllamaWays", "Ways", "ways_of"]
