"""A log of the record that was written once: every version must read it in the same way.

What a version of a command does never changes.  If this test fails the new code means something
else by an old command: on a mesh that is updated node by node, states would part.
"""

from __future__ import annotations

import json

import msgspec

from meshd.record.commands import KINDS
from meshd.record.reducers import empty_tables
from meshd.record.results import Code
from meshd.record.state import RecordState
from tests.conformance.jsonform import PROTO, TRANSCRIPTS

LOG = json.loads((TRANSCRIPTS / "record.json").read_text())


def test_the_log_gives_the_results_and_the_states_that_it_gave() -> None:
    state = RecordState()
    for index, step in enumerate(LOG["steps"], 1):
        where = f"command {index}, {step['kind']}"
        assert state.apply(index, bytes.fromhex(step["command"])).hex() == step["result"], where
        assert state.digest().hex() == step["digest"], where
    assert state.freeze().hex() == LOG["state"]


def test_a_state_that_was_frozen_then_goes_on_now() -> None:
    half = len(LOG["steps"]) // 2
    state = RecordState()
    for index, step in enumerate(LOG["steps"], 1):
        result = state.apply(index, bytes.fromhex(step["command"])).hex()
        if index > half:
            assert result == step["result"]
        if index >= half and index % 10 == 0:
            frozen = state.freeze()
            state = RecordState()
            state.restore(frozen)
            state.check()


def test_the_log_has_every_command_and_many_results() -> None:
    assert {step["kind"] for step in LOG["steps"]} == {kind.__name__ for kind in KINDS.values()}
    codes = {Code(msgspec.msgpack.decode(bytes.fromhex(s["result"]))[0]) for s in LOG["steps"]}
    assert len(codes) >= 15


def test_every_command_code_and_table_is_in_the_text() -> None:
    text = (PROTO / "record.md").read_text()
    for number, kind in KINDS.items():
        assert f"| {number} | `{kind.__name__}`" in text
    for code in Code:
        assert code is Code.OK or f"{int(code)} `{code.name}`" in text
    order = [text.index(f"`{name}`", text.index("Tables come in this order")) for name in
             empty_tables()]  # fmt: skip
    assert order == sorted(order)
