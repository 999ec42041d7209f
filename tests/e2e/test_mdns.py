"""Real daemons that find each other by multicast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from meshd.machine.interfaces import interface_addresses
from meshd.membership.mdns import Mdns, MdnsFailed
from meshd.testing.daemons import Daemon, DaemonFailed

MDNS = ["--mdns"]


@pytest.fixture(scope="module", autouse=True)
def multicast() -> None:
    try:
        trio.run(Mdns(None, interface_addresses).browse, 0.1)
    except MdnsFailed as e:
        pytest.skip(f"multicast does not work here: {e}")


@pytest.fixture
def two_meshes(tmp_path: Path) -> Iterator[tuple[Daemon, Daemon]]:
    with ExitStack() as stack:
        founders = [Daemon(tmp_path / name, name, flags=MDNS) for name in ("left", "right")]
        for founder in founders:
            stack.callback(founder.close)
            founder.start()
        left, right = founders
        yield left, right


def sees(daemon: Daemon, words: str) -> None:
    daemon.wait_until(lambda status: words in daemon.log_text(), f"its screen says {words!r}")


def test_a_mesh_of_one_that_sees_another_says_how_to_join_it(
    two_meshes: tuple[Daemon, Daemon],
) -> None:
    left, right = two_meshes
    sees(left, f"meshd start --join {right.status().node.addresses[0]}")
    sees(right, f"meshd start --join {left.status().node.addresses[0]}")


def test_join_auto_takes_the_mesh_of_the_token_and_lists_several_without_one(
    two_meshes: tuple[Daemon, Daemon], tmp_path: Path
) -> None:
    left, right = two_meshes
    sees(left, "There is a mesh")
    sees(right, "There is a mesh")
    lost = Daemon(tmp_path / "lost", "lost", flags=MDNS, join="auto")
    with pytest.raises(DaemonFailed, match="More than one mesh is in sight"):
        lost.start()
    for founder in two_meshes:
        assert str(founder.status().node.addresses[0]) in lost.log_text()
    with Daemon(
        tmp_path / "new", "new", flags=MDNS, join="auto", token=right.create_token()
    ) as newcomer:
        assert {node.name for node in newcomer.status().nodes} == {"right", "new"}


def test_a_mesh_of_one_joins_another_without_ceremony(
    two_meshes: tuple[Daemon, Daemon],
) -> None:
    left, right = two_meshes
    assert right.stop() == 0
    right.join, right.token = left.peer_address, left.create_token()
    right.start()
    assert {node.name for node in right.status().nodes} == {"left", "right"}
