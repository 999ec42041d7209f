"""Access: join tokens, API keys, and what the mesh has set for all: aliases and policies.  Pure."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from meshd import limits
from meshd.record import commands_registry as commands
from meshd.record.context import Context
from meshd.record.events import AliasesChanged, ApiKeysChanged, PoliciesChanged, TokensChanged
from meshd.record.fields import (
    ApiKeyId,
    Count,
    Digest,
    KeyId,
    Line,
    ModelName,
    PolicyName,
    ShortLine,
    TokenId,
    UnixMs,
)
from meshd.record.results import DONE, Code, Refuse, done
from meshd.record.table import Row, Table


class TokenRow(Row, frozen=True):
    id: TokenId
    key: Digest
    """K = SHA-256(secret): proofs are made under it."""
    created_unix_ms: UnixMs
    expires_unix_ms: UnixMs
    uses: Count
    used_by: Annotated[tuple[KeyId, ...], Meta(max_length=limits.MEMBERS)] = ()


class ApiKeyRow(Row, frozen=True):
    id: ApiKeyId
    name: ShortLine
    sha256: Digest
    created_unix_ms: UnixMs


class AliasRow(Row, frozen=True):
    alias: ModelName
    model: ModelName


class PolicyRow(Row, frozen=True):
    name: PolicyName
    value: Line


def token_table() -> Table[str, TokenRow]:
    return Table("tokens", TokenRow, lambda row: row.id)


def api_key_table() -> Table[str, ApiKeyRow]:
    return Table("api_keys", ApiKeyRow, lambda row: row.id)


def alias_table() -> Table[str, AliasRow]:
    return Table("aliases", AliasRow, lambda row: row.alias)


def policy_table() -> Table[str, PolicyRow]:
    return Table("policies", PolicyRow, lambda row: row.name)


class Tokens:
    """Tokens are good for some nodes, for some time of the record clock."""

    def __init__(self, table: Table[str, TokenRow]) -> None:
        self._table = table

    def get(self, token: str) -> TokenRow | None:
        return self._table.get(token)

    def rows(self) -> list[TokenRow]:
        return self._table.rows()

    def create(self, context: Context, command: commands.CreateToken) -> bytes:
        if command.id in self._table:
            raise Refuse(Code.EXISTS)
        if len(self._table) >= limits.TOKENS:
            self._table.drop(self._oldest_spent(context.now_unix_ms))
        expires = context.now_unix_ms + command.ttl_ms
        self._table.put(
            TokenRow(
                id=command.id,
                key=command.key,
                created_unix_ms=context.now_unix_ms,
                expires_unix_ms=expires,
                uses=command.uses,
            )
        )
        context.emit(TokensChanged(context.index))
        return done(expires_unix_ms=expires)

    def revoke(self, context: Context, command: commands.RevokeToken) -> bytes:
        if command.id not in self._table:
            raise Refuse(Code.NOT_THERE)
        self._table.drop(command.id)
        context.emit(TokensChanged(context.index))
        return DONE

    def check_use(self, token: str, now_unix_ms: int) -> None:
        """Raise Refuse unless one more node may join by it now."""
        row = self._table.get(token)
        if row is None:
            raise Refuse(Code.TOKEN_WRONG)
        if now_unix_ms >= row.expires_unix_ms:
            raise Refuse(Code.TOKEN_EXPIRED)
        if len(row.used_by) >= row.uses:
            raise Refuse(Code.TOKEN_USED, uses=row.uses)

    def use(self, context: Context, token: str, node: str) -> None:
        """Note that a node that is being let in came by it; `check_use` has passed."""
        row = self._table[token]
        self._table.put(replace(row, used_by=(*row.used_by, node)))
        context.emit(TokensChanged(context.index))

    def revoke_all(self, context: Context) -> None:
        """With the removal of a node, which had K of every token from the record; and with a
        change of the CA, whose key every token pins."""
        rows = self._table.rows()
        for row in rows:
            self._table.drop(row.id)
        if rows:
            context.emit(TokensChanged(context.index))

    def next_due_unix_ms(self, now_unix_ms: int) -> int | None:
        """When the next one ends that is good now."""
        good = [row for row in self._table.rows() if len(row.used_by) < row.uses]
        ends = [row.expires_unix_ms for row in good if row.expires_unix_ms > now_unix_ms]
        return min(ends, default=None)

    def _oldest_spent(self, now_unix_ms: int) -> str:
        spent = [
            (row.created_unix_ms, row.id)
            for row in self._table.rows()
            if now_unix_ms >= row.expires_unix_ms or len(row.used_by) >= row.uses
        ]
        if not spent:
            raise Refuse(Code.TOO_MANY, limit=limits.TOKENS)
        return min(spent)[1]

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        rows = self._table.rows()
        assert len(rows) <= limits.TOKENS
        assert all(len(set(row.used_by)) == len(row.used_by) <= row.uses for row in rows)


class ApiKeys:
    """API keys, as hashes: who holds the record cannot use them."""

    def __init__(self, table: Table[str, ApiKeyRow]) -> None:
        self._table = table

    def rows(self) -> list[ApiKeyRow]:
        return self._table.rows()

    def add(self, context: Context, command: commands.AddApiKey) -> bytes:
        known = self._table.get(command.id)
        if known is not None:
            if known.sha256 == command.sha256:
                return DONE
            raise Refuse(Code.EXISTS)
        if len(self._table) >= limits.API_KEYS:
            raise Refuse(Code.TOO_MANY, limit=limits.API_KEYS)
        self._table.put(
            ApiKeyRow(
                id=command.id,
                name=command.name,
                sha256=command.sha256,
                created_unix_ms=command.created_unix_ms or context.now_unix_ms,
            )
        )
        context.emit(ApiKeysChanged(context.index))
        return DONE

    def revoke(self, context: Context, command: commands.RevokeApiKey) -> bytes:
        if command.id not in self._table:
            raise Refuse(Code.NOT_THERE)
        self._table.drop(command.id)
        context.emit(ApiKeysChanged(context.index))
        return DONE

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        assert len(self._table) <= limits.API_KEYS


class Settings:
    """Aliases and policies: small maps of text."""

    def __init__(self, aliases: Table[str, AliasRow], policies: Table[str, PolicyRow]) -> None:
        self._aliases = aliases
        self._policies = policies

    def aliases(self) -> dict[str, str]:
        return {row.alias: row.model for row in self._aliases.rows()}

    def policies(self) -> dict[str, str]:
        return {row.name: row.value for row in self._policies.rows()}

    def set_alias(self, context: Context, command: commands.SetAlias) -> bytes:
        known = self._aliases.get(command.alias)
        if not command.model:
            if known is None:
                raise Refuse(Code.NOT_THERE)
            self._aliases.drop(command.alias)
        elif known is None and len(self._aliases) >= limits.ALIASES:
            raise Refuse(Code.TOO_MANY, limit=limits.ALIASES)
        else:
            self._aliases.put(AliasRow(alias=command.alias, model=command.model))
        context.emit(AliasesChanged(context.index))
        return DONE

    def set_policy(self, context: Context, command: commands.SetPolicy) -> bytes:
        known = self._policies.get(command.name)
        if not command.value:
            if known is None:
                raise Refuse(Code.NOT_THERE)
            self._policies.drop(command.name)
        elif known is None and len(self._policies) >= limits.POLICIES:
            raise Refuse(Code.TOO_MANY, limit=limits.POLICIES)
        else:
            self._policies.put(PolicyRow(name=command.name, value=command.value))
        context.emit(PoliciesChanged(context.index))
        return DONE

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        assert len(self._aliases) <= limits.ALIASES
        assert len(self._policies) <= limits.POLICIES
