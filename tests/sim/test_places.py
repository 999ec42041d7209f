"""Going on in an answer from where a client was: at whole nodes in memory."""

from __future__ import annotations

import hashlib
import re

import pytest
from trio.testing import MockClock

from meshd import limits
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import MemoryEngine
from meshd.testing.world import Machine, World, until
from tests.sim.meshes import engine_of, pass_time, some_text, three
from tests.sim.test_jobs import CHAT, JOBS, submit, until_state
from tests.sim.test_keyed_streams import TEXT, Mesh, mesh, over, said


def stream(m: Mesh, machine: Machine, job: str, *headers: str, query: str = "") -> MemoryAnswer:
    answer = machine.client.stream(f"{JOBS}/{job}/stream{query}", *headers)
    m.world.nursery.start_soon(answer.run)
    return answer


def again_after(m: Mesh, machine: Machine, place: str) -> MemoryAnswer:
    answer = machine.client.openai(
        "tiny", "idempotency-key: k1", f"last-event-id: {place}", max_tokens=60
    )
    m.world.nursery.start_soon(answer.run)
    return answer


@pytest.mark.parametrize("where", ["a", "b", "c"])
async def test_a_repeat_goes_on_after_the_last_event_id_while_it_runs_and_when_it_is_over(
    autojump_clock: MockClock, where: str
) -> None:
    async with mesh() as m:
        machine = {"a": m.a, "b": m.b, "c": m.c}[where]
        first = m.ask(m.a)
        await some_text(first, 20)
        had, place = first.raw, first.last_id
        alive = again_after(m, machine, place)
        await over(first, alive)
        for answer in (alive, again_after(m, machine, place)):
            await over(answer)
            assert answer.headers["x-meshd-replayed"] == "true"
            assert answer.headers["x-meshd-job"] == first.headers["x-meshd-job"]
            assert (answer.how, had + answer.raw) == ("whole", first.raw)
        assert len(m.engine.requests) == 1


async def test_the_stream_of_a_job_is_told_by_its_id_at_any_node_from_any_place(
    autojump_clock: MockClock,
) -> None:
    async with mesh() as m:
        first = m.ask(m.a)
        await some_text(first, 20)
        job, had, place = first.headers["x-meshd-job"], first.raw, first.last_id
        count = place.partition("-")[0]
        alive = [
            stream(m, m.a, job),
            stream(m, m.b, job, query="?from=0"),
            stream(m, m.b, job, query=f"?from={count}"),
            stream(m, m.c, job, query=f"?from={place}"),
            stream(m, m.c, job, f"last-event-id: {place}"),
        ]
        await over(first, *alive)
        later = [stream(m, m.b, job), stream(m, m.c, job, query=f"?from={count}")]
        await over(*later)
        for answer in (alive[0], alive[1], later[0]):
            assert (answer.how, answer.text, said(answer)) == ("whole", TEXT, said(first))
        for answer in (*alive[2:], later[1]):
            assert answer.headers["content-type"] == "text/event-stream"
            assert (answer.how, had + answer.raw) == ("whole", first.raw)
        assert len(m.engine.requests) == 1


async def test_lines_of_ollamas_dialect_are_gone_on_with_by_their_number_and_hash(
    autojump_clock: MockClock,
) -> None:
    async with mesh() as m:
        first = m.a.client.ollama("tiny", "idempotency-key: k1", options={"num_predict": 40})
        m.world.nursery.start_soon(first.run)
        await until(lambda: len(first.pieces) > 10)
        had, job = first.raw, first.headers["x-meshd-job"]
        count, check = had.count(b"\n"), hashlib.sha256(had).hexdigest()[:8]
        alive = stream(m, m.b, job, query=f"?from={count}-{check}")
        await over(first, alive)
        later = stream(m, m.c, job, query=f"?from={count}")
        again = m.b.client.ollama(
            "tiny", "idempotency-key: k1", f"last-event-id: {count}", options={"num_predict": 40}
        )
        await again.run()
        await over(later)
        for answer in (alive, later, again):
            assert answer.headers["content-type"] == "application/x-ndjson"
            assert (answer.how, had + answer.raw) == ("whole", first.raw)
        wrong = stream(m, m.c, job, query=f"?from={count}-00000000")
        await over(wrong)
        assert (wrong.status, wrong.how) == (409, "refused")


async def test_a_place_that_is_none_is_refused_with_a_sentence(autojump_clock: MockClock) -> None:
    async with mesh() as m:
        first = m.ask(m.a)
        await over(first)
        job = first.headers["x-meshd-job"]
        events = int(first.last_id.partition("-")[0])
        for query, status, text in (
            ("?from=x", 400, "no place in a stream"),
            ("?from=-1", 400, "no place in a stream"),
            ("?from=", 400, "no place in a stream"),
            (f"?from={events + 1}", 400, f"has {events} events in all"),
            ("?from=3-00000000", 409, "said other words"),
        ):
            for machine in (m.a, m.b):
                answer = stream(m, machine, job, query=query)
                await over(answer)
                assert (answer.status, answer.how) == (status, "refused"), query
                assert text in answer.error
        both = stream(m, m.a, job, "last-event-id: 1", query="?from=1")
        repeat = again_after(m, m.b, "nonsense")
        await over(both, repeat)
        assert "not both" in both.error
        assert (repeat.status, "no place in a stream" in repeat.error) == (400, True)
        all_of_it = stream(m, m.b, job, query=f"?from={events}")
        await over(all_of_it)
        assert (all_of_it.status, all_of_it.raw) == (200, b"")


async def test_a_place_in_an_answer_that_nobody_has_begun_starts_no_run(
    autojump_clock: MockClock,
) -> None:
    async with mesh() as m:
        answer = again_after(m, m.b, "17")
        await over(answer)
        assert (answer.status, answer.how) == (409, "refused")
        assert "ask for it from its start" in answer.error
        assert m.engine.requests == []
        # It is checked against the words, should they be the same again; and is not told if not.
        checked = again_after(m, m.b, "17-3fa9c1d2")
        await over(checked)
        assert (checked.status, checked.how) == (409, "refused")
        assert "said other words" in checked.error
        from_its_start = m.ask(m.a)
        await over(from_its_start)
        assert from_its_start.text == TEXT
        # It was run more than once by now, as far as anybody knows: a number does not say enough.
        counted = stream(m, m.c, from_its_start.headers["x-meshd-job"], query="?from=17")
        await over(counted)
        assert (counted.status, "run more than once" in counted.error) == (409, True)


async def test_a_job_of_the_queue_is_waited_for_and_told_whole(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=20) as m:
        job = await submit(m.a, request={**CHAT, "body": {**CHAT["body"], "max_tokens": 40}})
        alive = stream(m, m.b, job)
        await over(alive)
        view = await until_state(m.a, job, "done")
        later = stream(m, m.c, job)
        await over(later)
        for answer in (alive, later):
            assert (answer.how, answer.data) == ("whole", view["result"])
            assert answer.headers["x-meshd-job"] == job
        place = stream(m, m.c, job, query="?from=3")
        await over(place)
        assert (place.status, "no stream" in place.error) == (400, True)


async def test_what_there_is_no_answer_of_is_refused_with_why(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=2) as m:
        first = m.ask(m.a)
        await some_text(first, 1)
        job = await m.job()
        hearing = stream(m, m.b, job)
        await until(lambda: bool(hearing.pieces))
        await m.a.client.call("DELETE", f"{JOBS}/{job}")
        await over(first, hearing)
        assert (hearing.how, "is cancelled" in hearing.error) == ("error", True)
        queued = await submit(m.a, queue="mine", payload={"x": 1})
        for name, status, text in (
            (job, 409, "ended without an answer: it is cancelled"),
            (queued, 409, f"ask for its result at {JOBS}/{queued}"),
            ("j99999999", 404, "nothing was ever given that id"),
            ("j2", 404, "nothing was given that id, or it was over so long ago"),
            ("nonsense", 404, "is no id of a job"),
        ):
            answer = stream(m, m.b, name)
            await over(answer)
            assert (answer.status, answer.how) == (status, "refused"), name
            assert text in answer.error


async def test_an_answer_whose_time_is_over_is_404_with_when_that_was(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody_has_it(digest: bytes) -> None:
        return None

    async with World.open() as world:
        a = await world.start("a", MemoryEngine("tiny"))
        await world.settled()
        first = a.client.openai("tiny", "idempotency-key: k1")
        await first.run()
        assert len(first.raw) > limits.INLINE_BYTES
        path = f"{JOBS}/{first.headers['x-meshd-job']}/stream"
        kept = a.client.stream(path)
        await kept.run()
        assert kept.raw == first.raw
        monkeypatch.setattr(a.running.jobs.blobs, "get", nobody_has_it)
        away = a.client.stream(path)
        await away.run()
        assert (away.status, "cannot be asked now" in away.error) == (503, True)
        repeat = a.client.openai("tiny", "idempotency-key: k1")
        await repeat.run()
        assert (repeat.status, "cannot be asked now" in repeat.error) == (503, True)
        assert repeat.headers["retry-after"] == "2", "it may be there soon"
        monkeypatch.setattr(limits, "IDEMPOTENCY_KEY_S", 0)
        expired = a.client.stream(path)
        await expired.run()
        assert (expired.status, expired.data["error"]["code"]) == (404, "expired")
        assert re.search(r"expired at 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", expired.error)
        repeat = a.client.openai("tiny", "idempotency-key: k1")
        await repeat.run()
        assert (repeat.status, "expired at" in repeat.error) == (409, True)


async def test_a_number_of_events_is_no_place_in_the_run_that_takes_the_place_of_the_first(
    autojump_clock: MockClock,
) -> None:
    """Who was cut off, and has heard nothing yet, learns at once that the first run is over and
    that there is another: its words are not those that follow what the client has."""
    async with World.open() as world:
        engines = [engine_of("tiny", tokens_per_s=speed) for speed in (20.0, 1.0)]
        m = Mesh(world, engines[1], list(await three(world, *engines)))
        first = m.ask(m.b)
        await some_text(first, 5)
        world.network.partition("a", "b")
        number = again_after(m, m.a, "4")
        await pass_time(0.3)
        world.network.isolate("a")
        m.b.kill()
        await m.b.until_over()
        await m.b.start()
        later = m.ask(m.c)
        await some_text(later, 2)
        world.network.heal("a", "b")
        world.network.heal("a", "c")
        await over(later, number, within_s=200.0)
        assert later.how == "whole", later.error
        assert (number.how, number.text) == ("refused", ""), number.raw
        assert (number.status, "run more than once" in number.error) == (409, True)
