"""The record's state: what committed commands add up to.  Pure.

It knows no Raft.  Whoever applies commands hands them in with their index, in order, each once, and
gets the result; what came about is told by events.  Nothing in here reads a clock, draws a number
or iterates in an order that depends on anything but the state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from meshd import limits
from meshd.ids import NodeId, key_id
from meshd.record import access, clock, node_rows, nodes, sessions
from meshd.record import commands_registry as registry
from meshd.record.commands import VERSION, Entry, Malformed, UnknownCommand, decode
from meshd.record.commands_registry import Command
from meshd.record.context import Context
from meshd.record.events import Event, FeatureRaised, NodeStarted, Traced
from meshd.record.frozen import FORM, FrozenState, Head, StateDamaged, thaw
from meshd.record.results import DONE, Code, Refuse, refused
from meshd.record.table import Table, encode_row

WITHOUT_SESSION: Final = frozenset(
    {
        registry.Found,
        registry.Started,
        registry.EndSession,
        registry.Tick,
        registry.ConfirmClock,
        registry.RaiseFeature,
    }
)
"""Harmless when repeated, or said when there is no session yet."""


class RecordState:
    """Registry, sessions and clock as of the last applied command."""

    def __init__(self) -> None:
        """The state before the first command."""
        self._events: list[Event] = []
        self._reset(_empty_tables(), index=0)

    def _reset(self, tables: dict[str, Table[Any, Any]], index: int) -> None:
        self._tables = tables
        self._index = index
        self.clock = clock.Clock(tables["clock"])
        self.nodes = nodes.Nodes(tables["mesh"], tables["nodes"], tables["removed"])
        self.sessions = sessions.Sessions(tables["sessions"], tables["results"])
        self.tokens = access.Tokens(tables["tokens"])
        self.api_keys = access.ApiKeys(tables["api_keys"])
        self.settings = access.Settings(tables["aliases"], tables["policies"])
        self._reducers: dict[type[Command], Callable[[Context, Any], bytes]] = {
            registry.Found: self._found,
            registry.Adopt: self.nodes.adopt,
            registry.Admit: self._admit,
            registry.Remove: self._remove,
            registry.ChangeNode: self.nodes.change,
            registry.Certify: self.nodes.certify,
            registry.HoldCa: self.nodes.hold_ca,
            registry.RotateCa: self.nodes.rotate_ca,
            registry.RotateKeyring: self.nodes.rotate_keyring,
            registry.CreateToken: self.tokens.create,
            registry.RevokeToken: self.tokens.revoke,
            registry.SetAlias: self.settings.set_alias,
            registry.SetPolicy: self.settings.set_policy,
            registry.AddApiKey: self.api_keys.add,
            registry.RevokeApiKey: self.api_keys.revoke,
            registry.Started: self._started,
            registry.EndSession: self.sessions.end,
            registry.Tick: self.clock.tick,
            registry.ConfirmClock: self.clock.confirm,
            registry.RaiseFeature: self._raise_feature,
            registry.Trace: _trace,
        }

    @property
    def index(self) -> int:
        """Of the last applied command; 0: none."""
        return self._index

    @property
    def feature(self) -> int:
        """The newest version of commands that may be proposed."""
        return self.nodes.mesh.feature if self.nodes.is_founded else VERSION

    # --- commands

    def apply(self, index: int, command: bytes) -> bytes:
        """Apply a committed command; its result, in canonical msgpack (results.py).

        A command that is refused changes nothing but what its session remembers of it.  Raises
        UnknownCommand for one of a later version: the state is as it was, and the caller must not
        go on to the next.
        """
        if index <= self._index:
            raise ValueError(f"command {index} after {self._index}: commands are applied in order")
        try:
            result = self._apply(index, command)
        except Refuse as refusal:
            result = refused(refusal)
        self._index = index
        return result

    def take_events(self) -> list[Event]:
        """What the commands since the last call brought about, in order."""
        events, self._events = self._events, []
        return events

    def _apply(self, index: int, command: bytes) -> bytes:
        try:
            entry = decode(command)
        except Malformed:
            too_large = len(command) > limits.COMMAND_BYTES
            raise Refuse(Code.TOO_LARGE if too_large else Code.MALFORMED) from None
        if isinstance(entry.body, registry.RaiseFeature) and entry.body.version > VERSION:
            raise UnknownCommand(
                f"The mesh goes on to commands of version {entry.body.version}, this meshd knows "
                f"{VERSION}: update it."
            )
        if entry.version > self.feature:
            raise Refuse(Code.NOT_ENABLED, feature=self.feature)
        context = Context(index, entry.client, self.clock.now_unix_ms, self._events.append)
        if not entry.client:
            if type(entry.body) not in WITHOUT_SESSION:
                raise Refuse(Code.NO_SESSION)
            return self._reduce(context, entry.body)
        return self._once(context, entry)

    def _once(self, context: Context, entry: Entry) -> bytes:
        first = self.sessions.first_result(entry)
        if first is not None:
            return first
        try:
            result = self._reduce(context, entry.body)
        except Refuse as refusal:
            result = refused(refusal)
        self.sessions.keep(entry.client, entry.seq, result)
        return result

    def _reduce(self, context: Context, command: Command) -> bytes:
        if not self.nodes.is_founded and type(command) is not registry.Found:
            raise Refuse(Code.NOT_FOUNDED)
        return self._reducers[type(command)](context, command)

    # --- commands that concern several reducers

    def _found(self, context: Context, command: registry.Found) -> bytes:
        result = self.nodes.found(context, command)
        self.clock.start(command.unix_ms)
        return result

    def _admit(self, context: Context, command: registry.Admit) -> bytes:
        if self.nodes.check_admission(context, command) and command.token:
            self.tokens.check_use(command.token, context.now_unix_ms)
            self.tokens.use(context, command.token, key_id(command.node.key))
        return self.nodes.admit(context, command)

    def _remove(self, context: Context, command: registry.Remove) -> bytes:
        was_in = self.nodes.get(command.node) is not None
        result = self.nodes.remove(context, command)
        if was_in:
            self.sessions.forget(command.node)
            self.tokens.revoke_all(context)
        return result

    def _started(self, context: Context, command: registry.Started) -> bytes:
        """A session that was ended is never opened again: its numbers are used up."""
        node = self.nodes.member(command.node)
        session = self.sessions.get(command.node)
        if session is None or session.generation != command.generation:
            if command.generation <= node.generation:
                raise Refuse(Code.OLD_GENERATION, generation=node.generation)
            self.nodes.start(command)
            context.emit(NodeStarted(context.index, NodeId(command.node), command.generation))
        return self.sessions.start(context, command)

    def _raise_feature(self, context: Context, command: registry.RaiseFeature) -> bytes:
        if self.nodes.raise_feature(command.version):
            context.emit(FeatureRaised(context.index, command.version))
        return DONE

    # --- the state as a whole

    def digest(self) -> bytes:
        """SHA-256 over the state: equal where the same rows are, whatever came before."""
        return _digest(self._tables)

    def capture(self) -> FrozenState:
        """The state as it is now, to be packed while commands go on being applied."""
        tables = list(self._tables.values())
        head = Head(
            form=FORM,
            feature=self.feature,
            index=self._index,
            digest=self.digest(),
            rows=sum(len(table) for table in tables),
        )
        return FrozenState(head, [table.capture() for table in tables])

    def freeze(self) -> bytes:
        """The state as bytes, at once; equal states give equal bytes."""
        return self.capture().to_bytes()

    def restore(self, data: bytes) -> None:
        """Become the state that was frozen, at once.  Raises as `restoring`."""
        for _ in self.restoring(data):
            pass

    def restoring(self, data: bytes) -> Iterator[None]:
        """Become the state that was frozen, a millisecond or so between two items.

        Until the last item this state is as it was, and may be read.  Raises StateDamaged or
        StateUnknown, and then it stays as it was.
        """
        tables = _empty_tables()
        thawing = thaw(data, tables)
        head = next(thawing)
        for _ in thawing:
            yield
        if _digest(tables) != head.digest:
            raise StateDamaged("The state is not the one that was frozen: its hash differs.")
        self._reset(tables, head.index)

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken.  For tests and `record check`."""
        self.clock.check()
        self.nodes.check()
        self.sessions.check()
        self.tokens.check()
        self.api_keys.check()
        self.settings.check()
        assert all(self.nodes.get(row.node) for row in self._tables["sessions"].rows())
        for table in self._tables.values():
            table.check()


def _empty_tables() -> dict[str, Table[Any, Any]]:
    """In the order in which they are frozen: ONLY APPEND."""
    tables: list[Table[Any, Any]] = [
        clock.clock_table(),
        node_rows.mesh_table(),
        node_rows.node_table(),
        node_rows.removed_table(),
        sessions.session_table(),
        sessions.result_table(),
        access.token_table(),
        access.api_key_table(),
        access.alias_table(),
        access.policy_table(),
    ]
    return {table.name: table for table in tables}


def _digest(tables: dict[str, Table[Any, Any]]) -> bytes:
    sums = [[name, table.hash_sum().to_bytes(32, "big")] for name, table in tables.items()]
    return hashlib.sha256(encode_row(sums)).digest()


def _trace(context: Context, command: registry.Trace) -> bytes:
    context.emit(Traced(context.index, context.client, command.rows, command.left_out))
    return DONE
