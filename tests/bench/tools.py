"""What the benchmarks share: programs, processes, ports, wrk."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

START_S = 10.0


class Skip(Exception):
    """Why a benchmark cannot run here."""


def program(name: str) -> str:
    """The path of nginx or wrk; installed by apt when missing and this is root."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    if found := shutil.which(name, path=path):
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", name]
        subprocess.run(command, env=environment, capture_output=True, check=False)
        if found := shutil.which(name, path=path):
            return found
    raise Skip(f"{name} is not installed (apt install {name})")


def free_port() -> int:
    """A port that was free a moment ago: nginx cannot be asked which one it took."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str], port: int, *, cwd: str | None = None) -> Iterator[int]:
    """A child process that listens on that port of loopback; its pid."""
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, cwd=cwd)
        try:
            _wait_for(child, port, log)  # type: ignore[arg-type]
            yield child.pid
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait_for(
    child: subprocess.Popen[bytes], port: int, log: tempfile.SpooledTemporaryFile[bytes]
) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        if child.poll() is not None:
            break
        time.sleep(0.02)
    log.seek(0)
    raise RuntimeError(f"{child.args!r} did not start:\n{log.read().decode(errors='replace')}")


@contextmanager
def nginx(http_block: str, port: int) -> Iterator[int]:
    """One nginx worker with that `http { ... }` content; the pid of the master."""
    binary = program("nginx")
    with tempfile.TemporaryDirectory(prefix="meshd-bench-") as folder:
        paths = "".join(
            f"{kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = Path(folder, "nginx.conf")
        config.write_text(
            "daemon off; worker_processes 1; pid nginx.pid;\n"
            f"error_log {folder}/error.log crit;\n"
            "events { worker_connections 4096; }\n"
            f"http {{ access_log off; keepalive_requests 100000000; tcp_nodelay on;\n"
            f"{paths}{http_block}\n}}\n"
        )
        command = [binary, "-p", folder, "-e", f"{folder}/error.log", "-c", str(config)]
        with running(command, port) as pid:
            yield pid


def python_module(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


@dataclass(frozen=True)
class Load:
    """What wrk measured in one round."""

    requests_per_s: float
    p50_us: float
    p99_us: float
    errors: int


WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[%s]==]
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %%d, "duration_us": %%d, "p50": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def wrk(url: str, *, connections: int, seconds: float, body: str, more: str = "") -> Load:
    """POST that body over keep-alive connections for a while; `more`: Lua for wrk."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK_SCRIPT % body + more)
        script.flush()
        command = [program("wrk"), "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", script.name]
        done = subprocess.run([*command, url], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            result = json.loads(line.removeprefix("RESULT "))
            return Load(
                requests_per_s=result["requests"] / (result["duration_us"] / 1e6),
                p50_us=result["p50"],
                p99_us=result["p99"],
                errors=result["errors"],
            )
    raise RuntimeError(f"wrk said nothing:\n{done.stdout}{done.stderr}")


def median_load(loads: Sequence[Load]) -> Load:
    """Median by median; errors are summed."""
    fields = {
        name: statistics.median(getattr(x, name) for x in loads)
        for name in ("requests_per_s", "p50_us", "p99_us")
    }
    return Load(**fields, errors=sum(x.errors for x in loads))


def cpu_s(pid: int) -> float:
    """User and system time of a process and its children that live, in seconds."""
    import psutil

    process = psutil.Process(pid)
    return sum(sum(one.cpu_times()[:2]) for one in [process, *process.children(recursive=True)])


def as_dict(load: Load) -> dict[str, float]:
    return asdict(load)
