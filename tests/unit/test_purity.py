"""Purity, where import-linter cannot see it.

import-linter (pyproject.toml) knows which modules import which.  It cannot tell `trio.socket` from
`trio`, does not see `open()`, and holds only the packages that are named to it.  Here every module
whose docstring says in its first line that it is pure is held to it, and every use of the world
outside of `meshd.machine` is found.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import grimp
import pytest

import meshd

ROOT = Path(meshd.__file__).parent

IMPURE_MODULES = {
    "asyncio", "multiprocessing", "os", "random", "secrets", "selectors",
    "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time",
    "trio", "uuid", "zeroconf", "httpx", "psutil",
}  # fmt: skip

OUTSIDE = ("meshd.machine", "meshd.testing", "meshd.cli", "meshd.backends.engine_child")
"""Who may touch the world: the real ports, the tests' world, and programs of their own (the command
line is a client of the daemon, the engine's child process is not the daemon)."""

FORBIDDEN_CALLS = {
    "open": "files are the Disk port's business",
    "input": "the daemon asks nobody",
    "eval": "nothing from outside becomes code",
    "exec": "nothing from outside becomes code",
    "datetime.now": "the time is handed in",
    "datetime.utcnow": "the time is handed in",
    "date.today": "the time is handed in",
    "datetime.datetime.now": "the time is handed in",
    "uuid.uuid4": "randomness is the Entropy port's business",
    "Path": "only PurePath is used outside of the machine",
}
FORBIDDEN_TRIO = {
    "socket", "open_tcp_stream", "open_tcp_listeners", "serve_tcp", "open_ssl_over_tcp_stream",
    "open_ssl_over_tcp_listeners", "serve_ssl_over_tcp", "SSLStream", "SSLListener", "SocketStream",
    "SocketListener", "open_unix_socket", "open_file", "wrap_file", "Path", "run_process",
    "to_thread", "from_thread",
}  # fmt: skip
EXCEPTIONS = {
    ("meshd.membership.mdns", "trio.to_thread"): "zeroconf is a blocking library with sockets",
    ("meshd.consensus.driver", "trio.to_thread"): "calls of the Disk port wait for the disk",
    ("meshd.ledger.ledger", "trio.to_thread"): "calls of the Disk port wait for the disk",
    ("meshd.ledger.ledger", "trio.from_thread"): "what measures a disk needs the time in there",
    ("meshd.ledger.promises", "trio.to_thread"): "calls of the Disk port wait for the disk",
    ("meshd.jobs.blob_store", "trio.to_thread"): "calls of the Disk port wait for the disk",
    ("meshd.jobs.trace_spool", "trio.to_thread"): "calls of the Disk port wait for the disk",
    ("meshd.jobs.blobs", "trio.to_thread"): "hashing 32 MiB would hold up the loop",
}
FORBIDDEN_LOWLEVEL = {
    f"trio.lowlevel.{name}" for name in ("wait_readable", "wait_writable", "notify_closing")
}
"""The rest of it is about tasks, which is what the hot path wants it for."""


def module_name(path: Path) -> str:
    parts = ("meshd", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_outside(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in OUTSIDE)


@functools.cache
def sources() -> dict[str, ast.Module]:
    return {module_name(p): ast.parse(p.read_text(), str(p)) for p in sorted(ROOT.rglob("*.py"))}


def says_pure(tree: ast.Module) -> bool:
    first_paragraph = (ast.get_docstring(tree) or "").partition("\n\n")[0]
    return ". Pure" in first_paragraph.replace("  ", " ").replace("\n", " ")


@functools.cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        "meshd", include_external_packages=True, exclude_type_checking_imports=True
    )


PURE = [
    name
    for name, tree in sources().items()
    if says_pure(tree) and not name.startswith("meshd.cli.")  # no part of the daemon
]
INSIDE = [name for name in sources() if not is_outside(name)]


@pytest.mark.parametrize("module", PURE)
def test_a_module_that_calls_itself_pure_imports_nothing_impure(module: str) -> None:
    """Nor does anything that it imports, however indirectly."""
    reached = {module, *graph().find_upstream_modules(module)}
    chains = [
        graph().find_shortest_chain(module, impure) for impure in sorted(reached & IMPURE_MODULES)
    ]
    assert not chains, f"{module} is not pure: {chains}"


def test_the_wire_and_the_cores_call_themselves_pure() -> None:
    """So that the test above cannot pass by testing nothing."""
    cores = {"meshd.wire.codec", "meshd.wire.answer", "meshd.relay.budget", "meshd.ids"}
    assert cores <= set(PURE)
    assert len(PURE) > 40


@pytest.mark.parametrize("module", INSIDE)
def test_nothing_but_the_machine_touches_the_world(module: str) -> None:
    found = [
        f"line {line}: {what}"
        for line, what in uses_of_the_world(sources()[module])
        if (module, what) not in EXCEPTIONS
    ]
    assert not found, f"{module}: {found}"


def test_a_use_of_the_world_is_found() -> None:
    code = (
        "import trio.socket\nfrom trio import socket, sleep\nos.getpid(os.urandom)\n"
        "trio.open_file(1)\nopen('x')\nfrom datetime import datetime\ndatetime.now()\n"
        "self.open('fine')\ntrio.lowlevel.wait_readable(1)\n"
    )
    assert [line for line, _ in uses_of_the_world(ast.parse(code))] == [1, 2, 3, 4, 5, 7, 9]


def uses_of_the_world(tree: ast.Module) -> list[tuple[int, str]]:
    """Line and reason of everything that only the machine may do."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in {"time", "pathlib"} or alias.name.startswith("trio."):
                    found.append((node.lineno, f"import {alias.name}"))
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = {alias.name for alias in node.names}
            if node.module in {"os", "time"} or node.module.startswith("trio."):
                found.append((node.lineno, f"from {node.module}"))
            if node.module == "trio" and names & FORBIDDEN_TRIO:
                found.append((node.lineno, f"trio.{names & FORBIDDEN_TRIO}"))
            if node.module == "pathlib" and "Path" in names:
                found.append((node.lineno, "pathlib.Path: use PurePath and the Disk port"))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "trio" and node.attr in FORBIDDEN_TRIO:
                found.append((node.lineno, f"trio.{node.attr}"))
            if node.value.id == "os" and node.attr != "getpid":  # a number, no I/O
                found.append((node.lineno, f"os.{node.attr}"))
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in FORBIDDEN_LOWLEVEL:
            found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_CALLS:
                found.append((node.lineno, f"{called}(): {FORBIDDEN_CALLS[called]}"))
    return sorted(set(found))
