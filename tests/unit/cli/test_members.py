"""Commands about who is in the mesh: what they send, and what they show."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import pytest

from meshd.control import Done, LabelsOrder, NodeOrder, Problem, TokenQuery, TokenRow
from meshd.machine.clock import SystemClock

from .conftest import Typed
from .daemon import FakeDaemon

T = TypeVar("T")


def token_row(token_id: str, *used_by: str, good: bool = True) -> TokenRow:
    return TokenRow(token_id, 2, list(used_by), SystemClock().wall() + 9000, good)


def told(daemon: FakeDaemon, kind: type[T]) -> list[tuple[str, T]]:
    return [(what, msgspec.json.decode(body, type=kind)) for what, body in daemon.orders]


def test_tokens_are_listed_with_who_came_by_them(daemon: FakeDaemon, type_in: Typed) -> None:
    rows = [token_row("abcdefgh", "mini"), token_row("qrstuvwx", good=False)]
    daemon.answers["GET /control/tokens"] = rows
    shown = type_in("token", "list").stdout
    assert "abcdefgh  yes   1 of 2  in 2 h  mini" in shown
    assert "qrstuvwx  no    0 of 2" in shown
    assert msgspec.json.decode(type_in("token", "list", "--json").stdout, type=list[TokenRow]) == (
        rows
    )
    daemon.answers["GET /control/tokens"] = []
    assert "meshd token create" in type_in("token", "list").stdout


def test_a_token_is_revoked_by_what_is_typed(daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["POST /control/token/revoke"] = Done("token abcdefgh lets nobody in any more")
    assert type_in("token", "revoke", "abcdefgh").stdout.startswith("token abcdefgh")
    assert told(daemon, TokenQuery) == [("POST /control/token/revoke", TokenQuery("abcdefgh"))]


def test_a_node_is_removed_by_name_and_the_daemon_says_what_it_did(
    daemon: FakeDaemon, type_in: Typed
) -> None:
    daemon.answers["POST /control/remove"] = Done("box is no member any more")
    done = type_in("remove", "box", "--yes")
    assert (done.exit_code, done.stdout) == (0, "box is no member any more\n")
    assert told(daemon, NodeOrder) == [("POST /control/remove", NodeOrder("box"))]
    assert type_in("remove").exit_code == 2, "a removal has to name its node"
    daemon.answers["POST /control/remove"] = Problem("No node is called 'bix'; there are: box.")
    assert "there are: box" in type_in("remove", "bix").stderr


@pytest.mark.parametrize(("answer", "orders"), [("n", 0), ("y", 1)])
def test_on_a_terminal_a_removal_is_asked_about(
    answer: str, orders: int, daemon: FakeDaemon, type_in: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshd.cli.members.on_terminal", lambda: True)
    done = type_in("remove", "box", stdin=f"{answer}\n")
    assert "box (failed) is cut off now" in done.stdout
    assert len(daemon.orders) == orders
    assert done.exit_code == (0 if orders else 1)


@pytest.mark.parametrize("labels", [["gpu", "attic"], []])
def test_labels_are_given_whole(labels: list[str], daemon: FakeDaemon, type_in: Typed) -> None:
    daemon.answers["POST /control/labels"] = Done("box has the labels gpu, attic now")
    assert type_in("label", "box", *labels).exit_code == 0
    assert told(daemon, LabelsOrder) == [("POST /control/labels", LabelsOrder("box", labels))]
