"""Commands about queued jobs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from meshd.cli.control import ControlClient
from meshd.cli.orders import client, print_json, show
from meshd.cli.shell import FAILED, AsJson, DataDir, UsageError, command, complain, tell, to_type
from meshd.cli.words import count, plain
from meshd.control import JobMade, JobQuery, JobsQuery, RequestsQuery

if TYPE_CHECKING:
    from pathlib import Path

    from meshd.jobs.orders import Order
    from meshd.jobs.views import JobView

WAIT_S = 20.0
"""In one order, for a job to be over."""
REQUEST = "req_"
"""How the ids of requests begin."""

JobId = Annotated[str, typer.Argument(help="Its id, as `meshd jobs` shows it.", metavar="ID")]
OfQueue = Annotated[str, typer.Option("--queue", help="The queue.", show_default=False)]


@command
def jobs(
    context: typer.Context,
    data_dir: DataDir = None,
    state: Annotated[
        str,
        typer.Option(
            "--state",
            help="accepted, queued, claimed; or over: done, failed, cancelled, dead.",
            show_default=False,
        ),
    ] = "",
    model: Annotated[
        str, typer.Option("--model", help="Those for this model.", show_default=False)
    ] = "",
    queue: OfQueue = "",
    node: Annotated[
        str,
        typer.Option("--node", help="Those at this node.", show_default=False),
    ] = "",
    requests: Annotated[
        bool,
        typer.Option("--requests", help="Requests that were answered at once, without a job."),
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="So many at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Queued jobs: those that wait or run, or those in one state."""
    if context.invoked_subcommand is not None:
        return
    if requests:
        if queue:
            raise UsageError("--requests were answered at once: they were in no --queue")
        _requests(data_dir, RequestsQuery(state, model, node, limit), as_json)
        return
    from meshd.cli.job_views import show_jobs
    from meshd.jobs.views import JobsPage
    from meshd.machine.clock import SystemClock

    query = JobsQuery(state=state, queue=queue, model=model, node=node, limit=limit)
    page = client(data_dir).post("/control/jobs", JobsPage, query)
    if as_json:
        print_json(page.jobs)
        return
    now_unix_s = SystemClock().wall()
    show(page, False, lambda paper, page: show_jobs(paper, page, state, now_unix_s))


@command
def jobs_show(job: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """What is known of a job, and what came of it; or of a request, by its x-request-id."""
    if job.startswith(REQUEST):
        _request(data_dir, job, as_json)
        return
    from meshd.cli.job_views import show_job
    from meshd.jobs.views import JobView
    from meshd.machine.clock import SystemClock

    view = client(data_dir).post("/control/jobs/show", JobView, JobQuery(job))
    now_unix_s = SystemClock().wall()
    show(view, as_json, lambda paper, view: show_job(paper, view, now_unix_s))


@command
def jobs_submit(
    data_dir: DataDir = None,
    model: Annotated[
        str, typer.Option("--model", help="The model that is asked.", show_default=False)
    ] = "",
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="What it is asked; - reads stdin.", show_default=False),
    ] = None,
    queue: OfQueue = "",
    payload: Annotated[
        str | None,
        typer.Option(
            "--payload",
            help="Instead of a question: JSON for a worker of yours; - reads stdin.",
            show_default=False,
        ),
    ] = None,
    priority: Annotated[int, typer.Option("--priority", help="Higher goes first.")] = 0,
    webhook: Annotated[
        str,
        typer.Option("--webhook", help="An address to tell its end.", show_default=False),
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it is over, and print the answer.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put a job into a queue: a question to a model, or something for workers of yours.

    Its id is all that goes to stdout; with --wait, the answer is.
    """
    order = _order(model, prompt, payload, queue=queue, priority=priority, webhook=webhook)
    asked = client(data_dir)
    made = asked.post("/control/jobs/submit", JobMade, order)
    if made.note:
        complain(made.note)
    if wait:
        complain(f"{made.id} is {made.state}; Ctrl-C ends the waiting, and the job goes on")
        _follow(asked, made.id, as_json)
    elif as_json:
        print_json(made)
    else:
        tell(made.id)
        how = to_type(f"meshd jobs show {made.id}", asked.paths)
        complain(f"the job is {made.state}; what became of it: {how}")


@command
def jobs_cancel(job: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Cancel a job; if it runs, its generation stops."""
    from meshd.jobs.views import JobView

    view = client(data_dir).post("/control/jobs/cancel", JobView, JobQuery(job))
    _say(view, as_json, f"{view.id} is {view.state}")


@command
def jobs_retry(job: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Try a dead job once more, with all its attempts."""
    from meshd.jobs.views import JobView

    view = client(data_dir).post("/control/jobs/retry", JobView, JobQuery(job))
    _say(view, as_json, f"{view.id} is {view.state} again")


# ---------------------------------------------------------------- what they share


def _requests(data_dir: Path | None, query: RequestsQuery, as_json: bool) -> None:
    from meshd.cli.job_views import show_requests
    from meshd.jobs.request_views import RequestsPage
    from meshd.machine.clock import SystemClock

    page = client(data_dir).post("/control/requests", RequestsPage, query)
    if as_json:
        print_json(page.requests)
        return
    now_unix_s = SystemClock().wall()
    show(page, False, lambda paper, page: show_requests(paper, page, now_unix_s))


def _request(data_dir: Path | None, request: str, as_json: bool) -> None:
    from meshd.cli.job_views import show_request
    from meshd.jobs.request_views import RequestView
    from meshd.machine.clock import SystemClock

    view = client(data_dir).post("/control/requests/show", RequestView, JobQuery(request))
    now_unix_s = SystemClock().wall()
    show(view, as_json, lambda paper, view: show_request(paper, view, now_unix_s))


def _say(view: JobView, as_json: bool, sentence: str) -> None:
    if as_json:
        print_json(view)
    else:
        tell(sentence)


def _order(
    model: str, prompt: str | None, payload: str | None, *, queue: str, priority: int, webhook: str
) -> Order:
    """What is to be put in.  Raises UsageError."""
    from meshd.jobs.orders import Inference, Order

    if payload is None:
        if not model or prompt is None:
            raise UsageError(
                "say what to do: --model MODEL --prompt TEXT, or --queue QUEUE --payload JSON"
            )
        asked = [{"role": "user", "content": _text(prompt)}]
        request = Inference("/v1/chat/completions", {"model": model, "messages": asked})
        return Order(request=request, queue=queue, priority=priority, webhook=webhook)
    if model or prompt is not None:
        raise UsageError("a job has a --prompt for a --model, or a --payload for workers: not both")
    if not queue:
        raise UsageError("--payload needs a --queue, from which your workers take it")
    try:
        value: Any = msgspec.json.decode(_text(payload))
    except msgspec.MsgspecError as error:
        raise UsageError(f"--payload is not JSON: {error}") from None
    return Order(payload=value, queue=queue, priority=priority, webhook=webhook)


def _text(given: str) -> str:
    if given != "-":
        return given
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise UsageError("what comes on stdin is not UTF-8") from None


def _follow(asked: ControlClient, job: str, as_json: bool) -> None:
    """Until it is over; ends with 1 if it was not done."""
    from meshd.cli.job_views import answer_text
    from meshd.jobs.views import OVER, JobView

    while True:
        view = asked.post("/control/jobs/show", JobView, JobQuery(job, WAIT_S))
        if view.state in OVER:
            break
    if as_json:
        print_json(view)
    elif view.result_is_away:
        complain(f"{view.id} is done, and the nodes that keep its answer are away")
        raise typer.Exit(FAILED)
    elif view.state == "done":
        tell(answer_text(view.result))
    if view.state != "done":
        why = f": {plain(view.reason)}" if view.reason else ""
        tries = f" after {count(view.tries, 'attempt')}" if view.tries else ""
        complain(f"{view.id} is {view.state}{tries}{why}")
        if view.result is not None and not as_json:
            complain(answer_text(view.result))
        raise typer.Exit(FAILED)
