"""Three machines on one switch: joining across it, cut cables, moved addresses, mDNS."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshd.control import StatusReport
from meshd.testing.daemons import Daemon, Gguf
from tests.e2e.namespaces import Lan, Machine, lan


@dataclass
class House:
    """a and b have the model `both`; each of a, b, c has one that is called after it."""

    switch: Lan
    daemons: dict[str, Daemon]
    machines: dict[str, Machine]

    def ask(self, entry: str, model: str) -> str:
        """A normal request at one node; the name of the node that answered."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 3,
            "temperature": 0,
        }
        url = f"{self.daemons[entry].api_url}/v1/chat/completions"
        status, headers, text = self.machines[entry].ask(url, body)
        assert status == 200, text
        assert json.loads(text)["choices"][0]["message"]["content"]
        return headers["x-meshd-node"]

    def until(self, name: str, **states: str) -> StatusReport:
        """Wait until that node sees the others so; several states are separated by |."""
        return self.daemons[name].wait_until(
            lambda s: all(
                node.state in states[node.name].split("|")
                for node in s.nodes
                if node.name in states
            ),
            f"it sees {states}",
            60,
        )

    def until_whole(self) -> None:
        """Wait until everybody sees everybody, and has a link to everybody."""
        for name, daemon in self.daemons.items():
            self.until(name, **{other: "alive" for other in self.daemons if other != name})
            daemon.wait_until(lambda s, d=daemon: links_are_up(d), "its links are up", 60)


def links_are_up(daemon: Daemon) -> bool:
    findings = json.loads(daemon.order("GET", "/control/doctor"))
    return all(f["severity"] == "ok" for f in findings if f["code"] == "peer-tcp")


@pytest.fixture(scope="module")
def house(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("netns")
    counter = models / "counter.gguf"
    with lan() as switch, ExitStack() as stack:
        made = House(switch, {}, {})
        for name in ("a", "b", "c"):
            machine = switch.machines[0] if name == "a" else switch.add()
            ggufs = [Gguf(counter, f"only-{name}")]
            ggufs += [Gguf(counter, "both")] if name != "c" else []
            daemon = Daemon(
                folder / name,
                name,
                ggufs=ggufs,
                flags=["--mdns"],
                prefix=machine.prefix,
            )
            made.machines[name], made.daemons[name] = machine, daemon
            stack.callback(daemon.close)
        a = made.daemons["a"].start()
        token = a.create_token(uses=2)
        for name in ("b", "c"):
            daemon = made.daemons[name]
            daemon.join = f"{made.machines['a'].address}:{a.status().peer_port}"
            daemon.token = token
            daemon.start(wait=False)
        made.until_whole()
        for daemon in made.daemons.values():
            daemon.wait_until(lambda s: s.models == 4, "it knows all models")
        yield made


def test_requests_cross_the_switch_both_ways(house: House) -> None:
    for entry in house.daemons:
        for holder in house.daemons:
            assert house.ask(entry, f"only-{holder}") == holder


def test_addresses_are_those_of_the_machines(house: House) -> None:
    for node in house.daemons["c"].status().nodes:
        address = house.machines[node.name].address
        assert node.addresses[0].startswith(f"{address}:"), node


@pytest.mark.parametrize("gone", ["b", "a"])
def test_a_pulled_cable_costs_no_request_that_another_can_answer(house: House, gone: str) -> None:
    """And once it is back in, everything is as before without a restart; b first, then founder."""
    left = "a" if gone == "b" else "b"
    house.machines[gone].unplug()
    try:
        slowest_s = 0.0
        for entry in ("c", left, "c", "c"):
            began = time.monotonic()
            assert house.ask(entry, "both") == left
            slowest_s = max(slowest_s, time.monotonic() - began)
        assert slowest_s < 10, "a holder that is silent is given up soon"
        house.until("c", **{gone: "failed", left: "alive"})
        house.until(left, **{gone: "failed", "c": "alive"})
        house.until(gone, **{left: "failed", "c": "failed"})
        assert house.ask(gone, "both") == gone, "cut off, it serves its own clients"
        assert house.ask("c", "both") == left
    finally:
        house.machines[gone].plug()
    house.until_whole()
    assert house.ask("c", f"only-{gone}") == gone
    assert house.ask(gone, "only-c") == "c"


def test_a_machine_with_a_new_address_is_followed_while_it_runs(house: House) -> None:
    machine = house.machines["c"]
    machine.move(33)
    for name in ("a", "b"):
        house.daemons[name].wait_until(
            lambda s: any(
                n.name == "c" and n.state == "alive" and n.addresses[0].startswith(machine.address)
                for n in s.nodes
            ),
            "it knows the new address",
            60,
        )
        assert house.ask(name, "only-c") == "c"
    house.until_whole()
    assert house.ask("c", "only-a") == "a"


def test_the_founder_may_move_too(house: House) -> None:
    house.machines["a"].move(11)
    for name in ("b", "c"):
        house.daemons[name].wait_until(
            lambda s: any(
                n.name == "a" and n.state == "alive" and n.addresses[0].startswith("10.77.7.11:")
                for n in s.nodes
            ),
            "it knows the new address",
            60,
        )
        assert house.ask(name, "only-a") == "a"
    house.until_whole()
    assert house.daemons["c"].create_token().startswith("mesh1-"), "orders find it"


def test_a_newcomer_finds_the_mesh_by_itself(house: House, tmp_path: Path) -> None:
    """`--join auto`: nobody tells it an address."""
    machine = house.switch.add()
    token = house.daemons["a"].create_token()
    daemon = Daemon(
        tmp_path / "d", "d", join="auto", token=token, flags=["--mdns"], prefix=machine.prefix
    )
    with daemon:
        assert {node.name for node in daemon.status().nodes} == {"a", "b", "c", "d"}
        assert daemon.stop() == 0
        assert "10.77.7." in daemon.log_text()
