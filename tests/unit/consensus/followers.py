"""Meshes of kernels some of which have no vote, and what those have got."""

from __future__ import annotations

from collections.abc import Iterable

from meshd.consensus.messages import (
    Message,
)
from tests.unit.consensus.kernel_rig import Mesh, node_id, resized


def meshed(voters: str = "abc", followers: str = "defg", **sizes: float) -> Mesh:
    """`a` leads, and everybody else follows somebody."""
    mesh = Mesh(voters, followers, settings=resized(**sizes))
    mesh.elect("a")
    mesh.settle(20)
    assert all(source(mesh, name) in voters for name in followers)
    return mesh


def source(mesh: Mesh, name: str) -> str:
    """Whom it follows; nothing if nobody."""
    followed = mesh.kernel(name).status().source
    return followed[0] if followed is not None else ""


def follow(mesh: Mesh, name: str, voter: str) -> None:
    """Let it follow that voter."""
    following = mesh.kernel(name).following
    following._let_go()
    following._ask(mesh.kernel(name).peer(node_id(voter)))
    mesh.settle(2)
    assert source(mesh, name) == voter


def sent(mesh: Mesh, kind: type[Message], sender: str = "", to: str = "") -> list[Message]:
    return [
        message for a, b, message in mesh.log
        if isinstance(message, kind) and sender in ("", a) and to in ("", b)
    ]  # fmt: skip


def all_have(mesh: Mesh, commands: Iterable[bytes]) -> bool:
    return all(host.machine.commands == list(commands) for host in mesh.hosts.values())
