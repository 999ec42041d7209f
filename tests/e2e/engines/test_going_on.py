"""Real engines go on with what another one began, and those that would not are found out."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from meshd.backends import BackendFailed, Backends, RunControl
from meshd.inference import Delta, FailureKind, Kind, Request, Sampling, Usage
from meshd.testing.engines import RealOllama
from meshd.testing.models import expected_text
from tests.e2e.engines.asking import (
    COUNTER,
    PONDERING,
    THINKING,
    WHITE,
    Answer,
    Serve,
    Start,
    Url,
    ask,
    chat,
    holder,
)

WHOLE = expected_text()
SAID = WHOLE[: len(WHOLE) // 2].rsplit(" ", 1)[0]
GREEDY = Sampling(temperature=0)


def begun(request: Request, said: str = SAID) -> Request:
    return msgspec.structs.replace(request, partial=said)


async def test_a_chat_goes_on_after_what_was_said(engine_url: Url, serve: Serve) -> None:
    async with serve(engine_url(COUNTER)) as backends:
        answer = await ask(backends, begun(chat()))
    assert SAID + answer.text == WHOLE


async def every_cut(backends: Backends, name: str, sampling: Sampling = GREEDY) -> None:
    """Cut after each piece of its answer, and gone on with: every time it is the whole answer."""
    whole, pieces = Answer(), list[Delta]()

    async def note(items: Sequence[Delta | Usage]) -> None:
        pieces.extend(item for item in items if isinstance(item, Delta) and item.has_content())
        await whole.emit(items)

    backend, model = holder(backends, name)
    asked = chat(name, sampling=sampling)
    await backend.run(asked, model, note, RunControl())
    for cut in range(1, len(pieces) + 1):
        said = "".join(piece.text for piece in pieces[:cut])
        thought = "".join(piece.reasoning for piece in pieces[:cut])
        request = msgspec.structs.replace(asked, partial=said, partial_reasoning=thought)
        rest = await ask(backends, request)
        assert thought + rest.reasoning == whole.reasoning, (thought, said)
        assert said + rest.text == whole.text, (thought, said)
        assert rest.finish == whole.finish


async def test_no_white_space_and_no_half_character_is_lost_or_doubled(
    engine_url: Url, serve: Serve
) -> None:
    async with serve(engine_url(WHITE)) as backends:
        await every_cut(backends, "white")
        # What may be the beginning of a stop string is kept back: half of it is never at the seam.
        await every_cut(
            backends, "white", Sampling(temperature=0, stop=["wo \n caf\xe9 =", " ok\n\n!"])
        )
        await every_cut(
            backends, "white", Sampling(temperature=0, stop=[":\n\U0001f600 ok\n\n\nend"])
        )


async def test_thoughts_go_on_too(llama: Start, serve: Serve) -> None:
    async with serve(llama(PONDERING, alias="pondering").url) as backends:
        await every_cut(backends, "pondering")


async def test_tokens_that_came_in_one_piece_count_towards_the_maximum(
    llama: Start, serve: Serve
) -> None:
    two_left = chat(
        partial="One.\n\n two", partial_tokens=2, sampling=Sampling(temperature=0, max_tokens=2)
    )
    none_left = msgspec.structs.replace(two_left, sampling=Sampling(temperature=0, max_tokens=1))
    async with serve(llama(WHITE).url) as backends:
        answer = await ask(backends, two_left)
        nothing = await ask(backends, none_left)
    assert (answer.text, answer.finish) == (" \n", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 1 + 1, "one of which the entry did not see"
    assert (nothing.text, nothing.finish) == ("", "length")


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
