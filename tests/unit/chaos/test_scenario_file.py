"""What a user may write in a scenario, and what a mistake is told."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from meshd_chaos.library import shipped
from meshd_chaos.nemeses import NEMESES
from meshd_chaos.scenario_file import BadScenario, read_scenario

HEAD = 'name = "mine"\nabout = "Something breaks."\n'


class Kill(msgspec.Struct, frozen=True):
    target: Literal["any", "entry", "holder"] = "holder"
    times: Annotated[int, Meta(ge=1)] = 1


KINDS = {"kill": Kill, "freeze": Kill}


def read(text: str) -> object:
    return read_scenario(HEAD + text, file="mine.toml", parameters=KINDS)


def test_all_that_a_file_says_is_in_the_scenario() -> None:
    scenario = read_scenario(
        HEAD
        + """
at_once = 2
[mesh]
nodes = 3
copies = 2
[workload]
modes = { streamed = 1, keyed = 2 }
tokens = [5, 9]
[[fault]]
name = "kill"
target = "entry"
every_s = 3
for_s = 2
[[fault]]
name = "freeze"
at_s = 4.5
[expect]
excuses = ["entry-died"]
recovered = 1
""",
        file="mine.toml",
        parameters=KINDS,
    )
    assert (scenario.name, scenario.about, scenario.at_once) == ("mine", "Something breaks.", 2)
    assert (scenario.mesh.nodes, scenario.mesh.copies) == (3, 2)
    assert scenario.workload.modes == {"streamed": 1, "keyed": 2}
    assert scenario.workload.tokens == (5, 9)
    kill, freeze = scenario.faults
    assert (kill.name, kill.parameters, kill.when.every_s) == ("kill", {"target": "entry"}, 3)
    assert kill.when.for_s == (2, 2)
    assert (freeze.name, freeze.when.at_s) == ("freeze", [4.5])
    assert (scenario.expect.excuses, scenario.expect.recovered) == (["entry-died"], 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[fault]]\nname = "kil"\nat_s = 1', "mine.toml:4: there is no fault 'kil'; there are "
         "freeze, kill"),
        ("[[fault]]\nat_s = 1", "mine.toml:3: a fault needs a name; there are freeze, kill"),
        ('[[fault]]\nname = "kill"', "mine.toml:3: a fault has one of at_s, every_s and "
         "per_minute, 'kill' has none"),
        ('[[fault]]\nname = "kill"\nat_s = 1\nevery_s = 2', "'kill' has at_s and every_s"),
        ('[[fault]]\nname = "kill"\nat_s = 1\nwhom = "me"', "mine.toml:6: the fault 'kill' has no "
         "'whom'; there are at_s, every_s, first_s, for_s, name, per_minute, target, times"),
        ('[[fault]]\nname = "kill"\nat_s = 1\ntimes = 0', "mine.toml:6: times must be a whole "
         "number >= 1"),
        ('[[fault]]\nname = "kill"\nat_s = "soon"', "mine.toml:5: at_s must be a number, or a "
         "list of numbers, and is text"),
        ('[[fault]]\nname = "kill"\nat_s = 1979-05-27', "5: at_s must be a number, or a list of "
         "numbers, and is a date"),
        ('[[fault]]\nname = "kill"\nat_s = -1', "mine.toml:5: at_s must be a number >= 0"),
        ('[[fault]]\nname = "kill"\nat_s = [1, "x"]', "5: item 2 of at_s must be a number, and "
         "is text"),
        ('[[fault]]\nname = "kill"\nat_s = 1\ntarget = "hodler"', "mine.toml:6: target cannot be "
         "'hodler'; there are any, entry, holder"),
        ('[[fault]]\nname = "kill"\nat_s = 1\nfor_s = [1, 2, 3]', "6: for_s must be a number, or "
         "[shortest, longest], and has 3"),
        ('[[fault]]\nname = "kill"\nat_s = [1, -2]', "mine.toml:5: item 2 of at_s must be a "
         "number >= 0"),
        ('[[fault]]\nname = "kill"\nevery_s = -1', "mine.toml:5: every_s must be a number "
         ">= 0.1"),
        ('[[fault]]\nname = "kill"\nat_s = 1\nfor_s = [3, 2]', "mine.toml:6: for_s must be "
         "[shortest, longest], and 3 is more than 2"),
        ("fault = 3", "mine.toml:3: faults are tables, each under a line [[fault]]"),
        ("[mesh]\nnodes = 500", "mine.toml:4: nodes must be a whole number <= 16"),
        ("[mesh]\nnodes = 3\ncopies = 4", "mine.toml:5: copies = 4 is more than the 3 nodes"),
        ("[mesh]\nnoodles = 5", "mine.toml:4: [mesh] has no 'noodles'; there are copies, models"),
        ("mesh = 3", "mine.toml:3: mesh must be a table: [mesh]"),
        ("[workload]\nmodes = { streamd = 1 }", "mine.toml:4: modes has no 'streamd'; there "
         "are keyed, queued, streamed, whole"),
        ("[workload]\nmodes = { streamed = 0 }", "mine.toml:4: modes must have one weight above"),
        ("[workload]\ntokens = [9, 5]", "mine.toml:4: tokens must be [shortest, longest], "
         "and 9 is more than 5"),
        ("[workload]\ntokens = 5", "mine.toml:4: tokens must be [shortest, longest], and is a"),
        ("[workload]\nmodes = { keyed = -1 }", "4: each value of modes must be a whole number"),
        ("[mesh]\ncopies = 6", "mine.toml:4: copies = 6 is more than the 5 nodes that there are"),
        ("[workload]\nleaving = 2", "mine.toml:4: leaving must be a number <= 1"),
        ('[expect]\nexcuses = ["bad luck"]', "mine.toml:4: there is no excuse 'bad luck'; there "
         "are attempts-spent, entry-died"),
        ("at_once = 9", "mine.toml:3: at_once must be a whole number from 1 to 4"),
        ("spped = 3", "mine.toml:3: a scenario has no 'spped'; there are about, at_once, expect"),
        ("= 3", "mine.toml:3: this is no TOML: Invalid statement"),
        ("mesh = { nodes = 3", "mine.toml:3: this is no TOML"),
        ('[[fault]]\nname = ["kill"]\nat_s = 1', "mine.toml:4: there is no fault ['kill']"),
        ("[[fault]]\nname = { a = 1 }\nat_s = 1", "mine.toml:4: there is no fault {'a': 1}"),
        ("\nat_once = " + "9" * 5_000, "mine.toml:4: a number with thousands of digits"),
        ("at_once = " + "[" * 3_000, "mine.toml: its lists and tables are nested too deep"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_what_is_allowed(text: str, told: str) -> None:
    with pytest.raises(BadScenario) as caught:
        read(text)
    assert told in str(caught.value)


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines() -> None:
    with pytest.raises(BadScenario) as caught:
        read('[mesh]\nnodes = "five"\n[[fault]]\nname = "smite"\n[expect]\nfaults = -1')
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        "mine.toml:4",
        "mine.toml:6",
        "mine.toml:8",
    ]


FAULT = '[[fault]]\nname = "kill"\nat_s = 1\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "x.toml:1: a scenario needs a [[fault]], or faults = 0 under [expect]\n"
         "x.toml:1: a scenario needs about = ...\nx.toml:1: a scenario needs name = ..."),
        (f"name = 3\nabout = 'A.'\n{FAULT}", "x.toml:1: name must be text, and is a whole number"),
        (f"name = 'My'\nabout = 'A.'\n{FAULT}", "x.toml:1: name must be lower-case letters, "
         "digits and dashes, 40 at most"),
        (f'name = "a"\nabout = "A\\u001b[31m"\n{FAULT}', "x.toml:2: about must be one line "
         "without control characters"),
        (HEAD, "x.toml:1: a scenario needs a [[fault]], or faults = 0 under [expect]"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_sentence(text: str, told: str) -> None:
    with pytest.raises(BadScenario) as caught:
        read_scenario(text, file="x.toml", parameters=KINDS)
    assert str(caught.value) == told


def test_a_scenario_that_breaks_nothing_says_so() -> None:
    scenario = read_scenario(HEAD + "[expect]\nfaults = 0", file="x.toml", parameters=KINDS)
    assert scenario.faults == ()


def test_a_small_mesh_has_a_copy_at_each_node_at_most() -> None:
    scenario = read_scenario(f"{HEAD}{FAULT}[mesh]\nnodes = 2", file="x", parameters=KINDS)
    assert (scenario.mesh.nodes, scenario.mesh.copies) == (2, 2)


def test_a_file_without_a_name_is_told_so() -> None:
    with pytest.raises(BadScenario, match=r"x\.toml:1: a scenario needs name = \.\.\."):
        read_scenario("about = 'a'", file="x.toml", parameters=KINDS)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_each_shipped_scenario_can_be_read_and_is_called_as_its_file(name: str) -> None:
    scenario = read_scenario(shipped()[name], file=name, parameters=NEMESES)
    assert scenario.name == name
    assert scenario.about.endswith(".")
    assert scenario.faults
