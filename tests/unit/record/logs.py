"""A record that tests write into: the state, a growing log, and sessions of its nodes."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

from meshd.identity.keys import PublicKey
from meshd.ids import NodeId
from meshd.record.commands import Entry, encode
from meshd.record.commands_registry import Admit, Command, Found, NodeFields, Started, Tick
from meshd.record.events import Event
from meshd.record.results import Code, RecordRefused, read
from meshd.record.state import RecordState
from tests.joins import make_key

CA = make_key("ca").public
START_MS = 1_790_000_000_000
HOUR_MS = 3_600_000


@functools.cache
def key_of(name: str) -> PublicKey:
    return make_key(name).public


def id_of(name: str) -> NodeId:
    return key_of(name).node


def boot(name: str, generation: int = 1) -> bytes:
    return hashlib.sha256(f"{name} {generation}".encode()).digest()[:16]


def found(**changes: Any) -> Found:
    fields: dict[str, Any] = {
        "mesh": CA.mesh, "mesh_name": "home", "ca_key": CA.der,
        "node": NodeFields(key=key_of("attic").der, name="attic"),
        "unix_ms": START_MS, "gossip_key": 1,
    }  # fmt: skip
    return Found(**fields | changes)


class Log:
    """Applies commands as a node would that is the only one."""

    def __init__(self, *nodes: str) -> None:
        """A mesh of `attic`, which founded it, and these."""
        self.state = RecordState()
        self.entries: list[bytes] = []
        self.events: list[Event] = []
        self._next_seq: dict[str, int] = {}
        self.generation: dict[str, int] = {}
        self.do(found())
        self.start("attic")
        for name in nodes:
            self.admit(name)
            self.start(name)
        self.events.clear()

    @property
    def index(self) -> int:
        return self.state.index

    def apply(self, data: bytes) -> bytes:
        self.entries.append(data)
        result = self.state.apply(self.index + 1, data)
        self.events += self.state.take_events()
        return result

    def raw(self, command: Command) -> bytes:
        """Apply it in no session; its result as it is."""
        return self.apply(encode(Entry(command)))

    def do(self, command: Command) -> dict[str, Any]:
        """Apply it in no session; the fields of its result."""
        return read(self.raw(command))

    def by(self, name: str, command: Command, **entry: Any) -> dict[str, Any]:
        """Apply it in that node's session, as its next."""
        return read(self.by_raw(name, command, **entry))

    def by_raw(self, name: str, command: Command, **entry: Any) -> bytes:
        seq = self._next_seq.get(name, 1)
        self._next_seq[name] = seq + 1
        fields: dict[str, Any] = {
            "client": str(id_of(name)), "epoch": self.generation.get(name, 1), "seq": seq,
            "ack_below": seq,
        }  # fmt: skip
        return self.apply(encode(Entry(command, **fields | entry)))

    def start(self, name: str, generation: int | None = None) -> None:
        generation = generation or self.generation.get(name, 0) + 1
        self.do(Started(node=id_of(name), generation=generation, boot=boot(name, generation)))
        self.generation[name] = generation
        self._next_seq[name] = 1

    def admit(self, name: str, **fields: Any) -> dict[str, Any]:
        token = fields.pop("token", "")
        node = NodeFields(key=key_of(name).der, name=name, **fields)
        return self.by("attic", Admit(node=node, token=token))

    def tick(self, ahead_ms: int) -> dict[str, Any]:
        return self.do(Tick(unix_ms=self.state.clock.now_unix_ms + ahead_ms))

    def happened(self, kind: type[Event]) -> list[Any]:
        """The events of that kind since the log was made or this was last called for it."""
        found = [event for event in self.events if isinstance(event, kind)]
        self.events = [event for event in self.events if not isinstance(event, kind)]
        return found

    def replayed(self) -> RecordState:
        """Another node that has applied the same."""
        state = RecordState()
        for index, data in enumerate(self.entries, 1):
            state.apply(index, data)
        return state


def code_of(result: bytes) -> Code:
    """Why it was refused; OK if it was not."""
    try:
        read(result)
    except RecordRefused as error:
        return error.code
    return Code.OK
