"""A process that keeps the record: the ledger on real links, disk and clock, and nothing else.

    python -m tests.bench.keeper SPEC GENERATION

It is what `node.record` makes in a daemon, without gossip, engines and HTTP: TLS links, the driver,
the kernel, the journal and the reducers are those of the daemon.  What to do it is told on standard
input, one JSON object a line, and says what came of it on standard output in the same form
(`keepers.py` is the other side).
"""

from __future__ import annotations

import base64
import cProfile
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import trio

from meshd import limits, logs
from meshd.consensus.voters import Standing, Wish
from meshd.errors import MeshdError
from meshd.ids import Address, MeshId, NodeId
from meshd.ledger.electorate import Machine
from meshd.ledger.ledger import Ledger, Place
from meshd.machine import real_ports
from meshd.machine.host import settle_garbage
from meshd.peers.door import PeerDoor
from meshd.peers.links import ControlLinks
from meshd.peers.switchboard import Switchboard
from meshd.ports import Alpn, Credentials
from meshd.record.commands import Entry, encode
from meshd.record.commands_jobs import RequestFields, Submit
from meshd.record.commands_registry import Adopt, Command, Found, NodeFields, Trace
from meshd.record.state import RecordState
from meshd.wire.control import Hello, Message
from meshd.wire.control_record import MachineReply, MachineRequest, RecordMessage
from tests.bench.bare import node_of

COMMAND_BYTES = 200
UNIX_MS = 1_790_000_000_000


class Member(msgspec.Struct, frozen=True):
    """One of the nodes, as all know it."""

    node: str
    name: str
    key: str
    """Its public key, DER in base64."""

    def fields(self) -> NodeFields:
        return NodeFields(key=base64.b64decode(self.key), name=self.name)


class Spec(msgspec.Struct, frozen=True):
    """What a keeper is told about itself and the others before it starts."""

    node: str
    mesh: str
    certificate: str
    key: str
    ca: str
    ca_key: str
    folder: str
    members: list[Member]

    @property
    def ca_key_der(self) -> bytes:
        return base64.b64decode(self.ca_key)


class Keeper:
    """One node of the mesh, as far as the record goes."""

    def __init__(self, spec: Spec, generation: int, port: int, ports: Any) -> None:
        self._spec = spec
        self._me, self._mesh = NodeId(spec.node), MeshId(spec.mesh)
        self._generation = generation
        self._addresses: dict[NodeId, list[Address]] = {}
        self._down_since: dict[NodeId, float] = {}
        self.switchboard = board = Switchboard(self._mesh, self._hello)
        self.links = ControlLinks(
            ports.network, ports.entropy, board, lambda node: self._addresses.get(node, [])
        )
        self.ledger = Ledger(
            ports,
            Place(self._me, self._mesh, generation, Path(spec.folder)),
            self,
            send=lambda node, messages: self.links.notify_at_once(
                node, [RecordMessage(data=data) for data in messages]
            ),
            linked=self.links.up,
            eligible=lambda node: node in self._members,
            founding=self._founding,
            missing=self._missing,
            machine=Machine,
            on_events=lambda events: None,
        )
        board.take_in_order(RecordMessage, lambda node, m: self.ledger.received(node, m.data))
        board.on_linked(self.ledger.connected)
        board.on_unlinked(lambda node, reason: self._unlinked(node))
        board.answer(MachineRequest, self._tell_machine)

    # ---------------------------------------------------------------- what the ledger asks

    @property
    def _members(self) -> dict[NodeId, Member]:
        return {NodeId(member.node): member for member in self._spec.members}

    def members(self) -> list[NodeId]:
        return list(self._members)

    def standing(self, node: NodeId) -> tuple[Standing, float]:
        if self.links.is_up(node):
            return Standing.ALIVE, 0.0
        return Standing.FAILED, trio.current_time() - self._down_since.setdefault(
            node, trio.current_time()
        )

    async def machine(self, node: NodeId) -> Machine:
        reply = await self.links.request(node, MachineRequest())
        assert isinstance(reply, MachineReply)
        return Machine(wish=Wish(reply.wish), sync_s=reply.sync_s, runs=reply.runs)

    def _founding(self) -> Found:
        """Whoever leads first says it: the list of voters was there before (`keepers.py`)."""
        return Found(
            mesh=self._mesh,
            mesh_name="bench",
            ca_key=self._spec.ca_key_der,
            node=self._members[self._me].fields(),
            unix_ms=UNIX_MS,
            gossip_key=1,
        )

    def _missing(self, state: RecordState) -> Adopt | None:
        lacking = [m.fields() for n, m in self._members.items() if state.nodes.get(n) is None]
        return Adopt(nodes=tuple(lacking)) if lacking else None

    async def _tell_machine(self, node: NodeId, message: MachineRequest) -> Message:
        await trio.lowlevel.checkpoint()
        own = self.ledger.own_machine()
        return MachineReply(
            wish=own.wish.value,
            on_mains=True,
            portable=False,
            uptime_s=own.uptime_s,
            sync_s=own.sync_s,
            runs=own.runs,
        )

    def _unlinked(self, node: NodeId) -> None:
        self._down_since[node] = trio.current_time()
        self.ledger.disconnected(node)

    def _hello(self) -> Hello:
        return Hello(
            protocol_min=1,
            protocol_max=1,
            version="bench",
            node=self._me,
            generation=self._generation,
            mesh=self._mesh,
            name=self._members[self._me].name,
            members_version=1,
        )

    # ---------------------------------------------------------------- what it is told to do

    async def peers(self, ports: Mapping[str, int]) -> dict[str, Any]:
        """Where the others are."""
        self._addresses = {NodeId(n): [Address("127.0.0.1", p)] for n, p in ports.items()}
        self.links.want(set(self._addresses) - {self._me})
        for node in self._addresses:
            self.links.kick(node)
        await trio.lowlevel.checkpoint()
        return {}

    async def status(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        driver, state = self.ledger.driver, self.ledger.state
        if driver is None:
            return {"runs": False, "problem": self.ledger.problem}
        now = driver.status()
        return {
            "runs": True,
            "role": now.role.value,
            "ready": now.ready,
            "leader": now.leader,
            "term": now.term,
            "voters": now.voters,
            "first": now.first,
            "last": now.last,
            "commit": now.commit,
            "applied": now.applied,
            "links": len(self.links.up()),
            "members": len(state.nodes.rows()) if state.nodes.is_founded else 0,
            "digest": state.digest().hex(),
            "sync_ms": self.ledger.sync_s * 1000,
            "counters": dict(driver.counters),
        }

    async def one_by_one(self, count: int, seconds: float) -> dict[str, Any]:
        """So many commands, each after the last is acknowledged; their latencies in ms."""
        took: list[float] = []
        until = time.perf_counter() + seconds
        command = _of_size(self._me, self._generation)
        while len(took) < count and time.perf_counter() < until:
            begun = time.perf_counter()
            await self.ledger.execute(command)
            took.append((time.perf_counter() - begun) * 1000)
        return {"took_ms": took}

    async def in_flight(self, width: int, seconds: float) -> dict[str, Any]:
        """As many commands as it takes, with `width` of them open at any time."""
        command = _of_size(self._me, self._generation)
        count = 0
        begun = time.perf_counter()

        async def one() -> None:
            nonlocal count
            while time.perf_counter() - begun < seconds:
                await self.ledger.execute(command)
                count += 1

        async with trio.open_nursery() as nursery:
            for _ in range(width):
                nursery.start_soon(one)
        return {"count": count, "took_s": time.perf_counter() - begun}

    async def reads(self, count: int) -> dict[str, Any]:
        """Linearizable reads, one at a time; their latencies in ms."""
        took: list[float] = []
        for _ in range(count):
            begun = time.perf_counter()
            await self.ledger.read_barrier()
            took.append((time.perf_counter() - begun) * 1000)
        return {"took_ms": took}

    async def accept(self) -> dict[str, Any]:
        """One command; the moment of its acknowledgement by this machine's monotonic clock."""
        await self.ledger.execute(_of_size(self._me, self._generation), timeout_s=30)
        return {"at": time.monotonic()}

    async def write_jobs(self, prefix: str, writers: int, pause_s: float) -> dict[str, Any]:
        """Submit jobs without end; each is told of on standard output when it is acknowledged."""

        async def one(writer: int) -> None:
            number = 0
            while True:
                number += 1
                mark = f"{prefix}.{writer}.{number}"
                try:
                    await self.ledger.execute(_job(mark), timeout_s=20)
                except MeshdError as error:
                    say({"refused": mark, "why": str(error)})
                else:
                    say({"acknowledged": mark})
                await trio.sleep(pause_s)

        async with trio.open_nursery() as nursery:
            for writer in range(writers):
                nursery.start_soon(one, writer)
        return {}

    async def jobs(self) -> dict[str, Any]:
        """The marks of all jobs in the record, as of a barrier, and where that is."""
        await self.ledger.read_barrier(timeout_s=10)
        state = self.ledger.state
        rows = state.jobs.live.page(0, limits.JOBS_LIVE, lambda row: True)
        marks = [row.request.inline.decode() for row in rows]
        return {"marks": marks, "index": state.index, "digest": state.digest().hex()}


def _of_size(node: NodeId, generation: int, size_bytes: int = COMMAND_BYTES) -> Command:
    """A command that has so many bytes in the log, give or take those of its number."""
    whole = Entry(Trace(rows=(bytes(100),)), client=node, epoch=generation, seq=99, ack_below=1)
    return Trace(rows=(bytes(100 + size_bytes - len(encode(whole))),))


def _job(mark: str) -> Submit:
    request = RequestFields(digest=bytes(32), size_bytes=len(mark), inline=mark.encode())
    return Submit(queue="bench", request=request)


def say(what: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def obey(keeper: Keeper) -> None:
    """Do what standard input says until it ends; orders run beside each other."""
    orders: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
        "peers": keeper.peers,
        "status": keeper.status,
        "one_by_one": keeper.one_by_one,
        "in_flight": keeper.in_flight,
        "reads": keeper.reads,
        "accept": keeper.accept,
        "write_jobs": keeper.write_jobs,
        "jobs": keeper.jobs,
    }

    async def carry_out(line: bytes) -> None:
        order = json.loads(line)
        number, what = order.pop("id"), order.pop("do")
        try:
            answer = await orders[what](**order)
        except MeshdError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        say({"id": number, **answer})

    pending = b""
    async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(os.dup(0)) as orders_in:
        while data := await orders_in.receive_some():
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                nursery.start_soon(carry_out, line)
        nursery.cancel_scope.cancel()


async def main(spec: Spec, generation: int) -> None:
    ports = real_ports()
    ports.network.use(
        Credentials(
            node=NodeId(spec.node),
            mesh=MeshId(spec.mesh),
            certificate_pem=spec.certificate.encode(),
            private_key_pem=spec.key.encode(),
            ca_pem=spec.ca.encode(),
            check_peer=node_of,
        )
    )
    listener = await ports.network.listen_peers(0)
    assert listener.address is not None
    keeper = Keeper(spec, generation, listener.address.port, ports)
    door = PeerDoor({Alpn.CONTROL: keeper.links.serve}, on_bad=lambda source, why: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.run, listener)
        nursery.start_soon(keeper.links.run)
        nursery.start_soon(keeper.ledger.run)
        say({"port": listener.address.port})
        await obey(keeper)
        nursery.cancel_scope.cancel()


def run() -> None:
    logs.configure("info", "logfmt", sys.stderr, terminal=False)
    spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Spec)
    settle_garbage()
    profile_path = os.environ.get("MESHD_BENCH_PROFILE")
    if profile_path:
        profile = cProfile.Profile()
        profile.runcall(trio.run, main, spec, int(sys.argv[2]))
        profile.dump_stats(f"{profile_path}.{os.getpid()}")
    else:
        trio.run(main, spec, int(sys.argv[2]))


if __name__ == "__main__":
    run()
