"""What engines show of themselves, and whether they go on after what another one said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from meshd.backends.openai_request import EngineKind
from meshd.backends.ways import Asking, Form, NotSaid, OllamaWays, Point, Ways, ways_of
from meshd.inference import Kind, Message, ModelInfo, Request

EXACT, TRIMS = Form(), Form(trims=True)
Answers = Callable[[str, dict[str, Any]], dict[str, Any]]


async def find(ways: Ways, answers: Answers, point: Point = Point.IN_TEXT) -> Form | None:
    return await ways.find(asking(answers), point)


def asking(answers: Answers) -> Asking:
    async def ask(path: str, **what: Any) -> dict[str, Any]:
        return answers(path, what)

    return cast("Asking", ask)


def chatml(
    messages: list[dict[str, Any]], *, opens: bool, thinks: str = "", trims: bool = False
) -> str:
    """A prompt; `opens`: a trailing answer stays open.  `thinks`: the field that it renders."""
    prompt = ""
    for message in messages:
        content = message["content"]
        prompt += f"<|{message['role']}|>"
        if thinks and thinks in message:
            prompt += "<think>\n" + message[thinks]
            if opens and not content:
                return prompt
            prompt += "\n</think>\n\n"
        prompt += content.strip() if trims else content
        if message is messages[-1] and message["role"] == "assistant" and opens:
            return prompt
        prompt += "<|end|>"
    return prompt + "<|assistant|>"


def shows(field: str, **template: Any) -> Answers:
    """An engine that shows its prompts."""

    def answer(path: str, what: dict[str, Any]) -> dict[str, Any]:
        prompt = chatml(what["messages"], **template)
        return {"_debug_info": {field: prompt}} if path == "/api/chat" else {field: prompt}

    return answer


LLAMA = ways_of(EngineKind.LLAMA_CPP)


@pytest.mark.parametrize(
    ("template", "point", "form"),
    [
        ({"opens": True}, Point.IN_TEXT, EXACT),
        ({"opens": True, "trims": True}, Point.IN_TEXT, TRIMS),
        ({"opens": False}, Point.IN_TEXT, None),
        ({"opens": True, "thinks": "reasoning_content"}, Point.IN_THOUGHTS, EXACT),
        ({"opens": True, "thinks": "reasoning_content"}, Point.IN_TEXT_AFTER_THOUGHTS, EXACT),
        ({"opens": True}, Point.IN_THOUGHTS, None),
        ({"opens": True}, Point.IN_TEXT_AFTER_THOUGHTS, None),
    ],
)
async def test_llama_cpp_shows_the_prompt(
    template: dict[str, Any], point: Point, form: Form | None
) -> None:
    assert await find(LLAMA, shows("prompt", **template), point) == form


def ollama(*version: int) -> OllamaWays:
    ways = OllamaWays()
    ways.version = version
    return ways


async def test_an_ollama_whose_template_closes_the_turn_is_asked_with_a_raw_prompt() -> None:
    shown = shows("rendered_template", opens=False, thinks="thinking")
    ways = ollama(0, 33, 0)
    assert await find(ways, shown) == Form(raw=True)
    form = await find(ways, shown, Point.IN_THOUGHTS)
    assert form == Form(raw=True, opening="<think>\n", closing="\n</think>\n\n")
    request = Request(
        Kind.CHAT,
        "tiny",
        messages=[Message("user", "hi")],
        partial="The ",
        partial_reasoning="let me",
        think=True,
    )
    raw = await ways.raw(asking(shown), request, form)
    assert raw.prompt == ("<|user|>hi<|end|><|assistant|><think>\nlet me\n</think>\n\nThe ")
    assert (raw.raw, raw.messages, raw.think, raw.goes_on()) == (True, [], None, False)


async def test_an_ollama_that_writes_the_past_otherwise_than_it_is_said_does_not_go_on() -> None:
    def answers(path: str, what: dict[str, Any]) -> dict[str, Any]:
        prompt = chatml(what["messages"], opens=False).replace("<|assistant|> one", "<|final|> one")
        return {"_debug_info": {"rendered_template": prompt}}

    assert await find(ollama(0, 33, 0), answers) is None


def counts(more: int) -> Answers:
    """An engine that only counts: a chat with an answer has so many more tokens."""

    def answer(path: str, what: dict[str, Any]) -> dict[str, Any]:
        if prompt := what.get("prompt"):
            count = 1 + len(prompt.split(" ")) - 1 + prompt.count("\n")
        else:
            count = 10 + (more if len(what["messages"]) > 1 else 0)
        return {"usage": {"prompt_tokens": count}, "prompt_eval_count": count}

    return answer


COUNTING = [
    ways_of(EngineKind.SGLANG),
    ways_of(EngineKind.LM_STUDIO),
    ways_of(EngineKind.MLX),
    ways_of(EngineKind.OTHER),
    ollama(0, 9, 3),
]


@pytest.mark.parametrize("ways", COUNTING)
@pytest.mark.parametrize(
    ("more", "form"), [(5, EXACT), (4, TRIMS), (8, None), (0, None), (2, None)]
)
async def test_others_are_asked_how_long_the_prompt_is(
    ways: Ways, more: int, form: Form | None
) -> None:
    assert await find(ways, counts(more)) == form
    assert await find(ways, counts(more), Point.IN_THOUGHTS) is None


@pytest.mark.parametrize(
    ("kind", "flagged"),
    [
        (EngineKind.SGLANG, True),
        (EngineKind.OTHER, True),
        (EngineKind.LM_STUDIO, False),
        (EngineKind.MLX, False),
    ],
)
async def test_those_that_know_the_flag_are_given_it(kind: EngineKind, flagged: bool) -> None:
    seen: list[bool] = []

    def answers(path: str, what: dict[str, Any]) -> dict[str, Any]:
        if len(what.get("messages", ())) > 1:
            seen.append(bool(what.get("continue_final_message")))
        return counts(5)(path, what)

    await find(ways_of(kind), answers)
    assert seen == [flagged]


async def test_vllm_shows_the_tokens_and_counts_where_it_does_not() -> None:
    vllm = ways_of(EngineKind.VLLM)

    def shown(path: str, what: dict[str, Any]) -> dict[str, Any]:
        prompt = chatml(what["messages"], opens=True, trims=True, thinks="reasoning_content")
        return {"token_strs": [token.replace(" ", "Ġ").replace("\n", "Ċ") for token in prompt]}

    assert await find(vllm, shown) == TRIMS
    assert await find(vllm, shown, Point.IN_TEXT_AFTER_THOUGHTS) == TRIMS
    assert await find(vllm, shown, Point.IN_THOUGHTS) is None
    assert await find(vllm, counts(5)) == EXACT


async def test_an_engine_that_does_not_say_is_asked_again_next_time() -> None:
    with pytest.raises(NotSaid):
        await find(ways_of(EngineKind.MLX), lambda path, what: {})


def test_an_ollama_is_asked_with_the_context_that_its_model_is_loaded_with() -> None:
    ways = OllamaWays()
    loaded = ModelInfo("tiny", resident=True, context_tokens=8192)
    assert ways.always(loaded) == {"options": {"num_ctx": 8192}}
    assert ways.always(ModelInfo("tiny", context_tokens=8192)) == {}
