"""The CA's key on real disks and real TLS: at every voter, and another one after a removal."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from meshd import control
from meshd.testing.daemons import Daemon, joined
from tests.e2e.test_record import record, until
from tests.e2e.test_registry import alive


def key_file(daemon: Daemon) -> Path:
    (found,) = daemon.folder.glob("*/ca.crt")
    return found.with_name("ca.key")


def hold_one_key(daemons: Sequence[Daemon]) -> bool:
    """Whether all of them have the key, and the record of the first says so."""
    said = {row.name for row in record(daemons[0]).voters if row.holds_ca}
    files = [key_file(daemon) for daemon in daemons]
    if not said.issuperset(one.name for one in daemons) or not all(f.exists() for f in files):
        return False
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    return len({file.read_bytes() for file in files}) == 1


def test_a_removed_node_that_had_the_cas_key_is_left_with_a_worthless_one(tmp_path: Path) -> None:
    a, b, c, d, e = (Daemon(tmp_path / name, name) for name in "abcde")
    with ExitStack() as stack:
        for daemon in (a, b, c, d, e):
            stack.callback(daemon.close)
        a.start()
        joined(a, [b, c])
        until(lambda: hold_one_key([a, b, c]), "every voter has the key")
        d.join, d.token = a.peer_address, a.create_token()
        d.start()
        former = key_file(a).read_bytes()

        b.stop()  # it sleeps through the removal
        token = a.create_token()
        a.order("POST", "/control/remove", control.NodeOrder("c"))
        b.join = b.token = ""
        b.start()
        until(lambda: hold_one_key([a, b, d]), "who has a vote now has the key")
        until(lambda: key_file(a).read_bytes() != former, "which is another one")
        until(lambda: hold_one_key([a, b, d]), "of which all have heard")
        until(lambda: alive(a, b, d) and alive(b, a, d) and alive(d, a, b), "all are linked")

        e.join, e.token = d.peer_address, token
        assert "got another key" in refused(e)
        e.token = d.create_token()
        e.start()
        until(lambda: alive(e, a, b, d), "a newcomer is let in")
        for daemon in (a, b, d, e):
            assert "PRIVATE KEY" not in daemon.log_text(1_000_000)


def refused(daemon: Daemon) -> str:
    """Why it does not start."""
    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(60) != 0
    return daemon.log_text()
