"""Clients that live through it: each sends one planned request and remembers what it saw.

An unkeyed client asks once, the first node that lets it in.  One with a key is careful, as the docs
tell it to be: told "try again", told nothing, or cut off, it sends the same request with the same
key to another node, until it has an answer.  A queued one submits in the same way, then asks any
node what became of its job.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any, Final

import httpx
import msgspec
import trio

from meshd.testing.checker import (
    Answer,
    History,
    How,
    JobHistory,
    Mode,
    Phase,
    Read,
    Submit,
)
from meshd_chaos.excuses import REPEATED
from meshd_chaos.job_views import JobView, Made, decoded
from meshd_chaos.stage import Stage
from meshd_chaos.transcript import Garbled, Transcript, error_of
from meshd_chaos.tries import AGAIN, Try
from meshd_chaos.workload import PATHS, Planned, body_of

CONNECT_S: Final = 5.0
"""A node whose machine is there answers a knock in less."""
FIRST_PAUSE_S: Final = 0.2
LAST_PAUSE_S: Final = 4.0
"""Between two tries of a careful client: twice as long each time, and by chance down to half."""
QUIET_S: Final = 10.0
"""So long a careful client bears silence before it asks another node."""
_PATIENT: Final = httpx.Timeout(None, connect=CONNECT_S)
_CAREFUL: Final = httpx.Timeout(None, connect=CONNECT_S, read=QUIET_S)
_POLL_S: Final = 0.25
_CAUSE_CHARS: Final = 70


@dataclass
class Clients:
    """All of a run.  `answers` fills as they end."""

    http: httpx.AsyncClient
    stage: Stage
    seed: int
    answers: list[Answer] = field(default_factory=list)
    jobs: dict[str, str] = field(default_factory=dict)
    """Acknowledged jobs, and the keys they were submitted with."""
    request_ids: dict[str, str] = field(default_factory=dict)
    """The mesh's names of requests, by ours."""
    sent: int = 0
    under_way: int = 0
    began_at: float = field(default_factory=trio.current_time)
    history: JobHistory = field(init=False)
    """What was asked of queued jobs, and told."""

    def __post_init__(self) -> None:
        self.history = History(self.now_s)

    def now_s(self) -> float:
        return trio.current_time() - self.began_at

    async def ask(self, planned: Planned) -> None:
        """Live through one request; its answers are there when this returns, even if cancelled."""
        self.sent += 1
        self.under_way += 1
        try:
            match planned.mode:
                case Mode.KEYED:
                    await _Keyed(self, planned).live()
                case Mode.QUEUED:
                    await _Queued(self, planned).live()
                case _:
                    await self._once(planned)
        finally:
            self.under_way -= 1

    async def _once(self, planned: Planned) -> None:
        chance = Random(planned.seed)
        untried = list(self.stage.entries())
        chance.shuffle(untried)
        tried = self.begin(planned, planned.name, untried.pop())
        try:
            await self.post(planned, tried)
            while tried.was_not_let_in and untried:  # nothing was sent: it is another's to take
                tried.entry, tried.cause, tried.how = untried.pop(), "", How.SILENT
                await self.post(planned, tried)
        finally:
            self.note(planned, tried)

    # ---------------------------------------------------------------- one try

    def any_entry(self, chance: Random, but: str = "") -> str:
        """A node to ask, by chance; another one than that, if there is another."""
        names = list(self.stage.entries())
        return chance.choice([name for name in names if name != but] or names)

    def begin(self, planned: Planned, request: str, entry: str) -> Try:
        sent_at_s = self.now_s()
        return Try(request, entry, sent_at_s, Transcript(planned.dialect, sent_at_s))

    async def post(self, planned: Planned, tried: Try, key: str = "") -> None:
        """Send it and read what comes; how that ended is in `tried`."""
        headers = {**self.stage.headers, **({"idempotency-key": key} if key else {})}
        url = self.stage.entries().get(tried.entry, "") + PATHS[planned.dialect]
        body, patience = (
            body_of(planned, self.stage.prompt(planned.name)),
            _CAREFUL if key else _PATIENT,
        )
        try:
            async with self.http.stream(
                "POST", url, json=body, headers=headers, timeout=patience
            ) as response:
                await self._read(planned, tried, response)
        except httpx.ConnectError as error:
            tried.how, tried.cause = How.REFUSED, f"no connection: {_first_words(error)}"
        except httpx.ConnectTimeout:
            tried.how, tried.cause = How.REFUSED, "no connection in time"
        except httpx.ReadTimeout:
            tried.how, tried.cause = How.SILENT, f"nothing in {QUIET_S:.0f} s"
        except Garbled as error:
            tried.garbled(error)
        except httpx.HTTPError as error:
            if tried.said.finish is None:
                tried.how, tried.cause = How.BROKEN, type(error).__name__
        tried.ended_at_s = self.now_s()

    async def _read(self, planned: Planned, tried: Try, response: httpx.Response) -> None:
        said, headers = tried.said, response.headers
        tried.status = response.status_code
        tried.request_id = headers.get("x-request-id", "")
        if response.status_code != 200:
            said.head(None, headers.get("x-meshd-attempts"))  # the node there may be the entry
            tried.cause = error_of(await response.aread())[:_CAUSE_CHARS]
            tried.how = How.REFUSED
            return
        said.head(headers.get("x-meshd-node"), headers.get("x-meshd-attempts"))
        if not planned.streamed:
            said.body(await response.aread(), self.now_s())
        else:
            rest = b""
            async for data in response.aiter_raw():
                now_s = self.now_s()
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    said.line(line, now_s)
                if planned.leaves_after is not None and len(said.pieces) > planned.leaves_after:
                    tried.how = How.LEFT
                    return
            said.line(rest, self.now_s())
        if said.error is not None:
            tried.how, tried.cause = How.ERROR, said.error[:_CAUSE_CHARS]
        else:
            tried.how = How.WHOLE if said.finish is not None else How.CUT

    # ---------------------------------------------------------------- what is remembered

    def note(self, planned: Planned, tried: Try, *, key: str = "", repeated: bool = False) -> None:
        """One try is over.  `repeated`: its client makes another one, and that one counts."""
        if tried.request_id:
            self.request_ids[tried.request] = tried.request_id
        self.answers.append(self.lived(planned, tried, key=key, repeated=repeated))

    def lived(
        self, planned: Planned, tried: Try, *, key: str = "", repeated: bool = False
    ) -> Answer:
        """One try as its client lived it, in the checker's words."""
        said = tried.said
        text, finish = self.stage.expected(planned)
        return Answer(
            request=tried.request,
            mode=planned.mode,
            dialect=planned.dialect,
            model=planned.model,
            entry=tried.entry,
            key=key,
            sent_at_s=tried.sent_at_s,
            ended_at_s=tried.ended_at_s,
            how=tried.how,
            accepted=tried.status == 200 or (not key and tried.how is not How.REFUSED),
            excuse=REPEATED if repeated else "",
            status=tried.status,
            cause=tried.cause,
            finish=said.finish,
            expected=text,
            expected_finish=finish,
            pieces=said.pieces,
            ids=said.ids,
            attempts=said.attempts,
            holders=said.holders,
            seams=said.seams,
            after_finish=said.after_finish,
        )


class _Keyed:
    """One careful client with one key."""

    def __init__(self, clients: Clients, planned: Planned) -> None:
        self._clients, self._planned = clients, planned
        self._chance = Random(planned.seed)
        self._key = f"chaos-{clients.seed}-{planned.name}"
        self._tries = 0
        self._last_text_at_s: float | None = None
        """In an answer that broke off; None: none did."""
        self._has_answer = False

    async def live(self) -> None:
        entry = await self._until_answered(self._clients.any_entry(self._chance))
        if self._planned.asks_again:
            self._last_text_at_s, self._has_answer = None, True
            await self._until_answered(self._clients.any_entry(self._chance, but=entry))

    async def _until_answered(self, entry: str) -> str:
        """Ask there, and elsewhere if need be; who answered."""
        clients, planned = self._clients, self._planned
        while True:
            self._tries += 1
            name = planned.name if self._tries == 1 else f"{planned.name}.{self._tries}"
            tried = clients.begin(planned, name, entry)
            if self._last_text_at_s is not None:
                tried.said.repeated(self._last_text_at_s)
            repeats = False
            try:
                await clients.post(planned, tried, self._key)
                if tried.is_answered:
                    return entry
                await trio.sleep(_pause_s(self._chance, self._tries))
                repeats = True
            except trio.Cancelled:
                tried.how, tried.ended_at_s = How.SILENT, None  # its key is still without an answer
                raise
            finally:
                clients.note(planned, tried, key=self._key, repeated=repeats)
            self._remember(tried)
            entry = clients.any_entry(self._chance, but=entry)

    def _remember(self, tried: Try) -> None:
        """When a word was last heard, if this try broke an answer off."""
        pieces = tried.said.pieces
        if pieces:
            self._last_text_at_s = pieces[-1].at_s
        elif self._last_text_at_s is None and self._broke_off(tried):
            self._last_text_at_s = tried.sent_at_s

    def _broke_off(self, tried: Try) -> bool:
        """Whether there was an answer to lose.  Who has one already loses another only if that
        had begun."""
        return tried.status == 200 if self._has_answer else tried.how is not How.REFUSED


class _Queued:
    """One client that puts a job in, and waits for what becomes of it."""

    def __init__(self, clients: Clients, planned: Planned) -> None:
        self._clients, self._planned = clients, planned
        self._chance = Random(planned.seed)
        self._key = f"chaos-{clients.seed}-{planned.name}"

    async def live(self) -> None:
        clients, planned = self._clients, self._planned
        tried = clients.begin(planned, planned.name, clients.any_entry(self._chance))
        try:
            job = await self._submit(tried)
            if job is not None:
                clients.jobs[job] = self._key
                await self._wait(job, tried)
        except Garbled as error:
            tried.garbled(error)
            tried.ended_at_s = clients.now_s()
        finally:
            clients.note(planned, tried, key=self._key)

    async def _submit(self, tried: Try) -> str | None:
        """The job's id; None: it was refused for good."""
        body = body_of(self._planned, self._clients.stage.prompt(self._planned.name))
        order = {"request": {"path": PATHS[self._planned.dialect], "body": body}}
        history = self._clients.history
        unknown: list[int] = []  # tries that may have put it in
        jobs: list[str] = []
        try:
            for tries in count(1):
                number = history.called(self._planned.name, "", Submit(self._key))
                unknown.append(number)
                made = await self._order("POST", tried.entry, "/mesh/v1/jobs", order)
                if made is not None and made.status_code in (200, 201):
                    tried.status = 200
                    told = decoded(made.content, Made)
                    history.returned(unknown.pop(), told.welcome, subject=told.id)
                    jobs = [told.id]
                    return told.id
                if made is not None and made.status_code not in AGAIN:
                    tried.how, tried.status = How.REFUSED, made.status_code
                    tried.cause = error_of(made.content)[:_CAUSE_CHARS]
                    tried.ended_at_s = self._clients.now_s()
                    break
                await trio.sleep(_pause_s(self._chance, tries))
                tried.entry = self._clients.any_entry(self._chance, but=tried.entry)
        finally:
            for number in unknown:
                history.concerns(number, jobs)
        return None

    async def _wait(self, job: str, tried: Try) -> None:
        """Until any node says that it is over."""
        history = self._clients.history
        while True:
            await trio.sleep(_POLL_S)
            entry = self._clients.any_entry(self._chance)
            number = history.called(self._planned.name, job, Read())
            seen = await self._order("GET", entry, f"/mesh/v1/jobs/{job}")
            if seen is None or seen.status_code != 200:
                history.withdraw(number)
                continue  # that node is away, or has not heard of the job yet
            view = decoded(seen.content, JobView)
            if not view.is_over:
                history.withdraw(number)  # it may be old: no evidence
                continue
            history.returned(number, view.seen)
            if view.state is Phase.DONE:
                tried.said.head(view.node, None)
                tried.said.body(bytes(view.result), self._clients.now_s())
                tried.how = How.WHOLE
            else:
                tried.how, tried.cause = How.ERROR, f"{view.state}: {view.reason}"
                tried.cause = tried.cause[:_CAUSE_CHARS]
            tried.ended_at_s = self._clients.now_s()
            return

    async def _order(
        self, method: str, entry: str, path: str, body: Any = None
    ) -> httpx.Response | None:
        """One short question; None: no answer."""
        headers = {**self._clients.stage.headers, "content-type": "application/json"}
        if body is not None:
            headers["idempotency-key"] = self._key
        content = msgspec.json.encode(body) if body is not None else None
        url = self._clients.stage.entries().get(entry, "") + path
        with suppress(httpx.HTTPError), trio.move_on_after(QUIET_S):
            return await self._clients.http.request(method, url, content=content, headers=headers)
        return None


def _pause_s(chance: Random, tries: int) -> float:
    """How long to wait after so many tries."""
    longest_s = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(tries, 10))
    return chance.uniform(longest_s / 2, longest_s)


def _first_words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:_CAUSE_CHARS]
