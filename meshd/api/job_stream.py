"""GET /mesh/v1/jobs/{id}/stream: the answer of a job, by its id, at any node (trio shell)."""

from __future__ import annotations

from meshd.api.dialect import HeaderPair
from meshd.api.following import Asking, Followers, place_of, replay
from meshd.api.openai_encode import CHAT
from meshd.api.places import Place
from meshd.api.routes import Dialect, dialect_of, encoder_of
from meshd.errors import Refused
from meshd.http import Responder, ServerRequest
from meshd.ids import NodeId
from meshd.jobs.answers import Answers, Stored
from meshd.jobs.keyed import Running
from meshd.jobs.service import JobService
from meshd.record.job_rows import JobRow, job_name
from meshd.wire.serve import AnswerForm


class NotRunning(Refused):
    """Nobody is at that job now, or no engine ever will be."""


class JobStreams:
    """Tells answers of jobs: as they come, or as they were."""

    def __init__(self, jobs: JobService, answers: Answers, followers: Followers) -> None:
        self._jobs = jobs
        self._answers = answers
        self._followers = followers

    async def stream(
        self, name: str, request: ServerRequest, responder: Responder, headers: list[HeaderPair]
    ) -> None:
        """Tell the answer of that job from the client's place on, in the dialect of its request.

        What is running is heard as it comes; what waits in a queue, or is answered whole, is waited
        for.  Raises Refused, NoSuchJob, Ended, AnswerGone and AnswerAway before anything is told,
        DialectError, StreamBroken.
        """
        place = place_of(request)
        with self._followers.until_stopped(CHAT):
            await self._answers.catch_up(name)
        while (row := self._answers.living(name)) is not None:
            changed = self._jobs.change()
            asking = _asking(row.request.path, row.request.model, responder, headers, place)
            if (running := _running(row)) is None:
                if not await self._followers.wait(changed, row.id, asking):
                    return
            elif await self._followers.attach(running, asking):
                return
        with self._followers.until_stopped(CHAT):
            stored = await self._answers.of(name)
            await self._followers.check(stored.job, place)
        asking = _asking(stored.path, "", responder, headers, place)
        await replay(stored, asking, streamed=_is_stream(stored))


def _running(row: JobRow) -> Running | None:
    """The run of a keyed request; None: the job is the queue's, and its answer comes whole.

    Raises NotRunning.
    """
    if not row.request.path:
        raise NotRunning(
            f"{job_name(row.id)} is for workers and no engine's to answer: ask for its result at "
            f"/mesh/v1/jobs/{job_name(row.id)}"
        )
    if row.queue:
        return None
    if row.claim is None:
        raise NotRunning(
            f"nobody is at {job_name(row.id)} now: it goes on when its request comes again with "
            "the same Idempotency-Key"
        )
    return Running(row.id, row.claim.fence, NodeId(row.claim.node), row.keys[0])


def _asking(
    path: str, model: str, responder: Responder, headers: list[HeaderPair], place: Place
) -> Asking:
    path = path or CHAT
    form = AnswerForm(path=path, request_id="", unix_s=0.0, model=model)
    return Asking(responder, encoder_of(form), path, headers, place)


def _is_stream(stored: Stored) -> bool:
    """Whether that was asked for as a stream: its events have ids, its lines have ends."""
    if dialect_of(stored.path or CHAT) is Dialect.OPENAI:
        return stored.body.startswith(b"id: ")
    return stored.body.endswith(b"\n")
