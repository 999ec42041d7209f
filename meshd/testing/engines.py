"""Engines for tests: real llama.cpp and real Ollama as processes, and the ones in memory.

    with RealLlama(gguf, slots=4) as engine: ... engine.url ... engine.kill()
    with RealOllama(folder) as engine: engine.load("tiny", gguf) ... engine.url ...

Each process runs in a session of its own on a free loopback port and is gone when its block ends.
`why_no_llama()` and `why_no_ollama()` say why one cannot be had here, "" if it can.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

import httpx

import meshd
from meshd.testing.engine_process import EngineFailed, EngineProcess
from meshd.testing.memory_engine import Dialect, Fault, MemoryEngine, MemoryEngines
from meshd.testing.ollama_runtime import ollama_runtime, why_no_ollama

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


def why_no_llama() -> str:
    """Why there is no llama.cpp here; "" if there is."""
    return (
        "" if find_spec("xllamacpp") else "xllamacpp is not installed (pip install meshd[engine])"
    )


class RealLlama(EngineProcess):
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
        # The end of its stdin ends the engine, should this process die.
        self._spawn(command, stdin=subprocess.PIPE)
        self.url = self._await(r'"ready": "(http://[^"]+)"', "llama.cpp")[1]
        return self

    def __enter__(self) -> Self:
        return self.start()


PREFILL: Final = """\
{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}<|im_start|>\
{{ .Role }}
{{ .Content }}{{ if not (and $last (eq .Role "assistant")) }}<|im_end|>
{{ end }}{{ if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}{{ end }}"""
"""ChatML that leaves a trailing assistant message open, so that it is continued."""

CLOSED: Final = """\
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
"""ChatML that begins a new turn after a trailing assistant message, like most templates."""

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


class RealOllama(EngineProcess):
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
        runtime = ollama_runtime()
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
        command = [str(runtime / "ollama-lib"), "serve"]
        self._spawn(command, stdin=subprocess.DEVNULL, environment=environment)
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
