"""The real `openai` and `ollama` clients behind one question, so that tests can cross them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import ollama
import openai

from meshd.testing.daemons import Daemon

DIALECTS = ("openai", "ollama")
QUESTION = [{"role": "user", "content": "hi"}]


@dataclass
class Reply:
    """What came, whichever client it came through."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """(name, arguments as JSON)"""
    logprobs: list[tuple[str, int]] = field(default_factory=list)
    """(token, number of alternatives)"""
    finish: str | None = None
    usage: tuple[int, int] | None = None
    """(prompt tokens, completion tokens)"""


def ask(daemon: Daemon, dialect: str, model: str, **want: Any) -> Reply:
    """Ask it.  `want`: stream, messages or prompt (and raw), max_tokens, temperature, seed, stop,
    tools, think, schema, top_logprobs."""
    want = {"temperature": 0.0, **want}
    return (_ask_openai if dialect == "openai" else _ask_ollama)(daemon, model, want)


# --- OpenAI


def _ask_openai(daemon: Daemon, model: str, want: dict[str, Any]) -> Reply:
    body = {k: want[k] for k in ("max_tokens", "temperature", "seed", "stop", "tools") if k in want}
    body |= {"model": model, "stream": want["stream"]}
    if want["stream"]:
        body["stream_options"] = {"include_usage": True}
    if "think" in want:
        body["reasoning_effort"] = "medium" if want["think"] else "none"
    if "schema" in want:
        schema = {"name": "answer", "schema": want["schema"]}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    with openai.OpenAI(base_url=f"{daemon.api_url}/v1", api_key="none", max_retries=0) as client:
        if "prompt" in want:
            made = client.completions.create(prompt=want["prompt"], **body)
        else:
            if "top_logprobs" in want:
                body |= {"logprobs": True, "top_logprobs": want["top_logprobs"]}
            messages = want.get("messages", QUESTION)
            made = client.chat.completions.create(messages=messages, **body)
        reply = Reply()
        for part in made if want["stream"] else [made]:
            _add_openai(reply, part)
        return reply


def _add_openai(reply: Reply, part: Any) -> None:
    if part.usage is not None:
        reply.usage = (part.usage.prompt_tokens, part.usage.completion_tokens)
    for choice in part.choices:
        reply.finish = choice.finish_reason or reply.finish
        message = getattr(choice, "delta", None) or getattr(choice, "message", None)
        if message is None:  # of /v1/completions
            reply.text += choice.text
            continue
        reply.text += message.content or ""
        reply.reasoning += getattr(message, "reasoning_content", None) or ""
        for call in message.tool_calls or ():
            _add_call(reply, call)
        if choice.logprobs is not None:
            content = choice.logprobs.content or ()
            reply.logprobs += [(token.token, len(token.top_logprobs)) for token in content]


def _add_call(reply: Reply, call: Any) -> None:
    """In a stream a call comes in pieces, by its index."""
    index = getattr(call, "index", None)
    if index is None or index >= len(reply.calls):
        assert call.id
        reply.calls.append((call.function.name, call.function.arguments))
    else:
        name, arguments = reply.calls[index]
        reply.calls[index] = (name, arguments + (call.function.arguments or ""))


# --- Ollama


def _ask_ollama(daemon: Daemon, model: str, want: dict[str, Any]) -> Reply:
    names = {"max_tokens": "num_predict", "temperature": "temperature", "seed": "seed"}
    options = {option: want[name] for name, option in names.items() if name in want}
    if "stop" in want:
        options["stop"] = want["stop"]
    body: dict[str, Any] = {"model": model, "stream": want["stream"], "options": options}
    if "think" in want:
        body["think"] = want["think"]
    if "schema" in want:
        body["format"] = want["schema"]
    if "top_logprobs" in want:
        body |= {"logprobs": True, "top_logprobs": want["top_logprobs"]}
    client = ollama.Client(host=daemon.api_url)
    if "prompt" in want:
        made: Any = client.generate(prompt=want["prompt"], raw=want.get("raw", False), **body)
    else:
        messages = want.get("messages", QUESTION)
        made = client.chat(messages=messages, tools=want.get("tools"), **body)
    reply = Reply()
    for part in made if want["stream"] else [made]:
        _add_ollama(reply, part)
    return reply


def _add_ollama(reply: Reply, part: Any) -> None:
    message = getattr(part, "message", None)
    if message is None:
        reply.text += part.response or ""
        reply.reasoning += part.thinking or ""
    else:
        reply.text += message.content or ""
        reply.reasoning += message.thinking or ""
        for call in message.tool_calls or ():
            reply.calls.append((call.function.name, json.dumps(dict(call.function.arguments))))
    for token in part.logprobs or ():
        reply.logprobs.append((token.token, len(token.top_logprobs or ())))
    if part.done:
        assert reply.finish is None
        reply.finish = part.done_reason
        reply.usage = (part.prompt_eval_count or 0, part.eval_count or 0)
