"""What both engines answer, streamed whole."""

from __future__ import annotations

import json

import pytest
import trio

from meshd.backends import BackendFailed, RunControl
from meshd.inference import FailureKind, Image, Kind, Message, Request, Sampling, ToolCall
from meshd.testing.models import expected_text
from tests.e2e.engines.asking import (
    COUNTER,
    HALVES,
    THINKING,
    Answer,
    Serve,
    Url,
    ask,
    chat,
    holder,
)
from tests.e2e.weather import CALLING, TOOLS


async def test_a_chat_is_streamed_whole(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        answer = await ask(backends, chat())
    assert answer.text == expected_text()
    assert answer.finish == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 513)
    assert answer.usage.total_ns > answer.usage.completion_ns > 0


async def test_many_chats_at_once_do_not_mix(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        answers: list[Answer] = []

        async def one(limit: int) -> None:
            sampling = Sampling(temperature=0, max_tokens=limit)
            answer = await ask(backends, chat(sampling=sampling))
            assert answer.text == expected_text(max_tokens=limit)
            answers.append(answer)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(one, 20 + number)
    assert len(answers) == 12
    assert {answer.finish for answer in answers} == {"length"}


async def test_a_raw_completion_goes_on_where_the_prompt_ends(
    engine_url: Url, serve: Serve
) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        said = expected_text(max_tokens=5)
        sampling = Sampling(temperature=0, max_tokens=4)
        request = Request(Kind.COMPLETION, "tiny", prompt="x\n" + said, raw=True, sampling=sampling)
        answer = await ask(backends, request)
    assert answer.text == expected_text(after=said, max_tokens=4)
    assert answer.finish == "length"


async def test_ollamas_generate_goes_through_the_template(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        sampling = Sampling(temperature=0, max_tokens=4)
        request = Request(Kind.COMPLETION, "tiny", prompt="hi", sampling=sampling)
        answer = await ask(backends, request)
    assert answer.text == expected_text(max_tokens=4)


async def test_a_trailing_assistant_message_is_continued(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        said = expected_text(max_tokens=5)
        messages = [Message("user", "hi"), Message("assistant", said)]
        sampling = Sampling(temperature=0, max_tokens=3)
        answer = await ask(backends, chat(messages=messages, sampling=sampling))
    assert answer.text == expected_text(after=said, max_tokens=3)


async def test_a_stop_string_ends_it(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        answer = await ask(backends, chat(sampling=Sampling(temperature=0, stop=["fababa"])))
    assert answer.text.rstrip() == expected_text(max_tokens=2)
    assert answer.finish == "stop"


async def test_characters_split_over_tokens_arrive_whole(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(HALVES)) as backends:
        answer = await ask(backends, chat("halves"))
    assert answer.text.strip() == "café 😀 end"


async def test_thinking_is_reasoning(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(THINKING)) as backends:
        assert "thinking" in holder(backends, "thinking")[1].capabilities
        answer = await ask(backends, chat("thinking", think=True))
    assert answer.reasoning.strip() == "let me see"
    assert answer.text.strip() == "the answer is 42"


async def test_thinking_asked_of_a_model_that_does_not_is_refused(
    engine_url: Url, serve: Serve
) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        with pytest.raises(BackendFailed, match="does not support thinking") as caught:
            await ask(backends, chat(think=True))
    assert caught.value.failure.kind == FailureKind.UNSUPPORTED


async def test_a_tool_is_called(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(CALLING)) as backends:
        assert "tools" in holder(backends, "calling")[1].capabilities
        answer = await ask(backends, chat("calling", tools=TOOLS))
    ((name, arguments),) = answer.calls.values()
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Oslo"})
    assert answer.finish == "tool_calls"


async def test_the_answer_of_a_tool_is_understood(engine_url: Url, serve: Serve) -> None:
    messages = [
        Message("user", "how is the weather in Oslo?"),
        Message("assistant", tool_calls=[ToolCall(0, "call_1", "get_weather", '{"city": "Oslo"}')]),
        Message("tool", "rain", tool_call_id="call_1", name="get_weather"),
    ]
    async with serve(engine_url(CALLING)) as backends:
        answer = await ask(backends, chat("calling", messages=messages, tools=TOOLS))
    assert answer.finish == "tool_calls"


async def test_images_are_refused_where_nobody_sees(engine_url: Url, serve: Serve) -> None:
    picture = chat(messages=[Message("user", "what?", images=[Image("iVBORw0KGgo=")])])
    async with serve(engine_url(COUNTER)) as backends:
        with pytest.raises(BackendFailed, match="does not take images") as caught:
            await ask(backends, picture)
    assert caught.value.failure.kind == FailureKind.UNSUPPORTED


async def test_json_by_a_schema(engine_url: Url, serve: Serve) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "warm": {"type": "boolean"}},
        "required": ["city", "warm"],
    }
    async with serve(engine_url(COUNTER)) as backends:
        sampling = Sampling(temperature=0, max_tokens=400)
        answer = await ask(backends, chat(json_mode=True, json_schema=schema, sampling=sampling))
    data = json.loads(answer.text)
    assert isinstance(data["city"], str)
    assert isinstance(data["warm"], bool)


async def test_any_json_object(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        sampling = Sampling(temperature=0, max_tokens=400)
        answer = await ask(backends, chat(json_mode=True, sampling=sampling))
    assert isinstance(json.loads(answer.text), dict)


async def test_embeddings_are_of_length_one(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        backend, model = holder(backends, "tiny")
        request = Request(Kind.EMBED, "tiny", inputs=["bababa", "dababa fababa", "bababa"])
        result = await backend.embed(request, model, RunControl())
        plain = Request(Kind.EMBED, "tiny", inputs=["bababa"], normalise=False)
        raw = await backend.embed(plain, model, RunControl())
    first, second, third = result.vectors
    assert first == pytest.approx(third, abs=1e-4)
    assert first != pytest.approx(second, abs=1e-2)
    assert sum(x * x for x in first) == pytest.approx(1.0, abs=1e-3)
    assert sum(x * x for x in raw.vectors[0]) != pytest.approx(1.0, abs=1e-2)
    assert result.prompt_tokens > 0


async def test_show_has_ollamas_form(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        backend, model = holder(backends, "tiny")
        shown = await backend.show(model)
    assert {"template", "details", "model_info", "capabilities"} <= shown.keys()
    assert "completion" in shown["capabilities"]


async def test_the_inventory_says_what_is_known(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        _, model = holder(backends, "TINY")
    assert model.parameter_size == "174K"
    assert model.context_tokens in (2048, 4096)
    assert model.size_bytes > 600_000
