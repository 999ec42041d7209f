"""Backends against real engines: llama.cpp and Ollama, with models whose answers are known."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import trio

from meshd.backends import Backend, BackendFailed, Backends, RunControl
from meshd.config import BackendConfig
from meshd.errors import MeshdError, StreamBroken
from meshd.http import Sweeper
from meshd.inference import (
    Delta,
    FailureKind,
    Image,
    Kind,
    Message,
    ModelInfo,
    Request,
    Sampling,
    TokenLogprob,
    ToolCall,
    Usage,
)
from meshd.machine import real_ports
from meshd.testing.engines import (
    THINK,
    TOOL,
    RealLlama,
    RealOllama,
    why_no_llama,
    why_no_ollama,
)
from meshd.testing.models import ModelKind, Recipe, build, expected_text

needs_llama = pytest.mark.skipif(bool(why_no_llama()), reason=why_no_llama())

COUNTER = Recipe()
THINKING = Recipe(
    kind=ModelKind.SCRIPT,
    script=(b"<think>", b" let", b" me", b" see", b"</think>", b" the", b" answer", b" is", b" 42"),
    think_template=True,
)
CALLING = Recipe(
    kind=ModelKind.SCRIPT,
    script=(
        b"<tool_call>\n",
        b'{"name": "get_weather", "arguments":',
        b' {"city": "Oslo"}}',
        b"\n</tool_call>",
    ),
)
HALVES = Recipe(
    kind=ModelKind.SCRIPT, script=(b" caf", b"\xc3", b"\xa9 ", b"\xf0\x9f", b"\x98\x80", b" end")
)
SLOW = Recipe(dim=128, layers=4, words=2000)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


# --- engines


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Path]:
    folder = tmp_path_factory.mktemp("models")
    known: dict[Recipe, Path] = {}

    def path(recipe: Recipe) -> Path:
        if recipe not in known:
            known[recipe] = folder / f"model-{len(known)}.gguf"
            known[recipe].write_bytes(build(recipe))
        return known[recipe]

    return path


Start = Callable[..., RealLlama]


@pytest.fixture
def llama(gguf: Callable[[Recipe], Path]) -> Iterator[Start]:
    """Starts llama.cpp servers that end with the test."""
    if why_no_llama():
        pytest.skip(why_no_llama())
    engines: list[RealLlama] = []

    def start(recipe: Recipe = COUNTER, **settings: object) -> RealLlama:
        engine = RealLlama(gguf(recipe), **settings)  # type: ignore[arg-type]
        engines.append(engine)
        return engine.start()

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealOllama]:
    """One Ollama with a model for each purpose, for the whole module."""
    if why_no_ollama():
        pytest.skip(why_no_ollama())
    with RealOllama(tmp_path_factory.mktemp("ollama")) as engine:
        engine.load("tiny", build(COUNTER))
        engine.load("thinking", build(THINKING), template=THINK)
        engine.load("calling", build(CALLING), template=TOOL)
        engine.load("halves", build(HALVES))
        engine.load("slow", build(SLOW), parameters={"num_ctx": 4096})
        yield engine


@asynccontextmanager
async def serving(
    claims: Path, *urls: str, bundled: Sequence[Path] = ()
) -> AsyncIterator[Backends]:
    """The manager under test, looking at these engines."""
    sweeper = Sweeper()
    backends = Backends(
        real_ports(),
        sweeper=sweeper,
        node="n" * 26,
        generation=1,
        configured=[BackendConfig(url) for url in urls],
        detect=False,
        claims_dir=claims,
        on_change=lambda: None,
    )
    for path in bundled:
        backends.add_bundled(path, alias="tiny", slots=2, context_tokens=2048, embedding=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        nursery.start_soon(backends.run)
        await backends.first_probe_done()
        yield backends
        nursery.cancel_scope.cancel()


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Backends]]:
    def open_(*urls: str, bundled: Sequence[Path] = ()) -> AbstractAsyncContextManager[Backends]:
        return serving(tmp_path / "claims", *urls, bundled=bundled)

    return open_


Serve = Callable[..., AbstractAsyncContextManager[Backends]]


# --- asking


@dataclass
class Answer:
    text: str = ""
    reasoning: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    usage: Usage | None = None

    async def emit(self, events: Sequence[Delta | Usage]) -> None:
        assert events
        for event in events:
            if isinstance(event, Usage):
                assert event is events[-1]
                self.usage = event
                continue
            assert self.finish is None, "nothing comes after the end"
            self.text += event.text
            self.reasoning += event.reasoning
            self.logprobs += event.logprobs
            self.finish = event.finish_reason
            for call in event.tool_calls:
                self._call(call)

    def _call(self, call: ToolCall) -> None:
        known = self.calls.setdefault(call.index, ["", ""])
        known[0] += call.name
        known[1] += call.arguments


def holder(backends: Backends, name: str) -> tuple[Backend, ModelInfo]:
    found = backends.holders(name)
    assert found, f"nobody has {name}: {backends.rows()}"
    return found[0]


async def ask(backends: Backends, request: Request, control: RunControl | None = None) -> Answer:
    backend, model = holder(backends, request.model)
    answer = Answer()
    await backend.run(request, model, answer.emit, control or RunControl())
    return answer


def chat(model: str = "tiny", **changed: object) -> Request:
    settings: dict[str, object] = {"messages": [Message("user", "hi")], **changed}
    settings.setdefault("sampling", Sampling(temperature=0))
    return Request(Kind.CHAT, model, **settings)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    """Until it is so; the test's own timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - looking at real processes
        await trio.sleep(0.02)


async def get(url: str) -> object:
    return (await trio.to_thread.run_sync(lambda: httpx.get(url, timeout=30))).json()


async def all_slots_idle(engine: RealLlama) -> None:
    while True:
        slots = await get(engine.url + "/slots")
        assert isinstance(slots, list)
        if not any(slot["is_processing"] for slot in slots):
            return


# --- both engines


@pytest.fixture(params=["llama.cpp", "ollama"])
def engine_url(request: pytest.FixtureRequest) -> Callable[[Recipe], str]:
    """The URL of an engine of each kind that has the model."""
    if request.param == "ollama":
        url = request.getfixturevalue("ollama").url
        return lambda recipe: url
    start = request.getfixturevalue("llama")
    names = {THINKING: "thinking", CALLING: "calling", HALVES: "halves", SLOW: "slow"}
    options = ("--kv-f32", "--embedding")
    return lambda recipe: start(recipe, alias=names.get(recipe, "tiny"), options=options).url


Url = Callable[[Recipe], str]


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


# --- ends that are none


async def test_an_abort_frees_the_slot_at_once(llama: Start, serve: Serve) -> None:
    engine = llama(SLOW, alias="slow", context_tokens=4096)
    async with serve(engine.url) as backends:
        control, answer = RunControl(), Answer()
        backend, model = holder(backends, "slow")
        with engine.paced():
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    with pytest.raises(StreamBroken, match="the client left"):
                        await backend.run(chat("slow"), model, answer.emit, control)

                nursery.start_soon(run)
                await until(lambda: len(answer.text) > 30)
                control.abort("the client left")
        await all_slots_idle(engine)
    assert answer.finish is None
    assert expected_text(SLOW).startswith(answer.text)
    assert answer.text != expected_text(SLOW)


async def test_an_abort_ends_ollamas_run(ollama: RealOllama, serve: Serve) -> None:
    async with serve(ollama.url) as backends:
        control, answer = RunControl(), Answer()
        backend, model = holder(backends, "slow")
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises(StreamBroken, match="the client left"):
                    await backend.run(chat("slow"), model, answer.emit, control)

            nursery.start_soon(run)
            await until(lambda: len(answer.text) > 30)
            control.abort("the client left")
        # the runner is free again, and says the right thing from the beginning
        sampling = Sampling(temperature=0, max_tokens=5)
        again = await ask(backends, chat("slow", sampling=sampling))
    assert again.text == expected_text(SLOW, max_tokens=5)
    assert answer.finish is None


async def test_kill_9_in_mid_answer_is_no_end_and_the_engine_is_gone(
    llama: Start, serve: Serve
) -> None:
    engine = llama(SLOW, alias="slow", context_tokens=4096)
    async with serve(engine.url) as backends:
        answer = Answer()
        backend, model = holder(backends, "slow")
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises(MeshdError) as caught:
                    await backend.run(chat("slow"), model, answer.emit, RunControl())
                assert isinstance(caught.value, StreamBroken | BackendFailed)

            nursery.start_soon(run)
            with engine.paced():
                await until(lambda: len(answer.text) > 30)
                engine.kill()
        assert answer.finish is None
        assert expected_text(SLOW).startswith(answer.text)
        await until(lambda: not backends.inventory().backends)
        assert backends.rows()[0].state.startswith("gone: ")


async def test_a_killed_runner_of_ollama_is_a_broken_answer_and_the_next_one_is_whole(
    ollama: RealOllama, serve: Serve
) -> None:
    async with serve(ollama.url) as backends:
        answer = Answer()
        backend, model = holder(backends, "slow")
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises(BackendFailed) as caught:
                    await backend.run(chat("slow"), model, answer.emit, RunControl())
                assert caught.value.failure.kind == FailureKind.BROKEN

            nursery.start_soon(run)
            await until(lambda: len(answer.text) > 30)
            for pid in ollama.runner_pids():
                os.kill(pid, signal.SIGKILL)
        assert answer.finish is None
        assert expected_text(SLOW).startswith(answer.text)
        sampling = Sampling(temperature=0, max_tokens=5)
        again = await ask(backends, chat("slow", sampling=sampling))
    assert again.text == expected_text(SLOW, max_tokens=5)


async def test_a_model_that_is_gone_is_not_found(ollama: RealOllama, serve: Serve) -> None:
    async with serve(ollama.url) as backends:
        backend, _ = holder(backends, "tiny")
        with pytest.raises(BackendFailed, match="not found") as caught:
            await backend.run(chat(), ModelInfo("nope:latest"), Answer().emit, RunControl())
    assert caught.value.failure.kind == FailureKind.NOT_FOUND
    assert caught.value.failure.status == 404


async def test_a_prompt_that_does_not_fit_is_an_overflow(llama: Start, serve: Serve) -> None:
    engine = llama(context_tokens=256)
    async with serve(engine.url) as backends:
        assert holder(backends, "tiny")[1].context_tokens == 256
        with pytest.raises(BackendFailed) as caught:
            await ask(backends, chat(messages=[Message("user", "bababa " * 400)]))
    assert caught.value.failure.kind == FailureKind.CONTEXT_OVERFLOW
    assert caught.value.failure.status == 400


async def test_an_engine_that_is_killed_and_started_again_is_back(
    llama: Start, serve: Serve
) -> None:
    engine = llama()
    async with serve(engine.url) as backends:
        backend, model = holder(backends, "tiny")
        engine.kill()
        with pytest.raises(MeshdError):
            await backend.run(chat(), model, Answer().emit, RunControl())
        await until(lambda: not backends.inventory().backends)
        await trio.to_thread.run_sync(engine.start)
        await until(lambda: bool(backends.inventory().backends))
        assert (await ask(backends, chat())).text == expected_text()


# --- one engine's own ways


async def test_logprobs_of_llama_cpp(llama: Start, serve: Serve) -> None:
    async with serve(llama().url) as backends:
        sampling = Sampling(temperature=0, max_tokens=3)
        request = chat(logprobs=True, top_logprobs=2, sampling=sampling)
        answer = await ask(backends, request)
        bare = await ask(backends, chat(logprobs=True, sampling=sampling))
    assert [token.token for token in answer.logprobs] == [" bababa", " dababa", " fababa"]
    assert [len(token.top) for token in answer.logprobs] == [2, 2, 2]
    assert answer.logprobs[0].bytes == list(b" bababa")
    assert [len(token.top) for token in bare.logprobs] == [0, 0, 0]


async def test_logprobs_of_an_ollama_that_has_none_are_refused(
    ollama: RealOllama, serve: Serve
) -> None:
    async with serve(ollama.url) as backends:
        with pytest.raises(BackendFailed, match="logprobs") as caught:
            await ask(backends, chat(logprobs=True))
    assert caught.value.failure.kind == FailureKind.UNSUPPORTED


async def test_tools_on_a_model_without_them_are_refused_by_ollama(
    ollama: RealOllama, serve: Serve
) -> None:
    async with serve(ollama.url) as backends:
        with pytest.raises(BackendFailed, match="does not support tools") as caught:
            await ask(backends, chat(tools=TOOLS))
    assert caught.value.failure.kind == FailureKind.UNSUPPORTED


async def test_a_smaller_num_ctx_does_not_reload_the_model(
    ollama: RealOllama, serve: Serve
) -> None:
    async with serve(ollama.url) as backends:
        await ask(backends, chat(sampling=Sampling(temperature=0, max_tokens=1)))
        await until(lambda: holder(backends, "tiny")[1].resident)
        before = set(ollama.runner_pids())
        options = {"num_ctx": 1024}
        answer = await ask(backends, chat(options=options))
        assert answer.text == expected_text()
        assert set(ollama.runner_pids()) == before


async def test_ollama_loads_and_unloads_on_request(ollama: RealOllama, serve: Serve) -> None:
    async with serve(ollama.url) as backends:
        loaded = await ask(backends, Request(Kind.CHAT, "halves"))
        assert loaded.finish == "load"
        await until(lambda: holder(backends, "halves")[1].resident)
        unloaded = await ask(backends, Request(Kind.CHAT, "halves", keep_alive=0))
        assert unloaded.finish == "unload"
        await until(lambda: not holder(backends, "halves")[1].resident)


async def test_a_full_queue_of_ollama_is_busy(tmp_path: Path, serve: Serve) -> None:
    if why_no_ollama():
        pytest.skip(why_no_ollama())
    with RealOllama(tmp_path, parallel=1, max_queue=1) as engine:
        engine.load("slow", build(SLOW), parameters={"num_ctx": 4096})
        kinds: list[str] = []
        async with serve(engine.url) as backends:
            backend, model = holder(backends, "slow")

            async def one() -> None:
                request = chat("slow", sampling=Sampling(temperature=0, max_tokens=200))
                try:
                    await backend.run(request, model, Answer().emit, RunControl())
                except BackendFailed as error:
                    kinds.append(error.failure.kind)

            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(one)
    assert kinds
    assert set(kinds) == {FailureKind.BUSY}


@needs_llama
async def test_a_bundled_engine_is_started_again_after_kill_9(
    gguf: Callable[[Recipe], Path], serve: Serve
) -> None:
    async with serve(bundled=[gguf(COUNTER)]) as backends:
        (info,) = backends.inventory().backends
        assert info.models[0].digest.startswith("gguf-")
        url = backends.rows()[0].url
        process = await trio.to_thread.run_sync(_pid_serving, url)
        os.kill(process, signal.SIGKILL)
        await until(lambda: bool(backends.rows()[0].url) and backends.rows()[0].url != url)
        await until(lambda: bool(backends.inventory().backends))
        assert (await ask(backends, chat())).text == expected_text()


def _pid_serving(url: str) -> int:
    """Which child of this process has that port; `ss` is not everywhere."""
    import psutil

    port = int(url.rpartition(":")[2])
    for child in psutil.Process().children(recursive=True):
        for connection in child.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                return child.pid
    raise AssertionError(f"no child serves {url}")
