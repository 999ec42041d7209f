"""The screen of `meshd start`: what to type next, and the question of pairing."""

from __future__ import annotations

import os
import threading

import pytest
import trio
import trio.testing

from meshd.cli.screen import TerminalScreen
from meshd.screen import Screen, SightedMesh


class Shown:
    """A screen that keeps what was written, and answers as it is told."""

    def __init__(self, answer: str = "") -> None:
        self.lines: list[str] = []
        self.screen: Screen = TerminalScreen(self.lines.append, lambda: answer)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def test_founding_says_what_to_type_on_the_next_machine() -> None:
    shown = Shown()
    shown.screen.founded(name="studio", mesh="k3p7qa" + "a" * 20, join_addresses=["10.0.0.2:11436"])
    assert "studio has founded the mesh k3p7qa." in shown.text
    assert "    meshd start --join 10.0.0.2" in shown.lines
    assert "    meshd approve DIGITS" in shown.lines


def test_what_to_type_here_names_a_data_directory_of_its_own() -> None:
    lines: list[str] = []
    screen = TerminalScreen(lines.append, to_type=lambda line: f"{line} --data-dir /d")
    screen.founded(name="studio", mesh="home", join_addresses=["10.0.0.2:11436"])
    screen.newcomer(digits="123456", name="attic", address="10.0.0.3")
    assert "    meshd start --join 10.0.0.2" in lines, "typed on the next machine"
    for line in ("approve DIGITS", "token create", "approve 123 456"):
        assert f"    meshd {line} --data-dir /d" in lines


def test_a_mesh_in_sight_comes_with_the_line_that_joins_it() -> None:
    shown = Shown()
    shown.screen.meshes_in_sight([])
    assert shown.lines == []
    shown.screen.meshes_in_sight([SightedMesh("k3p7qa" + "a" * 20, "attic", "10.0.0.2:4000")])
    assert "    meshd start --join 10.0.0.2:4000    # attic, mesh k3p7qa" in shown.lines


@pytest.mark.parametrize(
    ("answer", "consent"),
    [("y\n", True), ("YES\n", True), ("\n", False), ("n\n", False), ("yep\n", False), ("", False)],
)
async def test_only_yes_is_yes(answer: str, consent: bool) -> None:
    shown = Shown(answer)
    assert (
        await shown.screen.confirm_digits(digits="123456", name="attic", address="10.0.0.2")
        is consent
    )
    assert "Does a screen of your mesh show  123 456  ? [y/N]" in shown.lines
    assert ("nobody is here to say yes" in shown.text) is (answer == "")


async def test_the_question_can_be_given_up(autojump_clock: trio.testing.MockClock) -> None:
    asked = threading.Event()
    answered = threading.Event()

    def wait_for_ever() -> str:
        asked.set()
        answered.wait(60)
        return "y\n"

    screen = TerminalScreen(lambda _: None, wait_for_ever)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: screen.confirm_digits(digits="123456", name="a", address="b")
            )
            await trio.to_thread.run_sync(asked.wait, 60)
            scope.cancel()
    assert scope.cancelled_caught
    answered.set()


def test_the_answer_is_read_without_the_lock_of_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    from meshd.cli import screen

    read, write = os.pipe()
    with os.fdopen(read, "rb", buffering=0) as stdin:
        monkeypatch.setattr(screen.sys, "stdin", stdin)
        os.write(write, b"ye")
        threading.Timer(0.01, lambda: (os.write(write, b"s\n"), os.close(write))).start()
        assert screen._read_stdin_line() == "yes\n"
        assert screen._read_stdin_line() == ""


def test_what_could_surprise_is_said() -> None:
    lines: list[str] = []
    screen = TerminalScreen(lines.append, open_hosts=["10.0.0.2"])
    screen.joined(name="ben-2", mesh="home", members=["ann", "ben", "ben-2"], wanted="ben")
    screen.serving(
        name="ben-2",
        client_url="http://127.0.0.1:11435",
        peer_port=1,
        nodes=3,
        models=["a"],
        engines=["llama.cpp", "llama.cpp"],
    )
    assert "ben is taken in this mesh; this machine is ben-2." in lines
    assert "ben-2 is now a member of mesh home. ann, ben are in it too." in lines
    assert "1 model here, from llama.cpp (2). 3 nodes in the mesh." in lines
    assert "Other machines reach it at http://10.0.0.2:11435, with an API key." in lines


def test_names_of_strangers_cannot_move_the_cursor() -> None:
    shown = Shown()
    shown.screen.newcomer(digits="123456", name="a\x1b[2J\n\nmeshd approve 000000", address="b")
    assert "\x1b" not in shown.text
    assert not any(line.startswith("meshd approve 000000") for line in shown.lines)
    assert "    meshd approve 123 456" in shown.lines


def test_serving_and_stopping_are_said_in_a_few_lines() -> None:
    shown = Shown()
    shown.screen.serving(
        name="studio",
        client_url="http://127.0.0.1:11435",
        peer_port=11436,
        nodes=2,
        models=["a", "b"],
        engines=["ollama 0.9.3"],
    )
    shown.screen.draining(running=1, timeout_s=30)
    shown.screen.stopped(unfinished=1)
    assert shown.lines == [
        "studio serves http://127.0.0.1:11435  (OpenAI clients: http://127.0.0.1:11435/v1)",
        "2 models here, from ollama 0.9.3. 2 nodes in the mesh.",
        "Ctrl-C stops this one; `meshd status` shows them all.",
        "Stopping: 1 request may finish within 30 s. Ctrl-C again ends at once.",
        "Stopped; 1 request did not finish.",
    ]


def test_joining_is_followed_on_the_screen() -> None:
    shown = Shown()
    shown.screen.joining(address="10.0.0.2:11436", with_token=True)
    shown.screen.waiting_for_approval(digits="123456")
    shown.screen.joined(name="attic", mesh="k3p7qa", members=["studio", "attic"])
    shown.screen.admitted(name="box", address="10.0.0.3")
    shown.screen.warning("it is so")
    assert "Now type on a machine of that mesh:  meshd approve 123 456" in shown.lines
    assert "attic is now a member of mesh k3p7qa. studio is in it too." in shown.lines
    assert "Note: it is so" in shown.lines
