"""`meshd jobs`: what is sent for each command, what is shown, how it ends."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from meshd.cli.job_views import (
    answer_text,
    show_job,
    show_jobs,
    show_request,
    show_requests,
)
from meshd.cli.tables import Paper
from meshd.control import JobMade, Problem
from meshd.jobs.orders import Order
from meshd.jobs.request_views import Failed, RequestsPage, RequestView
from meshd.jobs.views import Attempt, JobsPage, JobView

from .conftest import Typed
from .daemon import FakeDaemon

NOW_UNIX_S = 1_800_000_000.0
ANSWER = {"choices": [{"message": {"role": "assistant", "content": " Forty-two.\n"}}]}


def view(name: str = "j1024", state: str = "queued", **more: Any) -> JobView:
    return JobView(id=name, state=state, accepted_unix_s=NOW_UNIX_S - 90, **more)


RUNNING = view(
    "j20481.17",
    "claimed",
    queue="mesh",
    model="qwen2.5-coder:32b-instruct-q4_K_M",
    node="Anns-MacBook-Pro-16.local",
    tries=1,
    max_attempts=3,
    priority=7,
    attempts=[Attempt("attic", "expired"), Attempt("box", "failed", "status 503\x1b[2J")],
    request={"model": "qwen2.5-coder", "messages": [{"role": "user", "content": "Why?\nHow?"}]},
)
CLAIMED = view("j7", "claimed", queue="chat", worker="bot-" + "x" * 40, node="studio")
DONE = view("j9", "done", model="tiny:latest", finished_unix_s=NOW_UNIX_S - 5, result=ANSWER)


ANSWERED = RequestView(
    id="req_0123456789abcdef01",
    state="done",
    path="/v1/chat/completions",
    finished_unix_s=NOW_UNIX_S - 3,
    total_ms=12_345,
    entry="attic",
    status=200,
    model="qwen2.5-coder:32b-instruct-q4_K_M",
    node="Anns-MacBook-Pro-16.local",
    streamed=True,
    first_token_ms=420,
    prompt_tokens=1000,
    completion_tokens=250,
    api_key="0a1b2c3d",
)
LOST = RequestView(
    id="req_ffffffffffffffffff",
    state="failed",
    path="/api/chat",
    finished_unix_s=NOW_UNIX_S - 90,
    total_ms=60_000,
    entry="attic",
    status=502,
    model="tiny:latest",
    node="box",
    reason="silent",
    failed=[Failed("box", "busy"), Failed("box", "silent")],
)


@pytest.fixture(autouse=True)
def _without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


def sent(daemon: FakeDaemon) -> list[tuple[str, Any]]:
    return [(what, json.loads(body)) for what, body in daemon.orders]


def test_a_list_asks_for_what_was_asked(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["POST /control/jobs"] = JobsPage([RUNNING, CLAIMED], "")
    asked = ("--state", "claimed", "--queue", "q", "--model", "m", "--node", "box", "--limit", "2")
    done = type_in("jobs", *asked)
    assert done.exit_code == 0, done.stderr
    query = {"state": "claimed", "queue": "q", "model": "m", "node": "box", "limit": 2}
    assert sent(daemon) == [("POST /control/jobs", query)]
    assert "j20481.17" in done.stdout
    assert "bot-xxx" in done.stdout
    rows = json.loads(type_in("jobs", "--json").stdout)
    assert [row["id"] for row in rows] == ["j20481.17", "j7"]


def test_requests_are_listed_and_shown_by_their_ids(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["POST /control/requests"] = RequestsPage([ANSWERED, LOST], "more", 7)
    asked = type_in("jobs", "--requests", "--state", "failed", "--node", "box")
    assert asked.exit_code == 0, asked.stderr
    assert "7 requests more came at once" in asked.stdout
    assert "0.42 s" in asked.stdout
    rows = json.loads(type_in("jobs", "--requests", "--json").stdout)
    assert [row["id"] for row in rows] == [ANSWERED.id, LOST.id]
    daemon.answers["POST /control/requests/show"] = LOST
    shown = type_in("jobs", "show", LOST.id).stdout
    assert "is failed: silent" in shown
    assert "box: busy" in shown
    query = {"state": "failed", "model": "", "node": "box", "limit": 100}
    assert sent(daemon)[0] == ("POST /control/requests", query)
    assert sent(daemon)[2][1]["id"] == LOST.id
    refused = type_in("jobs", "--requests", "--queue", "chat")
    assert refused.exit_code == 2
    assert "no --queue" in refused.stderr


def test_no_job_is_said_in_words(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["POST /control/jobs"] = JobsPage([], "")
    assert type_in("jobs").stdout.startswith("No job waits or runs.\n")
    assert type_in("jobs", "--state", "dead").stdout == "No job is dead.\n"


def test_lists_and_jobs_fit_into_80_columns_and_move_no_cursor() -> None:
    paper = Paper(terminal=True, width=80)
    show_jobs(paper, JobsPage([RUNNING, CLAIMED, DONE], "j9"), "", NOW_UNIX_S)
    for job in (RUNNING, CLAIMED, DONE):
        show_job(paper, job, NOW_UNIX_S)
    show_requests(paper, RequestsPage([ANSWERED, LOST], "", 0), NOW_UNIX_S)
    for request in (ANSWERED, LOST):
        show_request(paper, request, NOW_UNIX_S)
    text = paper.text()
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "--limit shows more" in text


def test_a_job_for_one_node_is_shown_with_whom_it_waits_for() -> None:
    paper = Paper(terminal=True, width=80)
    job = view(queue="pull", to="attic")
    show_jobs(paper, JobsPage([job], ""), "", NOW_UNIX_S)
    show_job(paper, job, NOW_UNIX_S)
    assert paper.text().count("for attic") == 2


def test_a_job_is_shown_with_its_attempts_and_its_answer() -> None:
    paper = Paper(terminal=True, width=80)
    show_job(paper, RUNNING, NOW_UNIX_S)
    show_job(paper, DONE, NOW_UNIX_S)
    assert paper.text() == (
        "j20481.17 is claimed\n"
        "queue     mesh\n"
        "model     qwen2.5-coder:32b-instruct-q4_K_M\n"
        "priority  7\n"
        "accepted  1 min ago\n"
        "at        Anns-MacBook-Pro-16.local\n"
        "\n"
        "2 attempts that did not end it:\n"
        "- attic, fell silent\n"
        "- box, failed: status 503\N{REPLACEMENT CHARACTER}[2J\n"
        "\n"
        "Asked:\n"
        "Why?\n"
        "How?\n"
        "j9 is done\n"
        "model     tiny\n"
        "accepted  1 min ago\n"
        "over      5.0 s ago\n"
        "\n"
        "Result:\n"
        "Forty-two."
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ANSWER, "Forty-two."),
        ({"choices": [{"text": "a"}, {"text": "b"}]}, "a"),
        ({"message": {"content": "hi"}, "done": True}, "hi"),
        ({"response": "hi"}, "hi"),
        ({"error": {"message": "no such model"}}, "no such model"),
        ("plain \x1b[2J", "plain \N{REPLACEMENT CHARACTER}[2J"),
        ({"posted": 201}, '{\n  "posted": 201\n}'),
        ([], "[]"),
    ],
)
def test_the_text_of_an_answer_is_found_in_any_dialect(value: Any, text: str) -> None:
    assert answer_text(value) == text


def test_a_question_is_put_in_and_its_id_is_alone_on_stdout(
    daemon: FakeDaemon, type_in: Typed
) -> None:
    daemon.answers["POST /control/jobs/submit"] = JobMade("j5", 1, "queued", True)
    words = ["jobs", "submit", "--model", "tiny", "--prompt", "Why?", "--priority", "3"]
    done = type_in(*words, "--queue", "night")
    assert (done.exit_code, done.stdout) == (0, "j5\n")
    assert "meshd jobs show j5" in done.stderr
    [(_, body)] = daemon.orders
    order = msgspec.json.decode(body, type=Order)
    assert order.request is not None
    assert order.request.path == "/v1/chat/completions"
    asked = [{"role": "user", "content": "Why?"}]
    assert order.request.body == {"model": "tiny", "messages": asked}
    assert (order.queue, order.priority, order.payload) == ("night", 3, msgspec.UNSET)


def test_what_whoever_puts_a_job_in_should_know_is_no_part_of_stdout(
    daemon: FakeDaemon, type_in: Typed
) -> None:
    made = JobMade("j5", 1, "queued", True, note="no node of the mesh has the model tyny now")
    daemon.answers["POST /control/jobs/submit"] = made
    done = type_in("jobs", "submit", "--model", "tyny", "--prompt", "Why?")
    assert (done.exit_code, done.stdout) == (0, "j5\n")
    assert made.note in done.stderr


def test_a_question_and_a_payload_may_come_on_stdin(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["POST /control/jobs/submit"] = JobMade("j5", 1, "queued", True)
    type_in("jobs", "submit", "--model", "tiny", "--prompt", "-", stdin="Why?\n")
    type_in("jobs", "submit", "--queue", "chat", "--payload", "-", stdin='{"text": null}')
    first, second = (body for _, body in sent(daemon))
    assert first["request"]["body"]["messages"][0]["content"] == "Why?\n"
    assert (second["queue"], second["payload"]) == ("chat", {"text": None})


def test_waiting_asks_until_the_job_is_over_and_prints_the_answer(
    daemon: FakeDaemon, type_in: Typed
) -> None:
    daemon.answers["POST /control/jobs/submit"] = JobMade("j9", 1, "queued", True)
    states = iter([view("j9", "queued"), view("j9", "claimed"), DONE])
    real = daemon.answer

    def answer(what: str, body: bytes) -> tuple[int, bytes]:
        if what == "POST /control/jobs/show":
            assert json.loads(body)["wait_s"] > 0
            daemon.answers[what] = next(states)
        return real(what, body)

    daemon.answer = answer  # type: ignore[method-assign]
    done = type_in("jobs", "submit", "--model", "tiny", "--prompt", "Why?", "--wait")
    assert (done.exit_code, done.stdout) == (0, "Forty-two.\n")
    assert next(states, None) is None


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (view("j9", "cancelled"), "j9 is cancelled"),
        (view("j9", "dead", tries=3, reason="status 503"), "after 3 attempts: status 503"),
        (
            view("j9", "failed", reason="status 404", result={"error": {"message": "no such"}}),
            "j9 is failed: status 404\nmeshd: no such",
        ),
    ],
)
def test_waiting_for_what_is_not_done_ends_with_1_and_why(
    ended: JobView, words: str, daemon: FakeDaemon, type_in: Typed
) -> None:
    daemon.answers["POST /control/jobs/submit"] = JobMade("j9", 1, "queued", True)
    daemon.answers["POST /control/jobs/show"] = ended
    done = type_in("jobs", "submit", "--model", "tiny", "--prompt", "Why?", "--wait")
    assert (done.exit_code, done.stdout) == (1, "")
    assert words in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what to do"),
        (["--model", "tiny"], "say what to do"),
        (["--prompt", "Why?"], "say what to do"),
        (["--payload", "1"], "--payload needs a --queue"),
        (["--payload", "{", "--queue", "chat"], "--payload is not JSON"),
        (["--payload", "1", "--queue", "chat", "--model", "tiny"], "not both"),
    ],
)
def test_a_job_that_says_nothing_or_two_things_is_a_usage_error(
    words: list[str], said: str, daemon: FakeDaemon, type_in: Typed
) -> None:
    done = type_in("jobs", "submit", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert daemon.orders == []


def test_cancel_and_retry_say_what_the_job_is_now(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["POST /control/jobs/cancel"] = view("j5", "cancelled")
    daemon.answers["POST /control/jobs/retry"] = view("j5", "queued")
    assert type_in("jobs", "cancel", "j5").stdout == "j5 is cancelled\n"
    assert type_in("jobs", "retry", "j5").stdout == "j5 is queued again\n"
    assert [body["id"] for _, body in sent(daemon)] == ["j5", "j5"]
    daemon.answers["POST /control/jobs/cancel"] = Problem("There is no such job, or it is over.")
    done = type_in("jobs", "cancel", "j5")
    assert (done.exit_code, done.stderr) == (1, "meshd: There is no such job, or it is over.\n")


@pytest.mark.parametrize("words", [["jobs"], ["jobs", "show", "j5"], ["jobs", "cancel", "j5"]])
def test_without_a_daemon_it_ends_with_2(words: list[str], type_in: Typed) -> None:
    done = type_in(*words)
    assert done.exit_code == 2
    assert "no meshd is running" in done.stderr
