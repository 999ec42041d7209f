"""Keyed requests whose entry is gone: the holder that runs one goes on in its place (trio shell).

    entry gone --PeerService--> Orphan --Move committed--> KeyedRun, read from the first item on

The run is this node's from then on: it holds the lease, tells whoever repeats the request, and
commits the answer under its own fence.  If the record gives the claim to nobody (no majority), or
has given it to another node, the run ends.
"""

from __future__ import annotations

from functools import partial

import trio

from meshd import limits, logs
from meshd.api.answered import Answered, Ending
from meshd.api.answering import Client, NodeName, answer
from meshd.api.dialect import Call
from meshd.api.keyed import KeyedApi, Work
from meshd.api.routes import encoder_of, error_body
from meshd.errors import MeshdError
from meshd.http import Room, Share
from meshd.ids import RequestId
from meshd.jobs.keyed import KeyedRequests
from meshd.record.job_rows import job_name
from meshd.relay.forwarder import Forwarder
from meshd.relay.orphans import Orphan
from meshd.wire.serve import KeyedClaim

log = logs.get("jobs")


class Adoptions:
    """Runs of this node that it goes on with for entries that are gone."""

    def __init__(
        self,
        requests: KeyedRequests,
        keyed: KeyedApi,
        forwarder: Forwarder,
        room: Room,
        node_name: NodeName,
    ) -> None:
        """`room` is where answers are kept that are not streamed."""
        self._requests = requests
        self._keyed = keyed
        self._forwarder = forwarder
        self._room = room
        self._node_name = node_name
        self._put, self._taken = trio.open_memory_channel[Orphan](limits.REQUESTS_IN_FLIGHT)

    def take(self, orphan: Orphan) -> None:
        """Its entry is gone: go on with it, or end it."""
        try:
            self._put.send_nowait(orphan)
        except trio.WouldBlock:
            orphan.abandon("too many runs have lost their entry at once")

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            async for orphan in self._taken:
                nursery.start_soon(self._adopt, orphan)

    async def _adopt(self, orphan: Orphan) -> None:
        share = Share(self._room)
        try:
            orphan.abandon(await self._answered(orphan, share))
        except Exception:  # its task: the node and other requests go on
            log.exception("a run could not be gone on with", job=job_name(orphan.claim.job))
        finally:
            orphan.abandon("its answer is over")
            share.release()

    async def _answered(self, orphan: Orphan, share: Share) -> str:
        """Go on with it, if it is this node's to go on with; why the run is then to end."""
        claim = orphan.claim
        job = job_name(claim.job)
        encoder = encoder_of(claim.form)
        call = Call(orphan.asked.request, claim.form.stream, encoder, claim.form)
        work = Work(call, claim.form.path, [], partial(self._answer, call, orphan, share))
        if not self._requests.holds(claim.job, claim.fence):
            return "its claim is over"  # most of all: its answer is the key's
        try:
            run = await self._requests.move(claim.job, claim.fence)
        except MeshdError as error:
            log.info("a run is not gone on with", job=job, why=str(error))
            return "it is not this node's to go on with"
        name = self._node_name(orphan.entry)
        log.info("its entry is gone: this node goes on", job=job, entry=name)
        await self._keyed.go_on(run, work)
        return "its answer is over"

    async def _answer(
        self,
        call: Call,
        orphan: Orphan,
        share: Share,
        client: Client,
        ending: Ending,
        claim: KeyedClaim | None,
    ) -> Answered:
        return await answer(
            call,
            RequestId(call.form.request_id),
            client,
            self._forwarder,
            partial(error_body, call.form.path),
            self._node_name,
            share,
            ending=ending,
            claim=claim,
            orphan=orphan,
        )
