"""Who is in the mesh, on real processes: let in without the founder, and sent away for good."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import msgspec

from meshd import control
from meshd.testing.daemons import Daemon, joined
from tests.e2e.test_record import until, voters


def names(daemon: Daemon) -> set[str]:
    return {row.name for row in daemon.status().nodes}


def admitting(daemon: Daemon) -> set[str]:
    return {row.name for row in daemon.status().nodes if row.admits}


def alive(daemon: Daemon, *others: Daemon) -> bool:
    states = {row.name: row.state for row in daemon.status().nodes}
    return all(states.get(other.name) == "alive" for other in others)


def test_the_mesh_outlives_its_founder_and_sends_it_away(tmp_path: Path) -> None:
    a, b, c, d = (Daemon(tmp_path / name, name) for name in "abcd")
    with ExitStack() as stack:
        for daemon in (a, b, c, d):
            stack.callback(daemon.close)
        a.start()
        joined(a, [b, c])
        until(lambda: voters(b) == admitting(b) == set("abc"), "all vote, and hold the key")

        a.kill()  # and it stays dead
        d.join, d.token = c.peer_address, b.create_token()
        d.start()
        until(lambda: alive(b, c, d) and alive(d, b, c), "the newcomer is in")

        done = d.order("POST", "/control/remove", control.NodeOrder("a"))
        assert "a is no member any more" in msgspec.json.decode(done, type=control.Done).message
        until(lambda: all(names(one) == set("bcd") for one in (b, c, d)), "it is off the list")
        until(lambda: voters(b) == set("bcd"), "and has no vote any more")

        a.start()  # with the old data directory, and all that it believes
        until(lambda: any("was removed" in said for said in a.status().problems), "it is told")
        assert names(b) == set("bcd")
