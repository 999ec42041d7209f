"""The node and its jobs: the queue, what runs here, and what the leader does about time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from meshd import limits
from meshd.api.adopting import Adoptions
from meshd.api.job_orders import JobOrders
from meshd.api.job_run import run_job
from meshd.api.job_stream import JobStreams
from meshd.api.jobs import JobsApi
from meshd.api.keyed import KeyedApi
from meshd.api.server import ClientApi
from meshd.config import Config
from meshd.http import Room
from meshd.ids import NodeId
from meshd.jobs.blob_heirs import hand_over
from meshd.jobs.blobs import Blobs, record_of
from meshd.jobs.duties import Duties
from meshd.jobs.endings import Endings
from meshd.jobs.finished import Attempt
from meshd.jobs.finishing import Finishing
from meshd.jobs.history import History
from meshd.jobs.keyed import KeyedRequests
from meshd.jobs.requests import Requests
from meshd.jobs.runner import Runner
from meshd.jobs.said_links import SaidLinks, serve_said
from meshd.jobs.service import JobService
from meshd.jobs.small_heirs import SmallHeirs
from meshd.jobs.traces import Traces
from meshd.jobs.webhook_form import WebhookRules
from meshd.jobs.webhooks import Webhooks
from meshd.jobs.workers import Workers
from meshd.modelnames import normalise
from meshd.node.data import DataSide
from meshd.node.mesh import MeshSide
from meshd.node.record import RecordSide
from meshd.ports import Ports
from meshd.record.events import Event, JobFinished, JobReturned
from meshd.setting_kinds import webhook_key
from meshd.wire.said import SAID_PATH


class JobsSide:
    """What jobs need of the rest of the node."""

    def __init__(
        self,
        ports: Ports,
        config: Config,
        mesh: MeshSide,
        record: RecordSide,
        data: DataSide,
        room: Room,
    ) -> None:
        """`room` is where bodies are kept."""
        self._mesh, self._data = mesh, data
        self._api: ClientApi | None = None
        ledger = record.ledger
        links = mesh.links
        self.history = History(
            ports.databases,
            record.beside("history.db"),
            now_ms=lambda: ledger.state.clock.now_unix_ms,
        )
        self.request_history = History(
            ports.databases,
            record.beside("requests.db"),
            now_ms=lambda: ledger.state.clock.now_unix_ms,
            max_bytes=limits.REQUESTS_HISTORY_BYTES,
            what="requests",
        )
        self.finishing = Finishing(self.history, self.request_history)
        self.blobs = Blobs(
            ports.disk,
            record.beside("blobs"),
            mesh.id,
            record_of(ledger),
            linked=links.up,
            ask=links.request,
            choose=ports.entropy.randrange,
        )
        self.blobs.answer(mesh.switchboard)
        clock = ports.clock
        self.duties = Duties(
            ledger, record.wall_unix_s, lambda: clock.monotonic() + clock.suspended_s()
        )
        self.traces = Traces(
            ledger.execute,
            ports.disk,
            record.beside("traces"),
            start=mesh.standing.generation,
            wall_unix_s=record.wall_unix_s,
            randrange=ports.entropy.randrange,
        )

        def node_called(text: str) -> NodeId:
            return mesh.registry.find(text).id

        rules = WebhookRules(config.webhook_hosts, _webhook_key(config))
        endings = Endings(
            links.request, links.up, record_of(ledger).voters, ports.entropy.randrange
        )
        self.service = JobService(
            ledger,
            mesh.name_of,
            node_called,
            self.history,
            self.blobs,
            self.duties,
            rules,
            endings.find,
        )
        endings.answer(mesh.switchboard, self.service.finished_here)
        self._small_heirs = SmallHeirs(
            self.blobs, links.request, record_of(ledger).voters, self.service.finished_here
        )
        self._ledger = ledger
        self.webhooks = Webhooks(
            ledger,
            self.service,
            rules,
            ports.network,
            data.forwarder.sweeper,
            linked=links.up,
            wall_unix_s=record.wall_unix_s,
            random=ports.entropy.random,
        )
        self.runner = Runner(ledger, self._run, self._free, ports.entropy.random, self.blobs)
        self.requests = Requests(
            self.request_history,
            mesh.name_of,
            node_called,
            lambda: self.finishing.counters["traces_left_out"],
        )
        workers = Workers(ledger, self.service, self.blobs)
        self.orders = JobOrders(self.service, self.requests, self._unknown)
        said = SaidLinks(data.remotes.pool)
        self._keyed = KeyedRequests(
            ledger, self.service, self.blobs, said, room, is_gone=data.is_gone
        )
        self.keyed = KeyedApi(self._keyed)
        self._adoptions = Adoptions(self._keyed, self.keyed, data.forwarder, room, mesh.name_of)
        data.service.use_adopter(self._adoptions.take, data.seems_gone)
        streams = JobStreams(self.service, self._keyed.answers, self.keyed.followers)
        self.api = JobsApi(self.service, workers, self.requests, streams)
        data.service.serve_also(SAID_PATH, partial(serve_said, self._keyed.said_for_others))
        record.on_events(self._happened)
        record.before_compaction(self.finishing.settle)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.history.run)
            nursery.start_soon(self.request_history.run)
            nursery.start_soon(self.traces.run)
            nursery.start_soon(self.webhooks.run)
            nursery.start_soon(self.blobs.run)
            nursery.start_soon(self.runner.run)
            nursery.start_soon(self.duties.run)
            nursery.start_soon(self._adoptions.run)

    async def hand_over(self) -> None:
        """Have the voters know what this node alone may.  Raises NotHandedOver."""
        await hand_over(self.blobs)
        await self._small_heirs.hand_over(self._ledger.state.answered())

    def use(self, api: ClientApi) -> None:
        """What queued requests are run by: the way of those of clients."""
        self._api = api

    def _happened(self, events: Sequence[Event]) -> None:
        self.finishing.happened(events)
        self.service.happened(events)
        self.runner.happened(events)
        self._keyed.happened(events)
        for event in events:
            if isinstance(event, JobReturned):
                self._data.service.claim_over(event.job, event.fence)
            elif isinstance(event, JobFinished):
                self._data.service.claim_over(event.row.id, event.fence)
        self.duties.happened(events)
        self.webhooks.happened(events)

    async def _run(self, path: str, body: bytes) -> tuple[int, bytes, tuple[Attempt, ...]]:
        assert self._api is not None
        return await run_job(self._api, path, body)

    def _unknown(self, model: str) -> list[str] | None:
        """Names near that of a model which no node has now; None: some node has it."""
        catalogue = self._data.placement.catalogue
        known = catalogue.holders(model) or catalogue.stopped(model, trio.current_time())
        return None if known else catalogue.near(model)

    def _free(self) -> list[str]:
        """The models of this node's engines that have a slot to spare beside what runs here."""
        me = self._mesh.registry.get(self._mesh.id)
        if self._api is None or self._data.holder.draining or me is None or me.drained:
            return []
        names = set()
        for backend in self._data.backends.inventory().backends:
            for model in backend.models:
                lane = self._data.holder.lane_load(backend.id, model.name)
                # Interactive requests go before: a queue of theirs leaves no slot to spare.
                if lane.running < backend.slots and not lane.queued:
                    names.add(normalise(model.name))
        aliases = self._data.placement.catalogue.aliases()
        names |= {normalise(a) for a, model in aliases.items() if normalise(model) in names}
        return sorted(names)


def _webhook_key(config: Config) -> bytes:
    return webhook_key(config.webhook_secret) if config.webhook_secret else b""
