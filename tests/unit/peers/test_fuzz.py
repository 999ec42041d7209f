"""A member gone bad says anything at all, in form: whole nodes take it or refuse it, and go on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from meshd.errors import ProtocolError, StreamBroken
from meshd.ids import Address, NodeId
from meshd.ports import Alpn
from meshd.testing.memory_engine import MemoryEngine
from meshd.testing.world import Machine, World
from meshd.wire import gossip
from meshd.wire.codec import pack
from meshd.wire.control import MESSAGES, Hello, PushPull, decode, encode
from meshd.wire.framing import FrameReader, frame

ROUNDS = 400
BUGS = (
    "could not be handled",
    "a link failed",
    "a connection on the mesh port failed",
    "Traceback",
)

TEXTS = ["", "a", "m", "\x1b[2J", "x" * 64, "x" * 5000, "..", "a..b", "\u202e", "\U0001f600", "\0"]
NUMBERS: list[float | int] = [0, 1, -1, 2**31, 2**53 - 1, 2**53, 2**63, 2**64 - 1, -(2**63)]
NUMBERS += [0.0, -0.5, 1e-300, 1e300]


class Mouth:
    """Random words of the protocol, some in form."""

    def __init__(self, seed: int, nodes: list[NodeId]) -> None:
        self.random = random.Random(seed)
        self.nodes = [*nodes, NodeId("z" * 26)]

    def any(self, depth: int = 0) -> Any:
        pick = self.random.choice
        kinds: list[Callable[[], Any]] = [
            lambda: pick(TEXTS),
            lambda: pick(NUMBERS),
            lambda: pick(self.nodes),
            lambda: pick([True, False]),
            lambda: self.random.randbytes(pick([0, 1, 16, 32, 300])),
        ]
        if depth < 4:
            kinds += [
                lambda: [self.any(depth + 1) for _ in range(pick([0, 1, 3, 20]))],
                lambda: {
                    pick([*TEXTS, *KEYS]): self.any(depth + 1) for _ in range(pick([0, 1, 6]))
                },
            ]
        return pick(kinds)()

    def inventory(self) -> dict[str, Any]:
        pick = self.random.choice
        model = {"name": pick(TEXTS), "size_bytes": pick(NUMBERS), "context_tokens": pick(NUMBERS)}
        model |= {"resident": pick([True, False]), "capabilities": pick([[], TEXTS])}
        backend = {"id": pick(TEXTS), "url": pick(TEXTS), "engine": pick(TEXTS)}
        backend |= {"slots": pick(NUMBERS), "models": [model] * pick([0, 1, 1, 30])}
        made = {"node": pick(self.nodes), "generation": pick(NUMBERS), "revision": pick(NUMBERS)}
        return {**made, "backends": [backend] * pick([0, 1, 1, 40])}

    def load(self) -> dict[str, Any]:
        pick = self.random.choice
        one = {name: pick(NUMBERS) for name in ("running", "queued", "slots")}
        rates = ("decode_tokens_per_s", "prefill_tokens_per_s", "load_s")
        per_model = {
            f"{pick(TEXTS)}/{pick(TEXTS)}": {**one, **{rate: pick(NUMBERS) for rate in rates}}
            for _ in range(3)
        }
        return {**one, "draining": pick([True, False]), "per_model": per_model}

    def word(self, node: NodeId, generation: int, sign: Callable[[bytes], bytes]) -> gossip.Word:
        pick = self.random.choice
        addresses = tuple(
            Address(pick(["a..b", "-", "10.0.0.9", "::1", "x" * 64, "999.1.1.1"]), pick([1, 65535]))
            for _ in range(pick([0, 1, 16]))
        )
        counts = [pick([0, 1, 2**31 - 1]) for _ in range(3)]
        profile = gossip.Profile(
            pick(["b", "x" * 64, "\U0001f600"]),
            addresses,
            (pick([0, 65535]), pick([0, 1, 65535]), pick([0, 1])),
            pick([0, 1, 2**62]),
            gossip.Load(*counts, pick([True, False])),
        )
        version = (generation, self.random.randrange(2**40))
        return gossip.make_word(node, version, pick(list(gossip.WordKind)), profile, sign)

    def message(self, kind: int, request_id: int) -> bytes:
        """Mostly one that is taken as such: what is not costs the link."""
        while True:
            try:
                payload = pack([kind, self.random.choice([0, request_id]), self.body(kind)])
            except (ValueError, OverflowError):
                continue  # not even the codec takes it
            try:
                decode(payload)
            except ProtocolError:
                if self.random.random() > 0.01:
                    continue
            return payload

    def body(self, number: int) -> dict[str, Any]:
        """Of that type of message: its own keys, with values that may fit."""
        pick = self.random.choice
        names = [n for n in MESSAGES[number].__struct_fields__ if n != "extra"]
        made = {name: self.any() for name in names if pick([True] * 9 + [False])}
        if "inventory" in made and pick([True, True, False]):
            made["inventory"] = self.inventory()
        if "load" in made and pick([True, True, False]):
            made["load"] = self.load()
        if "node" in made:  # of Leave: a must stay what it is, and the speaker a member
            made["node"] = pick(self.nodes[-2:])
        if "digits" in made:
            made["digits"] = pick(["123456", "123 456", "", "\u0661\u0662"])
        for name in ("version", "have_version", "members_version", "generation"):
            if name in made:
                made[name] = pick([0, 1, 2, 2**53 - 1])
        return made


KEYS = ["node", "id", "name", "digits", "reason", "way", "public_key", "addresses", "certificate"]


class Impostor:
    """b's keys, in other hands: b itself is off."""

    def __init__(self, world: World, b: Machine, a: Machine) -> None:
        self.node, self.generation = b.id, b.running.mesh.standing.generation + 5
        mesh = b.running.mesh
        self.hello = msgspec.structs.replace(mesh.introduction.hello(), generation=self.generation)
        self.key = mesh.standing.key
        self.host, self.credentials = b.host, mesh.introduction.credentials()
        self.world, self.a = world, a
        self.a_node = a.id
        self.a_address = Address(a.host.addresses[0], 11436)

    async def dial(self) -> Any:
        self.host.use(self.credentials)
        stream = await self.host.dial_peer(self.a_node, [self.a_address], Alpn.CONTROL, 5)
        await stream.send_all(frame(encode(self.hello)))
        reader = FrameReader(1 << 20)
        while True:
            if payloads := reader.feed(await stream.receive_some()):
                assert isinstance(decode(payloads[0])[0], Hello)
                return stream


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_a_member_says_nobody_falls_over_it(
    seed: int, autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with World.open(seed=seed) as world:
        a = await world.start("a", MemoryEngine("m"))
        b = await world.start("b")
        c = await world.start("c")
        await world.settled()
        bad = Impostor(world, b, a)
        mouth = Mouth(seed, [machine.id for machine in (a, b, c)])
        b.crash()
        await trio.sleep(1)
        stream = await bad.dial()
        for number in range(ROUNDS):
            kind = mouth.random.choice(sorted(MESSAGES))
            if mouth.random.random() < 0.2:
                words = [
                    mouth.word(
                        bad.node,
                        bad.generation + number,
                        lambda payload: bad.key.sign(gossip.WORD_CONTEXT, payload),
                    )
                    for _ in range(3)
                ]
                payload = encode(PushPull(state=gossip.encode_packet(words)), number + 1)
            else:
                payload = mouth.message(kind, number + 1)
            try:
                await stream.send_all(frame(payload))
            except StreamBroken:
                stream = await bad.dial()
            if number % 50 == 0:
                await trio.sleep(1)
        await trio.sleep(20)
        assert a.running.mesh.door.counters["peer_refused"] < ROUNDS / 4, "most were taken"
        for entry in (a, c):
            for ask in (entry.client.openai, entry.client.ollama):
                answer = ask("m")
                await answer.run()
                assert answer.how == "whole", (answer.error, answer.broken)
        out = capsys.readouterr()
        for bug in BUGS:
            assert bug not in out.out + out.err
