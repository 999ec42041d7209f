"""Tells whoever waits for the end of a job, by its webhook (trio shell).

Ends that are to be told are in the record (`record/notices.py`) and stay there until somebody says
that they were told; so the loss of a node loses none, and each is told at least once.  The node
that took the job tells its end.  If that one is away, the leader does, if its own config allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import trio

from meshd import limits, logs
from meshd.consensus.interface import Role
from meshd.errors import DialFailed, MeshdError, NotAdmitted, Refused
from meshd.http import HttpClient, Sweeper
from meshd.ids import NodeId
from meshd.jobs.service import JobService
from meshd.jobs.webhook_form import Target, WebhookRules, body_of, headers_of
from meshd.ledger.ledger import Ledger
from meshd.ports import Network
from meshd.record.commands_jobs import Notified
from meshd.record.events import Event, NoticeDue
from meshd.record.job_rows import NoticeRow, job_name
from meshd.record.results import RecordRefused

log = logs.get("jobs")

LOOK_S = 30.0
"""How often it is looked, while there is something to be told, whether that falls to this node."""
AWAY_S = 30.0
"""A node that took a job and is away for so long does not tell its end."""
WRITE_AGAIN_S = 10.0
"""Between tries to say that something was told, while there is no majority."""
_GONE = 410
"""Standard Webhooks: whoever is there wants to hear no more."""


class Webhooks:
    """One node's part in it.  `run` it."""

    def __init__(
        self,
        ledger: Ledger,
        jobs: JobService,
        rules: WebhookRules,
        network: Network,
        sweeper: Sweeper,
        *,
        linked: Callable[[], Collection[NodeId]],
        wall_unix_s: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """`linked` are the nodes that this one has a link to."""
        self._ledger = ledger
        self._jobs = jobs
        self._rules = rules
        self._network = network
        self._sweeper = sweeper
        self._linked = linked
        self._wall_unix_s = wall_unix_s
        self._random = random
        self._telling: set[tuple[int, int]] = set()
        """(job, end)"""
        self._away_since: dict[str, float] = {}
        self._at_once = trio.Semaphore(limits.WEBHOOKS_AT_ONCE)
        self._wake = trio.Event()

    def happened(self, events: Sequence[Event]) -> None:
        """Events that were just applied here, in order."""
        if any(isinstance(event, NoticeDue) for event in events):
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled; what was not told by then is told by the next start, or another node."""
        async with trio.open_nursery() as nursery:
            while True:
                due = [row for row in self._ledger.state.jobs.notices.rows() if not row.given_up]
                self._look_who_is_away({row.entry for row in due})
                for row in due:
                    if (row.job, row.end) not in self._telling and self._is_ours(row):
                        self._telling.add((row.job, row.end))
                        nursery.start_soon(self._tell, row)
                with trio.move_on_after(LOOK_S if due else math.inf):
                    await self._wake.wait()
                self._wake = trio.Event()

    # ---------------------------------------------------------------- who tells

    def _look_who_is_away(self, entries: Collection[str]) -> None:
        now, here = trio.current_time(), {self._ledger.me, *self._linked()}
        before = self._away_since
        self._away_since = {
            entry: before.get(entry, now) for entry in entries if NodeId(entry) not in here
        }

    def _is_ours(self, row: NoticeRow) -> bool:
        """Whether this node is to tell it, and may."""
        if row.entry != self._ledger.me:
            driver = self._ledger.driver
            leads = driver is not None and driver.status().role is Role.LEADER
            since = self._away_since.get(row.entry, math.inf)
            if not leads or trio.current_time() - since < AWAY_S:
                return False
        try:
            self._rules.target(row.url)
        except Refused as error:
            log.info("a webhook waits for a node that may call it", job=row.job, why=str(error))
            return False
        return True

    def _is_due(self, row: NoticeRow) -> bool:
        now = self._ledger.state.jobs.notices.get(row.job)
        return now is not None and now.end == row.end and not now.given_up

    # ---------------------------------------------------------------- telling

    async def _tell(self, row: NoticeRow) -> None:
        """One end's own task: what goes wrong in here ends neither the node nor others."""
        try:
            why = await self._try_often(row)
            if why is not None:
                await self._say(row, why)
        except Exception:  # its task: the node and other webhooks go on
            log.exception("a webhook could not be told", job=job_name(row.job))
        finally:
            self._telling.discard((row.job, row.end))

    async def _try_often(self, row: NoticeRow) -> str | None:
        """ "" once it was told; why it is given up; None if that is not this node's to do."""
        target = self._rules.target(row.url)
        why = ""
        for number in range(limits.WEBHOOK_TRIES):
            if number:
                pause_s = min(2.0 ** (number - 1), limits.WEBHOOK_PAUSE_MAX_S)
                await trio.sleep(pause_s * (0.5 + self._random()))
            if not (self._is_due(row) and self._is_ours(row)):
                return None
            async with self._at_once:
                status, why = await self._try(row, target)
            if 200 <= status < 300:
                log.debug("a webhook was told", job=job_name(row.job))
                return ""
            log.info("a webhook was not told", job=job_name(row.job), host=target.host, why=why)
            if status == _GONE:
                break
        log.warning("a webhook is given up", job=job_name(row.job), host=target.host, why=why)
        return why

    async def _try(self, row: NoticeRow, target: Target) -> tuple[int, str]:
        """The status of the answer, or 0, and what is wrong in a few words."""
        name = job_name(row.job)
        try:
            view = await self._jobs.outline(name)
        except MeshdError as error:
            log.info("of a job nothing but its end is told", job=name, why=str(error))
            view = None
        body = body_of(row, view)
        headers = headers_of(row, body, self._rules.secret, int(self._wall_unix_s()))
        why = "no answer in time"
        with trio.move_on_after(limits.WEBHOOK_S):
            try:
                status = await self._post(target, headers, body)
                return status, f"status {status}"
            except (DialFailed, NotAdmitted) as error:
                log.debug("no connection for a webhook", host=target.host, why=str(error))
                why = "it cannot be reached"
            except MeshdError as error:
                log.debug("a webhook broke off", host=target.host, why=str(error))
                why = "the connection broke"
        return 0, why

    async def _post(
        self, target: Target, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> int:
        """The status alone matters: what else is answered is not read, nor followed."""
        dial = self._network.dial_web if target.tls else self._network.dial_plain
        client = HttpClient(
            lambda: dial(target.address, limits.WEBHOOK_S),
            host=target.host,
            sweeper=self._sweeper,
        )
        try:
            response = await client.request("POST", target.path, headers, body)
            return response.status
        finally:
            client.close_all("the webhook was told, or was not")

    async def _say(self, row: NoticeRow, given_up: str) -> None:
        """Until it is on record, or nobody wants to know."""
        command = Notified(job=row.job, end=row.end, given_up=given_up[: limits.NAME_CHARS])
        while True:
            try:
                await self._ledger.execute(command)
                return
            except RecordRefused:
                return  # another node was quicker, or its time is over
            except MeshdError as error:
                log.info("that a webhook was told is not written yet", why=str(error))
            await trio.sleep(WRITE_AGAIN_S)
