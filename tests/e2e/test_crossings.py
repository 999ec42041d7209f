"""Every dialect on every kind of engine, here and on another node: real engines, real clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import ollama
import openai
import pytest

from meshd.testing.daemons import Daemon, joined
from meshd.testing.engines import THINK, TOOL, RealLlama, RealOllama, why_no_llama, why_no_ollama
from meshd.testing.models import ModelKind, Recipe, build, expected_text
from tests.e2e.clients import DIALECTS, QUESTION, ask
from tests.e2e.weather import CALLING, TOOLS

RECIPES = {
    "tiny": Recipe(),
    "twin": Recipe(),
    "dice": Recipe(kind=ModelKind.RANDOM),
    "thinker": Recipe(
        kind=ModelKind.SCRIPT,
        script=(b"<think>", b" let", b" me", b" see", b"</think>", b" it", b" is", b" 42"),
        think_template=True,
    ),
    "caller": CALLING,
}
TEMPLATES = {"thinker": THINK, "caller": TOOL}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)
ENGINES = ("llama", "ollama")

on_every_crossing = pytest.mark.parametrize(
    ("entry", "engine", "dialect"),
    [(entry, engine, dialect) for entry in "ab" for engine in ENGINES for dialect in DIALECTS],
)
streamed_or_not = pytest.mark.parametrize("stream", [True, False])

Mesh = dict[str, Daemon]


def model_of(engine: str, name: str) -> str:
    """Each model is there under a name of its own on each engine; `twin` alone is on both."""
    return f"{name}-on-{engine}"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """`a` has llama.cpp, `b` has Ollama."""
    if why := why_no_llama() or why_no_ollama():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("crossings")
    with ExitStack() as stack:
        urls = []
        for name, recipe in RECIPES.items():
            gguf = folder / f"{name}.gguf"
            gguf.write_bytes(build(recipe))
            alias = name if name == "twin" else model_of("llama", name)
            options = ("--kv-f32", "--embedding")
            urls.append(stack.enter_context(RealLlama(gguf, alias=alias, options=options)).url)
        settings = {"OLLAMA_MAX_LOADED_MODELS": "8"}
        server = stack.enter_context(RealOllama(folder / "ollama", settings=settings))
        for name in RECIPES:
            alias = name if name == "twin" else model_of("ollama", name)
            template = TEMPLATES.get(name)
            more = {"template": template} if template else {}
            server.load(alias, (folder / f"{name}.gguf").read_bytes(), **more)
        a = Daemon(folder / "a", "a", backends=urls)
        b = Daemon(folder / "b", "b", backends=[server.url])
        stack.callback(b.close)
        stack.callback(a.close)
        a.start()
        joined(a, [b])
        for daemon in (a, b):
            daemon.wait_until(
                lambda status: sum(node.models for node in status.nodes) == 2 * len(RECIPES),
                "it knows the models of both engines",
            )
        engines = {row.engine for daemon in (a, b) for row in daemon.status().backends}
        assert engines == {"llama.cpp", "ollama"}
        yield {"a": a, "b": b}


# --- text


@streamed_or_not
@on_every_crossing
def test_a_chat(mesh: Mesh, entry: str, engine: str, dialect: str, stream: bool) -> None:
    reply = ask(mesh[entry], dialect, model_of(engine, "tiny"), stream=stream, max_tokens=40)
    assert reply.text.strip() == expected_text(max_tokens=40).strip()
    assert reply.finish == "length"
    assert reply.usage == (10, 40)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_whole_chat_from_the_other_node(mesh: Mesh, engine: str, dialect: str) -> None:
    entry = {"llama": "b", "ollama": "a"}[engine]
    reply = ask(mesh[entry], dialect, model_of(engine, "tiny"), stream=True)
    assert reply.text.strip() == expected_text().strip()
    assert reply.finish == "stop"
    assert reply.usage == (10, 513)


@streamed_or_not
@on_every_crossing
def test_a_prompt(mesh: Mesh, entry: str, engine: str, dialect: str, stream: bool) -> None:
    said = expected_text(max_tokens=5)
    model = model_of(engine, "tiny")
    want = {"stream": stream, "max_tokens": 4, "prompt": f"x\n{said}", "raw": True}
    reply = ask(mesh[entry], dialect, model, **want)
    assert reply.text.strip() == expected_text(after=said, max_tokens=4).strip()
    assert reply.finish == "length"


@on_every_crossing
def test_a_stop_string(mesh: Mesh, entry: str, engine: str, dialect: str) -> None:
    reply = ask(mesh[entry], dialect, model_of(engine, "tiny"), stream=False, stop=["fababa"])
    assert reply.text.strip() == expected_text(max_tokens=2).strip()
    assert reply.finish == "stop"


@on_every_crossing
def test_a_seed(mesh: Mesh, entry: str, engine: str, dialect: str) -> None:
    def say(seed: int) -> str:
        want = {"stream": False, "max_tokens": 12, "temperature": 1.0, "seed": seed}
        return ask(mesh[entry], dialect, model_of(engine, "dice"), **want).text

    assert say(7) == say(7)
    assert len({say(seed) for seed in (7, 8, 9)}) > 1


# --- tools, reasoning, formats


@streamed_or_not
@on_every_crossing
def test_a_tool_call(mesh: Mesh, entry: str, engine: str, dialect: str, stream: bool) -> None:
    model = model_of(engine, "caller")
    reply = ask(mesh[entry], dialect, model, stream=stream, tools=TOOLS)
    assert [(name, json.loads(arguments)) for name, arguments in reply.calls] == [
        ("get_weather", {"city": "Oslo"})
    ]
    assert reply.finish == {"openai": "tool_calls", "ollama": "stop"}[dialect]
    assert "tool_call" not in reply.text


@on_every_crossing
def test_the_answer_of_a_tool(mesh: Mesh, entry: str, engine: str, dialect: str) -> None:
    arguments = {"city": "Oslo"}
    call: dict[str, object] = {"function": {"name": "get_weather", "arguments": arguments}}
    answer = {"role": "tool", "content": "rain"}
    if dialect == "openai":
        function = {"name": "get_weather", "arguments": json.dumps(arguments)}
        call = {"id": "call_1", "type": "function", "function": function}
        answer["tool_call_id"] = "call_1"
    messages = [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}, answer]
    model = model_of(engine, "caller")
    reply = ask(mesh[entry], dialect, model, stream=False, tools=TOOLS, messages=messages)
    assert reply.calls, "it says the same whatever it is told"


@streamed_or_not
@on_every_crossing
def test_reasoning(mesh: Mesh, entry: str, engine: str, dialect: str, stream: bool) -> None:
    reply = ask(mesh[entry], dialect, model_of(engine, "thinker"), stream=stream, think=True)
    assert reply.reasoning.strip() == "let me see"
    assert reply.text.strip() == "it is 42"


@on_every_crossing
def test_a_json_schema(mesh: Mesh, entry: str, engine: str, dialect: str) -> None:
    model = model_of(engine, "tiny")
    reply = ask(mesh[entry], dialect, model, stream=False, schema=SCHEMA, max_tokens=400)
    found = json.loads(reply.text)
    assert isinstance(found["city"], str)
    assert isinstance(found["warm"], bool)


# --- log-probabilities


@streamed_or_not
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("entry", "ab")
def test_logprobs_of_llama_cpp(mesh: Mesh, entry: str, dialect: str, stream: bool) -> None:
    want = {"stream": stream, "max_tokens": 3, "top_logprobs": 2}
    reply = ask(mesh[entry], dialect, model_of("llama", "tiny"), **want)
    assert [token for token, _ in reply.logprobs] == [" bababa", " dababa", " fababa"]
    assert [tops for _, tops in reply.logprobs] == [2, 2, 2]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("entry", "ab")
def test_logprobs_of_an_old_ollama_are_refused(mesh: Mesh, entry: str, dialect: str) -> None:
    with pytest.raises((openai.BadRequestError, ollama.ResponseError), match="logprobs") as caught:
        ask(mesh[entry], dialect, model_of("ollama", "tiny"), stream=False, top_logprobs=2)
    assert caught.value.status_code == 400


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("entry", "ab")
def test_what_one_engine_cannot_do_the_other_does(mesh: Mesh, entry: str, dialect: str) -> None:
    for _ in range(4):
        reply = ask(mesh[entry], dialect, "twin", stream=False, max_tokens=2, top_logprobs=2)
        assert len(reply.logprobs) == 2
        assert reply.text.strip() == expected_text(max_tokens=2).strip()


# --- embeddings


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("entry", "ab")
def test_embeddings(mesh: Mesh, entry: str, engine: str) -> None:
    daemon, model = mesh[entry], model_of(engine, "tiny")
    inputs = ["bababa", "dababa fababa", "bababa"]
    with openai.OpenAI(base_url=f"{daemon.api_url}/v1", api_key="none", max_retries=0) as client:
        packed = client.embeddings.create(model=model, input=inputs)
        plain = client.embeddings.create(model=model, input=inputs, encoding_format="float")
    assert [row.index for row in packed.data] == [0, 1, 2]
    assert packed.usage.prompt_tokens > 0
    theirs = ollama.Client(host=daemon.api_url)
    embedded = theirs.embed(model=model, input=inputs)
    old = theirs.embeddings(model=model, prompt=inputs[0])
    first, second, third = embedded.embeddings
    assert first == pytest.approx(third, abs=1e-4)
    assert first != pytest.approx(second, abs=1e-2)
    for row, other, vector in zip(packed.data, plain.data, embedded.embeddings, strict=True):
        assert row.embedding == pytest.approx(vector, abs=1e-4)
        assert other.embedding == pytest.approx(vector, abs=1e-4)
    length = sum(x * x for x in old.embedding) ** 0.5
    assert [x / length for x in old.embedding] == pytest.approx(list(first), abs=1e-4)


# --- refusals


@on_every_crossing
def test_images_are_refused_where_nobody_sees(
    mesh: Mesh, entry: str, engine: str, dialect: str
) -> None:
    content: object = "what is this?"
    message: dict[str, object] = {"role": "user", "content": content, "images": [PIXEL]}
    if dialect == "openai":
        url = {"url": f"data:image/png;base64,{PIXEL}"}
        parts = [{"type": "text", "text": content}, {"type": "image_url", "image_url": url}]
        message = {"role": "user", "content": parts}
    with pytest.raises((openai.BadRequestError, ollama.ResponseError), match="images") as caught:
        ask(mesh[entry], dialect, model_of(engine, "tiny"), stream=False, messages=[message])
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        ("/api/chat", "num_ctx", {"options": {"num_ctx": "big"}}),
        ("/api/generate", "temperature", {"options": {"temperature": "hot"}, "prompt": "x"}),
        ("/api/embed", "input", {"input": 5}),
        ("/v1/chat/completions", "temperature", {"temperature": "hot"}),
        ("/v1/completions", "max_tokens", {"max_tokens": "many", "prompt": "x"}),
        ("/v1/embeddings", "encoding_format", {"input": "x", "encoding_format": "morse"}),
    ],
)
def test_a_value_of_the_wrong_type_is_400_and_named(
    mesh: Mesh, path: str, field: str, body: dict[str, object]
) -> None:
    for model in (model_of("llama", "tiny"), model_of("ollama", "tiny")):
        asked = {"model": model, "messages": QUESTION, **body}
        answer = httpx.post(f"{mesh['a'].api_url}{path}", json=asked, timeout=30)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert field in (error["message"] if path.startswith("/v1") else error)


# --- lists


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("entry", "ab")
def test_a_model_is_shown_in_ollamas_form(mesh: Mesh, entry: str, engine: str) -> None:
    client = ollama.Client(host=mesh[entry].api_url)
    shown = client.show(model_of(engine, "tiny"))
    assert shown.details is not None
    assert shown.details.parameter_size == "174K"
    assert shown.modelinfo
    assert shown.template
    caller = client.show(model_of(engine, "caller"))
    assert {"completion", "tools"} <= set(caller.capabilities or ())


@pytest.mark.parametrize("entry", "ab")
def test_lists_are_the_union_of_both_engines(mesh: Mesh, entry: str) -> None:
    client = ollama.Client(host=mesh[entry].api_url)
    used = model_of("ollama", "tiny")
    client.chat(model=used, messages=QUESTION, options={"num_predict": 1})
    names = {model_of(engine, name) for engine in ENGINES for name in RECIPES if name != "twin"}
    listed = [(model.model or "").removesuffix(":latest") for model in client.list().models]
    assert set(listed) == {*names, "twin"}
    assert listed.count("twin") == 1
    with openai.OpenAI(base_url=f"{mesh[entry].api_url}/v1", api_key="none") as other:
        assert {model.id.removesuffix(":latest") for model in other.models.list()} == set(listed)

    def loaded(_: object) -> bool:
        running = {(m.model or "").removesuffix(":latest") for m in client.ps().models}
        always = {model_of("llama", name) for name in RECIPES if name != "twin"}
        return {*always, "twin", used} <= running <= set(listed)

    mesh[entry].wait_until(loaded, "ps has what llama.cpp always and Ollama now holds in memory")
