"""Which reducer does which command, and the commands that concern several.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from meshd.ids import NodeId, key_id
from meshd.record import (
    access,
    clock,
    commands_jobs,
    job_rows,
    jobs,
    node_rows,
    nodes,
    sessions,
)
from meshd.record import commands_registry as registry
from meshd.record.commands_registry import Command
from meshd.record.context import Context
from meshd.record.events import FeatureRaised, NodeStarted, Traced
from meshd.record.results import DONE, Code, Refuse, done
from meshd.record.table import Table

WITHOUT_SESSION: Final = frozenset(
    {
        registry.Found,
        registry.Started,
        registry.EndSession,
        registry.Tick,
        registry.ConfirmClock,
        registry.RaiseFeature,
        commands_jobs.Expire,
        commands_jobs.LetGo,
    }
)
"""Harmless when repeated, or said when there is no session yet."""


class Reducers:
    """All of them, over one set of tables."""

    def __init__(self, tables: dict[str, Table[Any, Any]]) -> None:
        """Over tables that are empty, or to be followed by `indexing`."""
        self.clock = clock.Clock(tables["clock"])
        self.nodes = nodes.Nodes(tables["mesh"], tables["nodes"], tables["removed"])
        self.sessions = sessions.Sessions(tables["sessions"], tables["results"])
        self.tokens = access.Tokens(tables["tokens"])
        self.api_keys = access.ApiKeys(tables["api_keys"])
        self.settings = access.Settings(tables["aliases"], tables["policies"])
        self.jobs = jobs.Jobs(
            tables["jobs"],
            tables["dead"],
            tables["keys"],
            tables["kept"],
            tables["notices"],
            self.nodes,
            self.clock.now_unix_ms,
        )
        self._by_kind: dict[type[Command], Callable[[Context, Any], bytes]] = {
            registry.Found: self._found,
            registry.Adopt: self._adopt,
            registry.Admit: self._admit,
            registry.Remove: self._remove,
            registry.ChangeNode: self.nodes.change,
            registry.Certify: self.nodes.certify,
            registry.HoldCa: self.nodes.hold_ca,
            registry.RotateCa: self._rotate_ca,
            registry.RotateKeyring: self.nodes.rotate_keyring,
            registry.CreateToken: self.tokens.create,
            registry.RevokeToken: self.tokens.revoke,
            registry.SetAlias: self.settings.set_alias,
            registry.SetPolicy: self.settings.set_policy,
            registry.AddApiKey: self.api_keys.add,
            registry.RevokeApiKey: self.api_keys.revoke,
            registry.Started: self._started,
            registry.EndSession: self.sessions.end,
            registry.Tick: self._tick,
            registry.ConfirmClock: self._confirm_clock,
            registry.RaiseFeature: self._raise_feature,
            registry.Trace: self._trace,
            commands_jobs.Accept: self.jobs.accept,
            commands_jobs.Submit: self.jobs.submit,
            commands_jobs.Claim: self.jobs.claim,
            commands_jobs.ClaimNext: self.jobs.claim_next,
            commands_jobs.Renew: self.jobs.renew,
            commands_jobs.Complete: self.jobs.complete,
            commands_jobs.Fail: self.jobs.fail,
            commands_jobs.Release: self.jobs.release,
            commands_jobs.Expire: self.jobs.expire,
            commands_jobs.Cancel: self.jobs.cancel,
            commands_jobs.Retry: self.jobs.retry,
            commands_jobs.LetGo: self.jobs.let_go,
            commands_jobs.Notified: self.jobs.notified,
            commands_jobs.Move: self.jobs.move,
        }

    def indexing(self) -> Iterator[None]:
        """Make what is beside the tables, of tables that were restored; one row an item."""
        yield from self.sessions.indexing()
        yield from self.jobs.indexing()

    def reduce(self, context: Context, command: Command) -> bytes:
        """Carry out one command.  Raises Refuse, and then nothing has changed."""
        return self._by_kind[type(command)](context, command)

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        self.clock.check()
        self.nodes.check()
        self.sessions.check()
        self.tokens.check()
        self.api_keys.check()
        self.settings.check()
        self.jobs.check()
        assert all(self.nodes.get(row.node) for row in self.sessions.rows())

    def _found(self, context: Context, command: registry.Found) -> bytes:
        result = self.nodes.found(context, command)
        self.clock.start(command.unix_ms)
        self.jobs.advance(context, command.unix_ms)
        return result

    def _admit(self, context: Context, command: registry.Admit) -> bytes:
        if self.nodes.check_admission(context, command) and command.token:
            self.tokens.check_use(command.token, context.now_unix_ms)
            self.tokens.use(context, command.token, key_id(command.node.key))
        return self.nodes.admit(context, command)

    def _rotate_ca(self, context: Context, command: registry.RotateCa) -> bytes:
        result = self.nodes.rotate_ca(context, command)
        self.tokens.revoke_all(context)
        return result

    def _adopt(self, context: Context, command: registry.Adopt) -> bytes:
        members = [node for node, _ in command.removed if self.nodes.get(node) is not None]
        result = self.nodes.adopt(context, command)
        self._gone(context, [node for node in members if self.nodes.get(node) is None])
        return result

    def _remove(self, context: Context, command: registry.Remove) -> bytes:
        members = [command.node] if self.nodes.get(command.node) is not None else []
        result = self.nodes.remove(context, command)
        self._gone(context, members)
        return result

    def _gone(self, context: Context, nodes: Sequence[str]) -> None:
        """These are no members any more."""
        for node in nodes:
            self.sessions.forget(node)
        if nodes:
            self.tokens.revoke_all(context)

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

    def _tick(self, context: Context, command: registry.Tick) -> bytes:
        """`more`: tick again, more is over than one command may end."""
        self.clock.tick(context, command)
        return self._advanced(context)

    def _confirm_clock(self, context: Context, command: registry.ConfirmClock) -> bytes:
        self.clock.confirm(context, command)
        return self._advanced(context)

    def _advanced(self, context: Context) -> bytes:
        row = self.clock.row
        more = self.jobs.advance(context, row.now_unix_ms)
        return done(now=row.now_unix_ms, held=row.held_unix_ms, more=more)

    def _raise_feature(self, context: Context, command: registry.RaiseFeature) -> bytes:
        if self.nodes.raise_feature(command.version):
            context.emit(FeatureRaised(context.index, command.version))
        return DONE

    def _trace(self, context: Context, command: registry.Trace) -> bytes:
        if not command.number or self.nodes.note_traces(context.client, command.number):
            context.emit(Traced(context.index, context.client, command.rows, command.left_out))
        return DONE


def empty_tables() -> dict[str, Table[Any, Any]]:
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
        job_rows.job_table(),
        job_rows.dead_table(),
        job_rows.key_table(),
        job_rows.kept_table(),
        job_rows.notice_table(),
    ]
    return {table.name: table for table in tables}
