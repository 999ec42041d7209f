"""Two real daemons, real engines, the real client packages: any node answers for any model."""

from __future__ import annotations

import httpx
import ollama
import openai
import pytest

from meshd.testing.daemons import Daemon
from meshd.testing.models import expected_text

ASK = [{"role": "user", "content": "Count, please."}]
WHOLE = expected_text().strip()


def openai_client(daemon: Daemon) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.api_url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("entry", [0, 1])
@pytest.mark.parametrize("model", ["only-a", "only-b", "both"])
def test_the_openai_client_streams_from_any_node(
    pair: list[Daemon], entry: int, model: str
) -> None:
    with openai_client(pair[entry]) as client:
        chunks = list(
            client.chat.completions.create(
                model=model,
                messages=ASK,
                stream=True,
                temperature=0,
                stream_options={"include_usage": True},
            )
        )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip() == WHOLE
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert len({c.id for c in chunks}) == 1
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == 513


@pytest.mark.parametrize("entry", [0, 1])
@pytest.mark.parametrize("model", ["only-a", "only-b"])
def test_the_ollama_client_streams_from_any_node(
    pair: list[Daemon], entry: int, model: str
) -> None:
    client = ollama.Client(host=pair[entry].api_url)
    parts = list(client.chat(model=model, messages=ASK, stream=True, options={"temperature": 0}))
    assert "".join(p.message.content or "" for p in parts).strip() == WHOLE
    assert parts[-1].done
    assert parts[-1].done_reason == "stop"


def test_whole_answers_name_their_holder(pair: list[Daemon]) -> None:
    body = {"model": "only-b", "messages": ASK, "temperature": 0, "max_tokens": 4}
    answer = httpx.post(f"{pair[0].api_url}/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["x-meshd-node"] == "b"
    assert answer.headers["x-request-id"]
    choice = answer.json()["choices"][0]
    assert choice["message"]["content"].strip() == expected_text(max_tokens=4).strip()
    assert choice["finish_reason"] == "length"


def test_generate_and_completions(pair: list[Daemon]) -> None:
    client = ollama.Client(host=pair[0].api_url)
    made = client.generate(
        model="only-b", prompt="Count", options={"temperature": 0, "num_predict": 5}
    )
    assert made.done_reason == "length"
    assert made.response
    with openai_client(pair[1]) as other:
        done = other.completions.create(model="only-a", prompt="Count", max_tokens=5, temperature=0)
    assert done.choices[0].text
    assert done.choices[0].finish_reason == "length"


def test_embeddings_in_both_dialects(pair: list[Daemon]) -> None:
    with openai_client(pair[0]) as client:
        made = client.embeddings.create(model="vectors", input=["one", "two"])
    assert [d.index for d in made.data] == [0, 1]
    other = ollama.Client(host=pair[1].api_url).embed(model="vectors", input=["one", "two"])
    assert len(other.embeddings) == 2
    for ours, theirs in zip(made.data, other.embeddings, strict=True):
        assert ours.embedding == pytest.approx(theirs, abs=1e-5)


def test_every_list_is_the_union_of_the_mesh(pair: list[Daemon]) -> None:
    wanted = {"only-a", "only-b", "both", "vectors"}
    for daemon in pair:
        with openai_client(daemon) as client:
            assert {m.id for m in client.models.list()} == wanted
            assert client.models.retrieve("only-b").id == "only-b"
        listed = ollama.Client(host=daemon.api_url).list()
        assert {(m.model or "").removesuffix(":latest") for m in listed.models} == wanted


def test_an_unknown_model_is_404_with_near_names(pair: list[Daemon]) -> None:
    with openai_client(pair[0]) as client, pytest.raises(openai.NotFoundError, match="only-b"):
        client.chat.completions.create(model="onlyb", messages=ASK)
    with pytest.raises(ollama.ResponseError, match="only-b") as caught:
        ollama.Client(host=pair[1].api_url).chat(model="onlyb", messages=ASK)
    assert caught.value.status_code == 404


def test_a_web_page_elsewhere_may_not_ask(pair: list[Daemon]) -> None:
    url = f"{pair[0].api_url}/v1/models"
    assert httpx.get(url, headers={"origin": "https://evil.example"}).status_code == 403
    assert httpx.get(url, headers={"host": "evil.example"}).status_code == 403
    assert httpx.get(url, headers={"origin": "http://localhost:3000"}).status_code == 200
