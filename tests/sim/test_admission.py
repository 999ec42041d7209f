"""Who is let in, who waits, who is sent away: slots, queues, retries, poison."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from meshd import limits
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import Fault
from meshd.testing.world import until
from tests.sim.meshes import WHOLE, Mesh, mesh, pass_time


def queued(m: Mesh) -> int:
    return sum(h.node.data.holder.admission.queued for h in m.holders if h.node is not None)


def requests(m: Mesh) -> int:
    return sum(len(m.engine(holder).requests) for holder in m.holders)


async def test_an_engine_never_runs_more_than_its_slots(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=400, slots=2) as m:
        most = 0
        answers = [m.ask(m.a, max_tokens=100 + n) for n in range(16)]
        while not all(answer.over for answer in answers):
            for holder in m.holders:
                most = max(most, m.engine(holder).running)
            await pass_time(0.01)
        assert most == 2
        assert {answer.how for answer in answers} == {"whole"}
        for n, answer in enumerate(answers):
            assert answer.text == " ".join(WHOLE.split(" ")[: 101 + n])


async def test_a_busy_holder_sends_the_request_to_the_other_one(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=50, slots=1) as m:
        first = m.ask(m.b)  # b does not know of c's load nor c of b's: each is asked afresh
        await until(lambda: m.running == 1)
        second = m.ask(m.a, max_tokens=10)
        third = m.ask(m.c, max_tokens=10, seed=2)
        await m.answered(second)
        assert (second.how, second.attempts) == ("whole", 1), "busy is no attempt"
        await m.answered(third)
        await m.answered(first)
        assert {first.how, third.how} == {"whole"}
        assert m.a.count("retries") == 0


async def test_busy_answers_are_no_attempts(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=200, slots=1) as m:
        # All at once, so that nobody knows of anybody's: some are sent away, and ask again.
        answers = [m.ask(entry, max_tokens=40, seed=n) for n in range(4) for entry in m.machines]
        for answer in answers:
            await m.answered(answer)
            assert (answer.how, answer.attempts) == ("whole", 1), answer.error
        assert sum(machine.count("attempt_busy") for machine in m.machines) > 0
        assert sum(machine.count("retries") for machine in m.machines) == 0
        assert requests(m) == len(answers), "who was sent away was not run"


async def test_a_queue_is_served_in_order_of_arrival(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=200, slots=1) as m:
        m.c.crash()
        await pass_time(1.0)
        first = m.ask(m.a)
        await until(lambda: m.running == 1)
        waiting: list[MemoryAnswer] = []
        for n in range(5):
            # From different entries; none of them knows of the others' requests.
            waiting.append(m.ask((m.a, m.b)[n % 2], max_tokens=20, seed=n))
            await until(lambda n=n: queued(m) == n + 1)
        await m.answered(first)
        for answer in waiting:
            await m.answered(answer)
            assert answer.how == "whole", answer.error
        ends = [answer.ended_at or 0.0 for answer in waiting]
        assert ends == sorted(ends)
        assert [body["seed"] for body in m.engine(m.b).requests[1:]] == [0, 1, 2, 3, 4]


async def test_who_would_wait_too_long_is_sent_away_with_a_time(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=10, slots=1) as m:
        m.c.crash()
        await pass_time(1.0)
        answers = [m.ask(m.a, seed=n) for n in range(40)]
        await until(lambda: sum(answer.over for answer in answers) >= 20)
        refused = [answer for answer in answers if answer.over]
        for answer in refused:
            assert (answer.how, answer.status) == ("refused", 503), answer.error
            assert 1 <= int(answer.headers["retry-after"]) <= 120
        assert requests(m) == 1
        assert queued(m) <= limits.QUEUE_WAIT_S / 5.0


async def test_who_queued_for_too_long_is_sent_away_then(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=1.5, slots=1) as m:
        m.c.crash()
        await pass_time(1.0)
        first = m.ask(m.a)  # 150 words: 100 s
        await until(lambda: m.running == 1)
        asked_at = trio.current_time()
        second = await m.answered(m.ask(m.a))
        assert (second.how, second.status) == ("refused", 503)
        assert second.ended_at is not None
        assert limits.QUEUE_WAIT_S <= second.ended_at - asked_at <= limits.QUEUE_WAIT_S + 1.0
        assert not first.over


async def test_a_request_that_ends_two_engines_is_refused(autojump_clock: MockClock) -> None:
    async with mesh() as m:
        for holder in m.holders:
            m.engine(holder).fault = Fault.DIE
            m.engine(holder).fault_after = 0
        poison = await m.answered(m.ask(m.a))
        assert (poison.how, poison.status, poison.attempts) == ("refused", 502, 2)
        assert requests(m) == 2
        again = await m.answered(m.ask(m.a))
        assert (again.how, again.status) == ("refused", 422)
        assert "two engines" in again.error
        assert requests(m) == 2, "no engine sees it"
        other = await m.answered(m.ask(m.a, temperature=0.5))
        assert (other.how, other.text) == ("whole", WHOLE), "another request is none of it"


async def test_retries_stay_within_their_budget(autojump_clock: MockClock) -> None:
    async with mesh() as m:
        for holder in m.holders:
            m.engine(holder).fault = Fault.ERROR
            m.engine(holder).fault_after = 0
            m.engine(holder).fault_stays = True
        for n in range(30):
            answer = await m.answered(m.ask(m.a, seed=n))
            assert (answer.how, answer.status) == ("refused", 502)
        assert trio.current_time() < limits.RETRY_BUDGET_WINDOW_S, "all within one window"
        assert m.a.count("retries") == limits.RETRY_BUDGET_FLOOR
        assert requests(m) == 30 + limits.RETRY_BUDGET_FLOOR
        assert m.a.count("retry_budget_spent") > 0
        await pass_time(limits.RETRY_BUDGET_WINDOW_S)
        for holder in m.holders:
            m.engine(holder).fault = None
        m.engine(m.b).fault = Fault.DIE
        for n in range(4):
            answer = await m.answered(m.ask(m.a, seed=100 + n))
            assert answer.how == "whole", "there is budget again"


async def test_many_requests_from_all_entries_do_not_mix(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=1000, slots=4) as m:
        asked = [
            (n, m.ask((m.a, m.b, m.c)[n % 3], max_tokens=50 + n, stream=n % 5 != 0))
            for n in range(60)
        ]
        for n, answer in asked:
            await m.answered(answer)
            assert answer.how == "whole", answer.error
            assert answer.text == " ".join(WHOLE.split(" ")[: 51 + n])
        assert m.running == 0
        assert queued(m) == 0
        assert {answer.holder for _, answer in asked} == {"b", "c"}
