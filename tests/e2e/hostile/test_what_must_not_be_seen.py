"""What must not be seen in any file, log or list of processes."""

from __future__ import annotations

import os

import psutil

from meshd.machine import paths_for
from tests.e2e.attackers import log_lines
from tests.e2e.hostile.victims import Victims


def test_no_secret_is_in_any_log_status_or_command_line(mesh: Victims) -> None:
    ring = [key.secret for key in mesh.b.identity.keyring.keys]
    secrets = [mesh.token, mesh.token.rpartition("-")[2]]
    secrets += [secret.hex() for secret in ring]
    secrets += [line for line in mesh.b.key.pem().decode().splitlines() if "--" not in line]
    for daemon in (mesh.a, mesh.c):
        assert daemon.process is not None
        child = psutil.Process(daemon.process.pid)
        seen = [
            "\n".join(log_lines(daemon)),
            daemon.order("GET", "/control/status").decode(),
            daemon.order("GET", "/control/doctor").decode(),
            *(" ".join(p.cmdline()) for p in [child, *child.children(recursive=True)]),
            *(repr(p.environ()) for p in child.children(recursive=True)),
        ]
        for secret in secrets:
            assert not [text for text in seen if secret in text], "a secret shows"


def test_private_files_are_0600_and_folders_0700(mesh: Victims) -> None:
    public = {"ca.crt", "node.crt", "mesh.json", "members", "generation", "daemon.log"}
    public |= {"config.toml", "lock"}
    for daemon in (mesh.a, mesh.c):
        assert paths_for(daemon.folder).socket.name
        assert os.stat(paths_for(daemon.folder).socket).st_mode & 0o777 == 0o600
        found = set()
        for path in daemon.folder.rglob("*"):
            mode = path.stat().st_mode & 0o777
            found.add(path.name)
            if path.is_dir():
                assert mode & 0o077 == 0, path
            elif path.name not in public:
                assert mode == 0o600, path
        assert {"node.key", "keyring.json", "mesh.json"} <= found
        assert "ca.key" in found or daemon is not mesh.a, "the only voter holds the CA's key"
