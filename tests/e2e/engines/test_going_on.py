"""Real engines go on with what another one began, and those that would not are found out."""

from __future__ import annotations

import msgspec
import pytest

from meshd.backends import BackendFailed
from meshd.inference import FailureKind, Kind, Request, Sampling
from meshd.testing.engines import RealOllama
from meshd.testing.models import expected_text
from tests.e2e.engines.asking import COUNTER, THINKING, Serve, Start, Url, ask, chat, holder

WHOLE = expected_text()
SAID = WHOLE[: len(WHOLE) // 2].rsplit(" ", 1)[0]
GREEDY = Sampling(temperature=0)


def begun(request: Request, said: str = SAID) -> Request:
    return msgspec.structs.replace(request, partial=said)


async def test_a_chat_goes_on_after_what_was_said(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        answer = await ask(backends, begun(chat()))
    assert SAID + answer.text == WHOLE


async def test_a_completion_goes_on_after_what_was_said(engine_url: Url, serve: Serve) -> None:
    first, second = (f" {word}" for word in SAID.split()[:2])
    for raw in (True, False):
        request = Request(Kind.COMPLETION, "tiny", prompt=first, raw=raw, sampling=GREEDY)
        async with serve(engine_url(COUNTER)) as backends:
            alone = await ask(backends, request)
            rest = await ask(backends, begun(request, second if raw else SAID))
        said = second if raw else SAID
        assert said + rest.text == alone.text


async def test_an_ollama_whose_template_closes_the_turn_is_found_out(
    ollama: RealOllama, serve: Serve
) -> None:
    async with serve(ollama.url) as backends:
        with pytest.raises(BackendFailed, match="cannot go on") as caught:
            await ask(backends, begun(chat("closed")))
        assert caught.value.failure.kind == FailureKind.UNSUPPORTED
        assert (await ask(backends, begun(chat("tiny")))).text


async def test_llama_cpp_tells_before_anybody_needs_it(llama: Start, serve: Serve) -> None:
    async with serve(llama().url) as backends:
        assert holder(backends, "tiny")[1].continues is True


async def test_llama_cpp_goes_on_after_thoughts_too(llama: Start, serve: Serve) -> None:
    request = msgspec.structs.replace(
        chat(), partial=" the answer", partial_reasoning=" let me see"
    )
    async with serve(llama(THINKING).url) as backends:
        answer = await ask(backends, request)
    assert (answer.text, answer.reasoning) == (" is 42", "")
