"""API keys among whole nodes in memory: made at one, good at all, taken back everywhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from trio.testing import MockClock

from meshd import control
from meshd.apikeys import SECRET_BYTES, ApiKey, ApiKeys, new_key
from meshd.errors import Refused
from meshd.testing.world import PATHS, Machine, World, until
from tests.sim.meshes import three

Order = Callable[[bytes], Awaitable[Any]]


def a_key(number: int, name: str = "") -> tuple[str, ApiKey]:
    return new_key(number.to_bytes(SECRET_BYTES, "big"), name, 1000.0)


def order(machine: Machine, method: str, path: str) -> Order:
    return machine.running.keys.routes()[method, path]


async def make(machine: Machine, key: ApiKey) -> None:
    said = control.KeyOrder(name=key.name, sha256=key.sha256, created_unix_s=key.created_unix_s)
    await order(machine, "POST", "/control/keys")(msgspec.json.encode(said))


async def revoke(machine: Machine, which: str) -> None:
    said = control.KeyRevocation(which=which)
    await order(machine, "POST", "/control/keys/revoke")(msgspec.json.encode(said))


def opens(machine: Machine, text: str) -> str | None:
    return machine.running.keys.check(text)


def in_file(machine: Machine) -> ApiKeys:
    return ApiKeys.parse(machine.disk.files.get(PATHS.keys), PATHS.keys)


async def restart(machine: Machine) -> None:
    machine.kill()
    await machine.until_over()
    await machine.start()


async def test_a_key_made_at_one_node_opens_all_until_it_is_taken_back_at_another(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        text, key = a_key(1, "laptop")
        await make(b, key)
        assert opens(b, text) == key.id
        await until(lambda: all(opens(m, text) == key.id for m in (a, b, c)), within_s=1.0)
        with pytest.raises(Refused, match="there is a key called 'laptop' already"):
            await make(c, a_key(2, "laptop")[1])
        await until(lambda: all(in_file(m).check(text) for m in (a, b, c)), within_s=5.0)
        assert all(PATHS.keys in m.disk.private for m in (a, b, c))
        (row,) = await order(c, "GET", "/control/keys")(b"")
        assert (row.id, row.name) == (key.id, "laptop")
        await revoke(c, "laptop")
        assert opens(c, text) is None
        await until(lambda: not any(opens(m, text) for m in (a, b, c)), within_s=1.0)
        await until(lambda: not any(in_file(m).keys for m in (a, b, c)), within_s=5.0)


async def test_a_node_that_starts_alone_knows_the_keys_and_says_why_it_makes_none(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        text, key = a_key(1)
        await make(a, key)
        await until(lambda: in_file(b).check(text) is not None, within_s=5.0)
        a.crash()
        c.crash()
        await restart(b)
        assert opens(b, text) == key.id
        more, other = a_key(2)
        with pytest.raises(Refused, match=r"2 of its 3 voters.*Away: .*No key was made"):
            await make(b, other)
        assert opens(b, more) is None
        with pytest.raises(Refused, match=r"the key still opens the mesh|is not known"):
            await revoke(b, key.id)
        assert opens(b, text) == key.id


async def test_a_key_taken_back_while_a_node_was_away_opens_it_no_more_when_it_is_back(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        text, key = a_key(1)
        await make(a, key)
        await until(lambda: in_file(c).check(text) is not None, within_s=5.0)
        c.kill()
        await c.until_over()
        await revoke(a, key.id)
        await c.start()
        await until(lambda: opens(c, text) is None, within_s=30.0)
        await until(lambda: in_file(c).keys == (), within_s=5.0)
        assert not any(opens(m, text) for m in (a, b))


async def test_keys_of_a_file_are_the_meshs_once_there_is_a_quorum(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        for machine in (b, c):
            machine.kill()
            await machine.until_over()
        texts = []
        for number, machine in enumerate((b, c)):
            text, key = a_key(number)
            texts.append(text)
            machine.disk.write(PATHS.keys, ApiKeys((key,)).dump(), private=True)
        await b.start()
        assert opens(b, texts[0])
        await c.start()
        await until(
            lambda: all(opens(m, text) for m in (a, b, c) for text in texts), within_s=120.0
        )
        await until(lambda: not any(in_file(m).pending for m in (a, b, c)), within_s=120.0)
