"""An answer out of several runs is the answer of one, wherever it broke off."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.inference import Delta, Kind, Message, Request, Sampling, ToolCall, Usage
from meshd.relay.splice import DoesNotFit, Splice, Way

WORDS = st.lists(
    st.tuples(st.sampled_from([" ", "", "  ", "\n", "\n\n", "\t"]), st.text("abcé🙂", min_size=1)),
    min_size=1,
    max_size=12,
)


def chat(**fields: object) -> Request:
    return Request(Kind.CHAT, "tiny", messages=[Message("user", "hello")], **fields)  # type: ignore[arg-type]


def tokens(words: list[tuple[str, str]], joined: list[bool]) -> list[str]:
    """A way of saying it: white space as a token of its own, or in front of its word."""
    out: list[str] = []
    for (space, word), whole in zip(words, joined, strict=True):
        out += [space + word] if whole else [piece for piece in (space, word) if piece]
    return out


def shown(items: list[object]) -> str:
    return "".join(item.text for item in items if isinstance(item, Delta))


def an_engine_goes_on(partial: str, answer: str, said: list[str]) -> list[Delta]:
    """What an engine says that was told this much of its answer."""
    assert answer.startswith(partial)
    rest, out = answer[len(partial) :], []
    for token in reversed(said):  # the tokens of the rest, cut where it begins
        if not rest:
            break
        piece = rest[-len(token) :]
        rest = rest[: len(rest) - len(piece)]
        out.append(Delta(text=piece))
    return [*reversed(out), Delta(finish_reason="stop")]


@given(WORDS, st.data())
def test_continued_text_is_the_text(words: list[tuple[str, str]], data: st.DataObject) -> None:
    joined = data.draw(st.lists(st.booleans(), min_size=len(words), max_size=len(words)))
    said = tokens(words, joined)
    answer = "".join(said)
    splice = Splice(chat())
    got = ""
    for cut in data.draw(st.lists(st.integers(0, len(said)), min_size=1, max_size=3)):
        if splice.way is None:
            got += shown(list(splice.take([Delta(text=text) for text in said[:cut]])))
        if not got:
            return  # nothing delivered: that is no splice
        asked = splice.begin(Way.CONTINUE)
        run = an_engine_goes_on(asked.partial, answer, said)
        got += shown(list(splice.take(run[: data.draw(st.integers(0, len(run) - 1))])))
    asked = splice.begin(Way.CONTINUE)
    got += shown(list(splice.take(an_engine_goes_on(asked.partial, answer, said))))
    assert got == answer


@given(WORDS, st.data())
def test_a_repeated_run_adds_what_is_new(words: list[tuple[str, str]], data: st.DataObject) -> None:
    first, again = (
        tokens(words, data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
        for n in (len(words), len(words))
    )
    splice = Splice(chat(sampling=Sampling(temperature=0)))
    cut = data.draw(st.integers(1, len(first)))
    got = shown(list(splice.take([Delta(text=text) for text in first[:cut]])))
    assert splice.begin(Way.REGENERATE).partial == ""
    run = [*(Delta(text=text) for text in again), Delta(finish_reason="stop"), Usage(3, 9)]
    rest = list(splice.take(run))
    assert got + shown(rest) == "".join(first)
    assert rest[-1] == Usage(3, 9), "it is one whole run's"


@given(st.text("ab", min_size=1), st.text("ab"))
def test_a_run_that_differs_is_found_out(said: str, other: str) -> None:
    splice = Splice(chat(sampling=Sampling(seed=1)))
    splice.take([Delta(text=said)])
    splice.begin(Way.REGENERATE)
    run = [*(Delta(text=c) for c in other), Delta(finish_reason="stop")]
    if other.startswith(said):
        assert shown(list(splice.take(run))) == other[len(said) :]
    else:
        with pytest.raises(DoesNotFit):
            splice.take(run)


def test_what_was_delivered_counts_towards_the_maximum_and_the_usage() -> None:
    splice = Splice(chat(sampling=Sampling(max_tokens=10)))
    splice.take([Delta(), Delta(text=" one"), Delta(text=" two"), Delta(text=" three")])
    asked = splice.begin(Way.CONTINUE)
    assert asked.partial == " one two three"
    assert asked.sampling.max_tokens == 7
    assert not splice.is_full()
    (usage,) = splice.take([Usage(prompt_tokens=23, completion_tokens=7, total_ns=5)])
    assert usage == Usage(prompt_tokens=20, completion_tokens=10, total_ns=5)


def test_an_answer_with_all_its_tokens_lacks_only_its_end() -> None:
    splice = Splice(chat(sampling=Sampling(max_tokens=2)))
    splice.take([Delta(text="a")])
    assert not splice.is_full()
    splice.take([Delta(text="b")])
    assert splice.is_full()


PLAIN = chat()
GREEDY = Sampling(temperature=0)


@pytest.mark.parametrize(
    ("request_", "ways"),
    [
        (PLAIN, [Way.CONTINUE]),
        (chat(sampling=GREEDY), [Way.CONTINUE, Way.REGENERATE]),
        (chat(sampling=Sampling(seed=7)), [Way.REGENERATE, Way.CONTINUE]),
        (chat(json_mode=True), []),
        (chat(json_schema={"type": "object"}, sampling=GREEDY), [Way.REGENERATE]),
        (chat(logprobs=True), []),
        (chat(tools=[{"type": "function"}], sampling=GREEDY), [Way.REGENERATE]),
        (chat(extra={"grammar": "root ::= [a-z]+"}), []),
        (Request(Kind.COMPLETION, "tiny", prompt="x", raw=True), [Way.CONTINUE]),
        (Request(Kind.COMPLETION, "tiny", prompt="x", suffix="y"), []),
    ],
)
def test_which_answers_can_be_gone_on_with(request_: Request, ways: list[Way]) -> None:
    splice = Splice(request_)
    splice.take([Delta(text="some")])
    assert splice.ways() == ways


def test_an_answer_in_the_middle_of_a_call_cannot() -> None:
    calling = Splice(chat(sampling=GREEDY))
    calling.take([Delta(tool_calls=[ToolCall(name="weather", arguments='{"ci')])])
    assert calling.ways() == []


def test_an_answer_goes_on_in_its_thoughts_and_after_them() -> None:
    thinking = Splice(PLAIN)
    thinking.take([Delta(reasoning="let me")])
    asked = thinking.begin(Way.CONTINUE)
    assert (asked.partial, asked.partial_reasoning, asked.partial_tokens) == ("", "let me", 1)
    more = [Delta(reasoning=" see"), Delta(text="So ")]
    assert list(thinking.take(more)) == more
    asked = thinking.begin(Way.CONTINUE)
    assert (asked.partial, asked.partial_reasoning) == ("So ", "let me see")
    with pytest.raises(DoesNotFit, match="think anew"):
        thinking.take([Delta(reasoning="hm")])


def test_thoughts_do_not_go_on_where_the_client_began_the_answer() -> None:
    begun = Request(
        Kind.CHAT, "tiny", messages=[Message("user", "hello"), Message("assistant", "So")]
    )
    splice = Splice(begun)
    splice.take([Delta(text=" it")])
    assert splice.ways() == [Way.CONTINUE]
    splice.take([Delta(reasoning="let me")])
    assert splice.ways() == []


def test_a_very_long_answer_is_not_kept() -> None:
    splice = Splice(PLAIN)
    for _ in range(20):
        splice.take([Delta(text="x" * 65536)])
    assert splice.ways() == []


def test_the_request_itself_stays_as_it_was() -> None:
    before = msgspec.msgpack.encode(PLAIN)
    splice = Splice(PLAIN)
    splice.take([Delta(text="some ")])
    splice.begin(Way.CONTINUE)
    assert msgspec.msgpack.encode(PLAIN) == before
