"""Commands for the leader, and the answers to them, travel together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshd import limits
from meshd.consensus.kernel_forwards import Forwards
from meshd.consensus.messages import Forward, ForwardAnswer, decode, encode
from tests.unit.consensus.kernel_rig import Mesh, node_id

B, C = node_id("b"), node_id("c")


def test_what_goes_to_one_node_in_one_step_is_one_message() -> None:
    forwards = Forwards()
    for n in range(3):
        forwards.command(B, 7 + n, b"%d" % n)
        forwards.answer(C, 20 + n, 100 + n, 4, 0)
    assert [(out.to, out.message) for out in forwards.take()] == [
        (C, ForwardAnswer(20, 100, 4, 0, 3)),
        (B, Forward(7, (b"0", b"1", b"2"))),
    ]
    assert forwards.take() == []


def test_what_was_for_a_link_that_is_gone_is_forgotten() -> None:
    forwards = Forwards()
    forwards.command(B, 7, b"x")
    forwards.answer(B, 8, 1, 1, 0)
    forwards.command(C, 9, b"y")
    forwards.forget(B)
    assert [out.message for out in forwards.take()] == [Forward(9, (b"y",))]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30_000)), max_size=400))
def test_each_command_arrives_once_under_its_number_in_messages_in_form(
    steps: list[tuple[int, int]],
) -> None:
    forwards, id_, sent = Forwards(), 0, []
    for gap, size_bytes in steps:
        id_ += gap + 1
        sent.append((id_, bytes(size_bytes)))
        forwards.command(B, *sent[-1])
    got = []
    for out in forwards.take():
        message = decode(encode(out.message))
        assert isinstance(message, Forward)
        got += list(enumerate(message.commands, message.id))
    assert got == sent


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(1, 2), st.sampled_from([0, 4])),
        max_size=600,
    )
)
def test_each_command_is_answered_once_with_its_own_place(
    steps: list[tuple[int, int, int, int]],
) -> None:
    forwards, id_, index = Forwards(), 0, 0
    wanted = {}
    for id_gap, index_gap, term, error in steps:
        id_, index = id_ + id_gap + 1, index + index_gap + 1
        wanted[id_] = (0 if error else index, term, error)
        forwards.answer(B, id_, 0 if error else index, term, error)
    got = {}
    for out in forwards.take():
        answer = decode(encode(out.message))
        assert isinstance(answer, ForwardAnswer)
        assert answer.count <= limits.RAFT_FORWARDS
        for n in range(answer.count):
            assert answer.id + n not in got
            place = 0 if answer.error else answer.index + n
            got[answer.id + n] = (place, answer.term, answer.error)
    assert got == wanted


def test_a_hundred_commands_through_a_follower_are_one_question_and_one_answer() -> None:
    mesh = Mesh()
    mesh.elect("a")
    mesh.log.clear()
    mesh.commit("b", *[b"%d" % n for n in range(100)])
    kinds = [type(message) for _, _, message in mesh.log]
    assert kinds.count(Forward) == kinds.count(ForwardAnswer) == 1
    assert mesh["b"].machine.commands == [b"%d" % n for n in range(100)]
