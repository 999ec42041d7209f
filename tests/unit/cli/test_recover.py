"""`meshd recover` on a data directory as it is on disk."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.ledger.examination import read_stored, voters_of
from tests.joins import make_key
from tests.unit.ledger.journals import history

from .conftest import Typed
from .test_record import Node, bytes_of

FLAG = "--i-know-that-acknowledged-writes-may-be-lost"


@pytest.fixture
def node(data_dir: Path) -> Node:
    """One of three voters, stopped."""
    made = Node(data_dir)
    others = [make_key("b").public, make_key("c").public]
    made.write(*history(made.ca, made.key), voters=[made.key, *others])
    return made


@pytest.fixture
def listening() -> Iterator[int]:
    """A port where somebody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_without_the_flag_it_says_what_it_would_do_and_does_nothing(
    node: Node, type_in: Typed, data_dir: Path
) -> None:
    before = bytes_of(data_dir / "record")
    said = type_in("recover")
    assert said.exit_code == 2
    assert "will go on with the record alone" in said.stdout
    assert "What was acknowledged after entry" in said.stdout
    assert FLAG in said.stderr
    assert bytes_of(data_dir / "record") == before


def test_nobody_at_a_terminal_has_to_say_yes(node: Node, type_in: Typed, data_dir: Path) -> None:
    before = bytes_of(data_dir / "record")
    refused = type_in("recover", FLAG)
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert bytes_of(data_dir / "record") == before


def test_this_node_has_the_one_vote_afterwards(node: Node, type_in: Typed) -> None:
    done = type_in("recover", FLAG, "--yes")
    assert done.exit_code == 0, done.stderr
    assert "This node alone has a vote now" in done.stdout
    assert "given_up" not in done.output
    assert voters_of(read_stored(node.disk, node.place)) == (node.place.me,)
    again = type_in("recover", FLAG, "--yes")
    assert again.exit_code == 1
    assert "start it" in again.stderr


def test_while_a_majority_answers_the_record_is_not_lost(
    node: Node, type_in: Typed, data_dir: Path, listening: int
) -> None:
    other = make_key("b").public.node
    kept = f'{{"{other}": {{"reached": ["127.0.0.1", {listening}]}}}}'
    (data_dir / "peers.json").write_text(kept)
    refused = type_in("recover", FLAG, "--yes")
    assert refused.exit_code == 1
    assert "--others-are-gone" in refused.stderr
    assert type_in("recover", FLAG, "--yes", "--others-are-gone").exit_code == 0
