"""The screen of `meshd start`: a terminal, or the log of a service."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence

import trio

from meshd.cli.views import address as short_address
from meshd.cli.words import count, duration, grouped_digits, listed, mesh_label, plain
from meshd.machine.host import tell_service_manager
from meshd.screen import SightedMesh


class TerminalScreen:
    """`meshd.screen.Screen` on stdout; the answer to its one question comes from stdin."""

    def __init__(
        self,
        write: Callable[[str], None] | None = None,
        read_line: Callable[[], str] | None = None,
        *,
        to_type: Callable[[str], str] = str,
        has_person: Callable[[], bool] | None = None,
        open_hosts: Sequence[str] = (),
        needs_key: bool = True,
    ) -> None:
        """`open_hosts`: where clients on other machines reach this one, who then need a key.

        `to_type` makes a command mean this very daemon (see `cli.shell.to_type`)."""
        self._to_type = to_type
        self._open_hosts, self._needs_key = open_hosts, needs_key
        self._has_person = has_person or _stdin_is_a_terminal
        self._write_line = write or _print
        self._read_line = read_line or _read_stdin_line

    def founded(self, *, name: str, mesh: str, join_addresses: Sequence[str]) -> None:
        host = short_address(join_addresses[0]) if join_addresses else "THIS-MACHINE"
        self._say(
            f"{name} has founded the mesh {mesh_label(mesh)}. On the next machine type",
            "",
            f"    meshd start --join {host}",
            "",
            "Six digits come up there and here; say yes there, and here type",
            "",
            f"    {self._to_type('meshd approve DIGITS')}",
            "",
            "For a machine with nobody at its screen, make a token here:",
            "",
            f"    {self._to_type('meshd token create')}",
            "",
        )

    def meshes_in_sight(self, meshes: Sequence[SightedMesh], *, choose: bool = False) -> None:
        if not meshes:
            return
        if choose:
            self._say("More than one mesh is in sight. Name one:", "")
        else:
            self._say("There is a mesh on this network already. To join it, stop this and type", "")
        for sighted in meshes:
            where, whose = short_address(sighted.address), mesh_label(sighted.mesh)
            line = self._to_type(f"meshd start --join {where}")
            self._say(f"    {line}    # {sighted.node}, mesh {whose}")
        self._say("")

    def joining(self, *, address: str, with_token: bool) -> None:
        how = "with a token" if with_token else "by comparing digits"
        self._say(f"Joining by way of {address}, {how} ...")

    @property
    def can_ask(self) -> bool:
        return self._has_person()

    async def confirm_digits(self, *, digits: str, name: str, address: str) -> bool:
        self._say(
            "",
            f"The mesh {name} has been asked, at {address}, to let this machine in.",
            f"Does a screen of your mesh show  {grouped_digits(digits)}  ? [y/N]",
        )
        # The thread is left behind if the pairing ends first; it holds nothing but its read.
        answer = await trio.to_thread.run_sync(self._read_line, abandon_on_cancel=True)
        if not answer:
            self.warning(
                "nobody is here to say yes: run this on a terminal, or join with a token "
                "(meshd token create on a member)"
            )
        return answer.strip().lower() in ("y", "yes")

    def waiting_for_approval(self, *, digits: str) -> None:
        self._say(
            f"Now type on a machine of that mesh:  meshd approve {grouped_digits(digits)}",
            "Waiting ...",
        )

    def joined(self, *, name: str, mesh: str, members: Sequence[str], wanted: str = "") -> None:
        others = [member for member in members if member != name]
        are = "is" if len(others) == 1 else "are"
        whom = f" {listed(others)} {are} in it too." if others else ""
        if wanted:
            self._say(f"{wanted} is taken in this mesh; this machine is {name}.")
        self._say(
            f"{name} is now a member of mesh {mesh_label(mesh)}.{whom}",
            f"From now on `{self._to_type('meshd start')}` is enough.",
            "",
        )

    def newcomer(self, *, digits: str, name: str, address: str) -> None:
        self._say(
            "",
            f"{name} ({address}) asks to join. If its screen shows  {grouped_digits(digits)}  type",
            "",
            f"    {self._to_type(f'meshd approve {grouped_digits(digits)}')}",
            "",
        )

    def admitted(self, *, name: str, address: str) -> None:
        self._say(f"{name} ({address}) has joined.")

    def serving(
        self,
        *,
        name: str,
        client_url: str,
        peer_port: int,
        nodes: int,
        models: Sequence[str],
        engines: Sequence[str],
    ) -> None:
        if engines:
            have = f"{count(len(models), 'model')} here, from {listed(_counted(engines))}."
        else:
            doctor = self._to_type("meshd doctor")
            have = f"No engine here (see `{doctor}`): requests go to the other nodes."
        self._say(
            f"{name} serves {client_url}  (OpenAI clients: {client_url}/v1)",
            f"{have} {count(nodes, 'node')} in the mesh.",
            f"Ctrl-C stops this one; `{self._to_type('meshd status')}` shows them all.",
        )
        if self._open_hosts:
            port = client_url.rpartition(":")[2]
            hosts = [f"[{host}]" if ":" in host else host for host in self._open_hosts]
            where = listed([f"http://{host}:{port}" for host in hosts])
            need = ", with an API key" if self._needs_key else ", without any key"
            self._say(f"Other machines reach it at {where}{need}.")
        tell_service_manager("READY=1")

    def draining(self, *, running: int, timeout_s: float) -> None:
        tell_service_manager("STOPPING=1")
        if running:
            self._say(
                f"Stopping: {count(running, 'request')} may finish within {duration(timeout_s)}. "
                "Ctrl-C again ends at once."
            )
        else:
            self._say("Stopping.")

    def stopped(self, *, unfinished: int) -> None:
        if unfinished:
            self._say(f"Stopped; {count(unfinished, 'request')} did not finish.")
        else:
            self._say("Stopped.")

    def warning(self, sentence: str) -> None:
        self._say(f"Note: {sentence}")

    def _say(self, *lines: str) -> None:
        for line in lines:
            self._write_line(plain(line))


def _counted(names: Sequence[str]) -> list[str]:
    """Each name once, with how often it comes if that is more."""
    return [f"{name} ({n})" if n > 1 else name for name, n in Counter(names).items()]


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except (OSError, ValueError):
        return  # the terminal is gone; the daemon goes on


def _stdin_is_a_terminal() -> bool:
    try:
        return sys.stdin.isatty()
    except ValueError:  # it was closed
        return False


def _read_stdin_line() -> str:
    """One line with its end, or what there is before the end of the input; "" for nothing at all.

    Not by `sys.stdin`: a thread that waits within it holds its lock, and blocks the exit.
    """
    read = bytearray()
    try:
        while not read.endswith(b"\n"):
            piece = os.read(sys.stdin.fileno(), 1024)
            if not piece:
                break
            read += piece
    except (OSError, ValueError):
        pass
    return read.decode("utf-8", "replace")
