"""Checks of `meshd doctor` about meshd itself: its files, ports, engines, versions.

Each takes what it looks at and yields findings; the `Probes` handed in are the only way out.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from urllib.parse import urlsplit

from meshd.cli.words import count, listed
from meshd.config import Config
from meshd.control import Finding, NodeRow, StatusReport
from meshd.machine.probes import Probes
from meshd.paths import Paths

OLLAMA_PORT = 11434
OTHER_ENGINES = {
    1234: "LM Studio",
    8080: "llama.cpp or MLX",
    9931: "llama.cpp",
    8000: "vLLM or MLX",
}


def data_dir(paths: Paths, probes: Probes) -> Iterator[Finding]:
    """`data-dir`: it is this user's and nobody else's."""
    seen = probes.look(paths.data)
    if seen is None:
        yield Finding("data-dir", "ok", f"{paths.data} is not there yet: the first start makes it")
        return
    if not seen.is_folder:
        yield Finding("data-dir", "fail", f"{paths.data} is not a folder", "Move it away.")
        return
    if seen.uid not in (probes.uid, 0):
        yield Finding(
            "data-dir",
            "fail",
            f"{paths.data} belongs to another user (uid {seen.uid})",
            f"Run meshd as that user, or: sudo chown -R {probes.uid} {paths.data}",
        )
        return
    open_to_others = [
        name
        for name in probes.names_in(paths.data)
        if _is_secret(name) and _is_open(probes, paths.data / name)
    ]
    if seen.mode & 0o022:
        yield Finding(
            "data-dir",
            "fail",
            f"others may write into {paths.data}, where this node's keys are",
            f"chmod go-w {paths.data}",
        )
    elif open_to_others and seen.mode & 0o055:
        yield Finding(
            "data-dir",
            "fail",
            f"others can read {listed(open_to_others)} in {paths.data}",
            f"chmod -R go-rwx {paths.data}\nand make new keys if others use this machine.",
        )
    else:
        yield Finding("data-dir", "ok", f"{paths.data} is this user's own")


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in ("key", "secret", "token"))


def _is_open(probes: Probes, path: PurePath) -> bool:
    seen = probes.look(path)
    return seen is not None and not seen.is_folder and bool(seen.mode & 0o044)


def ports(config: Config, probes: Probes) -> Iterator[Finding]:
    """`ports`: those that a start would take are free."""
    wanted = [
        ("clients", config.listen, config.api_port, False, "api_port (or --api-port)"),
        ("other nodes", "0.0.0.0", config.port, False, "port (or --port)"),
        ("other nodes", "0.0.0.0", config.port, True, "port (or --port)"),
    ]
    wrong = False
    for who, host, port, datagrams, setting in wanted:
        number = probes.port_problem(host, port, datagrams=datagrams) if port else 0
        if not number:
            continue
        wrong = True
        name = f"port {port} ({'UDP' if datagrams else 'TCP'}, for {who})"
        if number == errno.EADDRINUSE:
            holder = probes.holder_of_port(port)
            taken_by = f" by {holder}" if holder else ""
            yield Finding(
                "ports",
                "fail",
                f"{name} is taken{taken_by}",
                f"End that, or choose another with {setting}.",
            )
        else:
            yield Finding(
                "ports",
                "fail",
                f"{name} cannot be taken on {host}: {os.strerror(number)}",
                f"Choose another with {setting}, or another address with --listen.",
            )
    if not wrong:
        yield Finding("ports", "ok", f"{config.api_port} and {config.port} are free")


def engines(config: Config, status: StatusReport | None, probes: Probes) -> Iterator[Finding]:
    """`ollama`, `engines`: there is something on this machine that runs models."""
    if not config.detect:
        return
    address = _ollama_address(probes.environ.get("OLLAMA_HOST", ""))
    found = probes.get_json(f"http://{address}/api/version")
    version = found.get("version") if isinstance(found, dict) else None
    if isinstance(version, str):
        yield Finding("ollama", "ok", f"Ollama {version} answers at {address}")
        if address != f"127.0.0.1:{OLLAMA_PORT}":
            yield Finding(
                "ollama-host",
                "warn",
                f"OLLAMA_HOST is {address} in this shell; meshd looks at 127.0.0.1:{OLLAMA_PORT}",
                f'Name it in the config file: [[backend]] url = "http://{address}"',
            )
        return
    installed = probes.has_program("ollama") or probes.has_path("/Applications/Ollama.app")
    if installed:
        start = "open -a Ollama" if probes.platform == "darwin" else "ollama serve"
        yield Finding(
            "ollama",
            "warn",
            f"Ollama is installed but does not answer at {address}",
            f"Start it: {start}",
        )
    if status is not None:
        answering = [row.engine for row in status.backends if row.state == "serving"]
    else:
        answering = [
            name
            for port, name in OTHER_ENGINES.items()
            if isinstance(probes.get_json(f"http://127.0.0.1:{port}/v1/models"), dict)
        ]
        answering += [backend.url for backend in config.backends]
    answering += [gguf.model for gguf in config.ggufs]
    if answering:
        yield Finding("engines", "ok", f"there is {listed(answering)}")
    elif not installed:
        yield Finding(
            "engines",
            "warn",
            "no engine was found on this machine: it can only pass requests on",
            "Install Ollama (https://ollama.com), or serve a model file:\n"
            "    pip install 'meshd[engine]' && meshd start --gguf PATH",
        )


def _ollama_address(variable: str) -> str:
    """Where Ollama is by that variable, as its own client reads it: HOST[:PORT], with defaults."""
    text = variable.strip().strip("\"'")
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        host, port = parts.hostname or "127.0.0.1", parts.port or OLLAMA_PORT
    except ValueError:
        host, port = "127.0.0.1", OLLAMA_PORT
    if host in ("0.0.0.0", "::", "localhost"):
        host = "127.0.0.1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def versions(own: str, status: StatusReport | None, nodes: Sequence[NodeRow]) -> Iterator[Finding]:
    """`versions`: the command, the daemon and the other nodes are of one version."""
    if status is None:
        return
    if status.version != own:
        yield Finding(
            "versions",
            "warn",
            f"this command is meshd {own}, the daemon is {status.version}",
            "Restart the daemon: meshd stop, meshd start",
        )
    others = [
        node for node in nodes if node.state != "self" and node.version not in ("", status.version)
    ]
    if others:
        named = listed([f"{node.name} ({node.version})" for node in others])
        yield Finding(
            "versions",
            "warn",
            f"{count(len(others), 'node')} of another version than {status.version}: {named}",
            "Upgrade them one at a time; neighbouring versions work together.",
        )
    elif status.version == own:
        yield Finding("versions", "ok", f"{own} everywhere")
